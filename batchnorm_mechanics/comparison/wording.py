"""What a comparison says, in sentences."""

from collections.abc import Iterator, Sequence
from typing import Any

from batchnorm_mechanics._io.words import counted, named, together

# Of a quantized tensor: more would be no chance, but a range that the data leave.
_SATURATED = 0.01
# Of decibels: ten times the error there was.
_FALL = 20.0
# Words that go on from a name.
_RELATIVE = ("whose", "which", "without")


def decibel_text(value: float | None) -> str:
    """Return decibels without decimals.

    Example:
        >>> decibel_text(134.6), decibel_text(200.0), decibel_text(None)
        ('135 dB', 'exact', '-')
    """
    if value is None:
        return "-"
    return "exact" if value >= 200 else f"{value:.0f} dB"


def sentence(found: Any) -> str:
    """Return the answer of a `Comparison`."""
    outputs = f"the outputs are {_apart(found.sqnr)}"
    start = found.start
    if start is not None:
        return _begins(found, start)
    if found.agrees:
        stages = ""
        if found.is_judged:
            judged = [row for row in found.rows if row.differs is not None]
            stages = f", and each of {counted(len(judged), 'stage')} is within its rounding"
        elif found.rows and not found.lost:
            stages = f", and each of {counted(len(found.rows), 'stage')} has a counterpart"
        if any(output.is_rounding and output.sqnr < 100 for output in found.outputs):
            outputs += ", which is rounding to a unit in the last place of 1"
        how = "Both agree as far as B's integers can tell" if found.is_quantized else "Both agree"
        return f"{how}: {outputs}{stages}."
    if found.agrees is None:
        lost = f" {named(found.lost)} have no counterpart." if found.lost else ""
        return f"It cannot be told whether both agree: {outputs}.{lost}"
    if found.min_sqnr is not None:
        return (
            f"Both differ by more than was asked for: {outputs}, where {found.min_sqnr:g} dB "
            "were to be; each stage is within its rounding."
        )
    return f"Both differ: {outputs}; {_falls(found)}."


def _falls(found: Any) -> str:
    """Return where the agreement falls the most, of stages of which only that is known."""
    rows = found.rows
    if found.lost and not any(row.by == "value" for row in rows):
        return "no stage of A has a counterpart in B: they part at the first, or are two networks"
    least, worst, place = [], 0.0, 0
    for at, row in enumerate(rows):
        if least and least[-1] - row.inherited > worst:
            worst, place = least[-1] - row.inherited, at
        least.append(min([*least[-1:], row.inherited]))
    if worst < _FALL:
        return "no stage of A could be looked at by itself"
    before = decibel_text(least[place - 1])
    near = "the same" if before == "exact" else f"{before} apart or nearer"
    return (
        f"up to `{rows[place - 1].name}` all is {near}, "
        f"behind `{rows[place].name}` it is {decibel_text(rows[place].inherited)}"
    )


def output_text(output: Any, samples: int) -> str:
    """Return how far an `Output` is from its counterpart."""
    top = (
        ""
        if output.same_top is None
        else f"; the same largest for {output.same_top:.1%} of {counted(samples, 'sample')}"
    )
    return (
        f"{decibel_text(output.sqnr)} of signal to difference, at most {output.relative:.2g} of "
        f"the largest{top}"
    )


def cause_text(row: Any) -> str:
    """Return why a `Row` differs."""
    words = row.cause.words
    return f"`{row.name}`, {words if words.startswith(_RELATIVE) else f'where {words}'}"


def changes_text(changes: Sequence[Any]) -> str:
    """Return which weights and settings differ, in a sentence."""
    found = together((change.layer, change.what) for change in changes)
    parts = [f"{layer} ({', '.join(names)})" for layer, names in found]
    return f"differ in {named(parts)}"


def hints(found: Any) -> Iterator[str]:
    """Yield what a reader should know of a `Comparison`."""
    full = [row for row in found.rows if row.saturated > _SATURATED]
    for row in full[:1]:
        more = f", and {counted(len(full) - 1, 'further stage')} likewise" if full[1:] else ""
        yield (
            f"{row.saturated:.1%} of the numbers of {row.layers[-1]} lie beyond what B can hold "
            f"there{more}: its range was set by other data."
        )
    if found.is_quantized:
        yield (
            "Rounding to integers hides what is smaller, such as another epsilon: compare the "
            "export in floating point first."
        )


def _begins(found: Any, start: Any) -> str:
    before = [row for row in found.rows[: found.rows.index(start)] if row.own is not None]
    others = [row for row in found.rows if row.differs and row is not start]
    least = min((row.own for row in before), default=None)
    up_to = f"Both differ from `{start.name}` on"
    if least is not None:
        exactly = "exactly" if least >= 200 else f"to {decibel_text(least)}"
        up_to = f"Both agree {exactly} up to `{start.name}`"
    words = start.cause.words if start.cause is not None else ""
    why = words if words.startswith(_RELATIVE) else f"where {words}"
    if not others:
        end = f"the outputs' distance ({decibel_text(found.sqnr)}) comes from there"
    else:
        names = named([row.name for row in others])
        one = "1 further stage differs by itself, too"
        several = f"{len(others):,} further stages differ by themselves, too"
        many = one if len(others) == 1 else several
        end = f"{many} ({names}); the outputs are {_apart(found.sqnr)}"
    agreed = " as far as was asked for" if found.agrees else ""
    return f"{up_to}, {why}; {end}{agreed}."


def _apart(sqnr: float) -> str:
    return "the same" if sqnr >= 200 else f"{sqnr:.0f} dB apart"
