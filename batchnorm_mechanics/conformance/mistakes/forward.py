"""Mistakes of what a batch is turned into, and of the mode that decides what it is turned by."""

from collections.abc import Callable

import tensorflow as tf

from batchnorm_mechanics.conformance.mistakes.axes import AXES
from batchnorm_mechanics.conformance.mistakes.hypothesis import Hypothesis, mistake
from batchnorm_mechanics.conformance.steps import (
    Axes,
    Moments,
    Pair,
    Tensor,
    average,
    right_moments,
)


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


_EPSILONS = (1e-3, 1e-5)
STD_FOR_VARIANCE = "standard deviation used where variance belongs"

FORWARD: tuple[Hypothesis, ...] = (
    mistake(
        "variance divided by m'-1 in the normalization itself",
        "forward",
        use=lambda batch: _times(batch, 1),
    ),
    mistake(
        "epsilon outside the root",
        "forward",
        normalize=_divided_by(lambda variance, epsilon: tf.sqrt(variance) + epsilon),
    ),
    mistake("epsilon missing", "forward", epsilon=lambda epsilon: 0.0),
    mistake("epsilon added twice", "forward", epsilon=lambda epsilon: 2 * epsilon),
    mistake("epsilon squared", "forward", epsilon=lambda epsilon: epsilon**2),
    mistake("epsilon subtracted", "forward", epsilon=lambda epsilon: -epsilon),
    *(
        mistake(
            f"epsilon {value:g} used whatever is set",
            "forward",
            epsilon=lambda epsilon, value=value: value,
        )
        for value in _EPSILONS
    ),
    mistake(
        f"{STD_FOR_VARIANCE}, in the normalization",
        "forward",
        normalize=_divided_by(lambda variance, epsilon: tf.sqrt(tf.sqrt(variance) + epsilon)),
    ),
    mistake(
        "variance used where the standard deviation belongs",
        "forward",
        normalize=_divided_by(lambda variance, epsilon: variance + epsilon),
    ),
    mistake(
        "multiplied by the standard deviation instead of divided by it",
        "forward",
        normalize=_divided_by(lambda variance, epsilon: 1 / tf.sqrt(variance + epsilon)),
    ),
    mistake(
        "not divided by the standard deviation",
        "forward",
        normalize=_divided_by(lambda variance, epsilon: tf.ones_like(variance)),
    ),
    mistake(
        "the larger of variance and epsilon used instead of their sum",
        "forward",
        normalize=_divided_by(lambda variance, epsilon: tf.sqrt(tf.maximum(variance, epsilon))),
    ),
    mistake("mean not subtracted", "forward", normalize=_not_centred),
    mistake("mean subtracted after the division", "forward", normalize=_mean_after),
    mistake("variance around zero instead of around the mean", "forward", moments=_around_zero),
    mistake(
        "mean not subtracted, and variance around zero (RMS normalization)",
        "forward",
        moments=_around_zero,
        normalize=_not_centred,
    ),
    mistake("variance summed and not averaged", "forward", moments=_summed),
    mistake("divided by the batch size instead of m'", "forward", moments=_by_batch_size),
    mistake("mean absolute deviation used as standard deviation", "forward", moments=_absolute),
    *AXES,
    mistake(
        "gamma and beta exchanged", "forward", affine=lambda x, gamma, beta, _: beta * x + gamma
    ),
    mistake("gamma ignored", "forward", affine=lambda x, gamma, beta, _: x + beta),
    mistake("beta ignored", "forward", affine=lambda x, gamma, beta, _: gamma * x),
    mistake("gamma and beta ignored", "forward", affine=lambda x, gamma, beta, _: x),
    mistake("gamma added", "forward", affine=lambda x, gamma, beta, _: x + gamma + beta),
    mistake("beta subtracted", "forward", affine=lambda x, gamma, beta, _: gamma * x - beta),
    mistake(
        "scaled by 1 + gamma", "forward", affine=lambda x, gamma, beta, _: (1 + gamma) * x + beta
    ),
    mistake("divided by gamma", "forward", affine=lambda x, gamma, beta, _: x / gamma + beta),
    mistake(
        "shift before scale: gamma * (x_hat + beta)",
        "forward",
        affine=lambda x, gamma, beta, _: gamma * (x + beta),
    ),
    mistake("mask ignored", "forward", mask=lambda mask, x: None),
    mistake(
        "mask inverted",
        "forward",
        mask=lambda mask, x: None if mask is None else tf.logical_not(mask),
    ),
    mistake("masked samples counted as zeros", "forward", moments=_zeros),
    mistake("masked samples counted in m'", "forward", moments=_zero_terms),
    mistake("masked samples set to zero in the output", "forward", affine=_masked_out),
    mistake("moving statistics used in training", "forward", training=lambda batch, old, new: old),
    mistake(
        "moving statistics used in training, updated before they are used",
        "forward",
        # Read from variables that were just written: no gradient comes through them.
        training=lambda batch, old, new: Pair(*map(tf.stop_gradient, new)),
    ),
)
