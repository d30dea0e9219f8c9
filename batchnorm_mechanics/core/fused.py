"""Alg. 1 and its gradient by the fastest correct kernel for a shape, a dtype and axes."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from batchnorm_mechanics.core.axes import (
    Axes,
    TensorLike,
    as_input,
    as_parameter,
    kept_shape,
    normalize_axes,
)
from batchnorm_mechanics.core.gradient import backward
from batchnorm_mechanics.core.moments import Moments, average, check_samples, statistics_dtype
from batchnorm_mechanics.core.transform import check_epsilon, forward, infer

Kernel = Literal["fused", "analytic", "autodiff"]

# kernel    for                                     because (measured on two cores)
# autodiff  masks                                   what is masked out has a gradient of its own
# analytic  whatever XLA compiles                   XLA takes the fused kernel apart, badly: 11 ms
#                                                   where the formula takes 1 ms, (32, 7, 7, 512)
# fused     channels last, up to 32 bits, at least  passes over memory twice where separate
#           2**17 elements                          operations pass ten times
# analytic  everything else                         the fused kernel takes 0.15 ms however small the
#                                                   input; the formula takes 0.03 ms, (60, 100)
_FUSED_FROM = 2**17
# Of one sample, where the size of the batch is not known: batches have some 32 samples.
_FUSED_FROM_PER_SAMPLE = _FUSED_FROM // 32
_FUSED_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
_DEFAULTS = {"gamma": 1.0, "beta": 0.0}

# Samples that one running float32 sum takes without losing more than 1e-5.
_LONGEST_SUM = 2**14

# The fused kernel takes away a rounded mean, so its error grows with |mean|/std. Up to this ratio
# it stays below 1e-5; where a channel lies beyond, the kernel runs again, on x - mean.
_LARGEST_RATIO = 4.0


def choose_kernel(
    shape: Sequence[int | None],
    dtype: tf.DType,
    axes: Sequence[int],
    *,
    masked: bool,
    compiled: bool = False,
) -> Kernel:
    """Return the fastest correct kernel for an input; the table in the module has the reasons.

    Args:
        shape: of the input; None where a size is not known yet.
        dtype: of the input.
        axes: the axes reduced over, none negative.
        masked: whether there is a mask.
        compiled: whether XLA compiles it.

    Returns:
        The kernel's name.

    Example:
        >>> choose_kernel((64, 56, 56, 64), tf.float32, [0, 1, 2], masked=False)
        'fused'
        >>> choose_kernel((60, 100), tf.float32, [0], masked=False)
        'analytic'
    """
    if masked:
        return "autodiff"
    if compiled or not _fits_fused(shape, dtype, axes):
        return "analytic"
    known = [size for size in shape if size is not None]
    enough = _FUSED_FROM if len(known) == len(shape) else _FUSED_FROM_PER_SAMPLE
    return "fused" if math.prod(known) >= enough else "analytic"


def _fits_fused(shape: Sequence[int | None], dtype: tf.DType, axes: Sequence[int]) -> bool:
    return (
        _last_alone_is_kept(len(shape), axes) and shape[-1] is not None and dtype in _FUSED_DTYPES
    )


def _last_alone_is_kept(rank: int, axes: Sequence[int]) -> bool:
    return set(axes) == set(range(rank - 1))


def _chosen(x: tf.Tensor, axes: Sequence[int], *, masked: bool) -> Kernel:
    # TensorFlow tells it nowhere in public.
    compiled = not tf.executing_eagerly() and GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )
    return choose_kernel(x.shape.as_list(), x.dtype, axes, masked=masked, compiled=compiled)


def normalize_batch(
    x: TensorLike,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    axes: Axes,
    epsilon: float = 1e-3,
    mask: TensorLike = None,
    kernel: Kernel | None = None,
) -> tuple[tf.Tensor, Moments]:
    """Normalize a batch by its own statistics, by the fastest kernel.

    Implements: Alg. 1; its gradient is the 4th, 5th and 6th of sec. 3.

    `forward` gives the same output, and a cache that holds every step of it.

    Args:
        x: floating tensor of rank 2 or more.
        gamma: scalar, in the shape of the kept axes, or None for 1.
        beta: likewise, or None for 0.
        axes: the axes reduced over; negative ones count from the end.
        epsilon: added to the biased variance inside the square root.
        mask: as in `forward`.
        kernel: "fused", "analytic" or "autodiff"; by default what `choose_kernel` chooses.

    Returns:
        y in the shape and dtype of `x`, and the batch's `Moments`: mean, biased variance and count
        in the shape of the kept axes, float32 or wider. y has a gradient with respect to x, gamma
        and beta; the moments, which are for moving statistics, have none.

    Raises:
        ValueError: as `forward`; or the kernel asked for cannot take the input.
        TypeError: as `forward`.

    Numerics:
        For float32 of standard deviation 1 the error of y stays below 1e-5 up to means of 1e4, and
        below 1e-4 at a mean of 1e6 or with 200,000 samples a channel. Where |mean|/std exceeds 4 in
        any channel, the fused kernel runs again on x - mean, which takes two to three times as
        long; the analytic kernel's error does not grow with the mean at all.

    Example:
        >>> y, moments = normalize_batch([[1.0, 2.0], [4.0, 5.0]], 2.0, 1.0, axes=[0])
        >>> y.numpy()[1].round(4).tolist(), moments.variance.numpy().tolist()
        ([2.999599933624268, 2.999599933624268], [2.25, 2.25])
    """
    x = as_input(x, caller="normalize_batch")
    axes = normalize_axes(axes, x.shape.rank, caller="normalize_batch")
    epsilon = check_epsilon(epsilon, caller="normalize_batch")
    check_samples(x, axes, caller="normalize_batch")
    kernel = _checked(kernel, x, axes, masked=mask is not None)
    if kernel == "autodiff":
        y, cache = forward(x, gamma, beta, axes=axes, epsilon=epsilon, mask=mask)
        return y, _constant(cache.mean, cache.variance, cache.count)
    parameters = {"gamma": gamma, "beta": beta}
    gamma, beta = _per_channel(parameters, x, axes, "normalize_batch")
    if kernel == "fused":
        return _fused(x, gamma, beta, epsilon)
    return _analytic(x, gamma, beta, axes, epsilon)


def normalize_with(
    x: TensorLike,
    mean: TensorLike,
    variance: TensorLike,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    axes: Axes,
    epsilon: float = 1e-3,
) -> tf.Tensor:
    """Normalize by given statistics, by the fastest kernel.

    Implements: Alg. 2, l. 11.

    Args, Returns, Raises: as `infer`, which gives the same output.

    Numerics:
        The mean is taken away before anything is multiplied, so nothing cancels.

    Example:
        >>> y = normalize_with([[1.0, 2.0]], 0.0, 1.0, gamma=2.0, beta=1.0, axes=[0])
        >>> y.numpy().astype(float).round(6).tolist()
        [[2.999001, 4.998002]]
    """
    x = as_input(x, caller="normalize_with")
    axes = normalize_axes(axes, x.shape.rank, caller="normalize_with")
    epsilon = check_epsilon(epsilon, caller="normalize_with")
    if _chosen(x, axes, masked=False) != "fused":
        return infer(x, mean, variance, gamma, beta, axes=axes, epsilon=epsilon)
    parameters = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    gamma, beta, mean, variance = _per_channel(parameters, x, axes, "normalize_with")
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


def _checked(kernel: Kernel | None, x: tf.Tensor, axes: tuple[int, ...], *, masked: bool) -> Kernel:
    if kernel is None:
        return _chosen(x, axes, masked=masked)
    fused_cannot = kernel == "fused" and not _fits_fused(x.shape.as_list(), x.dtype, axes)
    if (
        kernel not in ("fused", "analytic", "autodiff")
        or fused_cannot
        or (masked and kernel != "autodiff")
    ):
        raise ValueError(
            "normalize_batch: `kernel` must be 'fused' (the last axis alone kept, 32 bits or "
            "fewer, no mask), 'analytic' (no mask) or 'autodiff'. Received: "
            f"kernel={kernel!r}, x.shape={tuple(x.shape)}, x.dtype={x.dtype.name!r}, axes={axes}. "
            "Leave it out to have it chosen."
        )
    return kernel


def _per_channel(
    values: dict[str, TensorLike], x: tf.Tensor, axes: tuple[int, ...], caller: str
) -> list[tf.Tensor]:
    """Return parameters by their names in the statistics' dtype, one number for each channel."""
    kept = [axis for axis in range(x.shape.rank) if axis not in axes]
    wide = statistics_dtype(x)
    found = []
    for name, value in values.items():
        given = _DEFAULTS[name] if value is None else value
        parameter = as_parameter(given, x, axes, name=name, caller=caller, dtype=wide)
        if parameter.shape.rank == 0:
            parameter = tf.fill(tf.gather(tf.shape(x), tf.constant(kept, tf.int32)), parameter)
        if not parameter.shape.is_fully_defined():
            parameter = tf.ensure_shape(parameter, kept_shape(x, axes))
        found.append(parameter)
    return found


def _constant(mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor) -> Moments:
    return Moments(*map(tf.stop_gradient, (mean, variance, count)))


def _analytic(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, axes: tuple[int, ...], epsilon: float
) -> tuple[tf.Tensor, Moments]:
    """Normalize by `forward`, with the closed form of its gradient in autodiff's place."""
    if x.shape.rank > 2 and _fits_one_sum(x.shape, axes):
        # Axis after axis, each of the five sums of a step would be several.
        rows = tf.reshape(x, [-1, x.shape[-1]])
        y, moments = _analytic(rows, gamma, beta, (0,), epsilon)
        return tf.reshape(y, x.shape), moments

    @tf.custom_gradient
    def run(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[Any, Any]:
        y, cache = forward(x, gamma, beta, axes=axes, epsilon=epsilon)

        def gradient(
            dy: tf.Tensor, *_of_moments: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return backward(dy, cache)

        return (y, cache.mean, cache.variance, cache.count), gradient

    y, *moments = run(x, gamma, beta)
    return y, _constant(*moments)


def _fits_one_sum(shape: tf.TensorShape, axes: tuple[int, ...]) -> bool:
    """Return whether all samples can be summed in one go: rows of channels, and not too many."""
    samples = shape[:-1].num_elements()
    return (
        samples is not None
        and samples <= _LONGEST_SUM
        and shape.is_fully_defined()
        and _last_alone_is_kept(len(shape), axes)
    )


def _as_images(x: tf.Tensor) -> tf.Tensor:
    """View x, whose last axis is kept, as (n, h, w, c); no element moves."""
    if x.shape.rank == 4:
        return x
    shape = tf.shape(x)
    between = tf.reduce_prod(shape[1:-1])
    images = tf.reshape(x, tf.stack([shape[0], 1, between, shape[-1]]))
    return tf.ensure_shape(images, [x.shape[0], 1, None, x.shape[-1]])


def _fused(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, Moments]:
    """Normalize by TensorFlow's one kernel, twice if a channel's mean is too large for it."""

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
    return tf.ensure_shape(y, x.shape), _constant(*moments)


def _biased(unbiased_variance: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Undo the kernel's n/(n-1); for a single sample it returns 0 in the first place."""
    return unbiased_variance * ((count - 1) / count)
