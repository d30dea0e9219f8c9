"""What the page shows of a layer: how its values are spread, and how its statistics fit.

Numbers are rounded to what a picture shows: they travel with the page.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]

# What lies further out is counted in the outermost bins.
LOW, HIGH, BINS = -4.0, 4.0, 32
# Channels that are drawn: more dots hide one another.
MOST_CHANNELS = 25


def density(values: Any) -> list[int]:
    """Return how many of a thousand values lie in each of the bins; of those that are finite.

    Args:
        values: array of any shape.

    Example:
        >>> found = density([0.1, 0.1, -9.0, float("nan")])
        >>> found[0], found[16], len(found)
        (333, 667, 32)
    """
    values = np.asarray(values, np.float64).ravel()
    finite = np.clip(values[np.isfinite(values)], LOW, np.nextafter(HIGH, 0))
    counts, _ = np.histogram(finite, BINS, (LOW, HIGH))
    return np.rint(1000 * counts / max(finite.size, 1)).astype(int).tolist()


def kept(channels: int) -> NDArray[np.intp]:
    """Return the channels that are drawn, evenly over all.

    Example:
        >>> kept(3).tolist(), kept(100)[:3].tolist(), len(kept(100))
        ([0, 1, 2], [0, 4, 8], 25)
    """
    return np.unique(np.linspace(0, channels, MOST_CHANNELS, endpoint=False).astype(int))


def fit(moving: Sequence[Vector], data: Sequence[Vector], epsilon: float) -> dict[str, Any]:
    """Return how a layer's statistics fit its data, for each channel that is drawn.

    Args:
        moving: mean and variance that it keeps.
        data: mean and variance of what it gets, likewise.
        epsilon: of the layer.

    Returns:
        "shift", how far the moving mean lies from that of the data, in their spreads; "ratio", how
        many times as wide the moving spread is; None for what is no number.

    Example:
        >>> one = fit([np.ones(1), np.ones(1)], [np.zeros(1), np.full(1, 4.0)], 0.0)
        >>> one["shift"], one["ratio"]
        ([0.5], [0.5])
    """
    some = kept(len(moving[0]))
    (mean, variance), (own_mean, own_variance) = (
        [np.asarray(part, np.float64)[some] for part in pair] for pair in (moving, data)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(own_variance + epsilon)
        shift = (mean - own_mean) / spread
        ratio = np.sqrt(variance + epsilon) / spread
    return {"shift": rounded(shift), "ratio": rounded(ratio)}


def rounded(values: Any, digits: int = 3) -> list[Any]:
    """Return numbers to so many significant digits, for JSON; None for what is no number.

    Example:
        >>> rounded([0.123456, float("nan"), 1234.5])
        [0.123, None, 1230.0]
    """
    flat = np.asarray(values, np.float64)
    if flat.ndim > 1:
        return [rounded(row, digits) for row in flat]
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in flat]
