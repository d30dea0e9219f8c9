"""Alg. 1 and its gradient by the fastest correct kernel for an input and a machine."""

from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from batchnorm_mechanics._tensorflow import (
    compiled_by_xla,
    has_avx512,
    has_gpu,
    one_dnn_is_on,
)
from batchnorm_mechanics.core.axes import (
    Axes,
    TensorLike,
    as_input,
    as_parameter,
    as_weights,
    kept_shape,
    normalize_axes,
)
from batchnorm_mechanics.core.fused import batch_by_fused_kernel, normalize_by_fused_kernel
from batchnorm_mechanics.core.gradient import backward
from batchnorm_mechanics.core.moments import (
    Moments,
    check_samples,
    statistics_dtype,
    without_what_is_masked_out,
)
from batchnorm_mechanics.core.replicas import Exchange
from batchnorm_mechanics.core.rows import (
    batch_by_rows,
    likely_elements,
    normalize_rows,
    rows_are_narrow,
)
from batchnorm_mechanics.core.transform import (
    check_epsilon,
    fold_statistics,
    forward,
    infer,
    multiply_and_add,
)

Kernel = Literal["fused", "rows", "analytic", "autodiff"]

# The choice goes by what TensorFlow runs on, for it decides the kernel's worth. Forward and
# backward in a graph, two cores, times Keras's speed, without oneDNN and with it (AVX-512):
#
# 2**20 elements   3 channels   8            32           128          1024
# fused            0.7   1.1    0.9   2.6    1.2   2.7    1.2   2.8    1.2   2.2
# rows             4.9   3.9    2.5   2.2    1.7   1.8    1.6   1.7    1.5   1.5
#
# benchmarks/worlds.md has 40 shapes with the kernels that are chosen for them.
#
# kernel    for                                    because
# analytic  whatever XLA compiles                  XLA fuses the formula by itself and takes the
#                                                  fused kernel apart, badly: 11 ms where the
#                                                  formula takes 1 ms, (32, 7, 7, 512)
# analytic  masks that differ by channel           the others have one count for all channels
# fused     channels last, up to 32 bits, no       passes over memory twice where separate
#           mask, at least 2**17 elements, in      operations pass eight times, in inference once
#           inference 2**18, on a GPU, or on       in place of twice; below, the kernel's own 0.1 ms
#           oneDNN with a number of channels it    weighs more
#           is fast for
# rows      what else has its channels last        few and wide operations, see there
# analytic  everything else                        the same formula over any axes
_FUSED_FROM = 2**17
_FUSED_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
_DEFAULTS = {"gamma": 1.0, "beta": 0.0}


def choose_kernel(
    shape: Sequence[int | None],
    dtype: tf.DType,
    axes: Sequence[int],
    *,
    masked: bool = False,
    compiled: bool = False,
    training: bool = True,
) -> Kernel:
    """Return the fastest correct kernel for an input; the table in the module has the reasons.

    Args:
        shape: of the input; None where a size is not known yet.
        dtype: of the input.
        axes: the axes reduced over, none negative.
        masked: whether there is a mask, the same for all channels.
        compiled: whether XLA compiles it.
        training: whether the batch's own statistics are used. With given ones, "analytic" stands
            for `fold_statistics` and `multiply_and_add`.

    Returns:
        The kernel's name.

    Example:
        >>> choose_kernel((60, 100), tf.float32, [0])
        'rows'
        >>> choose_kernel((60, 100), tf.float32, [0], compiled=True)
        'analytic'
    """
    if compiled or not _fits_rows(shape, axes):
        return "analytic"
    many = likely_elements(shape) >= (_FUSED_FROM if training else 2 * _FUSED_FROM)
    if many and not masked and _fused_is_fast(shape[-1] or 0, dtype, training=training):
        return "fused"
    return "rows" if training or rows_are_narrow(shape) else "analytic"


def _fused_is_fast(channels: int, dtype: tf.DType, *, training: bool) -> bool:
    """Return whether the fused kernel beats rows at many elements, in this process.

    oneDNN has several. The one for multiples of 16 needs AVX-512 and takes half the rows' time.
    What takes multiples of 8 otherwise is one thread's work: as fast as rows forward and backward,
    half as fast forward, a quarter in inference. Eight channels, and multiples of 4 that none of
    the two take, have a third, nearly as fast as the first. Other numbers, and half precision
    without the first, cost up to five times what rows do.
    """
    if dtype not in _FUSED_DTYPES:
        return False
    if has_gpu():
        return True
    if not one_dnn_is_on():
        return False
    if channels % 16 == 0:
        return has_avx512() or (training and dtype == tf.float32)
    return dtype == tf.float32 and (channels == 8 or channels % 8 == 4) and channels > 4


def _fits_rows(shape: Sequence[int | None], axes: Sequence[int]) -> bool:
    """Return whether the last axis, of known size, is the only one that is kept."""
    return set(axes) == set(range(len(shape) - 1)) and bool(shape[-1])


def _chosen(
    x: tf.Tensor, axes: Sequence[int], *, masked: bool = False, training: bool = True
) -> Kernel:
    return choose_kernel(
        x.shape.as_list(),
        x.dtype,
        axes,
        masked=masked,
        compiled=compiled_by_xla(),
        training=training,
    )


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
        kernel: "fused", "rows", "analytic" or "autodiff"; by default what `choose_kernel` chooses.

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
        long; the errors of the others do not grow with the mean.

    Example:
        >>> y, moments = normalize_batch([[1.0, 2.0], [4.0, 5.0]], 2.0, 1.0, axes=[0])
        >>> y.numpy()[1].round(4).tolist(), moments.variance.numpy().tolist()
        ([2.999599933624268, 2.999599933624268], [2.25, 2.25])
    """
    x = as_input(x, caller="normalize_batch")
    axes = normalize_axes(axes, x.shape.rank, caller="normalize_batch")
    epsilon = check_epsilon(epsilon, caller="normalize_batch")
    check_samples(x, axes, caller="normalize_batch")
    weights = None if mask is None else as_weights(mask, x, caller="normalize_batch")
    kernel = _checked(kernel, x, axes, weights)
    if kernel == "autodiff":
        y, cache = forward(x, gamma, beta, axes=axes, epsilon=epsilon, mask=weights)
        return y, _constant(cache.mean, cache.variance, cache.count)
    parameters = {"gamma": gamma, "beta": beta}
    gamma, beta = _per_channel(parameters, x, axes, "normalize_batch")
    if kernel == "fused":
        return batch_by_fused_kernel(x, gamma, beta, epsilon)
    if kernel == "rows":
        if weights is not None:
            # The others go by `forward`, which does so itself.
            x = without_what_is_masked_out(x, weights)
        return batch_by_rows(x, gamma, beta, epsilon, weights)
    return _analytic(x, gamma, beta, axes, epsilon, weights)


def normalize_together(
    x: TensorLike,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    axes: Axes,
    epsilon: float = 1e-3,
    mask: TensorLike = None,
    exchange: Exchange,
) -> tuple[tf.Tensor, Moments]:
    """Normalize this replica's part of a batch by the statistics of the whole batch.

    Implements: Alg. 1 over the parts of all replicas; its gradient is the 4th, 5th and 6th of
    sec. 3, of the sum of all replicas' losses.

    Args:
        x: floating tensor of rank 2 or more; a part may be empty.
        gamma: as in `normalize_batch`, and the same on all replicas.
        beta: likewise.
        axes: as in `normalize_batch`.
        epsilon: likewise.
        mask: likewise; it may leave nothing of a part.
        exchange: with the other replicas: one `gather` here, one `add` in the gradient.

    Returns:
        y in the shape and dtype of `x`, and the `Moments` of the whole batch, without a gradient.
        The gradients of gamma and beta are of this replica's part, as `backward` has them.

    Raises:
        ValueError, TypeError: as `forward`.

    Numerics:
        As `forward` on the whole batch; no difference of squares, and no mean is rounded before
        others are taken from it.

    Example:
        >>> class Alone:
        ...     index = 0
        ...     def gather(self, value):
        ...         return value[None]
        >>> y, moments = normalize_together([[1.0], [3.0]], axes=[0], exchange=Alone())
        >>> y.numpy().round(4).tolist(), moments.count.numpy().tolist()
        ([[-0.9994999766349792], [0.9994999766349792]], [2.0])
    """
    x = as_input(x, caller="normalize_together")
    axes = normalize_axes(axes, x.shape.rank, caller="normalize_together")
    epsilon = check_epsilon(epsilon, caller="normalize_together")
    weights = None if mask is None else as_weights(mask, x, caller="normalize_together")
    parameters = {"gamma": gamma, "beta": beta}
    gamma, beta = _per_channel(parameters, x, axes, "normalize_together")
    return _analytic(x, gamma, beta, axes, epsilon, weights, exchange)


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

    Args, Returns, Raises: as `infer`, which gives the same output to rounding. It has a gradient
    with respect to all five tensors.

    Numerics:
        Folded into one scale and one offset a channel, as Keras's layer does: the error grows with
        |mean|/std, by about 1e-7 for each, of which 3e-8 are in the float32 mean already. `infer`
        takes the mean away first, and a pass more.

    Example:
        >>> y = normalize_with([[1.0, 2.0]], 0.0, 1.0, gamma=2.0, beta=1.0, axes=[0])
        >>> y.numpy().astype(float).round(6).tolist()
        [[2.999001, 4.998002]]
    """
    x = as_input(x, caller="normalize_with")
    axes = normalize_axes(axes, x.shape.rank, caller="normalize_with")
    epsilon = check_epsilon(epsilon, caller="normalize_with")
    if compiled_by_xla():
        # One pass, however many operations.
        return infer(x, mean, variance, gamma, beta, axes=axes, epsilon=epsilon)
    kernel = _chosen(x, axes, training=False)
    parameters = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    gamma, beta, mean, variance = _per_channel(parameters, x, axes, "normalize_with")
    if kernel == "analytic":
        scale, offset = fold_statistics(mean, variance, gamma, beta, epsilon=epsilon)
        return multiply_and_add(x, scale, offset, axes=axes)
    by = normalize_by_fused_kernel if kernel == "fused" else None
    return normalize_rows(x, mean, variance, gamma, beta, epsilon, by=by)


def _checked(
    kernel: Kernel | None, x: tf.Tensor, axes: tuple[int, ...], weights: tf.Tensor | None
) -> Kernel:
    by_channel = weights is not None and weights.shape[-1] != 1
    if kernel is None:
        return "analytic" if by_channel else _chosen(x, axes, masked=weights is not None)
    last = _fits_rows(x.shape.as_list(), axes)
    takes = {
        "fused": last and x.dtype in _FUSED_DTYPES and weights is None,
        "rows": last and not by_channel,
        "analytic": True,
        "autodiff": True,
    }
    if not takes.get(kernel):
        raise ValueError(
            "normalize_batch: `kernel` must be 'fused' (the last axis alone kept, 32 bits or "
            "fewer, no mask), 'rows' (the last axis alone kept, a mask the same for all channels), "
            f"'analytic' or 'autodiff'. Received: kernel={kernel!r}, x.shape={tuple(x.shape)}, "
            f"x.dtype={x.dtype.name!r}, axes={axes}. Leave it out to have it chosen."
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
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    axes: tuple[int, ...],
    epsilon: float,
    weights: tf.Tensor | None,
    exchange: Exchange | None = None,
) -> tuple[tf.Tensor, Moments]:
    """Normalize by `forward`, with the closed form of its gradient in autodiff's place."""

    @tf.custom_gradient
    def run(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[Any, Any]:
        y, cache = forward(
            x, gamma, beta, axes=axes, epsilon=epsilon, mask=weights, exchange=exchange
        )

        def gradient(
            dy: tf.Tensor, *_of_moments: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            d_x, d_gamma, d_beta = backward(dy, cache, exchange)
            if weights is not None:
                # `forward` took 0 in place of what was no number, which has no gradient then.
                d_x = tf.where(weights | tf.math.is_finite(x), d_x, tf.zeros_like(d_x))
            return d_x, d_gamma, d_beta

        return (y, cache.mean, cache.variance, cache.count), gradient

    y, *moments = run(x, gamma, beta)
    return y, _constant(*moments)
