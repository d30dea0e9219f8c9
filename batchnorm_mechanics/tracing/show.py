"""A trace as a terminal, a notebook and a browser show it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import jinja2
import numpy as np
from rich import box
from rich.console import Console, ConsoleRenderable, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics._io import terminal
from batchnorm_mechanics._io.html import templates
from batchnorm_mechanics.tracing.record import Backward, Beside, Check, Comparison, Step, Trace

_WIDTH = 80
# Of the left column: the names, formulas and places.
_LEFT = 30
# Columns of a value on a page; what is wider scrolls in its own box.
_IN_HTML = 90
# An array of more numbers is abridged; the source's larger example has so many.
_FEW = 24
_FEW_CHANNELS = 4
_TEMPLATES = Path(__file__).parent / "templates"


def print_trace(trace: Trace, console: Console, *, verbose: bool = False) -> None:
    """Print a trace, in 80 columns or the console's width if that is less.

    Args:
        trace: what to print.
        console: where to; without a terminal behind it, the text is plain.
        verbose: whether to show values of large arrays too, and not their channels alone.
    """
    width = min(console.width, _WIDTH)
    for part in _parts(trace, width, None if verbose else _channels(trace)):
        console.print(part, width=width)


def plain_text(trace: Trace, *, verbose: bool = False) -> str:
    """Return what `print_trace` prints, without colours, in 80 columns."""
    return terminal.plain_text(lambda console: print_trace(trace, console, verbose=verbose), _WIDTH)


def _channels(trace: Trace) -> int | None:
    """Return how many channels there are, None where they lie along several axes."""
    sizes = [size for step in trace.steps if step.name == "mean" for size in step.shape if size > 1]
    return sizes[0] if len(sizes) == 1 else None


def _parts(trace: Trace, width: int, channels: int | None) -> Iterator[ConsoleRenderable]:
    yield Text(trace.title, "bold")
    yield from _sentences(trace.why)
    yield _steps(trace.steps, width, channels)
    if trace.statistics:
        yield _heading("Running statistics, before and after this batch")
        yield _steps(trace.statistics, width, channels)
    if trace.checks:
        yield _heading("The layer against these steps")
        yield _checks(trace.checks)
    if trace.backward:
        yield from _backward(trace.backward, width, channels)
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


def _steps(steps: Iterable[Step], width: int, channels: int | None) -> ConsoleRenderable:
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
            Text(
                by_channel(step.value, channels) or shown(step.value, width - _LEFT - 5),
                no_wrap=True,
                overflow="crop",
            ),
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


def _backward(backward: Backward, width: int, channels: int | None) -> Iterator[ConsoleRenderable]:
    yield _heading("Backward: the six gradients")
    yield _steps(backward.gradients, width, channels)
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
            _first(row.value),
            error_text(error.absolute),
            ulps_text(error.ulps),
        )
        last = row.step
    return table


def _first(value: np.ndarray) -> str:
    return f"{float(value.flat[0]):.9g}" if value.size else "none"


def page(trace: Trace) -> str:
    """Return a page that needs nothing but a browser: no script, no request."""
    return _templates().get_template("page.html.jinja").render(trace=trace)


def fragment(trace: Trace) -> str:
    """Return the trace for a notebook's output, in the notebook's own colours.

    Its style reaches nothing outside of it.
    """
    return _templates().get_template("fragment.html.jinja").render(trace=trace)


def _templates() -> jinja2.Environment:
    environment = templates(_TEMPLATES)
    environment.filters["shown"] = lambda value: shown(value, _IN_HTML)
    environment.filters["error"] = error_text
    environment.filters["ulps"] = ulps_text
    environment.filters["first"] = _first
    environment.globals["dimensions"] = dimensions
    return environment


def shown(value: np.ndarray, width: int) -> str:
    """Return an array as NumPy writes it, large ones abridged, in lines of at most this width.

    Args:
        value: of any dtype.
        width: in columns; one number may need up to some 20.

    Returns:
        Lines of text. What is left out stands as "..."; the reader needs the shape beside it.

    Example:
        >>> print(shown(np.array([[1.0, 2.5], [3.0, 4.0]], np.float32), 40))
        [[1.  2.5]
         [3.  4. ]]
    """
    if value.dtype.kind == "V":
        # bfloat16 is no type of NumPy's own, and prints as text otherwise; float32 holds it all.
        value = value.astype(np.float32)
    if not value.size:
        return "no values"
    text = np.array2string(
        value,
        max_line_width=width,
        threshold=_FEW,
        # With many axes even two from each end are a page.
        edgeitems={0: 3, 1: 3, 2: 2}.get(value.ndim, 1),
        separator=" ",
        precision=_digits(value),
    )
    # NumPy parts blocks by empty lines; the brackets do that well enough.
    return "\n".join(line for line in text.splitlines() if line.strip())


def by_channel(value: np.ndarray, channels: int | None) -> str:
    """Return the least number, the mean and the largest of the first channels and of the last.

    Args:
        value: of any dtype.
        channels: how many there are; None where they lie along several axes.

    Returns:
        Lines of text, none where the array is small or has no such axis.

    Example:
        >>> print(by_channel(np.arange(60.0).reshape(10, 6), 6))
        channel      least       mean    largest
              0          0         27         54
              1          1         28         55
              2          2         29         56
        ...
              5          5         32         59
    """
    axes = [axis for axis, size in enumerate(value.shape) if size == channels]
    if value.size <= _FEW or value.ndim < 2 or not axes:
        return ""
    rows = np.moveaxis(value.astype(np.float64), axes[-1], 0).reshape(channels or 0, -1)
    with np.errstate(invalid="ignore", over="ignore"):
        found = (rows.min(1), rows.mean(1), rows.max(1))
    if rows.shape[1] == 1:
        return ""
    number = channels or 0
    chosen = range(number) if number <= _FEW_CHANNELS else (*range(_FEW_CHANNELS - 1), number - 1)
    lines = [
        f"{channel:>7}" + "".join(f" {figure[channel]:>10.4g}" for figure in found)
        for channel in chosen
    ]
    if number > _FEW_CHANNELS:
        lines.insert(-1, "...")
    titles = "".join(f" {title:>10}" for title in ("least", "mean", "largest"))
    return "\n".join([f"channel{titles}", *lines])


def _digits(value: np.ndarray) -> int:
    """Return how many decimals show seven digits or so, also of numbers that are all small."""
    sizes = np.abs(value[np.isfinite(value)].astype(np.float64))
    largest = np.max(sizes, initial=0.0)
    return 7 + (int(min(-np.floor(np.log10(largest)) - 1, 30)) if 0 < largest < 1 else 0)


def error_text(value: float) -> str:
    """Return an error with three digits.

    Example:
        >>> error_text(0.0), error_text(1.23456e-7), error_text(float("inf"))
        ('0', '1.23e-07', 'inf')
    """
    return f"{value:.3g}"


def ulps_text(value: float) -> str:
    """Return a number of ULPs, which needs no more than one decimal.

    Example:
        >>> ulps_text(0.5), ulps_text(12.0), ulps_text(1.5e7)
        ('0.5', '12', '1.5e+07')
    """
    if not value < 1e5:  # NaN too
        return f"{value:.2g}"
    return f"{value:.1f}".removesuffix(".0")


def dimensions(shape: tuple[int, ...], dtype: str) -> str:
    """Return shape and dtype in short.

    Example:
        >>> dimensions((2, 3), "float32"), dimensions((), "float64")
        ('(2, 3) float32', 'scalar float64')
    """
    if not shape:
        return f"scalar {dtype}"
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''}) {dtype}"
