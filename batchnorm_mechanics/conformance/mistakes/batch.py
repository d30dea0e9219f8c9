"""Mistakes of what a batch is turned into, of the mode that decides by what, and of gradients."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from batchnorm_mechanics.conformance.mistakes import (
    Axes,
    Mistake,
    Moments,
    Pair,
    Tensor,
    Triple,
    average,
    right_moments,
)
from batchnorm_mechanics.conformance.prediction import Prediction

_forward = partial(Mistake.of, "forward")
_gradient = partial(Mistake.of, "gradient")


def _around_zero(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    mean, count = average(x, mask, axes)
    return Moments(mean, average(x**2, mask, axes)[0], count)


def _summed(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    right = right_moments(x, mask, axes)
    return right._replace(variance=right.variance * right.count)


def _by_batch_size(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Divide the sums by the size of the batch, and not by all samples of a channel."""
    right, size = right_moments(x, mask, axes), tf.cast(tf.shape(x)[0], x.dtype)
    mean = right.mean * right.count / size
    return Moments(mean, average((x - mean) ** 2, mask, axes)[0] * right.count / size, right.count)


def _absolute(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    right = right_moments(x, mask, axes)
    return right._replace(variance=average(tf.abs(x - right.mean), mask, axes)[0] ** 2)


def _zeros(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Set masked samples to zero and count them all the same."""
    return right_moments(x if mask is None else tf.where(mask, x, tf.zeros_like(x)), None, axes)


def _zero_terms(x: Tensor, mask: Tensor, axes: Axes) -> Moments:
    """Leave masked samples out of the sums and divide by the number of all."""
    _, count = average(x, None, axes)
    total, some = average(x, mask, axes)
    mean = total * some / count
    squares, _ = average((x - mean) ** 2, mask, axes)
    return Moments(mean, squares * some / count, count)


def _times(batch: Moments, less: float) -> Pair:
    return Pair(batch.mean, batch.variance * batch.count / (batch.count - less))


def _divided_by(divisor: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
    def normalize(x: Tensor, by: Pair, epsilon: float) -> Tensor:
        return (x - by.mean) / divisor(by.variance, epsilon)

    return normalize


def _not_centred(x: Tensor, by: Pair, epsilon: float) -> Tensor:
    return x / tf.sqrt(by.variance + epsilon)


def _mean_after(x: Tensor, by: Pair, epsilon: float) -> Tensor:
    return x / tf.sqrt(by.variance + epsilon) - by.mean


def _masked_out(x_hat: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor) -> Tensor:
    y = gamma * x_hat + beta
    return y if mask is None else tf.where(mask, y, tf.zeros_like(y))


def _axes_mistake(choose: Callable[[int, Axes], Axes], *, along: bool) -> Mistake:
    """Reduce over a fixed choice of axes; along: gamma and the statistics lie along the others."""

    def wrong(rank: int, axes: Axes) -> Axes | None:
        chosen = tuple(sorted(choose(rank, axes)))
        return chosen if chosen and chosen != tuple(sorted(axes)) else None

    place: dict[str, Any] = {"place": wrong} if along else {}
    return _forward("reduced over the wrong axes", axes=wrong, **place)


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


_AXES: tuple[Mistake, ...] = (
    *(_axes_mistake(choose, along=False) for choose in _CHOICES),
    *(_axes_mistake(choose, along=True) for choose in _CHOICES),
)


_EPSILONS = (1e-3, 1e-5)
STD_FOR_VARIANCE = "standard deviation used where variance belongs"

FORWARD: tuple[Mistake, ...] = (
    _forward(
        "variance divided by m'-1 in the normalization itself",
        use=lambda batch: _times(batch, 1),
    ),
    _forward(
        "epsilon outside the root",
        normalize=_divided_by(lambda variance, epsilon: tf.sqrt(variance) + epsilon),
    ),
    _forward("epsilon missing", epsilon=lambda epsilon: 0.0),
    _forward("epsilon added twice", epsilon=lambda epsilon: 2 * epsilon),
    _forward("epsilon squared", epsilon=lambda epsilon: epsilon**2),
    _forward("epsilon subtracted", epsilon=lambda epsilon: -epsilon),
    *(
        _forward(
            f"epsilon {value:g} used whatever is set",
            epsilon=lambda epsilon, value=value: value,
        )
        for value in _EPSILONS
    ),
    _forward(
        f"{STD_FOR_VARIANCE}, in the normalization",
        normalize=_divided_by(lambda variance, epsilon: tf.sqrt(tf.sqrt(variance) + epsilon)),
    ),
    _forward(
        "variance used where the standard deviation belongs",
        normalize=_divided_by(lambda variance, epsilon: variance + epsilon),
    ),
    _forward(
        "multiplied by the standard deviation instead of divided by it",
        normalize=_divided_by(lambda variance, epsilon: 1 / tf.sqrt(variance + epsilon)),
    ),
    _forward(
        "not divided by the standard deviation",
        normalize=_divided_by(lambda variance, epsilon: tf.ones_like(variance)),
    ),
    _forward(
        "the larger of variance and epsilon used instead of their sum",
        normalize=_divided_by(lambda variance, epsilon: tf.sqrt(tf.maximum(variance, epsilon))),
    ),
    _forward("mean not subtracted", normalize=_not_centred),
    _forward("mean subtracted after the division", normalize=_mean_after),
    _forward("variance around zero instead of around the mean", moments=_around_zero),
    _forward(
        "mean not subtracted, and variance around zero (RMS normalization)",
        moments=_around_zero,
        normalize=_not_centred,
    ),
    _forward("variance summed and not averaged", moments=_summed),
    _forward("divided by the batch size instead of m'", moments=_by_batch_size),
    _forward("mean absolute deviation used as standard deviation", moments=_absolute),
    *_AXES,
    _forward("gamma and beta exchanged", affine=lambda x, gamma, beta, _: beta * x + gamma),
    _forward("gamma ignored", affine=lambda x, gamma, beta, _: x + beta),
    _forward("beta ignored", affine=lambda x, gamma, beta, _: gamma * x),
    _forward("gamma and beta ignored", affine=lambda x, gamma, beta, _: x),
    _forward("gamma added", affine=lambda x, gamma, beta, _: x + gamma + beta),
    _forward("beta subtracted", affine=lambda x, gamma, beta, _: gamma * x - beta),
    _forward("scaled by 1 + gamma", affine=lambda x, gamma, beta, _: (1 + gamma) * x + beta),
    _forward("divided by gamma", affine=lambda x, gamma, beta, _: x / gamma + beta),
    _forward(
        "shift before scale: gamma * (x_hat + beta)",
        affine=lambda x, gamma, beta, _: gamma * (x + beta),
    ),
    _forward("mask ignored", mask=lambda mask, x: None),
    _forward(
        "mask inverted",
        mask=lambda mask, x: None if mask is None else tf.logical_not(mask),
    ),
    _forward("masked samples counted as zeros", moments=_zeros),
    _forward("masked samples counted in m'", moments=_zero_terms),
    _forward("masked samples set to zero in the output", affine=_masked_out),
    _forward("moving statistics used in training", training=lambda batch, old, new: old),
    _forward(
        "moving statistics used in training, updated before they are used",
        # Read from variables that were just written: no gradient comes through them.
        training=lambda batch, old, new: Pair(*map(tf.stop_gradient, new)),
    ),
)


def _stopped(*, mean: bool, variance: bool) -> Callable[[Moments], Pair]:
    def use(batch: Moments) -> Pair:
        return Pair(
            tf.stop_gradient(batch.mean) if mean else batch.mean,
            tf.stop_gradient(batch.variance) if variance else batch.variance,
        )

    return use


def _steeper(factor: float) -> Callable[[Moments], Pair]:
    """Keep the variance's value and multiply its gradient."""

    def use(batch: Moments) -> Pair:
        fixed = tf.stop_gradient(batch.variance)
        return Pair(batch.mean, fixed + factor * (batch.variance - fixed))

    return use


def _count(prediction: Prediction) -> float:
    """Return the number of elements of a channel, masked ones included."""
    material = prediction.material
    return math.prod(material.shape) / max(1, math.prod(material.kept))


def _averaged(slopes: Triple, prediction: Prediction) -> Triple:
    count = _count(prediction)
    return slopes._replace(dgamma=slopes.dgamma / count, dbeta=slopes.dbeta / count)


def _without_gamma(slopes: Triple, prediction: Prediction) -> Triple:
    return slopes._replace(dx=slopes.dx / prediction.spread(prediction.material.gamma))


def _exchanged(slopes: Triple, prediction: Prediction) -> Triple:
    return Triple(slopes.dx, slopes.dbeta, slopes.dgamma)


def _gamma_by(factor: Callable[[Prediction], Tensor]) -> Callable[..., Triple]:
    def slopes(slopes: Triple, prediction: Prediction) -> Triple:
        material = prediction.material
        total = tf.reduce_sum(material.dy * factor(prediction), prediction.place)
        return slopes._replace(dgamma=total)

    return slopes


def _centred(prediction: Prediction) -> Tensor:
    return prediction.material.xs[0] - prediction.first.mean


def _as_in_inference(slopes: Triple, prediction: Prediction) -> Triple:
    material = prediction.material
    variance = prediction.spread(material.start.variance)
    gamma = prediction.spread(material.gamma)
    return slopes._replace(dx=material.dy * gamma / tf.sqrt(variance + prediction.epsilon))


GRADIENT: tuple[Mistake, ...] = (
    _gradient(
        "gradient through the variance missing",
        use=_stopped(mean=False, variance=True),
    ),
    _gradient("gradient through the mean missing", use=_stopped(mean=True, variance=False)),
    _gradient(
        "gradient through both statistics missing",
        use=_stopped(mean=True, variance=True),
    ),
    _gradient("gradient through the variance doubled", use=_steeper(2.0)),
    _gradient("gradient through the variance halved", use=_steeper(0.5)),
    _gradient("gradient through the variance with the wrong sign", use=_steeper(-1.0)),
    _gradient("dgamma and dbeta averaged instead of summed", slopes=_averaged),
    _gradient("gamma missing in dx", slopes=_without_gamma),
    _gradient("dgamma and dbeta exchanged", slopes=_exchanged),
    _gradient(
        "dgamma taken with x instead of x_hat",
        slopes=_gamma_by(lambda prediction: prediction.material.xs[0]),
    ),
    _gradient("dgamma taken with x - mean instead of x_hat", slopes=_gamma_by(_centred)),
    _gradient(
        "gradient taken as in inference, by the moving variance",
        slopes=_as_in_inference,
    ),
)
