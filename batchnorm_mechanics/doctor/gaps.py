"""How far a layer's moving statistics are from those of data, and whether chance explains it."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

# Rules, which know the gaps, are told without TensorFlow.
if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.measuring import Measured, NormMeasured
    from batchnorm_mechanics.doctor.pools import Pool
    from batchnorm_mechanics.models.norms import Norm

Vector = NDArray[np.float64]
# Mean and variance.
Statistics = tuple[Vector, Vector]

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
        stale: likewise where each call gets what all get together: what better statistics mend.
        unlike: how far the calls are from one another: the gap that is left by the best statistics
            for all of them, and 0 where chance explains it.
        channels: RMS change of each channel's normalized value over the calls, float64; NaN where
            it is unknown.
        felt: those of channels that gamma makes small beside the others made smaller as much.
        shift: (mean - moving mean) / sqrt(variance + epsilon), float64.
        ratio: of variance + epsilon to moving variance + epsilon, likewise.
        moved: channels with a felt gap above the floor that chance does not explain, booleans.
        swapped: the own gap if moving mean and variance changed places.
        batches: how many batches of data stand behind it.
    """

    layer: float
    own: float | None
    stale: float
    unlike: float
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
    epsilon, moving = norm.layer.epsilon, norm.moving
    gaps = by_channel(found.calls, moving, epsilon)
    joint = _joint(norm, found)
    share = np.minimum(1.0, _share(norm.gamma, norm.channels))
    limit = _CHANCE / (4 * channels * len(found.calls))
    p = norm.momentum
    of_moving = 1 / found.pool.batches if p is None else (1 - p) / (1 + p)
    beyond = [_beyond_chance(call, moving, limit, of_moving, epsilon) for call in found.calls]
    felt = gaps * share
    own = swapped = None
    if found.own:
        own = _less(misfit(norm, found.own, moving), noise)
        swapped = _less(misfit(norm, found.own, (norm.variance, norm.mean)), noise)
    mean, variance = found.pool.statistics
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (mean - norm.mean) / np.sqrt(variance + epsilon)
        ratio = (variance + epsilon) / (norm.variance + epsilon)
    return Gap(
        layer=weighted(gaps, norm.gamma),
        own=own,
        stale=min(weighted(change(one, moving, epsilon), norm.gamma) for one in joint),
        unlike=_unlike(norm, found, joint, share, limit),
        channels=gaps,
        felt=felt,
        shift=shift,
        ratio=ratio,
        moved=(felt >= FLOOR) & np.any(beyond, axis=0),
        swapped=swapped,
        batches=found.pool.batches,
    )


def misfit(
    norm: "Norm", calls: "Sequence[Pool]", moving: Statistics, epsilon: float | None = None
) -> float:
    """Return how far statistics of a layer are from what its calls get, as one number.

    Args:
        norm: the layer.
        calls: what they get.
        moving: mean and variance that are in force, or would be.
        epsilon: likewise; by default the layer's.
    """
    in_force = norm.layer.epsilon if epsilon is None else epsilon
    return weighted(by_channel(calls, moving, in_force), norm.gamma)


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


def by_channel(calls: "Sequence[Pool]", moving: Statistics, epsilon: float) -> Vector:
    """Return the RMS, by channel, of the changes of several calls; arguments as of `change`."""
    changes = [change(call.statistics, moving, epsilon) for call in calls]
    return np.sqrt(np.mean(np.square(changes), axis=0))


def _joint(norm: "Norm", found: "NormMeasured") -> list[Statistics]:
    """Return what training may have made of all calls: pooled, averaged, or the last most."""
    weights: list[Any] = [np.ones(len(found.calls))]
    if norm.momentum is not None and 0 < norm.momentum < 1:
        weights.append(norm.momentum ** np.arange(len(found.calls))[::-1])
    means, variances = np.swapaxes([call.statistics for call in found.calls], 0, 1)
    return [
        found.pool.statistics,
        *((by @ means / by.sum(), by @ variances / by.sum()) for by in weights),
    ]


def _unlike(
    norm: "Norm", found: "NormMeasured", joint: Sequence[Statistics], share: Vector, limit: float
) -> float:
    """Return the gap that is left by the best of some statistics for all calls; 0 if by chance."""
    epsilon = norm.layer.epsilon
    _, alike, *_ = joint
    left = [by_channel(found.calls, one, epsilon) for one in joint]
    beyond = [_beyond_chance(one, alike, limit, 1 / one.batches, epsilon) for one in found.calls]
    if not (np.any(beyond, axis=0) & (np.min(left, axis=0) * share >= FLOOR)).any():
        return 0.0
    return min(weighted(one, norm.gamma) for one in left)


@functools.cache
def _students_t(chance: float, freedom: int) -> float:
    """Return what Student's t exceeds with this chance; NaN without a degree of freedom."""
    # Here: rules are told without SciPy.
    from scipy import stats

    return float(stats.t.isf(chance, freedom))


def _beyond_chance(
    pool: "Pool", moving: Statistics, limit: float, of_moving: float, epsilon: float
) -> NDArray[np.bool_]:
    """Return which channels' statistics cannot be two estimates of the same, as booleans.

    How much a batch's statistics scatter is seen from batch to batch. The data's are an average of
    B batches, so their variance is 1/B of a batch's; a moving average of momentum p has
    (1 - p) / (1 + p) of it. Nothing is assumed of positions within a sample. One batch has no
    scatter, and nothing is beyond chance then.

    Args:
        pool: what data say.
        moving: the statistics that are in force.
        limit: the chance that one channel is said to be off and is not.
        of_moving: of a batch's variance, the part that is that of the statistics in force.
        epsilon: of the layer.
    """
    mean, variance = moving
    spreads = _students_t(limit, pool.batches - 1) * np.sqrt(1 / pool.batches + of_moving)
    scale = pool.variance + epsilon
    mean_spread, second_spread = pool.spread
    with np.errstate(all="ignore"):
        shift = np.abs(pool.mean - mean)
        ratio = np.abs(np.log(scale / (variance + epsilon)))
        return (shift > spreads * mean_spread) | (ratio > spreads * second_spread / scale)
