"""How far a layer's moving statistics are from those of data, and whether chance explains it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# Rules, which know the gaps, are told without TensorFlow.
if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.measuring import Measured, NormMeasured
    from batchnorm_mechanics.doctor.norms import Norm

Vector = NDArray[np.float64]

# A channel whose output changes by less is not worth naming: a quarter of its standard deviation,
# which is a mean off by 0.25 sigma or a variance off by a factor of 1.6 to 1.8.
FLOOR = 0.25
# The chance that a model without any gap is said to have one, over all of its channels.
_CHANCE = 1e-3
# With fewer batches, Student's t at that chance asks for so large a gap that silence says nothing.
_FEW_BATCHES = 8


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap of one layer.

    Attributes:
        layer: RMS over channels of the gaps below, weighted by gamma^2: how far the layer's output
            is from what it is by the data's statistics, in its own standard deviations.
        own: likewise with the input that the layer has when those before it use the batch's; None
            where that is not known.
        channels: RMS change of each channel's normalized value, float64; NaN where it is unknown.
        felt: those of channels that gamma makes small beside the others made smaller as much.
        shift: (mean - moving mean) / sqrt(variance + epsilon), float64.
        ratio: of variance + epsilon to moving variance + epsilon, likewise.
        moved: channels with a felt gap above the floor that chance does not explain, booleans.
        swapped: the own gap if moving mean and variance changed places.
        batches: how many batches of data stand behind it.
    """

    layer: float
    own: float | None
    channels: Vector
    felt: Vector
    shift: Vector
    ratio: Vector
    moved: np.ndarray
    swapped: float | None
    batches: int

    @property
    def is_large(self) -> bool:
        """Whether the layer as a whole, or one of its channels, is off and not by chance."""
        lone = self.felt[self.moved]
        return bool(lone.size) and (self.layer >= FLOOR or float(lone.max()) >= 4 * FLOOR)

    @property
    def is_unclear(self) -> bool:
        """Whether a channel is off, and too few batches came to tell whether by chance."""
        off = bool((self.felt >= FLOOR).any())
        return off and not self.is_large and self.batches < _FEW_BATCHES

    @property
    def suits(self) -> bool:
        """Whether the statistics are those of the data: every channel known, none off."""
        return bool(np.isfinite(self.channels).all()) and self.layer < FLOOR and not self.is_large


def gaps_of(norms: "Iterable[Norm]", measured: "Measured") -> dict[str, Gap]:
    """Return the gaps of all layers that data say something of, in the order of their calls.

    Args:
        norms: layers with weights.
        measured: what data say.
    """
    by_name = {norm.name: norm for norm in norms}
    channels = sum(by_name[name].channels for name in measured.norms)
    noise = 1.5 / max(measured.effects.samples, 1)
    return {
        name: _gap(by_name[name], found, channels, noise) for name, found in measured.norms.items()
    }


def _gap(norm: "Norm", found: "NormMeasured", channels: int, noise: float) -> Gap:
    epsilon = norm.layer.epsilon
    mean, variance = found.pool.mean, found.pool.variance
    moving = (norm.mean, norm.variance)
    gaps = change((mean, variance), moving, epsilon)
    own = swapped = None
    if found.own is not None:
        moments = (found.own.mean, found.own.variance)
        own, swapped = (
            _less(weighted(change(moments, other, epsilon), norm.gamma), noise)
            for other in (moving, (norm.variance, norm.mean))
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (mean - norm.mean) / np.sqrt(variance + epsilon)
        ratio = (variance + epsilon) / (norm.variance + epsilon)
    felt = gaps * np.minimum(1.0, _share(norm.gamma, norm.channels))
    moved = (felt >= FLOOR) & _beyond_chance(norm, found, channels)
    return Gap(
        layer=weighted(gaps, norm.gamma),
        own=own,
        channels=gaps,
        felt=felt,
        shift=shift,
        ratio=ratio,
        moved=moved,
        swapped=swapped,
        batches=found.pool.batches,
    )


Statistics = tuple[Vector, Vector]


def change(data: Statistics, moving: Statistics, epsilon: float) -> Vector:
    """Return how far each channel's normalized value moves between two pairs of statistics.

    With s^2 = variance + epsilon and likewise s_m, the value (x - mean) / s becomes
    (x - moving_mean) / s_m. Over x of this mean and variance, the mean square of the difference is
    ((mean - moving_mean) / s_m)^2 + variance (1 / s_m - 1 / s)^2.

    Args:
        data: mean and biased variance of the data, float64 of shape (channels,).
        moving: mean and variance that are in force.
        epsilon: of the layer.

    Returns:
        The square root of that; NaN where a number is not finite or a variance is negative.

    Example:
        >>> one = np.ones(1)
        >>> change((one, one), (0 * one, one), 0.0), change((one, 4 * one), (one, one), 0.0)
        (array([1.]), array([1.]))
    """
    (mean, variance), (moving_mean, moving_variance) = data, moving
    with np.errstate(all="ignore"):
        s, s_m = np.sqrt(variance + epsilon), np.sqrt(moving_variance + epsilon)
        shift = (mean - moving_mean) / s_m
        stretch = np.sqrt(variance) * (1 / s_m - 1 / s)
        gap = np.sqrt(shift**2 + np.where(variance > 0, stretch, 0.0) ** 2)
    return np.where(np.isfinite(gap), gap, np.nan)


def weighted(gaps: Vector, gamma: Vector | None) -> float:
    """Return the RMS of gaps over channels, weighted by gamma^2; NaN counts for nothing."""
    weights = np.ones_like(gaps) if gamma is None else np.square(gamma)
    known = np.isfinite(gaps) & np.isfinite(weights) & (weights > 0)
    if not known.any():
        return 0.0
    return float(np.sqrt(np.average(np.square(gaps[known]), weights=weights[known])))


def _share(gamma: Vector | None, channels: int) -> Vector:
    """Return |gamma| over its RMS; ones without gamma, and where that is not finite."""
    size = np.nan if gamma is None else np.sqrt(np.mean(np.square(gamma)))
    if gamma is None or not np.isfinite(size):
        return np.ones(channels)
    return np.abs(gamma) / size if size > 0 else np.zeros(channels)


def _less(gap: float, noise: float) -> float:
    """Take away what n samples differ from one another by: 1/n + 1/(2 n) of the square."""
    return float(np.sqrt(max(0.0, gap**2 - noise)))


def _beyond_chance(norm: "Norm", found: "NormMeasured", channels: int) -> NDArray[np.bool_]:
    """Return which channels' statistics cannot be two estimates of the same, as booleans.

    How much a batch's statistics scatter is seen from batch to batch. The data's are an average of
    B batches, so their variance is 1/B of a batch's; a moving average of momentum p has
    (1 - p) / (1 + p) of it. Nothing is assumed of positions within a sample. One batch has no
    scatter, and nothing is beyond chance then.
    """
    # Here: rules are told without SciPy.
    from scipy import stats

    pool, momentum = found.pool, norm.momentum
    # Of a batch's variance: the data's share, and that of the statistics that are in force.
    of_data = 1 / pool.batches
    share = of_data + (of_data if momentum is None else (1 - momentum) / (1 + momentum))
    limit = stats.t.isf(_CHANCE / (4 * channels), pool.batches - 1) * np.sqrt(share)
    scale = pool.variance + norm.layer.epsilon
    mean_spread, second_spread = pool.spread
    with np.errstate(all="ignore"):
        shift = np.abs(pool.mean - norm.mean)
        ratio = np.abs(np.log(scale / (norm.variance + norm.layer.epsilon)))
        return (shift > limit * mean_spread) | (ratio > limit * second_spread / scale)
