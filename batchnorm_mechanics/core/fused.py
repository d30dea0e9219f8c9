"""Alg. 1 and Alg. 2, l. 11 by TensorFlow's one kernel, which passes over memory twice."""

from typing import Any

import tensorflow as tf

from batchnorm_mechanics.core.moments import Moments, average

# The fused kernel takes away a rounded mean, so its error grows with |mean|/std. Up to this ratio
# it stays below 1e-5; where a channel lies beyond, the kernel runs again, on x - mean.
_LARGEST_RATIO = 4.0


def _as_images(x: tf.Tensor) -> tf.Tensor:
    """View x, whose last axis is kept, as (n, h, w, c); no element moves."""
    if x.shape.rank == 4:
        return x
    shape = tf.shape(x)
    between = tf.reduce_prod(shape[1:-1])
    images = tf.reshape(x, tf.stack([shape[0], 1, between, shape[-1]]))
    return tf.ensure_shape(images, [x.shape[0], 1, None, x.shape[-1]])


def batch_by_fused_kernel(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, Moments]:
    """Normalize by the batch's statistics, twice if a channel's mean is too large for the kernel.

    Implements: Alg. 1; the 4th, 5th and 6th gradient of sec. 3.

    Args, Returns: as `rows.batch_by_rows`, for float32, bfloat16 and float16.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[Any, Any]:
        images = _as_images(x)

        def forward_kernel(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
            y, *rest = tf.raw_ops.FusedBatchNormV3(
                x=images, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
            )
            return tf.cast(y, x.dtype), *rest

        once = forward_kernel(images)
        rough, count = once[1], tf.cast(tf.reduce_prod(tf.shape(images)[:-1]), once[1].dtype)
        variance = _biased(once[2], count)
        far = tf.reduce_any(tf.square(rough) > _LARGEST_RATIO**2 * (variance + epsilon))

        def shifted_by(shift: tf.Tensor) -> tf.Tensor:
            # In float32: a difference of two half-precision numbers may need more bits than theirs.
            return tf.cast(images, shift.dtype) - shift

        def again() -> tuple[tf.Tensor, ...]:
            # A sum of many large samples is off by whole standard deviations; what it left is not.
            rest = average(shifted_by(rough), count, None, (0, 1, 2))
            shift = rough + tf.reshape(rest, [-1])
            y, mean, *others = forward_kernel(shifted_by(shift))
            return (shift, y, mean + shift, *others)

        shift, y, mean, unbiased, *reserved = tf.cond(far, again, lambda: (rough, *once))

        def gradient(dy: tf.Tensor, *_of_moments: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def backward_kernel(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
                dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=tf.cast(tf.reshape(dy, tf.shape(images)), images.dtype),
                    x=images,
                    scale=gamma,
                    reserve_space_1=reserved[0],
                    reserve_space_2=reserved[1],
                    reserve_space_3=reserved[2],
                    epsilon=epsilon,
                )
                return tf.cast(tf.reshape(dx, tf.shape(x)), x.dtype), dgamma, dbeta

            return tf.cond(
                far,
                lambda: backward_kernel(shifted_by(shift)),
                lambda: backward_kernel(images),
            )

        counts = tf.fill(tf.shape(mean), count)
        return (tf.reshape(y, tf.shape(x)), mean, _biased(unbiased, count), counts), gradient

    y, *moments = run(x, gamma, beta)
    return tf.ensure_shape(y, x.shape), Moments(*map(tf.stop_gradient, moments))


def _biased(unbiased_variance: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Undo the kernel's n/(n-1); for a single sample it returns 0 in the first place."""
    return unbiased_variance * ((count - 1) / count)


def normalize_by_fused_kernel(
    x: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """Normalize by given statistics; the mean is taken away before anything is multiplied.

    Implements: Alg. 2, l. 11.

    Args, Returns: as `rows.normalize_rows`, which puts its gradient in the place of the kernel's
    own: that has none for the mean and the variance.
    """
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=_as_images(x),
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )
    return tf.ensure_shape(tf.reshape(y, tf.shape(x)), x.shape)
