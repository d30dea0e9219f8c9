"""What implementations get wrong: a mistake is a step of batch normalization that is replaced.

`Steps` holds the steps as functions of tensors, the right ones unless told otherwise; `Prediction`
puts them together. Statistics keep an axis of size 1 where they were reduced, so that all shapes
broadcast.

The mistakes come from what porters of batch normalization get wrong in public issue trackers, and
from taking each step of the algorithm in turn. A name says what the code does, and where a wrong
and a right choice exist, which one it took.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from batchnorm_mechanics.conformance.mistakes.arithmetic import (
    Axes,
    Tensor,
    broadcast,
    maximum,
    mean,
    ones_like,
    sqrt,
    total,
    where,
    zeros_like,
)

Kind = Literal["forward", "gradient", "statistics", "inference"]


class Moments(NamedTuple):
    """Mean, biased variance, and the number of samples behind them."""

    mean: Tensor
    variance: Tensor
    count: Tensor


class Pair(NamedTuple):
    """A mean and a variance: what is normalized with, or a moving average of both."""

    mean: Tensor
    variance: Tensor


class Triple(NamedTuple):
    """Gradients with respect to x, gamma and beta."""

    dx: Tensor
    dgamma: Tensor
    dbeta: Tensor


class Seen(NamedTuple):
    """What an update may look at besides the values.

    Attributes:
        count: samples behind each statistic of the batch.
        unbiased: whether the variance taken in is the unbiased one.
        number: how many batches came before.
        training: whether the batch is one of training.
    """

    count: Tensor
    unbiased: bool
    number: int
    training: bool = True


def as_it_is(value: Any, *others: Any) -> Any:
    """Do nothing to a value, whatever else there is to look at."""
    return value


def always(*_: Any) -> bool:
    """Do so, whatever there is to look at."""
    return True


def right_axes(rank: int, axes: Axes) -> Axes:
    """Reduce over the axes that are not kept."""
    return axes


def average(value: Tensor, mask: Tensor, axes: Axes) -> tuple[Tensor, Tensor]:
    """Return the average over the samples that count, 0 if none does, and how many do."""
    if mask is None:
        center = mean(value, axes)
        return center, ones_like(center) * (math.prod(value.shape) / math.prod(center.shape))
    counted = broadcast(mask, value)
    count = total(where(counted, ones_like(value), zeros_like(value)), axes)
    # Of no samples the sum is 0.
    sum_of_them = total(where(counted, value, zeros_like(value)), axes)
    return sum_of_them / maximum(count, 1.0), count


def right_moments(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Compute the mean, the biased variance around it, and m'."""
    center, count = average(x, mask, axes)
    return Moments(center, average((x - center) ** 2, mask, axes)[0], count)


def right_use(batch: Moments) -> Pair:
    """Normalize by the batch's mean and biased variance, both with their gradients."""
    return Pair(batch.mean, batch.variance)


def right_normalize(x: Tensor, by: Pair, epsilon: float) -> Tensor:
    """Divide by the root of variance plus epsilon."""
    return (x - by.mean) / sqrt(by.variance + epsilon)


def right_affine(x_hat: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor) -> Tensor:
    """Scale, then shift."""
    return gamma * x_hat + beta


def right_intake(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    """Take in the mean and the variance of the convention."""
    more = batch.count / maximum(batch.count - 1, 1.0) if unbiased else 1.0
    return Pair(batch.mean, batch.variance * more)


def blend(old: Tensor, taken: Tensor, decay: float) -> Tensor:
    """Return decay * old + (1 - decay) * taken."""
    return decay * old + (1 - decay) * taken


def right_update(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    """Blend both, except where no sample, or no unbiased variance, is there to be taken in."""
    enough = float(seen.unbiased)
    return Pair(
        where(seen.count > 0, blend(old.mean, taken.mean, decay), old.mean),
        where(seen.count > enough, blend(old.variance, taken.variance, decay), old.variance),
    )


@dataclass(frozen=True)
class Steps:
    """The steps of batch normalization; each is the right one unless replaced.

    Attributes:
        axes: from rank and right axes to those reduced over; None where the mistake is impossible.
        place: likewise, to the axes that gamma, beta and moving statistics do not lie along.
        mask, moments, use: from the first batch to what it is normalized by.
        epsilon, normalize, affine: from there to the output.
        training, inference: which statistics each mode takes.
        slopes: what becomes of the gradients.
        decay, intake, update: the moving average.
        moves_in_inference: whether `update` sees the batches of inference too, "before" or "after"
            what it gives is used; "" for not at all.
        stored: what becomes of the moving statistics by saving and loading.
        synchronizes: of several replicas, whether they normalize by the whole batch, from whether
            they say so and whether there is a mask.
        merges: likewise, whether their moving statistics are of the whole batch.
    """

    axes: Callable[[int, Axes], Axes | None] = right_axes
    place: Callable[[int, Axes], Axes | None] = right_axes
    mask: Callable[[Tensor, Tensor], Tensor] = as_it_is
    moments: Callable[[Tensor, Tensor, Axes], Moments] = right_moments
    use: Callable[[Moments], Pair] = right_use
    epsilon: Callable[[float], float] = as_it_is
    normalize: Callable[[Tensor, Pair, float], Tensor] = right_normalize
    affine: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = right_affine
    training: Callable[[Pair, Pair, Pair], Pair] = as_it_is
    inference: Callable[[Pair, Pair], Pair] = as_it_is
    slopes: Callable[[Triple, Any], Triple] = as_it_is
    decay: Callable[[float], float] = as_it_is
    intake: Callable[[Moments, bool, Pair], Pair] = right_intake
    update: Callable[[Pair, Pair, float, Seen], Pair] = right_update
    moves_in_inference: Literal["", "before", "after"] = ""
    stored: Callable[[Pair], Pair] = as_it_is
    synchronizes: Callable[[bool, bool], bool] = as_it_is
    merges: Callable[[bool, bool], bool] = always


@dataclass(frozen=True, eq=False)
class Mistake:
    """A mistake that an implementation may make.

    Attributes:
        name: what it does, in words; a mistake's name is the beginning of its label.
        kind: what it is first of all a mistake of: what a batch is turned into, its gradients, the
            moving statistics, or inference.
        changes: the steps that it replaces.
        reloaded: whether it shows only after saving and loading.
        goes_further: whether it is another mistake and more, so that the other is named where both
            explain as much.
    """

    name: str
    kind: Kind
    changes: Mapping[str, Any]
    reloaded: bool = False
    goes_further: bool = False

    @classmethod
    def of(cls, kind: Kind, name: str, **changes: Any) -> "Mistake":
        """Return a mistake that replaces these steps."""
        return cls(name, kind, MappingProxyType(changes))

    @property
    def steps(self) -> Steps:
        """The model with this mistake in it."""
        return replace(Steps(), **self.changes)

    def label(self, rank: int, axes: Axes) -> str:
        """Return the name, with the axes where they are what is wrong."""
        if "axes" not in self.changes:
            return self.name
        return f"{self.name}: {self.changes['axes'](rank, axes)} instead of {axes}"


def table(kind: Kind, mistakes: Mapping[str, Mapping[str, Any]]) -> tuple[Mistake, ...]:
    """Return the mistakes of a kind, given by their names and the steps that they replace."""
    return tuple(Mistake.of(kind, name, **changes) for name, changes in mistakes.items())


def together(one: Mistake, other: Mistake) -> Mistake | None:
    """Return both mistakes in one implementation, None if they replace the same step."""
    if one.changes.keys() & other.changes.keys():
        return None
    changes = MappingProxyType({**one.changes, **other.changes})
    return Mistake(
        f"{one.name}, and {other.name}", one.kind, changes, one.reloaded or other.reloaded
    )
