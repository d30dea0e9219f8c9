"""What the doctor shows: in a terminal, in 80 columns, and as a page that needs a browser alone."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Imported only when something is printed.
from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from batchnorm_mechanics.doctor import wording
from batchnorm_mechanics.doctor.findings import SEVERITIES, Diagnosis
from batchnorm_mechanics.doctor.rules import RULES, Rule, rule_of
from batchnorm_mechanics.doctor.wording import Group, grouped

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.demo import Demo
    from batchnorm_mechanics.doctor.fold import Folded
    from batchnorm_mechanics.doctor.repair import Repair

_WIDTH = 80
_COMMAND = ": bnm "
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}
# Of the left column: a severity and a space.
_LEFT = 9
_TEMPLATES = Path(__file__).parent / "templates"
# In a narrower terminal each label has a line of its own.
_NARROW, _INDENT = 60, 2


def print_diagnosis(
    diagnosis: Diagnosis, console: Console, *, file: str, next_steps: Sequence[str] = ()
) -> None:
    """Print a diagnosis so that its first line below the title says what to know.

    Args:
        diagnosis: what to print.
        console: where to; without a terminal behind it, the text is plain.
        file: name of what was examined.
        next_steps: sentences for the end, such as the command that repairs.
    """
    width = min(console.width, _WIDTH)
    groups = grouped(diagnosis)
    color = "bold" if diagnosis.is_sick else "bold green"
    _print_title(console, wording.title(diagnosis, file), width)
    _print_words(console, wording.verdict(diagnosis, groups), color, width)
    for group in groups:
        head = Text(f"\n{group.severity:<{_LEFT}}", _STYLES[group.severity])
        head.append(f"{group.code} {group.first.name}", "bold")
        _print_line(console, head)
        for label, words in _rows(group):
            _print_line(console, _labelled(label, words, width))
    for line in wording.unseen(diagnosis):
        _print_line(console, Text())
        _print_line(console, _labelled("Unseen", line, width))
    if next_steps:
        console.print()
    for step in next_steps:
        if _COMMAND in step:
            _print_line(console, Text(step))
        else:
            _print_words(console, step, "", width)


def _labelled(label: str, words: str, width: int) -> Text:
    """Return words beside or below their label, wrapped without a space at the end of a line."""
    beside = width >= _NARROW
    indent = _LEFT if beside else _INDENT
    line = Text(f"{label:<{indent}}" if beside or not label else f"{label}\n", "dim")
    wrapped = f"\n{'':{indent}}".join(_wrapped(words, width - indent))
    return line.append(wrapped if beside or not label else f"{'':{indent}}{wrapped}", "not dim")


def _wrapped(words: str, width: int) -> list[str]:
    """Return lines; a layer's path that is longer than one is cut behind a slash or a low line."""
    width = max(width, _LEFT)
    lines: list[str] = []
    for line in textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False):
        rest = line
        while len(rest) > width:
            cut = 1 + max(rest.rfind(mark, 0, width) for mark in "/_") or width
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return lines


def _print_title(console: Console, title: str, width: int) -> None:
    """Print what was examined; a measure and its number stay together."""
    whole = re.sub(r"(?<=[a-z]) (?=[\d-]|nan|inf)|(?<=\d) (?=sample)", "\xa0", title)
    lines = [line.replace("\xa0", " ") for line in _wrapped(whole, width)]
    _print_line(console, Text("\n".join(lines), "dim"))


def _print_words(console: Console, words: str, style: str, width: int) -> None:
    _print_line(console, Text("\n".join(_wrapped(words, width)), style))


def _print_line(console: Console, text: Text) -> None:
    # Wrapped here already; a command or path, which is for copying, is not to be cut into lines.
    console.print(text, soft_wrap=True)


def _rows(group: Group) -> Iterator[tuple[str, str]]:
    first = group.first
    yield "Where", wording.layers(group.findings)
    # Of the layer that is named first; the others are alike.
    alone = len(group.findings) == 1
    yield "Why", first.cause
    if first.evidence:
        measured = wording.evidence(first.evidence)
        yield "Seen", measured if alone else f"{first.layer}: {measured}"
    yield "Do", first.remedy
    if first.root is not None:
        # Not listed itself: the reader asked for other rules.
        yield "From", first.root
    for number, line in enumerate(wording.explained(group.explained)):
        yield "" if number else "So", line


def print_repair(repair: "Repair", console: Console, *, file: str, out: Path | None = None) -> None:
    """Print what was done, what was not and why, and what came of it.

    Args:
        repair: what to print.
        console: where to.
        file: name of what was repaired.
        out: where the repaired model was written, if it was.
    """
    width = min(console.width, _WIDTH)
    done = "Planned" if repair.after is None else "Done"
    before = wording.verdict(repair.before, grouped(repair.before))
    _print_title(console, wording.title(repair.before, file), width)
    _print_line(console, _labelled("Before", before, width))
    taken: dict[str, tuple[list[str], list[str]]] = {}
    for step in repair.steps:
        names, codes = taken.setdefault(step.how.words, ([], []))
        names.append(step.layer)
        codes += [key.partition(" ")[0] for key in step.findings]
    if not taken:
        _print_line(console, _labelled(done, "nothing", width))
    for words, (names, codes) in taken.items():
        why = ", ".join(sorted(set(codes)))
        _print_line(console, _labelled(done, f"{words} ({why}): {wording.named(names)}", width))
    for why, keys in _together((why, key) for key, why in repair.refused.items()):
        _print_line(console, _labelled("Left", f"{wording.findings(keys)}: {why}", width))
    for note in repair.notes:
        _print_line(console, _labelled("Note", note, width))
    if repair.after is not None:
        verdict = wording.verdict(repair.after, grouped(repair.after))
        now = _labelled("Now", verdict, width)
        now.stylize("bold" if repair.after.is_sick else "bold green")
        _print_line(console, now)
        for name, value in repair.before.measures.items():
            after = repair.after.measures.get(name)
            shown = "unknown" if after is None else f"{after:.4g}"
            words = f"{wording.measure(name)} {value:.4g} before, {shown} after"
            _print_line(console, _labelled("", words, width))
    if out is not None:
        _print_line(console, Text(f"Written: {out}"))
    else:
        planned = repair.after is None and repair.steps
        reason = "" if planned else ": there was nothing that could be repaired"
        _print_line(console, Text(f"No file was written{reason}."))


def print_fold(folded: "Folded", console: Console, *, file: str, out: Path | None) -> None:
    """Print how many layers were merged, how much faster it is, and why others stay.

    Args:
        folded: what to print.
        console: where to.
        file: name of what was folded.
        out: where the folded model was written, if it was.
    """
    width = min(console.width, _WIDTH)
    many = folded.count + len(folded.left)
    merged = f"{folded.count} of {many} batch norm layers merged"
    _print_words(console, f"{file}: {merged if many else 'no batch norm layer'}", "bold", width)
    if folded.speed is not None:
        faster = f"{folded.speed:.2f} times as fast, {folded.batch_size} samples at a time"
        _print_line(console, _labelled("Speed", faster, width))
        given = f" and {folded.samples:,} samples of the data" if folded.samples else ""
        outputs = (
            f"within {folded.difference:.2g} of the original's, relative to the largest, on "
            f"{folded.batch_size} random samples{given}; rounding explains {folded.tolerance:.2g}"
        )
        _print_line(console, _labelled("Outputs", outputs, width))
    for why, names in _together((why, name) for name, why in folded.left.items()):
        _print_line(console, _labelled("Left", f"{wording.named(names)}, because {why}", width))
    for note in folded.notes:
        _print_line(console, _labelled("Note", note, width))
    if out is not None:
        _print_line(console, Text(f"Written: {out}"))
    else:
        _print_words(console, "No file was written: nothing could be merged.", "", width)


def _together(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, list[str]]]:
    """Return, for each first part in the order of their coming, the second parts."""
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found.items()


def print_demo(
    demo: "Demo", console: Console, *, out: Path | None, page: Path | None = None
) -> None:
    """Print the diagnosis of the sick model, the repair, and the accuracy all along.

    Args:
        demo: what to print.
        console: where to.
        out: where its models and data were kept, if they were.
        page: where the diagnosis was written as a page, if it was.
    """
    print_diagnosis(demo.diagnosis, console, file="The sick model")
    console.print(Text("\nThe repair", "bold"))
    for step in demo.repair.steps:
        _print_line(console, Text(f"  {step}"))
    console.print(Text("\nTest accuracy", "bold"))
    for when, accuracy in (
        ("trained", demo.healthy),
        ("sick", demo.sick),
        ("repaired", demo.repaired),
    ):
        _print_line(console, Text(f"  {when:<{_LEFT}}{accuracy:6.1%}"))
    _print_line(console, Text(f"\nIt took {demo.seconds:.0f} s."))
    if out is not None:
        _print_line(console, Text(f"Kept in {out}: {', '.join(demo.KEPT)}"))
    if page is not None:
        _print_line(console, Text(f"Page: {page}"))


def print_rules(console: Console) -> None:
    """Print all rules, a line each."""
    width = max(len(rule.name) for rule in RULES.values()) + 2
    for rule in RULES.values():
        line = Text(f"{rule.code}  {rule.name:<{width}}")
        line.append(f"{rule.severity:<{_LEFT}}", _STYLES[rule.severity])
        line.append("data" if rule.needs_data else "weights and graph")
        _print_line(console, line)


def print_story(rule: Rule, console: Console) -> None:
    """Print the whole story of a rule: as Markdown where there is no terminal."""
    if not console.is_terminal:
        console.print(rule.story, markup=False, highlight=False, soft_wrap=True)
        return
    console.print(Padding(Markdown(rule.story), (1, 0)), width=min(console.width, _WIDTH))


def page(diagnosis: Diagnosis, *, file: str, next_steps: tuple[str, ...] = ()) -> str:
    """Return a page with all findings, where in the model they are, and the story of each rule.

    Args:
        diagnosis: what to show.
        file: name of what was examined.
        next_steps: sentences for the end, such as the command that repairs.
    """
    # Here: a terminal needs none of it.
    from batchnorm_mechanics._io.html import templates

    groups = grouped(diagnosis)
    codes = sorted({finding.code for finding in diagnosis.findings})
    return (
        templates(_TEMPLATES)
        .get_template("diagnosis.html.jinja")
        .render(
            title=wording.title(diagnosis, file),
            verdict=wording.verdict(diagnosis, groups),
            diagnosis=diagnosis,
            groups=groups,
            codes=codes,
            worst=_worst(diagnosis),
            rules={code: rule_of(code) for code in codes},
            next_steps=next_steps,
            wording=wording,
        )
    )


def _worst(diagnosis: Diagnosis) -> dict[str, dict[str, str]]:
    """Return, for each layer with findings in the order of the model, the severity by code.

    What is about the model as a whole comes last, under "".
    """
    found: dict[str, dict[str, str]] = {name: {} for name in (*diagnosis.norms, "")}
    for finding in diagnosis.findings:
        cells = found.setdefault(finding.layer, {})
        cells[finding.code] = min(
            (finding.severity, cells.get(finding.code, SEVERITIES[-1])), key=SEVERITIES.index
        )
    return {layer: cells for layer, cells in found.items() if cells}
