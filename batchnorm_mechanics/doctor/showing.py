"""What the doctor shows: in a terminal, in 80 columns, and as a page that needs a browser alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Imported only when something is printed.
from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from batchnorm_mechanics._io import terminal
from batchnorm_mechanics._io.lines import LEFT, WIDTH, Lines
from batchnorm_mechanics._io.words import named, together
from batchnorm_mechanics.doctor import wording
from batchnorm_mechanics.doctor.findings import SEVERITIES, Diagnosis
from batchnorm_mechanics.doctor.rules import RULES, Rule, rule_of
from batchnorm_mechanics.doctor.wording import Group, grouped

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.demo import Demo
    from batchnorm_mechanics.doctor.repair import Repair

_COMMAND = ": bnm "
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}
_TEMPLATES = Path(__file__).parent / "templates"


def plain_text(result: Any, *, notes: bool) -> str:
    """Return a result as its command prints it, but for what is about files.

    Args:
        result: a `Diagnosis` or `Repair`.
        notes: whether to tell of each note.
    """
    # By name: each of them takes seconds to import.
    show = {"Diagnosis": print_diagnosis, "Repair": print_repair}
    of_one = show[type(result).__name__]
    return terminal.plain_text(lambda console: of_one(result, console, notes=notes))


def print_diagnosis(
    diagnosis: Diagnosis,
    console: Console,
    *,
    file: str | None = None,
    next_steps: Sequence[str] = (),
    notes: bool = False,
) -> None:
    """Print a diagnosis so that its first line below the title says what to know.

    Args:
        diagnosis: what to print.
        console: where to; without a terminal behind it, the text is plain.
        file: name of what was examined; None for that of the model.
        next_steps: sentences for the end, such as the command that repairs.
        notes: whether to tell of each note, and not of all in one line.
    """
    lines = _Lines(console)
    groups = grouped(diagnosis)
    lines.title(wording.title(diagnosis, file or diagnosis.model))
    lines.words(wording.verdict(diagnosis, groups), "bold" if diagnosis.is_sick else "bold green")
    lines.groups(groups, notes=notes, how=_asked(file))
    for line in wording.unseen(diagnosis):
        lines.line()
        lines.row("Unseen", line)
    if next_steps:
        lines.line()
    for step in next_steps:
        # A command, which is for copying, is not to be cut into lines.
        if _COMMAND in step:
            lines.line(step)
        else:
            lines.words(step)


def _asked(file: str | None) -> str:
    """Return how a reader of what is shown of a file, or in Python, has all notes listed."""
    return "`text(notes=True)`" if file is None else "--notes"


class _Lines(Lines):
    """Lines of findings."""

    def groups(self, groups: Iterable[Group], *, notes: bool, how: str) -> None:
        """Print groups of findings, those that are mere notes in one line unless asked for.

        Args:
            groups: of a diagnosis.
            notes: whether they are asked for.
            how: how they would be.
        """
        folded = []
        for group in groups:
            if group.is_note and not notes:
                folded.append(group)
            else:
                self._group(group)
        if folded:
            self.line()
            self.row("Notes", f"{wording.notes(folded)}; {how} lists them", _STYLES["note"])

    def _group(self, group: Group) -> None:
        first = group.first
        head = Text(f"\n{group.severity:<{LEFT}}", _STYLES[group.severity])
        self.line(head.append(f"{group.code} {first.name}", "bold"))
        self.row("Where", wording.layers(group.findings))
        self.row("Why", first.cause)
        if first.evidence:
            # Of the layer that is named first; the others are alike.
            of = "" if len(group.findings) == 1 else f"{first.layer}: "
            self.row("Seen", of + wording.evidence(first.evidence))
        self.row("Do", first.remedy)
        if first.root is not None:
            # Not listed itself: the reader asked for other rules.
            self.row("From", first.root)
        for number, line in enumerate(wording.explained(group.explained)):
            self.row("" if number else "So", line)


def print_repair(
    repair: "Repair",
    console: Console,
    *,
    file: str | None = None,
    out: Path | None = None,
    notes: bool = False,
) -> None:
    """Print what was done, what was not and why, and what came of it.

    Args:
        repair: what to print.
        console: where to.
        file: name of what was repaired; None for a model without a file.
        out: where the repaired model was written, if it was.
        notes: whether to tell of the notes that the diagnosis ends with, too.
    """
    lines = _Lines(console)
    done = "Planned" if repair.after is None else "Done"
    lines.title(wording.title(repair.before, file or repair.before.model))
    lines.row("Before", wording.verdict(repair.before, grouped(repair.before)))
    if not repair.steps:
        lines.row(done, "nothing")
    for words, steps in together((step.how.words, step) for step in repair.steps):
        codes = {key.partition(" ")[0] for step in steps for key in step.findings}
        where = named([step.layer for step in steps])
        lines.row(done, f"{words} ({', '.join(sorted(codes))}): {where}")
    for why, keys in together((why, key) for key, why in repair.refused.items()):
        lines.row("Left", f"{wording.findings(keys)}: {why}")
    for note in repair.notes:
        lines.row("Note", note)
    if repair.after is not None:
        verdict = wording.verdict(repair.after, grouped(repair.after))
        lines.row("Now", verdict, "bold" if repair.after.is_sick else "bold green")
        for name, value in repair.before.measures.items():
            after = repair.after.measures.get(name)
            shown = "unknown" if after is None else f"{after:.4g}"
            lines.row("", f"{wording.measure(name)} {value:.4g} before, {shown} after")
    mere = [one for one in grouped(repair.after or repair.before) if one.is_note]
    lines.groups(mere, notes=notes, how=_asked(file))
    if file is not None:
        planned = repair.after is None and repair.steps
        reason = "" if planned else ": there was nothing that could be repaired"
        lines.line(f"No file was written{reason}." if out is None else f"Written: {out}")


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
    lines = _Lines(console)
    print_diagnosis(demo.diagnosis, console, file="The sick model")
    lines.line("\nThe repair", "bold")
    for step in demo.repair.steps:
        lines.line(f"  {step}")
    lines.line("\nTest accuracy", "bold")
    for when, accuracy in (
        ("trained", demo.healthy),
        ("sick", demo.sick),
        ("repaired", demo.repaired),
    ):
        lines.line(f"  {when:<{LEFT}}{accuracy:6.1%}")
    lines.line(f"\nIt took {demo.seconds:.0f} s.")
    if out is not None:
        lines.line(f"Kept in {out}: {', '.join(demo.KEPT)}")
    if page is not None:
        lines.line(f"Page: {page}")


def print_rules(console: Console) -> None:
    """Print all rules, a line each."""
    width = max(len(rule.name) for rule in RULES.values()) + 2
    for rule in RULES.values():
        line = Text(f"{rule.code}  {rule.name:<{width}}")
        line.append(f"{rule.severity:<{LEFT}}", _STYLES[rule.severity])
        line.append("data" if rule.needs_data else "weights and graph")
        _Lines(console).line(line)


def print_story(rule: Rule, console: Console) -> None:
    """Print the whole story of a rule: as Markdown where there is no terminal."""
    if not console.is_terminal:
        console.print(rule.story, markup=False, highlight=False, soft_wrap=True)
        return
    console.print(Padding(Markdown(rule.story), (1, 0)), width=min(console.width, WIDTH))


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
