"""What a comparison says, in sentences."""

from typing import Any

from batchnorm_mechanics._io.words import counted, named

# Beyond it is float32's own rounding, whatever the stage.
_MANY = 3


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
        judged = [row for row in found.rows if row.differs is not None]
        stages = f", and each of {counted(len(judged), 'stage')} is within its rounding"
        how = "Both agree as far as B's integers can tell" if found.is_quantized else "Both agree"
        return f"{how}: {outputs}{stages if judged else ''}."
    if found.agrees is None:
        lost = f" {named(found.lost)} have no counterpart." if found.lost else ""
        return f"It cannot be told whether both agree: {outputs}.{lost}"
    if found.min_sqnr is not None:
        return (
            f"Both differ by more than was asked for: {outputs}, where {found.min_sqnr:g} dB "
            "were to be; each stage is within its rounding."
        )
    return f"Both differ: {outputs}; no stage of A could be looked at by itself."


def _begins(found: Any, start: Any) -> str:
    before = [row for row in found.rows[: found.rows.index(start)] if row.own is not None]
    others = [row for row in found.rows if row.differs and row is not start]
    least = min((row.own for row in before), default=None)
    up_to = (
        f"Both agree to {decibel_text(least)} up to `{start.name}`"
        if least is not None
        else f"Both differ from `{start.name}` on"
    )
    words = start.cause.words if start.cause is not None else ""
    why = words if words.startswith(("whose", "which", "without")) else f"where {words}"
    if not others:
        end = f"the outputs' distance ({decibel_text(found.sqnr)}) comes from there"
    else:
        names = named([row.name for row in others])
        end = (
            f"{counted(len(others), 'further stage')} differ by themselves, too ({names}); the "
            f"outputs are {_apart(found.sqnr)}"
        )
    agreed = " as far as was asked for" if found.agrees else ""
    return f"{up_to}, {why}; {end}{agreed}."


def _apart(sqnr: float) -> str:
    return "the same" if sqnr >= 200 else f"{sqnr:.0f} dB apart"
