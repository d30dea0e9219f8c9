"""A diagnosis as a terminal shows it, in 80 columns."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Imported only when something is printed.
from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from batchnorm_mechanics.doctor.findings import Diagnosis
from batchnorm_mechanics.doctor.rules import RULES, Rule
from batchnorm_mechanics.doctor.showing import wording
from batchnorm_mechanics.doctor.showing.grouping import Group, grouped

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.demo import Demo
    from batchnorm_mechanics.doctor.repair import Repair

_WIDTH = 80
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}
# Of the left column: a severity and a space.
_LEFT = 9


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
    _print_words(console, wording.title(diagnosis, file), "dim", width)
    _print_words(console, wording.verdict(diagnosis, groups), color, width)
    for group in groups:
        head = Text(f"\n{group.severity:<{_LEFT}}", _STYLES[group.severity])
        head.append(f"{group.code} {group.first.name}", "bold")
        _print_line(console, head)
        for label, words in _rows(group):
            _print_line(console, _labelled(label, words, width))
    if next_steps:
        console.print()
    for step in next_steps:
        _print_line(console, Text(step))


def _labelled(label: str, words: str, width: int) -> Text:
    """Return words beside their label, wrapped without a space at the end of a line."""
    line = Text(f"{label:<{_LEFT}}", "dim")
    wrapped = textwrap.wrap(words, max(width - _LEFT, _LEFT))
    return line.append(f"\n{'':{_LEFT}}".join(wrapped), "not dim")


def _print_words(console: Console, words: str, style: str, width: int) -> None:
    _print_line(console, Text("\n".join(textwrap.wrap(words, width)), style))


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


def print_repair(repair: "Repair", console: Console, *, file: str) -> None:
    """Print what was done, what was not and why, and what came of it."""
    # Here: it knows layers, which takes TensorFlow, and rules are told without that.
    from batchnorm_mechanics.doctor.repairing.plan import IN_WORDS

    width = min(console.width, _WIDTH)
    done = "Planned" if repair.after is None else "Done"
    _print_words(console, wording.title(repair.before, file), "dim", width)
    pairs = []
    for step in repair.steps:
        codes = ", ".join(dict.fromkeys(key.partition(" ")[0] for key in step.findings))
        pairs.append((f"{IN_WORDS[step.action]} ({codes})", step.layer))
    if not pairs:
        _print_line(console, _labelled(done, "nothing", width))
    for words, names in _together(pairs):
        _print_line(console, _labelled(done, words, width))
        _print_line(console, _labelled("", f"  {wording.named(names)}", width))
    for why, keys in _together((why, key) for key, why in repair.refused.items()):
        _print_line(console, _labelled("Left", f"{wording.named(keys)}: {why}", width))
    for note in repair.notes:
        _print_line(console, _labelled("Note", note, width))
    if repair.after is not None:
        for name, before in repair.before.measures.items():
            after = repair.after.measures.get(name)
            shown = "unknown" if after is None else f"{after:.4g}"
            words = f"{wording.measure(name)} {before:.4g} before, {shown} after"
            _print_line(console, _labelled("", words, width))
        verdict = wording.verdict(repair.after, grouped(repair.after))
        _print_line(console, _labelled("Now", verdict, width))


def _together(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, list[str]]]:
    """Return, for each first part in the order of their coming, the second parts."""
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found.items()


def print_demo(demo: "Demo", console: Console, *, out: Path | None) -> None:
    """Print the diagnosis of the sick model, the repair, and the accuracy all along."""
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
        _print_line(console, _labelled(f"  {when}", f"  {accuracy:6.1%}", _WIDTH))
    _print_line(console, Text(f"\nIt took {demo.seconds:.0f} s."))
    if out is not None:
        _print_line(console, Text(f"Kept in {out}: {', '.join(demo.KEPT)}"))


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
