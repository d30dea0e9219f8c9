"""One factor and one offset for each channel between two tensors, and what they leave over."""

from typing import NamedTuple

import numpy as np

from batchnorm_mechanics.comparison.ran import Array, root_mean_square

# A line goes through any two points: with fewer than these a channel says nothing.
_LEAST_POINTS = 4


class Fit(NamedTuple):
    """The line that leads from one tensor to another, channel by channel.

    Attributes:
        factor: float64 of shape (channels,); NaN in channels with too few different numbers.
        offset: likewise.
        remainder: root mean square of what is left, over all channels that were fitted.
        size: root mean square of the target there.
        points: how many numbers were fitted.
    """

    factor: Array
    offset: Array
    remainder: float
    size: float
    points: int


def affine_fit(source: Array, target: Array, axis: int, *, clipped: bool = False) -> Fit | None:
    """Fit target = factor * source + offset by least squares, in float64.

    Args:
        source: any.
        target: of the same shape.
        axis: of the channels.
        clipped: whether the least and the largest numbers of the target are those that an
            activation such as ReLU cuts off, and are left out.

    Returns:
        None where no channel has points enough.

    Example:
        >>> x = np.arange(12.0).reshape(6, 2)
        >>> fit = affine_fit(x, x * [2.0, 3.0] + 1, axis=1)
        >>> fit.factor.round(6).tolist(), fit.offset.round(6).tolist(), fit.remainder < 1e-12
        ([2.0, 3.0], [1.0, 1.0], True)
    """
    x, y = (np.moveaxis(one, axis, -1) for one in (source, target))
    channels = x.shape[-1]
    x, y = (one.reshape(-1, channels).astype(np.float64) for one in (x, y))
    weight = np.isfinite(x) & np.isfinite(y)
    if clipped and y.size:
        finite = y[np.isfinite(y)]
        weight &= (y != np.min(finite, initial=np.inf)) & (y != np.max(finite, initial=-np.inf))
    points = weight.sum(0)
    x, y = np.where(weight, x, 0), np.where(weight, y, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x_mean, y_mean = x.sum(0) / points, y.sum(0) / points
        x_gap, y_gap = (weight * (x - x_mean), weight * (y - y_mean))
        factor = (x_gap * y_gap).sum(0) / np.square(x_gap).sum(0)
        offset = y_mean - factor * x_mean
    known = (points >= _LEAST_POINTS) & np.isfinite(factor)
    if not known.any():
        return None
    chosen = weight & known
    gap = np.where(chosen, y_gap - np.where(known, factor, 0) * x_gap, 0)[chosen]
    return Fit(
        np.where(known, factor, np.nan),
        np.where(known, offset, np.nan),
        root_mean_square(gap),
        root_mean_square(y[chosen]),
        int(points[known].sum()),
    )
