"""Recognize digits lost on the way, which no wrong formula explains.

Rounding errors cannot be predicted, for they depend on the order of every sum. What can be said is
how large they may be, and what they leave right. If only the statistics are imprecise, the output
is still an exact straight line in x, channel by channel, and the line tells the mean and variance
it was made with; if the output is, its digits end early.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import ml_dtypes
import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence, distance
from batchnorm_mechanics.conformance.mistakes import Moments, Pair, Steps
from batchnorm_mechanics.conformance.mistakes.arithmetic import Axes, constant
from batchnorm_mechanics.conformance.prediction import Material, Prediction
from batchnorm_mechanics.conformance.subject import Statistics, as_type, wide
from batchnorm_mechanics.conformance.tolerance import bound, unit

_HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Imprecision:
    """A way to lose digits.

    Attributes:
        name: what is done, in words.
    """

    name: str
    kind: Literal["precision"] = field(default="precision", init=False)

    def label(self, rank: int, axes: Axes) -> str:
        """Return the name."""
        return self.name

    def gives(self, evidence: Evidence, what: str, actual: np.ndarray) -> np.ndarray | None:
        """Return what lost digits may have made of an output that is wrong.

        NaN and infinity come up, compare as false, and so are never explained.

        Args:
            evidence: of the case.
            what: the output.
            actual: the subject's, float64.

        Returns:
            The output, for comparison with the subject's; None if it is further off than lost
            digits explain.
        """
        raise NotImplementedError

    def follows(self, evidence: Evidence, what: str, actual: np.ndarray) -> bool:
        """Return whether an output is no further off than it may be once digits are lost.

        It is asked of what nothing else explains, when other outputs have shown that they are: by
        itself a bound this wide covers mistakes as well.

        Args:
            evidence: of the case.
            what: the output.
            actual: the subject's, float64.
        """
        return False


def _bounds(
    evidence: Evidence, number: int, rounding: float, *, one_pass: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the mean and variance of a batch may be off if sums round by so much.

    Roundings of a sum come in both directions, so that their number counts by its root. One pass
    subtracts two numbers of the size of the mean square; two passes round only what is left after
    the mean is taken away.
    """
    x, mask, axes = (
        evidence.batches[number].astype(np.float64),
        evidence.masks[number],
        evidence.axes,
    )
    mean, variance, count = reference.moments(x, axes, mask)
    largest = np.max(np.abs(x), axis=axes, initial=0.0)
    share = (np.sqrt(count) + 4) * rounding
    mean_error = share * largest
    if one_pass:
        return mean_error, 2 * share * (variance + mean**2 + largest**2)
    return mean_error, share * (variance + 2 * largest * np.sqrt(variance)) + mean_error**2


@dataclass(frozen=True)
class ImpreciseStatistics(Imprecision):
    """Statistics that lose digits, all else being right.

    Attributes:
        one_pass: whether the variance is E[x^2] - E[x]^2, in the precision of usual statistics;
            else everything about them is in half precision.
    """

    one_pass: bool

    def gives(self, evidence: Evidence, what: str, actual: np.ndarray) -> np.ndarray | None:
        """Return what the subject's own statistics make of an output: see `Imprecision.gives`."""
        shown = record.TRAINING_OUTPUT
        if shown not in evidence.tolerance or evidence.passes(shown):
            # Statistics that cost the output nothing are not what spoilt the rest.
            return None
        rounding = self._rounding(evidence.setting.dtype)
        # A number alone may be off for any reason; the line shows that the statistics are.
        line = _line(evidence, rounding, one_pass=self.one_pass)
        if line is None or what == record.INFERENCE_OUTPUT:
            return None
        if _usual(what) in record.STATISTICS:
            return self._moving(evidence, what, actual, rounding)
        given = _with(line, evidence, what)
        if given is None or self.one_pass or what == record.TRAINING_OUTPUT:
            return given
        # Gradients through imprecise statistics are rounded like these on their way.
        near = np.abs(actual - given) <= 16 * rounding * np.max(np.abs(given), initial=0.0)
        return actual if np.all(near) else given

    def follows(self, evidence: Evidence, what: str, actual: np.ndarray) -> bool:
        """Return whether roundings explain an output: see `Imprecision.follows`."""
        base = _usual(what)
        if base not in record.OUTPUTS or base == record.INFERENCE_OUTPUT:
            return False
        dtype = None if self.one_pass else "float16"
        allowed = bound(evidence, base, dtype=dtype, one_pass=self.one_pass).tolerance
        due = evidence.expected[what]
        allowed = np.where(np.isfinite(due) & ~np.isnan(allowed), allowed, 0.0)
        if not self.one_pass:
            # Below its smallest number there is none but 0.
            allowed = allowed + float(ml_dtypes.finfo("float16").smallest_subnormal)
            allowed = np.full_like(allowed, np.inf) if _overflows(evidence) else allowed
        return actual.shape == due.shape and bool(np.all(distance(actual, due) <= allowed))

    def _rounding(self, dtype: str) -> float:
        if self.one_pass:
            return unit(wide(dtype))
        # bfloat16 for wider data is left out: its bounds would cover mistakes as well.
        return unit(dtype if dtype in _HALF else "float16")

    def _moving(
        self, evidence: Evidence, what: str, actual: np.ndarray, rounding: float
    ) -> np.ndarray | None:
        """Return the moving statistic itself if it is no further off than all batches may be."""
        base = _usual(what)
        if self.one_pass and base == record.MOVING_MEAN:
            return None
        each = [
            _bounds(evidence, number, rounding, one_pass=self.one_pass)[
                record.STATISTICS.index(base)
            ]
            for number in range(len(evidence.batches))
        ]
        error = np.abs(actual - evidence.expected[what])
        near = np.all(error <= np.max(each, axis=0)) and _large(error, each)
        return actual if near else None


def _usual(what: str) -> str:
    """Return the output that this is on another replica, or the name itself."""
    base, when = record.parts(what)
    return base if when.startswith(record.ON_REPLICA) else what


def _overflows(evidence: Evidence) -> bool:
    """Whether sums of the data, or squares of deviations, are beyond the numbers of float16."""
    largest = 0.0
    for x, mask in zip(evidence.batches, evidence.masks, strict=True):
        _, variance, _ = reference.moments(x.astype(np.float64), evidence.axes, mask)
        total = np.sum(np.abs(x.astype(np.float64)), evidence.axes)
        largest = max(largest, float(np.max(total)), float(np.max(variance)))
    return largest > float(ml_dtypes.finfo("float16").max)


def _large(error: np.ndarray, bound: np.ndarray | list[np.ndarray]) -> bool:
    """Whether an error is of the size of its bound somewhere: less is another imprecision."""
    return bool(np.any(error >= 1e-3 * np.max(bound)))


def _line(evidence: Evidence, rounding: float, *, one_pass: bool) -> Statistics | None:
    """Return the statistics behind the training output, None if they are too far off."""
    x, axes, epsilon = evidence.batches[0].astype(np.float64), evidence.axes, evidence.epsilon
    y = evidence.actual[record.TRAINING_OUTPUT].astype(np.float64)
    if y.shape != x.shape:
        return None
    mean, variance, _ = reference.moments(x, axes, evidence.masks[0])
    mean_error, variance_error = _bounds(evidence, 0, rounding, one_pass=one_pass)
    gamma, beta, *_ = evidence.setting.parameters
    deviation = x - x.mean(axes, keepdims=True)
    squares = np.sum(deviation**2, axes)
    slope = np.sum(deviation * y, axes) / squares
    own_variance = (gamma / slope) ** 2 - epsilon
    own_mean = x.mean(axes) - (y.mean(axes) - beta) / slope
    # A constant channel has no slope; where the variance may come out below -epsilon, NaN is due.
    flat = squares <= 1e-24 * np.max(np.abs(x), axes, initial=0.0) ** 2
    lost = ~np.isfinite(own_variance) & (variance_error >= variance + epsilon)
    own_variance = np.where(flat, variance, own_variance)
    own_mean = np.where(flat | lost | one_pass, mean, own_mean)
    off = ~(np.abs(own_variance - variance) <= variance_error) & ~lost
    off |= ~(np.abs(own_mean - mean) <= mean_error)
    error = np.abs(own_variance - variance)[~flat & ~lost]
    small = not np.any(lost) and not _large(error, variance_error)
    # In half precision the mean is rounded too; a variance that is off alone has another cause.
    small |= not one_pass and not _large(np.abs(own_mean - mean), mean_error)
    if np.any(off) or small:
        return None
    return Statistics(own_mean, np.where(lost, np.nan, own_variance))


def _with(line: Statistics, evidence: Evidence, what: str) -> np.ndarray | None:
    """Return an output made with these statistics, their gradients flowing as they should."""

    def use(batch: Moments) -> Pair:
        shape = tuple(batch.mean.shape)
        mean, variance = (np.reshape(part, shape) for part in (line.mean, line.variance))
        # Clipped at zero a variance has no gradient.
        flows = np.where(variance > 1e-3 * evidence.epsilon, 1.0, 0.0)
        return Pair(
            batch.mean + constant(mean - batch.mean),
            variance + flows * (batch.variance - constant(batch.variance)),
        )

    return Prediction(replace(Steps(), use=use), Material(evidence)).of(what)


class ImpreciseOutput(Imprecision):
    """An output computed in half precision, although its dtype has more digits."""

    def gives(self, evidence: Evidence, what: str, actual: np.ndarray) -> np.ndarray | None:
        """Return the output itself if all its digits, and its error, are those of a half type."""
        asked = what if what == record.INFERENCE_OUTPUT else record.TRAINING_OUTPUT
        shown = evidence.actual.get(asked)
        if what in record.STATISTICS or shown is None or evidence.setting.dtype in _HALF:
            return None
        values = shown.astype(np.float64)
        for name in _HALF:
            if np.array_equal(_rounded(values, name), values, equal_nan=True):
                return actual if _near_half(evidence, what, actual, unit(name)) else None
        return None


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    return as_type(values, dtype).astype(np.float64)


def _near_half(evidence: Evidence, what: str, actual: np.ndarray, rounding: float) -> bool:
    """Whether an output is no further off than a few roundings of its terms."""
    due, axes = evidence.expected[what], evidence.axes
    if what in (record.DGAMMA, record.DBETA):
        x = evidence.batches[0].astype(np.float64)
        x_hat = reference.forward(x, None, None, axes, evidence.epsilon)[3]
        factor = x_hat if what == record.DGAMMA else np.ones_like(x)
        dy = np.abs(evidence.dy.astype(np.float64))
        allowed = 4 * rounding * np.sum(dy * (1 + np.abs(factor)), axes)
    else:
        extra = 0.0 if what == record.DX else np.max(np.abs(evidence.setting.parameters.beta))
        finite = np.where(np.isfinite(due), due, 0.0)
        allowed = 8 * rounding * (np.max(np.abs(finite), axes, keepdims=True) + extra)
    # Where it is not finite, neither is the bound.
    return bool(np.all(distance(actual, due) <= np.where(np.isfinite(due), allowed, 0.0)))


# In the order in which one is preferred to another that explains as much.
IMPRECISIONS: tuple[Imprecision, ...] = (
    ImpreciseOutput("output computed in half precision"),
    ImpreciseStatistics("variance computed as E[x^2] - E[x]^2", one_pass=True),
    ImpreciseStatistics("statistics computed in half precision", one_pass=False),
)
