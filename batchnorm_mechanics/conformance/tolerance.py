"""How far a right implementation may be off: bounds counted from roundings, not tuned.

The implementation that is assumed carries its sums in float32 (in float64 for float64 data) and
rounds every other result to the dtype of the data. Two numbers describe it: `u`, the largest
relative error of one rounding to that dtype (half the distance from 1 to the next number), and
`w`, the same for the type of the sums. A sum of m' terms makes m'-1 roundings in whatever order it
is done, sequential, pairwise, in vectors or merged from groups, and a division makes one more: its
error is at most m' w times the sum of the terms' sizes. So a compiler that fuses or reorders
changes nothing here. The numbers of `u` below are counts of the other roundings on the longest of
the usual ways to write the formula.

What data allow is set by a condition number for each channel, kappa = max|x| / sqrt(variance +
epsilon). Changing each x by one rounding moves the mean by up to u max|x|, that is x_hat by
u kappa; it moves the variance by up to 2 u max|x| std. An algorithm is backward-stable if its
result is the exact one for data changed by a few roundings, and no algorithm that rounds its input
can promise more. So all bounds grow with kappa, and none with its square: two passes, running
updates and merged groups stay inside (Chan, Golub and LeVeque, 1983), and E[x^2] - E[x]^2, whose
variance is off by u kappa^2, falls outside once kappa is larger than about m'.

With m' samples, mean and variance of the batch, A = max|x|, D = sqrt(variance + epsilon), and all
in one channel:

    mean        (m' w + u) A: sum and division; one rounding to store it.
    variance    (m' w + 4u) variance + (m' w + u) 2 A std + (error of the mean)^2: difference
                (twice, for it is squared), square, store; data that are rounded, or summed around a
                mean that moves on; and squares around a mean that is a little off.
    1/D         (1 - r)^(-1/2) - 1 + 4u relative, r = error of the variance / (variance + epsilon),
                with epsilon the least that can be under the root: adding epsilon, root, reciprocal,
                product with gamma.
    x_hat       (m' w + 4u) kappa + |x_hat| (error of 1/D + 3u): storing the mean; and, where it is
                computed as x s + (beta - mean s), two products and a difference of the size of
                kappa; else a difference and two products of the size of x_hat.
    y           |gamma| times that, + u (|beta| + 2|y|): adding beta; storing.
    inference   |gamma| (4u kappa + 6u |x_hat|) + u (|beta| + 2|y|): statistics are given, so that
                no sum is left; kappa takes in the moving mean.
    moving      decay times the old error + (1 - decay) times the error of the batch's value + 4u
                (5u for the variance, which may be unbiased) times (|old| + |batch's value|), for
                each update: two products, a sum, 1 - decay.
    q           = sum(dy x_hat)/m': sum(|dy| error of x_hat)/m' + (m' w + 3u)(2 kappa sum|dy|/m' +
                sum|dy x_hat|/m'): it may be summed as sum(dy x) and mean sum(dy), two sums of the
                size of kappa.
    dx          |gamma|/D times (m' w + 2u) sum|dy|/m' + |x_hat| error of q + 2 |q| error of x_hat
                + (error of 1/D + 6u)(|dy| + sum|dy|/m' + |x_hat q|), + 2u |dx|: the three terms of
                dx = gamma/D (dy - mean(dy) - x_hat q), each to be multiplied, added and stored.
    dgamma      m' times the error of q, + 2u |dgamma|.
    dbeta       (m' w + u) sum|dy| + u |dbeta|.

The oracle computes in float64 and is allowed its own error by the same bounds; this doubles the
tolerance for float64 and is nothing for the others.

Each output also has a size that a mistake would have: gamma for the outputs, the standard deviation
of the data for the mean, the variance for the variance, and for gradients what random dy would
give. Where the tolerance is on the average more than half of that, the dtype leaves no digit to
judge by.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import ml_dtypes
import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import (
    Evidence,
    decay,
    epsilon,
    expected,
    inference_statistics,
)
from batchnorm_mechanics.conformance.subject import as_type

_Array = np.ndarray


class Bound(NamedTuple):
    """How far an output may be off.

    Attributes:
        tolerance: absolute, float64, in the output's shape.
        unit: the size that a mistake would have, likewise.
    """

    tolerance: np.ndarray
    unit: np.ndarray

    @property
    def judgeable(self) -> bool:
        """Whether the tolerance leaves something to judge, where the output is finite."""
        defined = ~(np.isnan(self.tolerance) | np.isnan(self.unit))
        tolerance, unit = (
            np.sqrt(np.mean(part[defined] ** 2)) if np.any(defined) else 0.0
            for part in (self.tolerance, self.unit)
        )
        return bool(tolerance <= 0.5 * unit)


def bound(evidence: Evidence, what: str) -> Bound:
    """Return how far an output may be from the oracle's.

    Args:
        evidence: the data, as `expected` takes them.
        what: the name of the output.

    Returns:
        The bound. The tolerance is NaN where the data are not finite.

    Example:
        >>> from batchnorm_mechanics.conformance.subject import Setting
        >>> x = np.array([[0.0], [2.0], [4.0]], np.float32)
        >>> setting = Setting((3, 1), (1,), epsilon=1e-3, gamma=np.ones(1), beta=np.zeros(1))
        >>> evidence = Evidence(setting, "old", False, (x,), (None,), np.ones_like(x), x)
        >>> float(bound(evidence, "training output").tolerance.max())
        2.65e-06
    """
    with np.errstate(all="ignore"):
        value = expected(evidence, what)
        own = _BOUNDS[what](evidence, _roundings(evidence.setting.dtype), value)
        oracle = _BOUNDS[what](evidence, _roundings("float64"), value)
    return Bound(own.tolerance + oracle.tolerance, own.unit)


class _Roundings(NamedTuple):
    """Relative error of one rounding: of an element, and inside a sum."""

    u: float
    w: float


def _roundings(dtype: str) -> _Roundings:
    def unit(name: str) -> float:
        return float(ml_dtypes.finfo(as_type(np.zeros(0), name).dtype).eps) / 2

    return _Roundings(unit(dtype), unit("float64" if dtype == "float64" else "float32"))


class _Moments(NamedTuple):
    """A batch's moments and their errors, with size 1 where an axis is reduced."""

    mean: _Array
    variance: _Array
    count: _Array
    largest: _Array
    mean_error: _Array
    variance_error: _Array


def _moments(evidence: Evidence, number: int, rounding: _Roundings) -> _Moments:
    u, w = rounding
    x, mask = evidence.batches[number].astype(np.float64), evidence.masks[number]
    mean, variance, count = (
        np.expand_dims(part, evidence.axes) for part in reference.moments(x, evidence.axes, mask)
    )
    counted = np.asarray(True if mask is None else mask)
    counted = counted.reshape(counted.shape + (1,) * (x.ndim - counted.ndim))
    size = np.max(np.abs(x), axis=evidence.axes, keepdims=True, initial=0.0, where=counted)
    mean_error = (count * w + u) * size
    variance_error = (count * w + 4 * u) * variance + mean_error**2
    variance_error = variance_error + (count * w + u) * 2 * size * np.sqrt(variance)
    return _Moments(mean, variance, count, size, mean_error, variance_error)


class _Normalized(NamedTuple):
    """x_hat with its error, and what it is made of; statistics with size 1 where reduced."""

    x_hat: _Array
    error: _Array
    kappa: _Array
    inverse: _Array
    inverse_error: _Array
    count: _Array


def _normalized(evidence: Evidence, rounding: _Roundings) -> _Normalized:
    u, w = rounding
    moments = _moments(evidence, 0, rounding)
    under_root = moments.variance + epsilon(evidence)
    x_hat = (evidence.batches[0].astype(np.float64) - moments.mean) / np.sqrt(under_root)
    kappa = moments.largest / np.sqrt(under_root)
    # A sum of squares is not negative: the root is never taken of less than epsilon.
    least = np.maximum(1 - moments.variance_error / under_root, epsilon(evidence) / under_root)
    inverse_error = least**-0.5 - 1 + 4 * u
    error = (moments.count * w + 4 * u) * kappa + np.abs(x_hat) * (inverse_error + 3 * u)
    return _Normalized(x_hat, error, kappa, 1 / np.sqrt(under_root), inverse_error, moments.count)


def _parameters(evidence: Evidence) -> tuple[_Array, _Array]:
    """Return |gamma| and |beta| with size 1 where an axis is reduced."""
    gamma, beta = evidence.setting.gamma, evidence.setting.beta
    given = (np.asarray(1.0 if gamma is None else gamma), np.asarray(0.0 if beta is None else beta))
    sizes = [
        1 if axis in evidence.axes else size for axis, size in enumerate(evidence.batches[0].shape)
    ]
    kept = [size for axis, size in enumerate(sizes) if axis not in evidence.axes]
    gamma, beta = (np.abs(np.broadcast_to(part, kept)).reshape(sizes) for part in given)
    return gamma, beta


def _filled(tolerance: _Array, unit: _Array, shape: tuple[int, ...]) -> Bound:
    return Bound(np.broadcast_to(tolerance, shape), np.broadcast_to(unit, shape))


def _training_output(evidence: Evidence, rounding: _Roundings, y: _Array) -> Bound:
    gamma, beta = _parameters(evidence)
    error = _normalized(evidence, rounding).error
    tolerance = gamma * error + rounding.u * (beta + 2 * np.abs(y))
    return _filled(tolerance, gamma, y.shape)


def _inference_output(evidence: Evidence, rounding: _Roundings, y: _Array) -> Bound:
    u = rounding.u
    gamma, beta = _parameters(evidence)
    mean, variance = (np.reshape(part, gamma.shape) for part in inference_statistics(evidence))
    deviation = np.sqrt(variance + epsilon(evidence))
    x = evidence.probe.astype(np.float64)
    size = np.max(np.abs(x), axis=evidence.axes, keepdims=True, initial=0.0)
    kappa = np.maximum(size, np.abs(mean)) / deviation
    error = 4 * u * kappa + 6 * u * np.abs(x - mean) / deviation
    tolerance = gamma * error + u * (beta + 2 * np.abs(y))
    return _filled(tolerance, gamma, y.shape)


def _moving(evidence: Evidence, rounding: _Roundings, _: _Array, *, of_variance: bool) -> Bound:
    """Follow the value and its error through all updates."""
    keep = decay(evidence)
    setting = evidence.setting
    start = setting.moving_variance if of_variance else setting.moving_mean
    value = np.asarray(float(of_variance) if start is None else start, np.float64)
    spread = np.asarray(1.0 if setting.moving_variance is None else setting.moving_variance)
    error = np.zeros_like(value)
    for number in range(len(evidence.batches)):
        moments = _moments(evidence, number, rounding)
        count = np.squeeze(moments.count, evidence.axes)
        new = np.squeeze(moments.variance if of_variance else moments.mean, evidence.axes)
        new_error = moments.variance_error if of_variance else moments.mean_error
        new_error = np.squeeze(new_error, evidence.axes)
        spread = np.maximum(spread, np.squeeze(moments.variance, evidence.axes))
        if of_variance and evidence.unbiased:
            correction = count / np.maximum(count - 1, 1)
            new, new_error = new * correction, new_error * correction
        roundings = (5 if of_variance else 4) * rounding.u * (np.abs(value) + np.abs(new))
        taken = count > int(of_variance and evidence.unbiased)
        error = np.where(taken, keep * error + (1 - keep) * new_error + roundings, error)
        value = np.where(taken, keep * value + (1 - keep) * new, value)
    return Bound(error, np.asarray(value if of_variance else np.sqrt(spread)))


class _Gradient(NamedTuple):
    """The parts of dx; per channel, with size 1 where an axis is reduced."""

    dy: _Array
    average: _Array
    q: _Array
    q_error: _Array


def _gradient(evidence: Evidence, rounding: _Roundings, at: _Normalized) -> _Gradient:
    u, w = rounding
    dy = evidence.dy.astype(np.float64)

    def mean(values: _Array) -> _Array:
        return np.sum(values, axis=evidence.axes, keepdims=True) / at.count

    average = mean(np.abs(dy))
    q_error = mean(np.abs(dy) * at.error) + (at.count * w + 3 * u) * (
        2 * at.kappa * average + mean(np.abs(dy * at.x_hat))
    )
    return _Gradient(dy, average, mean(dy * at.x_hat), q_error)


def _dx(evidence: Evidence, rounding: _Roundings, dx: _Array) -> Bound:
    u, w = rounding
    gamma, _ = _parameters(evidence)
    at = _normalized(evidence, rounding)
    part = _gradient(evidence, rounding, at)
    terms = np.abs(part.dy) + part.average + np.abs(at.x_hat * part.q)
    error = (
        (at.count * w + 2 * u) * part.average
        + np.abs(at.x_hat) * part.q_error
        + 2 * np.abs(part.q) * at.error
        + (at.inverse_error + 6 * u) * terms
    )
    slope = gamma * at.inverse
    return _filled(slope * error + 2 * u * np.abs(dx), slope * part.average, dx.shape)


def _dgamma(evidence: Evidence, rounding: _Roundings, dgamma: _Array) -> Bound:
    part = _gradient(evidence, rounding, _normalized(evidence, rounding))
    return _summed(evidence, part.q_error, 2 * rounding.u * np.abs(dgamma), part)


def _dbeta(evidence: Evidence, rounding: _Roundings, dbeta: _Array) -> Bound:
    at = _normalized(evidence, rounding)
    part = _gradient(evidence, rounding, at)
    error = (at.count * rounding.w + rounding.u) * part.average
    return _summed(evidence, error, rounding.u * np.abs(dbeta), part)


def _summed(evidence: Evidence, error: _Array, storing: _Array, part: _Gradient) -> Bound:
    """Return the bound of a sum over the samples, from that of their average."""
    count = np.squeeze(_moments(evidence, 0, _Roundings(0.0, 0.0)).count, evidence.axes)
    error, average = np.squeeze(error, evidence.axes), np.squeeze(part.average, evidence.axes)
    # Terms of either sign add up to the root of their number.
    return Bound(count * error + storing, np.sqrt(count) * average)


_BOUNDS: dict[str, Callable[[Evidence, _Roundings, _Array], Bound]] = {
    record.TRAINING_OUTPUT: _training_output,
    record.INFERENCE_OUTPUT: _inference_output,
    record.MOVING_MEAN: partial(_moving, of_variance=False),
    record.MOVING_VARIANCE: partial(_moving, of_variance=True),
    record.DX: _dx,
    record.DGAMMA: _dgamma,
    record.DBETA: _dbeta,
}
