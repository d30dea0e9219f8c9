"""Compare one output of a subject with what it should be, element by element."""

from typing import NamedTuple

import ml_dtypes
import numpy as np

from batchnorm_mechanics._difference import difference, elementwise_error
from batchnorm_mechanics.conformance.record import Check

_NUMBERS = {np.dtype(ml_dtypes.bfloat16)} | {np.dtype(name) for name in ("f2", "f4", "f8")}


class Due(NamedTuple):
    """What an output should be.

    Attributes:
        value: float64.
        tolerance: absolute, in the value's shape; infinite where anything will do.
        dtype: the type whose units in the last place are counted.
    """

    value: np.ndarray
    tolerance: np.ndarray
    dtype: str


def compare(what: str, actual: np.ndarray, due: Due) -> Check:
    """Return whether an output lies within its tolerance, and how far off it is.

    Where the expected value is NaN or infinite, any value that is not finite will do: sums in
    another order give one or the other. Elsewhere a value that is not finite is infinitely far off.

    Args:
        what: the output's name.
        actual: as the subject gave it, of any shape and dtype.
        due: what it should be.

    Returns:
        The check. The largest differences leave out the elements for which anything will do.

    Example:
        >>> compare("dx", np.ones(2, np.float32), Due(np.ones(2), np.zeros(2), "float32")).passed
        True
    """
    reason = wrong_kind(actual, due.value.shape)
    if reason is not None:
        return Check(what, False, reason=reason)
    finite = np.isfinite(due.value)
    values = actual.astype(np.float64)
    values = np.where(~finite & ~np.isfinite(values), due.value, values)
    tolerance = np.where(finite, due.tolerance, 0.0)
    judged = ~np.isposinf(tolerance)
    error, tolerance = elementwise_error(values, due.value)[judged], tolerance[judged]
    apart = difference(values[judged], due.value[judged], due.dtype)
    if not error.size:
        return Check(what, True, 0.0, 0.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0/0 is an exact result that had to be exact.
        share = np.nan_to_num(error / tolerance, nan=0.0, posinf=np.inf)
    worst = int(np.argmax(share))
    return Check(
        what,
        passed=bool(np.all(error <= tolerance)),
        absolute=apart.absolute,
        relative=apart.relative,
        ulps=apart.ulps,
        tolerance=float(tolerance[worst]),
        error=float(error[worst]),
        reason=_about_not_finite(values[judged], finite[judged]),
    )


def wrong_kind(actual: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with an output before its values are looked at, or None."""
    if actual.dtype not in _NUMBERS:
        return f"dtype {actual.dtype}, which is no floating type"
    if actual.shape != shape:
        return f"shape {actual.shape}, expected {shape}"
    return None


def _about_not_finite(values: np.ndarray, finite: np.ndarray) -> str | None:
    """Return in words what numbers do not say."""
    if np.any(finite & ~np.isfinite(values)):
        return "NaN or infinite where it should be a number"
    if np.any(~finite & np.isfinite(values)):
        return "a number where the input's NaN or infinity should show"
    return None
