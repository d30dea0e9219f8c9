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

from functools import cached_property, lru_cache
from typing import NamedTuple

import ml_dtypes
import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence, expected, expected_of_part
from batchnorm_mechanics.conformance.shares import joined
from batchnorm_mechanics.conformance.subject import wide

_Array = np.ndarray


def unit(dtype: str) -> float:
    """Return the largest relative error of one rounding to a dtype.

    Example:
        >>> unit("bfloat16") == 2**-8
        True
    """
    return float(ml_dtypes.finfo(dtype).eps) / 2


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


def bound(
    evidence: Evidence, what: str, *, dtype: str | None = None, one_pass: bool = False
) -> Bound:
    """Return how far an output may be from the oracle's.

    Args:
        evidence: the data, as `expected` takes them.
        what: the name of the output.
        dtype: what is computed in, that of the data by default.
        one_pass: whether the variance is E[x^2] - E[x]^2, which no right implementation computes:
            its error grows with the square of kappa.

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
    if evidence.is_apart(what):
        parts = [part for part in evidence.parts if part.dy.size]
        bounds = [_of_part(part, what, dtype, one_pass=one_pass) for part in parts]
        return Bound(*(joined(what, each) for each in zip(*bounds, strict=True)))
    with np.errstate(all="ignore"):
        value = expected(evidence, what)
        own, oracle = (
            _counted(evidence, kind, one_pass).of(what, value)
            for kind in (dtype or evidence.setting.dtype, "float64")
        )
    return Bound(own.tolerance + oracle.tolerance, own.unit)


def _of_part(part: Evidence, what: str, dtype: str | None, *, one_pass: bool) -> Bound:
    """Return the bound of what one replica gives; without samples, its gradients are exactly 0."""
    if part.is_empty:
        nothing = np.zeros_like(expected_of_part(part, what))
        return Bound(nothing, nothing)
    return bound(part, what, dtype=dtype, one_pass=one_pass)


@lru_cache(maxsize=2)
def _counted(evidence: Evidence, dtype: str, one_pass: bool) -> "_Roundings":
    """Return the same for all outputs of a case, which have nearly everything in common."""
    return _Roundings(evidence, dtype, one_pass=one_pass)


class _Moments(NamedTuple):
    """A batch's moments and their errors, with size 1 where an axis is reduced."""

    mean: _Array
    variance: _Array
    count: _Array
    largest: _Array
    mean_error: _Array
    variance_error: _Array


class _Roundings:
    """The roundings to a dtype on the way to each output of a case.

    What is one number a channel has size 1 where an axis is reduced.
    """

    def __init__(self, evidence: Evidence, dtype: str, *, one_pass: bool) -> None:
        self._evidence = evidence
        self._one_pass = one_pass
        # Of an element, and inside a sum.
        self._u, self._w = unit(dtype), unit(wide(dtype))
        gamma, beta, *_ = evidence.setting.parameters
        self._gamma, self._beta = (self._aligned(np.abs(part)) for part in (gamma, beta))

    def of(self, what: str, value: _Array) -> Bound:
        """Return the bound of an output, without the oracle's share.

        Args:
            what: its name.
            value: what it should be.
        """
        if what in record.STATISTICS:
            return self._moving(of_variance=what == record.MOVING_VARIANCE)
        if what in (record.DGAMMA, record.DBETA):
            return self._summed(what, value)
        bounds = {
            record.TRAINING_OUTPUT: self._training_output,
            record.INFERENCE_OUTPUT: self._inference_output,
            record.DX: self._dx,
        }
        return Bound(*(np.broadcast_to(part, value.shape) for part in bounds[what](value)))

    def _aligned(self, value: _Array) -> _Array:
        return np.reshape(value, self._evidence.setting.aligned_shape)

    def _flat(self, value: _Array) -> _Array:
        return np.squeeze(value, self._evidence.axes)

    def _moments(self, number: int) -> _Moments:
        u, w, axes = self._u, self._w, self._evidence.axes
        x, mask = self._evidence.batches[number].astype(np.float64), self._evidence.masks[number]
        mean, variance, count = (
            np.expand_dims(part, axes) for part in reference.moments(x, axes, mask)
        )
        counted = np.asarray(True if mask is None else mask)
        counted = counted.reshape(counted.shape + (1,) * (x.ndim - counted.ndim))
        size = np.max(np.abs(x), axis=axes, keepdims=True, initial=0.0, where=counted)
        mean_error = (count * w + u) * size
        variance_error = (count * w + 4 * u) * variance + mean_error**2
        variance_error = variance_error + (count * w + u) * 2 * size * np.sqrt(variance)
        if self._one_pass:
            # Two averages of that size, and the square of a mean that is a little off.
            variance_error = variance_error + 2 * (count * w + 4 * u) * size**2
        return _Moments(mean, variance, count, size, mean_error, variance_error)

    @cached_property
    def _first(self) -> _Moments:
        return self._moments(0)

    @cached_property
    def _under_root(self) -> _Array:
        return self._first.variance + self._evidence.epsilon

    @cached_property
    def _kappa(self) -> _Array:
        return self._first.largest / np.sqrt(self._under_root)

    @cached_property
    def _x_hat(self) -> _Array:
        x = self._evidence.batches[0].astype(np.float64)
        return (x - self._first.mean) / np.sqrt(self._under_root)

    @cached_property
    def _inverse_error(self) -> _Array:
        least = 1 - self._first.variance_error / self._under_root
        if self._one_pass:
            # Even less than nothing may come out, whose root is NaN.
            return np.where(least > 0, least**-0.5 - 1 + 4 * self._u, np.inf)
        # A sum of squares is not negative: the root is never taken of less than epsilon.
        least = np.maximum(least, self._evidence.epsilon / self._under_root)
        return least**-0.5 - 1 + 4 * self._u

    @cached_property
    def _x_hat_error(self) -> _Array:
        u, w = self._u, self._w
        stored = (self._first.count * w + 4 * u) * self._kappa
        return stored + np.abs(self._x_hat) * (self._inverse_error + 3 * u)

    def _training_output(self, y: _Array) -> tuple[_Array, _Array]:
        tolerance = self._gamma * self._x_hat_error + self._u * (self._beta + 2 * np.abs(y))
        return tolerance, self._gamma

    def _inference_output(self, y: _Array) -> tuple[_Array, _Array]:
        u, axes = self._u, self._evidence.axes
        mean, variance = map(self._aligned, self._evidence.own_statistics)
        deviation = np.sqrt(variance + self._evidence.epsilon)
        x = self._evidence.probe.astype(np.float64)
        size = np.max(np.abs(x), axis=axes, keepdims=True, initial=0.0)
        kappa = np.maximum(size, np.abs(mean)) / deviation
        error = 4 * u * kappa + 6 * u * np.abs(x - mean) / deviation
        return self._gamma * error + u * (self._beta + 2 * np.abs(y)), self._gamma

    def _moving(self, *, of_variance: bool) -> Bound:
        """Follow the value and its error through all updates."""
        keep, unbiased = self._evidence.decay, self._evidence.unbiased and of_variance
        *_, mean, spread = self._evidence.setting.parameters
        value = spread if of_variance else mean
        error = np.zeros_like(value)
        for number in range(len(self._evidence.batches)):
            moments = _Moments(*map(self._flat, self._moments(number)))
            new = moments.variance if of_variance else moments.mean
            new_error = moments.variance_error if of_variance else moments.mean_error
            spread = np.maximum(spread, moments.variance)
            if unbiased:
                correction = moments.count / np.maximum(moments.count - 1, 1)
                new, new_error = new * correction, new_error * correction
            roundings = (5 if of_variance else 4) * self._u * (np.abs(value) + np.abs(new))
            taken = moments.count > int(unbiased)
            error = np.where(taken, keep * error + (1 - keep) * new_error + roundings, error)
            value = np.where(taken, keep * value + (1 - keep) * new, value)
        return Bound(error, value if of_variance else np.sqrt(spread))

    def _mean(self, values: _Array) -> _Array:
        return np.sum(values, axis=self._evidence.axes, keepdims=True) / self._first.count

    @cached_property
    def _dy(self) -> _Array:
        return self._evidence.dy.astype(np.float64)

    @cached_property
    def _q_error(self) -> _Array:
        """The error of q, the average of dy x_hat."""
        terms = 2 * self._kappa * self._mean(np.abs(self._dy))
        terms = terms + self._mean(np.abs(self._dy * self._x_hat))
        summing = self._first.count * self._w + 3 * self._u
        return self._mean(np.abs(self._dy) * self._x_hat_error) + summing * terms

    def _dx(self, dx: _Array) -> tuple[_Array, _Array]:
        u, w = self._u, self._w
        average, q = self._mean(np.abs(self._dy)), self._mean(self._dy * self._x_hat)
        terms = np.abs(self._dy) + average + np.abs(self._x_hat * q)
        error = (
            (self._first.count * w + 2 * u) * average
            + np.abs(self._x_hat) * self._q_error
            + 2 * np.abs(q) * self._x_hat_error
            + (self._inverse_error + 6 * u) * terms
        )
        slope = self._gamma / np.sqrt(self._under_root)
        return slope * error + 2 * u * np.abs(dx), slope * average

    def _summed(self, what: str, value: _Array) -> Bound:
        """Return the bound of a sum over the samples, from that of their average."""
        u, count, average = self._u, self._first.count, self._mean(np.abs(self._dy))
        error, storing = (count * self._w + u) * average, u
        if what == record.DGAMMA:
            error, storing = self._q_error, 2 * u
        # Terms of either sign add up to the root of their number.
        size = np.sqrt(count) * average
        return Bound(self._flat(count * error) + storing * np.abs(value), self._flat(size))
