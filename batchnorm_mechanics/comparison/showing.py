"""What a comparison shows in a terminal and on a page."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from batchnorm_mechanics._io.lines import WIDTH, Lines
from batchnorm_mechanics._io.words import named
from batchnorm_mechanics.comparison import wording

_TEMPLATES = Path(__file__).parent / "templates"
_COLUMNS = {"own": 8, "floor": 8, "so far": 10}
_VERDICT = 9
_STYLES = {True: "bold green", False: "bold red", None: "bold yellow"}


def print_comparison(found: Any, console: Console) -> None:
    """Print the answer, the outputs, and a table with a row for each stage.

    Args:
        found: a `Comparison`.
        console: where to.
    """
    lines = Lines(console)
    lines.words(found.summary, _STYLES[found.agrees])
    models = [f"{name} ({form})" for name, form in zip(found.names, found.forms, strict=True)]
    lines.row("A", models[0])
    lines.row("B", models[1])
    for output in found.outputs:
        lines.row("Outputs", f"{output.name}: {wording.output_text(output, found.samples)}")
    if found.rows:
        lines.line()
        _table(found, console, lines)
    for row in found.rows:
        if row.cause is not None:
            words = wording.cause_text(row)
            lines.row("Cause", words, "bold" if row is found.start else "")
    if found.changes:
        lines.row("Weights", wording.changes_text(found.changes))
    if found.lost:
        lines.row("Alone", f"{named(found.lost)}: without a counterpart in B")
    for note in (*found.notes, *wording.hints(found)):
        lines.row("Note", note)


def _table(found: Any, console: Console, lines: Lines) -> None:
    width = min(console.width, WIDTH)
    if not found.is_judged:
        _pairs(found, width, lines)
        return
    left = max(width - sum(_COLUMNS.values()) - _VERDICT, 20)
    heads = "".join(f"{head:>{size}}" for head, size in _COLUMNS.items())
    lines.line(f"{'stage':<{left}}{heads}", "dim")
    for row in found.rows:
        text = Text(f"{_cut(' + '.join(row.layers), left - 1):<{left}}")
        figures = (row.own, row.floor, row.inherited)
        for value, size in zip(figures, _COLUMNS.values(), strict=True):
            text.append(f"{wording.decibel_text(value):>{size}}")
        style = {True: "bold red", False: "green", None: "dim"}[row.differs]
        text.append(f"  {row.verdict}", style)
        lines.line(text)


def _pairs(found: Any, width: int, lines: Lines) -> None:
    """Print which value of B each stage has, where neither model could be run by layers."""
    end = _COLUMNS["so far"]
    left = max((width - end) // 2, 20)
    lines.line(f"{'stage of A':<{left}}{'value of B':<{left}}{'so far':>{end}}", "dim")
    for row in found.rows:
        names = (" + ".join(row.layers), row.counterpart)
        text = "".join(f"{_cut(name, left - 1):<{left}}" for name in names)
        lines.line(f"{text}{wording.decibel_text(row.inherited):>{end}}")


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 3]}..."


def page(found: Any) -> str:
    """Return a page with the answer, a picture and the table; it asks for nothing.

    Args:
        found: a `Comparison`.
    """
    # Here: a terminal needs none of it.
    from batchnorm_mechanics._io.html import templates
    from batchnorm_mechanics.comparison.chart import picture

    return (
        templates(_TEMPLATES)
        .get_template("comparison.html.jinja")
        .render(
            found=found, wording=wording, picture=picture(found) if found.rows else "", named=named
        )
    )
