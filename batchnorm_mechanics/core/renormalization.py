"""Batch renormalization (Ioffe 2017): a batch's x_hat, corrected towards the moving statistics."""

import tensorflow as tf

from batchnorm_mechanics.core.axes import Axes, TensorLike, as_dtype
from batchnorm_mechanics.core.transform import multiply_and_add


def corrections(
    mean: tf.Tensor,
    stddev: tf.Tensor,
    moving_mean: tf.Tensor,
    moving_stddev: tf.Tensor,
    *,
    r_min: TensorLike,
    r_max: TensorLike,
    d_max: TensorLike,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return r and d, with which a batch's x_hat becomes what inference would make of it.

    Implements: arXiv 1702.03275, Alg. 1, l. 3 and 4.

    Args:
        mean: of the batch, in the shape of the kept axes.
        stddev: of the batch, the root of biased variance and epsilon together, likewise.
        moving_mean: likewise.
        moving_stddev: likewise, above 0.
        r_min: the smallest r; a scalar, or likewise.
        r_max: the largest.
        d_max: the largest d on both sides.

    Returns:
        r and d in the shape and dtype of `mean`, constants to gradients.

    Example:
        >>> r, d = corrections(
        ...     tf.constant([4.0]), tf.constant([2.0]), tf.constant([3.0]), tf.constant([0.5]),
        ...     r_min=0.0, r_max=3.0, d_max=5.0,
        ... )
        >>> r.numpy().tolist(), d.numpy().tolist()
        ([3.0], [2.0])
    """
    r_min, r_max, d_max = (as_dtype(bound, mean.dtype) for bound in (r_min, r_max, d_max))
    r = tf.clip_by_value(stddev / moving_stddev, r_min, r_max)
    d = tf.clip_by_value((mean - moving_mean) / moving_stddev, -d_max, d_max)
    return tf.stop_gradient(r), tf.stop_gradient(d)


def renormalize(
    x_hat: tf.Tensor,
    r: tf.Tensor,
    d: tf.Tensor,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    axes: Axes,
) -> tf.Tensor:
    """Correct a batch's x_hat by r and d, scale and shift.

    Implements: arXiv 1702.03275, Alg. 1, l. 5 and 6.

    Args:
        x_hat: normalized by the batch, a floating tensor of rank 2 or more.
        r: in the shape of the kept axes.
        d: likewise.
        gamma: likewise, or None for 1.
        beta: likewise, or None for 0.
        axes: the axes reduced over.

    Returns:
        y = gamma * (x_hat * r + d) + beta in the shape and dtype of `x_hat`.

    Example:
        >>> y = renormalize(
        ...     tf.constant([[-1.0], [1.0]]), tf.constant([2.0]), tf.constant([0.5]), 3.0, axes=[0]
        ... )
        >>> y.numpy().tolist()
        [[-4.5], [7.5]]
    """
    # One factor and one offset for each channel, as Keras has it: a pass over memory less.
    if gamma is not None:
        gamma = as_dtype(gamma, r.dtype)
        r, d = r * gamma, d * gamma
    if beta is not None:
        d += as_dtype(beta, r.dtype)
    return multiply_and_add(x_hat, r, d, axes=axes)
