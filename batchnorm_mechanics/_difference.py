"""How far one result is from another: absolute error, relative error and ULPs."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike


class Difference(NamedTuple):
    """The largest differences between two arrays, each taken over all elements by itself.

    Attributes:
        absolute: largest |actual - expected|.
        relative: largest |actual - expected| / |expected|, elements expected to be 0 left out.
        ulps: largest difference in units in the last place of the expected value. Near zero a unit
            is tiny, so a result that is fine beside its neighbours can be millions of units off:
            read it together with the absolute error.
    """

    absolute: float
    relative: float
    ulps: float


def difference(actual: ArrayLike, expected: ArrayLike, dtype: str) -> Difference:
    """Return how far `actual` is from `expected`.

    Args:
        actual: of any floating dtype.
        expected: float64, of the same shape.
        dtype: the type whose units in the last place are counted: "float64", "float32",
            "bfloat16" or "float16".

    Returns:
        Infinite differences where one of the two is NaN or infinite and the other is not the same;
        zero where both are. Arrays without elements do not differ.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> difference([1.0, 3.0], [1.0, 2.0], "float32")
        Difference(absolute=1.0, relative=0.5, ulps=4194304.0)
    """
    a, e = np.asarray(actual).astype(np.float64), np.asarray(expected, np.float64)
    if a.shape != e.shape:
        raise ValueError(
            f"difference: `actual` must have the shape of `expected`, {e.shape}. "
            f"Received: actual.shape={a.shape}. Compare arrays of one shape."
        )
    error = elementwise_error(a, e)
    size = np.abs(e)
    some = size > 0
    return Difference(
        float(np.max(error, initial=0.0)),
        float(np.max(_quotient(error[some], size[some]), initial=0.0)),
        float(np.max(_quotient(error, unit_in_the_last_place(e, dtype)), initial=0.0)),
    )


def elementwise_error(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return |actual - expected| in float64: 0 where both are the same NaN or infinity."""
    with np.errstate(invalid="ignore"):
        error = np.abs(actual - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def unit_in_the_last_place(value: np.ndarray, dtype: str) -> np.ndarray:
    """Return the distance from each value's size to the next larger number of this dtype."""
    limits = ml_dtypes.finfo(dtype)
    size = np.clip(np.nan_to_num(np.abs(value)), float(limits.smallest_normal), float(limits.max))
    return float(limits.eps) * np.exp2(np.floor(np.log2(size)))


def _quotient(error: np.ndarray, unit: np.ndarray) -> np.ndarray:
    # An infinite error stays infinite whatever it is divided by.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isinf(error), np.inf, error / unit)
