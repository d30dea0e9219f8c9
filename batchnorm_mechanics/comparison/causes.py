"""Why a stage of B differs from A's: what of its batch norm, tried one by one, explains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from batchnorm_mechanics.comparison.calls import Stage
from batchnorm_mechanics.comparison.fitting import Fit, affine_fit
from batchnorm_mechanics.comparison.layouts import decibels, distance
from batchnorm_mechanics.comparison.matching import Joined, Walk
from batchnorm_mechanics.comparison.ran import Array, root_mean_square
from batchnorm_mechanics.models.norms import KINDS, Norm

# Those that libraries have by default, and that people write.
_EPSILONS = (1e-3, 1e-5, 1e-4, 1e-6, 1e-2, 1e-1, 2e-5, 2e-3, 1e-7, 1e-8, 1e-12, 0.0)
# The part of its numbers by which a trial is judged at least, if others are NaN.
_KNOWN = 0.25
# Of these, so many that are nearest to what the factors say are tried before the very number.
_NEAREST = 3


@dataclass(frozen=True)
class Cause:
    """What explains the error of a stage.

    Attributes:
        code: "epsilon", "batch_statistics", "initial_statistics", "initial_mean",
            "initial_variance", "initial_affine", "swapped_statistics", "swapped_affine",
            "squared_variance", "root_of_variance", "scaled_variance", "no_root", "wrong_axis",
            "missing"; "batch_norm" where it is one factor and one offset a channel, and none of
            these; "offset" where an offset alone; "other" where it is no such.
        words: the rest of a sentence about the stage.
        layer: the batch norm layer, or the last of the stage.
        remainder: decibels of signal to what the cause leaves unexplained.
        is_norm: whether it is the batch norm; None where it cannot be told from a bias beside it.
    """

    code: str
    words: str
    layer: str
    remainder: float
    is_norm: bool | None


class Parameters(NamedTuple):
    """Of a batch norm layer, float64 of shape (channels,), and epsilon."""

    mean: Array
    variance: Array
    gamma: Array
    beta: Array
    epsilon: float

    def of(self, x: Array, axis: int) -> Array:
        """Return what the layer makes of an array with its channels on an axis."""
        shape = [1] * x.ndim
        shape[axis] = -1
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            scale = self.gamma / np.sqrt(self.variance + self.epsilon)
            return (x - self.mean.reshape(shape)) * scale.reshape(shape) + self.beta.reshape(shape)


class Trial(NamedTuple):
    """What may be other in B, and what the layer would give then."""

    code: str
    words: str
    output: Array


def explain(joined: Joined, walk: Walk, floor: float) -> Cause:
    """Say why a stage differs.

    Args:
        joined: the stage, the last that the walk yielded.
        walk: the walk.
        floor: what rounding does to the stage at most, as a root mean square.
    """
    norms = [at for at, stage in enumerate(joined.stages) if isinstance(stage.operation, KINDS)]
    best: Cause | None = None
    for at in norms:
        cause = _Explaining(joined, walk, at, floor).cause()
        if cause.code != "other":
            return cause
        best = best or cause
    return best or _without_norm(joined, floor)


def _without_norm(joined: Joined, floor: float) -> Cause:
    last = joined.stages[-1]
    fit = affine_fit(joined.expected, joined.found.array, joined.expected.ndim - 1)
    words = "no batch norm is in it"
    code = "other"
    if fit is not None and _is_small(fit, joined, floor):
        words = "one factor and one offset a channel explain it, and no batch norm is in it"
        code = "affine"
        if np.allclose(fit.factor[np.isfinite(fit.factor)], 1, atol=1e-3):
            words, code = "an offset a channel explains it: another bias", "offset"
    ratio = 0.0 if fit is None else decibels(fit.size, fit.remainder)
    return Cause(code, words, last.name, ratio, is_norm=False)


def _is_small(fit: Fit, joined: Joined, floor: float) -> bool:
    size = root_mean_square(joined.expected)
    limit = floor if size == 0 else floor * max(1.0, fit.size / size)
    return fit.remainder <= limit and fit.points > 3 * np.isfinite(fit.factor).sum()


def _left(output: Array, array: Array) -> float:
    """Return how far a trial's output is from B's value.

    Where a root of what is below 0 goes in, runtimes go on with NaN, or with 0 behind a ReLU: then
    by the numbers that are none of these, if they are enough.
    """
    found = distance(output, array)
    known = np.isfinite(output)
    if np.isfinite(found) or np.mean(known) < _KNOWN:
        return found
    return distance(output[known], array[known])


class _Explaining:
    """One batch norm of a stage, what goes into it, and what comes behind it."""

    def __init__(self, joined: Joined, walk: Walk, at: int, floor: float) -> None:
        self.joined, self.floor = joined, floor
        self.stage: Stage = joined.stages[at]
        self.tail: Sequence[Stage] = joined.stages[at + 1 :]
        self.is_fused = at > 0
        self.walk = walk
        self.layer = self.stage.operation
        norm = Norm(self.stage.name, self.layer, ())
        ones = np.ones(norm.channels)
        self.own = Parameters(
            norm.mean,
            norm.variance,
            ones if norm.gamma is None else norm.gamma,
            0 * ones if norm.beta is None else norm.beta,
            float(self.layer.epsilon),
        )
        self.norm = norm
        self.x = np.asarray(walk.on_b[self.stage.inputs[0]], np.float64)
        axes = self.layer.axis
        self.axis = int(axes[0] if isinstance(axes, list | tuple) else axes) % self.x.ndim

    def cause(self) -> Cause:
        """Return the first cause that leaves no more than rounding, or what can be said."""
        plain = self._after(self.own.of(self.x, self.axis))
        for trial in self._trials():
            output = self._after(trial.output)
            # What changes nothing explains nothing.
            if distance(output, plain) <= self.floor:
                continue
            array = self.joined.found.array
            left = _left(output, array)
            size = root_mean_square(array[np.isfinite(array)])
            if left <= self._limit(size):
                ratio = decibels(size, left)
                return Cause(trial.code, trial.words, self.stage.name, ratio, is_norm=True)
        fit = self._fit
        if fit is None or not _is_small(fit, self.joined, self.floor):
            ratio = 0.0 if fit is None else decibels(fit.size, fit.remainder)
            words = "no factor and offset a channel explains it: it is not the batch norm alone"
            return Cause("other", words, self.stage.name, ratio, is_norm=False)
        return self._by_channel(fit)

    def _by_channel(self, fit: Fit) -> Cause:
        scale = self.own.gamma / np.sqrt(self.own.variance + self.own.epsilon)
        known = np.isfinite(fit.factor)
        alone = np.allclose(fit.factor[known], scale[known], rtol=1e-3, atol=1e-6)
        ratio = decibels(fit.size, fit.remainder)
        if alone:
            words = "an offset a channel explains it: another mean or beta"
            if self.is_fused:
                words += ", or another bias of the layer that it is merged with"
            return Cause("offset", words, self.stage.name, ratio, None if self.is_fused else True)
        words = "one factor and one offset a channel explain it: other statistics, gamma or beta"
        if self.is_fused:
            words += ", or other weights of the layer that it is merged with"
        return Cause("batch_norm", words, self.stage.name, ratio, None if self.is_fused else True)

    def _limit(self, size: float) -> float:
        expected = root_mean_square(self.joined.expected)
        return self.floor * max(1.0, size / expected if expected else 1.0)

    def _after(self, output: Array) -> Array:
        """Return what the stages behind the batch norm make of its output."""
        values = {self.stage.outputs[0]: keras.ops.convert_to_tensor(output.astype(np.float32))}
        for stage in self.tail:
            given = [values.get(one, self.walk.on_b.get(one)) for one in stage.inputs]
            values.update(zip(stage.outputs, stage.run(given), strict=True))
        last = (self.tail[-1] if self.tail else self.stage).outputs[0]
        return np.asarray(values[last])

    @property
    def _fit(self) -> Fit | None:
        if any(len(stage.inputs) != 1 for stage in self.tail):
            return None
        if self.joined.found.array.shape != self.x.shape:
            return None
        clipped = bool(self.tail)
        return affine_fit(self.x, self.joined.found.array, self.axis, clipped=clipped)

    def _trials(self) -> Iterator[Trial]:
        own, x, axis = self.own, self.x, self.axis

        def with_(code: str, words: str, **changed: Any) -> Trial:
            return Trial(code, words, own._replace(**changed).of(x, axis))

        yield from self._epsilons()
        others = tuple(one for one in range(x.ndim) if one != axis)
        mean, variance = x.mean(others), x.var(others)
        zero, one = np.zeros_like(own.mean), np.ones_like(own.mean)
        words = "whose statistics are those that it began with, 0 and 1"
        yield with_("initial_statistics", words, mean=zero, variance=one)
        words = "which normalizes by the batch, as in training"
        yield with_("batch_statistics", words, mean=mean, variance=variance)
        yield with_("initial_mean", "whose mean is 0", mean=zero)
        yield with_("initial_variance", "whose variance is 1", variance=one)
        yield with_("initial_affine", "without gamma and beta", gamma=one, beta=zero)
        yield with_("initial_affine", "without gamma", gamma=one)
        yield with_("initial_affine", "without beta", beta=zero)
        words = "whose mean and variance are swapped"
        yield with_("swapped_statistics", words, mean=own.variance, variance=own.mean)
        words = "whose gamma and beta are swapped"
        yield with_("swapped_affine", words, gamma=own.beta, beta=own.gamma)
        words = "which takes its variance for a standard deviation and squares it"
        yield with_("squared_variance", words, variance=np.square(own.variance))
        with np.errstate(invalid="ignore"):
            root = np.sqrt(own.variance)
        words = "which has the standard deviation in place of the variance"
        yield with_("root_of_variance", words, variance=root)
        words = "which divides by the variance, and not by its root"
        total = np.square(own.variance + own.epsilon) - own.epsilon
        yield with_("no_root", words, variance=total)
        yield Trial("missing", "which is missing", x)
        yield from self._axes()
        yield from self._scaled()

    def _axes(self) -> Iterator[Trial]:
        x, own = self.x, self.own
        for axis in range(1, x.ndim):
            if axis != self.axis and x.shape[axis] == x.shape[self.axis]:
                words = f"whose channels are on axis {axis} in place of {self.axis}"
                yield Trial("wrong_axis", words, own.of(x, axis))

    @property
    def _variance_found(self) -> tuple[Array, Array] | None:
        """What stands under the root in B, by its factors, and how sure each channel is of it."""
        fit = self._fit
        if fit is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.square(self.own.gamma / fit.factor)
        known = np.isfinite(total) & (self.own.gamma != 0)
        return (total[known], known) if known.any() else None

    def _epsilons(self) -> Iterator[Trial]:
        found = self._variance_found
        candidates = [*_EPSILONS]
        if found is not None:
            total, known = found
            # The channels with the least variance tell epsilon best.
            order = np.argsort(self.own.variance[known])[: max(1, known.sum() // 4)]
            epsilon = float(np.median((total - self.own.variance[known])[order]))
            candidates.sort(key=lambda one: abs(one - epsilon))
            candidates = [*candidates[:_NEAREST], epsilon]
        for one in candidates:
            if one >= 0 and one != self.own.epsilon:
                words = f"whose epsilon is {one:.3g} in B and {self.own.epsilon:.3g} in A"
                yield Trial("epsilon", words, self.own._replace(epsilon=one).of(self.x, self.axis))

    def _scaled(self) -> Iterator[Trial]:
        found = self._variance_found
        if found is None:
            return
        total, known = found
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = float(np.median((total - self.own.epsilon) / self.own.variance[known]))
        if np.isfinite(factor) and factor > 0:
            words = f"whose variance is {factor:.4g} times that of A"
            variance = self.own.variance * factor
            changed = self.own._replace(variance=variance).of(self.x, self.axis)
            yield Trial("scaled_variance", words, changed)
