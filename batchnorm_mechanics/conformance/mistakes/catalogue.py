"""The mistakes that are known, from what a batch is turned into to what is saved."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from batchnorm_mechanics.conformance.mistakes import (
    Mistake,
    Moments,
    Pair,
    Seen,
    Triple,
    average,
    blend,
    right_intake,
    right_moments,
    right_update,
    table,
)
from batchnorm_mechanics.conformance.mistakes.arithmetic import (
    Axes,
    Tensor,
    absolute,
    constant,
    maximum,
    ones_like,
    sqrt,
    total,
    where,
    zeros_like,
)
from batchnorm_mechanics.conformance.mistakes.sharing import SHARING
from batchnorm_mechanics.conformance.prediction import Prediction


def _around_zero(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    mean, count = average(x, mask, axes)
    return Moments(mean, average(x**2, mask, axes)[0], count)


def _summed(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    right = right_moments(x, mask, axes)
    return right._replace(variance=right.variance * right.count)


def _by_batch_size(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Divide the sums by the size of the batch, and not by all samples of a channel."""
    right, size = right_moments(x, mask, axes), x.shape[0]
    mean = right.mean * right.count / size
    return Moments(mean, average((x - mean) ** 2, mask, axes)[0] * right.count / size, right.count)


def _absolute(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    right = right_moments(x, mask, axes)
    return right._replace(variance=average(absolute(x - right.mean), mask, axes)[0] ** 2)


def _zeros(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Set masked samples to zero and count them all the same."""
    return right_moments(x if mask is None else where(mask, x, zeros_like(x)), None, axes)


def _zero_terms(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Leave masked samples out of the sums and divide by the number of all."""
    _, count = average(x, None, axes)
    averaged, some = average(x, mask, axes)
    mean = averaged * some / count
    squares, _ = average((x - mean) ** 2, mask, axes)
    return Moments(mean, squares * some / count, count)


def _not_centred(x: Tensor, by: Pair, epsilon: float) -> Tensor:
    return x / sqrt(by.variance + epsilon)


def _masked_out(x_hat: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor) -> Tensor:
    y = gamma * x_hat + beta
    return y if mask is None else where(mask, y, zeros_like(y))


def _axes_mistake(choose: Callable[[int, Axes], Axes], *, along: bool) -> Mistake:
    """Reduce over a fixed choice of axes; along: gamma and the statistics lie along the others."""

    def wrong(rank: int, axes: Axes) -> Axes | None:
        chosen = tuple(sorted(choose(rank, axes)))
        return chosen if chosen and chosen != tuple(sorted(axes)) else None

    place: dict[str, Any] = {"place": wrong} if along else {}
    return Mistake.of("forward", "reduced over the wrong axes", axes=wrong, **place)


_CHOICES: tuple[Callable[[int, Axes], Axes], ...] = (
    lambda rank, axes: (0,),
    lambda rank, axes: tuple(range(rank - 1)),
    lambda rank, axes: (0, *range(2, rank)),
    lambda rank, axes: tuple(range(1, rank)),
    lambda rank, axes: tuple(range(rank)),
    lambda rank, axes: tuple(axis for axis in axes if axis != 0),
    lambda rank, axes: tuple(axis for axis in range(rank) if axis not in axes),
    lambda rank, axes: tuple(axis for axis in axes if axis != max(axes)),
    lambda rank, axes: (rank - 1,),
)


_AXES: tuple[Mistake, ...] = tuple(
    _axes_mistake(choose, along=along) for along in (False, True) for choose in _CHOICES
)


_EPSILONS = (1e-3, 1e-5)
_STD_FOR_VARIANCE = "standard deviation used where variance belongs"

_BY_WHAT = {
    "variance divided by m'-1 in the normalization itself": {
        "use": lambda batch: Pair(batch.mean, batch.variance * batch.count / (batch.count - 1))
    },
    "epsilon outside the root": {
        "normalize": lambda x, by, epsilon: (x - by.mean) / (sqrt(by.variance) + epsilon)
    },
    "epsilon missing": {"epsilon": lambda epsilon: 0.0},
    "epsilon added twice": {"epsilon": lambda epsilon: 2 * epsilon},
    "epsilon squared": {"epsilon": lambda epsilon: epsilon**2},
    "epsilon subtracted": {"epsilon": lambda epsilon: -epsilon},
    **{
        f"epsilon {value:g} used whatever is set": {"epsilon": lambda epsilon, value=value: value}
        for value in _EPSILONS
    },
    f"{_STD_FOR_VARIANCE}, in the normalization": {
        "normalize": lambda x, by, epsilon: (x - by.mean) / sqrt(sqrt(by.variance) + epsilon)
    },
    "variance used where the standard deviation belongs": {
        "normalize": lambda x, by, epsilon: (x - by.mean) / (by.variance + epsilon)
    },
    "multiplied by the standard deviation instead of divided by it": {
        "normalize": lambda x, by, epsilon: (x - by.mean) * sqrt(by.variance + epsilon)
    },
    "not divided by the standard deviation": {"normalize": lambda x, by, epsilon: x - by.mean},
    "the larger of variance and epsilon used instead of their sum": {
        "normalize": lambda x, by, epsilon: (x - by.mean) / sqrt(maximum(by.variance, epsilon))
    },
    "mean not subtracted": {"normalize": _not_centred},
    "mean subtracted after the division": {
        "normalize": lambda x, by, epsilon: x / sqrt(by.variance + epsilon) - by.mean
    },
    "variance around zero instead of around the mean": {"moments": _around_zero},
    "mean not subtracted, and variance around zero (RMS normalization)": {
        "moments": _around_zero,
        "normalize": _not_centred,
    },
    "variance summed and not averaged": {"moments": _summed},
    "divided by the batch size instead of m'": {"moments": _by_batch_size},
    "mean absolute deviation used as standard deviation": {"moments": _absolute},
}

_INTO_WHAT = {
    "gamma and beta exchanged": {"affine": lambda x, gamma, beta, _: beta * x + gamma},
    "gamma ignored": {"affine": lambda x, gamma, beta, _: x + beta},
    "beta ignored": {"affine": lambda x, gamma, beta, _: gamma * x},
    "gamma and beta ignored": {"affine": lambda x, gamma, beta, _: x},
    "gamma added": {"affine": lambda x, gamma, beta, _: x + gamma + beta},
    "beta subtracted": {"affine": lambda x, gamma, beta, _: gamma * x - beta},
    "scaled by 1 + gamma": {"affine": lambda x, gamma, beta, _: (1 + gamma) * x + beta},
    "divided by gamma": {"affine": lambda x, gamma, beta, _: x / gamma + beta},
    "shift before scale: gamma * (x_hat + beta)": {
        "affine": lambda x, gamma, beta, _: gamma * (x + beta)
    },
    "mask ignored": {"mask": lambda mask, x: None},
    "mask inverted": {"mask": lambda mask, x: None if mask is None else ~mask},
    "masked samples counted as zeros": {"moments": _zeros},
    "masked samples counted in m'": {"moments": _zero_terms},
    "masked samples set to zero in the output": {"affine": _masked_out},
    "moving statistics used in training": {"training": lambda batch, old, new: old},
    "moving statistics used in training, updated before they are used": {
        # Read from variables that were just written: no gradient comes through them.
        "training": lambda batch, old, new: Pair(*map(constant, new))
    },
    "moving statistics used in training, updated before they are used, with a gradient through the "
    "update": {"training": lambda batch, old, new: new},
}

FORWARD = (*table("forward", _BY_WHAT), *_AXES, *table("forward", _INTO_WHAT))


def _steeper(factor: float) -> Callable[[Moments], Pair]:
    """Keep the variance's value and multiply its gradient."""

    def use(batch: Moments) -> Pair:
        fixed = constant(batch.variance)
        return Pair(batch.mean, fixed + factor * (batch.variance - fixed))

    return use


def _averaged(slopes: Triple, prediction: Prediction) -> Triple:
    """Divide by the number of elements of a channel, masked ones included."""
    material = prediction.material
    count = math.prod(material.shape) / max(1, math.prod(material.kept))
    return slopes._replace(dgamma=slopes.dgamma / count, dbeta=slopes.dbeta / count)


def _gamma_by(factor: Callable[[Prediction], Tensor]) -> Callable[..., Triple]:
    def slopes(slopes: Triple, prediction: Prediction) -> Triple:
        material = prediction.material
        summed = total(material.dy * factor(prediction), prediction.place or (), keepdims=False)
        return slopes._replace(dgamma=summed)

    return slopes


def _as_in_inference(slopes: Triple, prediction: Prediction) -> Triple:
    material = prediction.material
    variance = prediction.spread(material.start.variance)
    gamma = prediction.spread(material.gamma)
    return slopes._replace(dx=material.dy * gamma / sqrt(variance + prediction.epsilon))


GRADIENT = table(
    "gradient",
    {
        "gradient through the variance missing": {
            "use": lambda batch: Pair(batch.mean, constant(batch.variance))
        },
        "gradient through the mean missing": {
            "use": lambda batch: Pair(constant(batch.mean), batch.variance)
        },
        "gradient through both statistics missing": {
            "use": lambda batch: Pair(*map(constant, (batch.mean, batch.variance)))
        },
        "gradient through the variance doubled": {"use": _steeper(2.0)},
        "gradient through the variance halved": {"use": _steeper(0.5)},
        "gradient through the variance with the wrong sign": {"use": _steeper(-1.0)},
        "dgamma and dbeta averaged instead of summed": {"slopes": _averaged},
        "gamma missing in dx": {
            "slopes": lambda slopes, prediction: slopes._replace(
                dx=slopes.dx / prediction.spread(prediction.material.gamma)
            )
        },
        "dgamma and dbeta exchanged": {
            "slopes": lambda slopes, _: Triple(slopes.dx, slopes.dbeta, slopes.dgamma)
        },
        "dgamma taken with x instead of x_hat": {
            "slopes": _gamma_by(lambda prediction: prediction.material.xs[0])
        },
        "dgamma taken with x - mean instead of x_hat": {
            "slopes": _gamma_by(
                lambda prediction: prediction.material.xs[0] - prediction.first.mean
            )
        },
        "gradient taken as in inference, by the moving variance": {"slopes": _as_in_inference},
    },
)


def _root(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    taken = right_intake(batch, unbiased, old)
    return taken._replace(variance=sqrt(taken.variance))


def _from_moving_mean(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    taken = right_intake(batch, unbiased, old)
    return taken._replace(variance=taken.variance + (batch.mean - old.mean) ** 2)


def _cumulative(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return right_update(old, taken, seen.number / (seen.number + 1), seen)


def _added(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return Pair(decay * old.mean + taken.mean, decay * old.variance + taken.variance)


def _forgotten(moving: Pair, *_: Pair) -> Pair:
    return Pair(zeros_like(moving.mean), ones_like(moving.variance))


def _forgotten_variance(moving: Pair, *_: Pair) -> Pair:
    return moving._replace(variance=ones_like(moving.variance))


_DECAYS = (0.99, 0.9, 0.999)

STATISTICS = table(
    "statistics",
    {
        "moving statistics never updated": {"update": lambda old, *_: old},
        "moving variance never updated": {
            "update": lambda old, *by: right_update(old, *by)._replace(variance=old.variance)
        },
        "moving mean never updated": {
            "update": lambda old, *by: right_update(old, *by)._replace(mean=old.mean)
        },
        "momentum reversed against the declared convention": {"decay": lambda decay: 1 - decay},
        **{
            f"momentum {value:g} used whatever is set": {"decay": lambda decay, value=value: value}
            for value in _DECAYS
        },
        f"{_STD_FOR_VARIANCE}, in the moving average": {"intake": _root},
        "moving variance takes deviations from the moving mean": {"intake": _from_moving_mean},
        "moving variance takes in the other variance than elsewhere (biased or unbiased)": {
            "intake": lambda batch, unbiased, old: right_intake(batch, not unbiased, old)
        },
        "moving variance multiplied by (m'-1)/m'": {
            "intake": lambda batch, unbiased, old: Pair(
                batch.mean, batch.variance * (batch.count - 1) / batch.count
            )
        },
        "mean and variance exchanged in the moving statistics": {
            "intake": lambda batch, unbiased, old: Pair(
                *reversed(right_intake(batch, unbiased, old))
            )
        },
        "moving statistics updated twice for each batch": {
            "update": lambda old, *by: right_update(right_update(old, *by), *by)
        },
        "moving statistics replaced by those of the last batch": {"decay": lambda decay: 0.0},
        "batches averaged with equal weights instead of by momentum": {"update": _cumulative},
        "new value added without its weight 1 - momentum": {"update": _added},
        "a batch without samples taken in as mean 0 and variance 0": {
            "update": lambda old, taken, decay, seen: Pair(
                *(blend(*both, decay) for both in zip(old, taken, strict=True))
            )
        },
        "statistics updated in inference": {"moves_in_inference": "after"},
        "statistics updated in inference, before they are used": {"moves_in_inference": "before"},
    },
)


def _only_in_inference(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return old if seen.training else right_update(old, taken, decay, seen)


EXCHANGED = Mistake.of(
    "forward",
    "training and inference exchanged",
    training=lambda batch, old, new: old,
    inference=lambda moving, batch: batch,
    update=_only_in_inference,
    moves_in_inference="after",
)

INFERENCE = table(
    "inference",
    {
        "batch statistics used in inference": {"inference": lambda moving, batch: batch},
        "moving mean and variance exchanged": {
            "inference": lambda moving, batch: Pair(moving.variance, moving.mean)
        },
        "moving variance taken for a standard deviation": {
            "inference": lambda moving, batch: moving._replace(variance=moving.variance**2)
        },
        "moving statistics ignored in inference: mean 0 and variance 1 used": {
            "inference": _forgotten
        },
        "moving mean ignored in inference": {
            "inference": lambda moving, batch: moving._replace(mean=zeros_like(moving.mean))
        },
        "moving variance ignored in inference": {"inference": _forgotten_variance},
        "batch mean with moving variance used in inference": {
            "inference": lambda moving, batch: Pair(batch.mean, moving.variance)
        },
    },
)

_FORGOTTEN = {
    "the moving statistics, which are 0 and 1 again": {"stored": _forgotten},
    "the moving variance, which is 1 again": {"stored": _forgotten_variance},
}
# What only saving and loading can have made: by itself, or as another mistake would without it.
_KNOWN = {mistake.name: mistake for mistake in (*FORWARD, *STATISTICS)}
_LOST = {
    **{
        f"epsilon, which is {value:g} again": _KNOWN[f"epsilon {value:g} used whatever is set"]
        for value in _EPSILONS
    },
    **{
        f"momentum, whose old value weighs {value:g} again": _KNOWN[
            f"momentum {value:g} used whatever is set"
        ]
        for value in _DECAYS
    },
    **{mistake.name: mistake for mistake in table("statistics", _FORGOTTEN)},
    **{what: _KNOWN[f"{what} ignored"] for what in ("gamma", "beta", "gamma and beta")},
}
RELOADED = tuple(
    replace(mistake, name=f"not restored by saving and loading: {what}", reloaded=True)
    for what, mistake in _LOST.items()
)

# In the order in which one is tried; those of saving and loading last.
CATALOGUE: tuple[Mistake, ...] = (
    *FORWARD,
    *SHARING,
    EXCHANGED,
    *GRADIENT,
    *STATISTICS,
    *INFERENCE,
    *RELOADED,
)
