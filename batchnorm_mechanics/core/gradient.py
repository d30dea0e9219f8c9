"""The six gradients of sec. 3, each visible, and the backward pass made of them."""

from typing import NamedTuple

import tensorflow as tf

from batchnorm_mechanics.core.axes import TensorLike, as_dtype
from batchnorm_mechanics.core.replicas import Exchange
from batchnorm_mechanics.core.transform import Cache


class Gradients(NamedTuple):
    """The gradients of the loss in the order in which the paper lists them.

    Attributes:
        d_x_hat: with respect to the normalized input, in the shape of x.
        d_variance: with respect to the biased batch variance, in the shape of the kept axes.
        d_mean: with respect to the batch mean, likewise.
        d_x: with respect to the input, in the shape of x.
        d_gamma: with respect to the scale, in the shape of the kept axes.
        d_beta: with respect to the offset, likewise.
    """

    d_x_hat: tf.Tensor
    d_variance: tf.Tensor
    d_mean: tf.Tensor
    d_x: tf.Tensor
    d_gamma: tf.Tensor
    d_beta: tf.Tensor


def gradients(dy: TensorLike, cache: Cache) -> Gradients:
    """Return the six gradients of the batch normalizing transform.

    Implements: sec. 3, the chain of six gradients below Alg. 1.

    Args:
        dy: gradient of the loss with respect to y, in the shape of x.
        cache: as `forward` returned it.

    Returns:
        `Gradients` in the statistics' dtype (float32 or wider). Where `forward` had a mask, the
        sums over the batch's statistics run over the samples that counted, while d_x_hat, d_gamma
        and d_beta take in every element, since every element was normalized.

    Raises:
        ValueError: `dy` has another shape than the input.

    Numerics:
        d_x adds to zero over the reduced axes, and so does d_x * x_hat up to epsilon: moving or
        stretching a channel does not change its normalized values.

    Example:
        >>> from batchnorm_mechanics.core.transform import forward
        >>> y, cache = forward([[1.0], [2.0], [6.0]], axes=[0])
        >>> round(tf.reduce_sum(gradients([[1.0], [0.0], [0.0]], cache).d_x).numpy().item(), 6)
        0.0
    """
    deviation, inverse_std, axes = cache.deviation, cache.inverse_std, cache.axes
    dy = _checked(dy, cache, "gradients")
    count = tf.reshape(cache.count, tf.shape(inverse_std))

    def total(value: tf.Tensor, *, counted: bool = False) -> tf.Tensor:
        if counted and cache.weights is not None:
            value = tf.where(cache.weights, value, tf.zeros_like(value))
        return tf.reduce_sum(value, axes, keepdims=True)

    d_x_hat = dy if cache.gamma is None else dy * cache.gamma
    d_variance = total(d_x_hat * deviation) * -0.5 * inverse_std**3
    d_mean = -total(d_x_hat) * inverse_std + d_variance * tf.math.divide_no_nan(
        -2 * total(deviation, counted=True), count
    )
    through_statistics = tf.math.divide_no_nan(d_variance * 2 * deviation + d_mean, count)
    if cache.weights is not None:
        # A sample that did not count in the statistics sends no gradient through them.
        through_statistics = tf.where(
            cache.weights, through_statistics, tf.zeros_like(through_statistics)
        )
    d_x = d_x_hat * inverse_std + through_statistics
    d_gamma = total(dy * cache.x_hat)
    d_beta = total(dy)
    return Gradients(
        d_x_hat,
        tf.squeeze(d_variance, axes),
        tf.squeeze(d_mean, axes),
        d_x,
        tf.squeeze(d_gamma, axes),
        tf.squeeze(d_beta, axes),
    )


def backward(
    dy: TensorLike, cache: Cache, exchange: Exchange | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the gradients with respect to the input, gamma and beta.

    Implements: sec. 3, 4th, 5th and 6th gradient of 6.

    Args:
        dy: gradient of the loss with respect to y, in the shape and dtype of y.
        cache: as `forward` returned it.
        exchange: that of `forward`, if it had one. The loss is then the sum of all replicas'.

    Returns:
        dx in the shape of `dy` and its dtype, if it has one; dgamma and dbeta in the shape of the
        kept axes and the statistics' dtype, per channel also where gamma and beta were scalars or
        left out. With an `exchange` these two are of this replica's part of the batch: the sum over
        the replicas, which optimizers form of every weight's gradient, is the whole batch's.

    Raises:
        ValueError: `dy` has another shape than the input.

    Example:
        >>> from batchnorm_mechanics.core.transform import forward
        >>> y, cache = forward([[1.0], [2.0], [6.0]], axes=[0])
        >>> dx, dgamma, dbeta = backward(tf.ones_like(y), cache)
        >>> dbeta.numpy().tolist()
        [3.0]
    """
    d_x, d_gamma, d_beta = _closed_form(_checked(dy, cache, "backward"), cache, exchange)
    # Plain numbers have no dtype to go back to.
    return tf.cast(d_x, dy.dtype) if hasattr(dy, "dtype") else d_x, d_gamma, d_beta


def _closed_form(
    dy: tf.Tensor, cache: Cache, exchange: Exchange | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the last three of the six with the first three put into them.

    Three passes over the batch and not nine: d_x is gamma / deviation times what is left of dy
    after its mean and its projection on x_hat are taken away.
    """
    axes, inverse_std, deviation = cache.axes, cache.inverse_std, cache.deviation
    d_beta = tf.reduce_sum(dy, axes, keepdims=True)
    projection = tf.reduce_sum(dy * deviation, axes, keepdims=True)
    d_gamma = projection * inverse_std
    count = tf.reshape(cache.count, tf.shape(inverse_std))
    sums = (d_beta, d_gamma)
    if exchange is not None:
        # What a sample changes in the statistics, it changes for the samples of all replicas.
        sums = tf.unstack(exchange.add(tf.stack(sums)))
    through_mean = tf.math.divide_no_nan(sums[0], count)
    through_variance = tf.math.divide_no_nan(sums[1] * inverse_std, count)
    through_statistics = deviation * through_variance + through_mean
    if cache.weights is not None:
        # A sample that did not count in the statistics sends no gradient through them.
        through_statistics = tf.where(
            cache.weights, through_statistics, tf.zeros_like(through_statistics)
        )
    scale = inverse_std if cache.gamma is None else inverse_std * cache.gamma
    d_x = (dy - through_statistics) * scale
    return d_x, tf.squeeze(d_gamma, axes), tf.squeeze(d_beta, axes)


def _checked(dy: TensorLike, cache: Cache, caller: str) -> tf.Tensor:
    """Return dy in the statistics' dtype, or say that it does not belong to this cache."""
    dy = as_dtype(dy, cache.deviation.dtype)
    if not dy.shape.is_compatible_with(cache.deviation.shape):
        raise ValueError(
            f"{caller}: `dy` must have the shape of the input, {tuple(cache.deviation.shape)}. "
            f"Received: dy.shape={tuple(dy.shape)}. Pass the gradient with respect to y."
        )
    return dy
