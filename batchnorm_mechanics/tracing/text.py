"""A trace as a terminal shows it, in 80 columns."""

import io
from collections.abc import Iterable, Iterator

# Imported only when a trace is printed.
from rich import box
from rich.console import Console, ConsoleRenderable, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics.tracing.figures import dimensions, error_text, shown, ulps_text
from batchnorm_mechanics.tracing.record import Backward, Beside, Check, Comparison, Step, Trace

_WIDTH = 80
# Of the left column: the names, formulas and places.
_LEFT = 30


def print_trace(trace: Trace, console: Console) -> None:
    """Print a trace, in 80 columns or the console's width if that is less.

    Args:
        trace: what to print.
        console: where to; without a terminal behind it, the text is plain.
    """
    width = min(console.width, _WIDTH)
    for part in _parts(trace, width):
        console.print(part, width=width)


def plain_text(trace: Trace) -> str:
    """Return what `print_trace` prints, without colours, in 80 columns."""
    out = io.StringIO()
    print_trace(trace, Console(file=out, width=_WIDTH, color_system=None, legacy_windows=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _parts(trace: Trace, width: int) -> Iterator[ConsoleRenderable]:
    yield Text(trace.title, "bold")
    yield from _sentences(trace.why)
    yield _steps(trace.steps, width)
    if trace.statistics:
        yield _heading("Running statistics, before and after this batch")
        yield _steps(trace.statistics, width)
    if trace.checks:
        yield _heading("The layer against these steps")
        yield _checks(trace.checks)
    if trace.backward:
        yield from _backward(trace.backward, width)
    if trace.comparison:
        yield from _comparison(trace.comparison)
    if trace.notes:
        yield _heading("Notes")
        yield from _sentences(trace.notes)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", "bold")


def _sentences(sentences: Iterable[str]) -> Iterator[ConsoleRenderable]:
    for sentence in sentences:
        yield Padding(Text(sentence), (0, 0, 0, 2))


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def _steps(steps: Iterable[Step], width: int) -> ConsoleRenderable:
    table = _table()
    table.add_column("Step", width=_LEFT)
    table.add_column("Value", width=width - _LEFT - 2)
    for number, step in enumerate(steps):
        if number:
            table.add_row("", "")
        name = Text(step.name, "bold")
        if step.symbol not in {"", step.name}:
            name.append(f"  {step.symbol}", "not bold cyan")
        left = [name]
        if step.formula:
            left.append(Text(step.formula))
        if step.source:
            left.append(Text(step.source, "dim"))
        right = [
            Text(shown(step.value, width - _LEFT - 5), no_wrap=True, overflow="crop"),
            Text(dimensions(step.shape, step.dtype), "dim"),
        ]
        if step.note:
            right.append(Text(step.note, "italic"))
        table.add_row(Group(*left), Group(*right))
    return table


def _checks(checks: Iterable[Check]) -> ConsoleRenderable:
    table = _table()
    table.add_column("What must hold")
    table.add_column("", width=2)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("rounding", justify="right", no_wrap=True)
    for check in checks:
        mark = Text("✓", "green") if check.passed else Text("✗", "bold red")
        table.add_row(check.what, mark, error_text(check.error), error_text(check.bound))
    return table


def _backward(backward: Backward, width: int) -> Iterator[ConsoleRenderable]:
    yield _heading("Backward: the six gradients")
    yield _steps(backward.gradients, width)
    yield _heading("Their sums: the error, and what rounding may do")
    yield _checks(backward.checks)
    yield _heading("tf.GradientTape beside our gradients")
    yield _besides(backward.tape)
    yield from _sentences(backward.notes)


def _comparison(comparison: Comparison) -> Iterator[ConsoleRenderable]:
    yield _heading("Implementations side by side: errors against the float64 oracle")
    yield _besides(comparison.rows)
    yield from _sentences(comparison.notes)


def _besides(rows: Iterable[Beside]) -> ConsoleRenderable:
    table = _table()
    for column, columns in (("Step", 10), ("By", 16)):
        table.add_column(column, width=columns)
    table.add_column("first value", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("ULPs", justify="right", no_wrap=True)
    last = ""
    for row in rows:
        error = row.difference
        table.add_row(
            Text(row.step if row.step != last else "", "bold"),
            row.by,
            _first(row),
            error_text(error.absolute),
            ulps_text(error.ulps),
        )
        last = row.step
    return table


def _first(row: Beside) -> str:
    return f"{float(row.value.flat[0]):.9g}" if row.value.size else "none"
