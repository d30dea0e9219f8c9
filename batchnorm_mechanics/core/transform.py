"""From statistics to output: normalize, scale and shift; in training, in inference, and folded."""

import math
from numbers import Real
from typing import NamedTuple

import tensorflow as tf

from batchnorm_mechanics.core.axes import (
    Axes,
    TensorLike,
    align,
    as_dtype,
    as_floating,
    as_input,
    as_parameter,
    normalize_axes,
)
from batchnorm_mechanics.core.moments import (
    biased_variance,
    center,
    check_samples,
    statistics_dtype,
)
from batchnorm_mechanics.core.replicas import Exchange, Whole, take_together


class Cache(NamedTuple):
    """What `forward` knows and `backward` needs.

    Attributes:
        mean: batch mean, in the shape of the kept axes.
        variance: biased batch variance, likewise.
        count: m', the samples behind each statistic, likewise.
        deviation: x - mean, in the shape of x.
        inverse_std: 1/sqrt(variance + epsilon), with size 1 where an axis was reduced.
        gamma: likewise, or None where no scale was given.
        weights: True where a sample counted in the statistics, or None if all did.
        axes: the axes reduced over, none negative.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    deviation: tf.Tensor
    inverse_std: tf.Tensor
    gamma: tf.Tensor | None
    weights: tf.Tensor | None
    axes: tuple[int, ...]

    @property
    def x_hat(self) -> tf.Tensor:
        """The normalized input, in the shape of x."""
        return self.deviation * self.inverse_std


def check_epsilon(epsilon: float, *, caller: str) -> float:
    """Return `epsilon` as a float, or say why it cannot be one."""
    if not (isinstance(epsilon, Real) and 0 < epsilon < math.inf):
        raise ValueError(
            f"{caller}: `epsilon` must be a positive number. Received: epsilon={epsilon!r}. "
            "It keeps a channel of zero variance finite; Keras uses 1e-3, PyTorch 1e-5."
        )
    return float(epsilon)


def _prepare(x: TensorLike, axes: Axes, caller: str) -> tuple[tf.Tensor, tuple[int, ...], tf.DType]:
    x = as_input(x, caller=caller)
    axes = normalize_axes(axes, x.shape.rank, caller=caller)
    # Cast once: every step is at least float32, and only the output goes back to x's own dtype.
    return tf.cast(x, statistics_dtype(x)), axes, x.dtype


def _parameter(
    value: TensorLike, x: tf.Tensor, axes: tuple[int, ...], name: str, caller: str
) -> tf.Tensor | None:
    if value is None:
        return None
    return align(as_parameter(value, x, axes, name=name, caller=caller), axes)


def _given_statistics(
    mean: TensorLike,
    variance: TensorLike,
    x: tf.Tensor,
    axes: tuple[int, ...],
    epsilon: float,
    caller: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and 1/sqrt(variance + epsilon), aligned with x."""
    epsilon = check_epsilon(epsilon, caller=caller)
    variance = align(as_parameter(variance, x, axes, name="variance", caller=caller), axes)
    mean = align(as_parameter(mean, x, axes, name="mean", caller=caller), axes)
    return mean, tf.math.rsqrt(variance + epsilon)


def _scale(inverse_std: tf.Tensor, gamma: tf.Tensor | None) -> tf.Tensor:
    # One factor for each channel, not two: a product the size of x less, forward and backward.
    return inverse_std if gamma is None else inverse_std * gamma


def _affine(x: tf.Tensor, scale: tf.Tensor | None, offset: tf.Tensor | None) -> tf.Tensor:
    if scale is not None:
        x = x * scale
    return x if offset is None else x + offset


def normalize(
    x: TensorLike, mean: TensorLike, variance: TensorLike, *, axes: Axes, epsilon: float = 1e-3
) -> tf.Tensor:
    """Take the mean away and divide by the standard deviation.

    Implements: Alg. 1, l. 3, normalize.

    Args:
        x: floating tensor of rank 2 or more.
        mean: scalar, or in the shape of the axes that are kept.
        variance: likewise; biased in training, whatever the policy keeps in inference.
        axes: the axes reduced over, which say where `mean` and `variance` belong.
        epsilon: added to the variance inside the square root.

    Returns:
        x_hat in the shape and dtype of `x`.

    Raises:
        ValueError: axes, rank, shape of a statistic, or epsilon do not fit.
        TypeError: `x` is not floating.

    Numerics:
        The mean comes in rounded: at mean 1e4 in float32 that alone is an error of up to 5e-4 in
        x - mean. `forward`, which has the samples, does not lose it.

    Example:
        >>> normalize([[1.0], [3.0]], [2.0], [1.0], axes=[0]).numpy().round(4).tolist()
        [[-0.9995], [0.9995]]
    """
    x, axes, dtype = _prepare(x, axes, "normalize")
    mean, inverse_std = _given_statistics(mean, variance, x, axes, epsilon, "normalize")
    return tf.cast((x - mean) * inverse_std, dtype)


def scale_and_shift(
    x_hat: TensorLike, gamma: TensorLike = None, beta: TensorLike = None, *, axes: Axes
) -> tf.Tensor:
    """Multiply by gamma and add beta.

    Implements: Alg. 1, l. 4, scale and shift.

    Args:
        x_hat: normalized input, a floating tensor of rank 2 or more.
        gamma: scalar, in the shape of the kept axes, or None for 1.
        beta: likewise, or None for 0.
        axes: the axes reduced over.

    Returns:
        y in the shape and dtype of `x_hat`.

    Raises:
        ValueError: axes, rank or the shape of gamma or beta do not fit.
        TypeError: `x_hat` is not floating.

    Example:
        >>> scale_and_shift([[-1.0], [1.0]], gamma=2.0, beta=1.0, axes=[0]).numpy().tolist()
        [[-1.0], [3.0]]
    """
    caller = "scale_and_shift"
    x_hat, axes, dtype = _prepare(x_hat, axes, caller)
    gamma = _parameter(gamma, x_hat, axes, "gamma", caller)
    beta = _parameter(beta, x_hat, axes, "beta", caller)
    return tf.cast(_affine(x_hat, gamma, beta), dtype)


def forward(
    x: TensorLike,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    axes: Axes,
    epsilon: float = 1e-3,
    mask: TensorLike = None,
    exchange: Exchange | None = None,
) -> tuple[tf.Tensor, Cache]:
    """Normalize a batch by its own statistics, as in training.

    Implements: Alg. 1, Batch Normalizing Transform.

    Args:
        x: floating tensor of rank 2 or more.
        gamma: scalar, in the shape of the kept axes, or None for 1.
        beta: likewise, or None for 0.
        axes: the axes reduced over; negative ones count from the end.
        epsilon: added to the biased variance inside the square root.
        mask: boolean tensor over the leading axes of `x`. A sample that is masked out does not
            count in the statistics; it is normalized with them all the same.
        exchange: with the replicas that have the other parts of the batch, which is then normalized
            by the statistics of all parts; a part may be empty. None where `x` is all of it.

    Returns:
        y in the shape and dtype of `x`, and the `Cache` for `backward`, which also holds the
        batch's mean, biased variance and count for a statistics policy.

    Raises:
        ValueError: the rank is below 2; an axis is out of range, doubled, or none is named; gamma,
            beta or the mask do not fit; epsilon is not positive; the batch is empty.
        TypeError: `x` is not floating.

    Numerics:
        x - mean is formed before the mean is rounded, so the error does not grow with the mean: at
        mean 1e4 and standard deviation 1 in float32 it stays near 1e-6, where
        `tf.nn.batch_normalization` has 1e-2. What is left is TensorFlow's running sum along one
        axis: below 1e-5 up to some 16,000 samples on it, 2e-4 for 200,000. One sample gives
        x_hat = 0 and y = beta.

    Example:
        >>> y, cache = forward([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], 2.0, 1.0, axes=[0])
        >>> y.numpy()[0].round(7).tolist(), cache.variance.numpy().tolist()
        ([-0.9995557069778442, -0.9995557069778442, -0.9995557069778442], [2.25, 2.25, 2.25])
    """
    x, axes, dtype = _prepare(x, axes, "forward")
    epsilon = check_epsilon(epsilon, caller="forward")
    gamma = _parameter(gamma, x, axes, "gamma", "forward")
    beta = _parameter(beta, x, axes, "beta", "forward")
    if exchange is None:
        check_samples(x, axes, caller="forward")
    centered = center(x, axes, mask, caller="forward")
    variance = biased_variance(centered, axes)
    if exchange is None:
        batch = Whole(centered.deviation, centered.mean, variance, centered.count)
    else:
        batch = take_together(centered, variance, exchange)
    cache = Cache(
        mean=tf.squeeze(batch.mean, axes),
        variance=tf.squeeze(batch.variance, axes),
        count=tf.squeeze(batch.count, axes),
        deviation=batch.deviation,
        inverse_std=tf.math.rsqrt(batch.variance + epsilon),
        gamma=gamma,
        weights=centered.weights,
        axes=axes,
    )
    y = _affine(cache.deviation, _scale(cache.inverse_std, gamma), beta)
    return tf.cast(y, dtype), cache


def infer(
    x: TensorLike,
    mean: TensorLike,
    variance: TensorLike,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    axes: Axes,
    epsilon: float = 1e-3,
) -> tf.Tensor:
    """Normalize by given statistics, as in inference.

    Implements: Alg. 2, l. 11, before it is folded.

    Args:
        x: floating tensor of rank 2 or more; it may be empty.
        mean: scalar, or in the shape of the axes that are kept.
        variance: likewise; whichever variance the policy keeps.
        gamma: likewise, or None for 1.
        beta: likewise, or None for 0.
        axes: the axes that were reduced over for the statistics.
        epsilon: added to the variance inside the square root.

    Returns:
        y in the shape and dtype of `x`.

    Raises:
        ValueError: axes, rank, the shape of a statistic, gamma or beta, or epsilon do not fit.
        TypeError: `x` is not floating.

    Numerics:
        The mean is subtracted first, so nothing cancels later; `fold_statistics` and
        `multiply_and_add` are faster and lose digits when the mean is far larger than the standard
        deviation.

    Example:
        >>> y = infer([[1.0, 2.0]], 0.0, 1.0, gamma=2.0, beta=1.0, axes=[0])
        >>> y.numpy().astype(float).round(6).tolist()
        [[2.999001, 4.998002]]
    """
    x, axes, dtype = _prepare(x, axes, "infer")
    gamma = _parameter(gamma, x, axes, "gamma", "infer")
    beta = _parameter(beta, x, axes, "beta", "infer")
    mean, inverse_std = _given_statistics(mean, variance, x, axes, epsilon, "infer")
    return tf.cast(_affine(x - mean, _scale(inverse_std, gamma), beta), dtype)


def fold_statistics(
    mean: TensorLike,
    variance: TensorLike,
    gamma: TensorLike = None,
    beta: TensorLike = None,
    *,
    epsilon: float = 1e-3,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Fold statistics, gamma and beta into one scale and one offset.

    Implements: Alg. 2, l. 11, y = gamma/sqrt(Var[x] + eps) * x + (beta - gamma*E[x]/sqrt(...)).

    Args:
        mean: floating tensor.
        variance: in the same shape.
        gamma: in the same shape or a scalar, or None for 1.
        beta: likewise, or None for 0.
        epsilon: added to the variance inside the square root.

    Returns:
        scale and offset for `multiply_and_add`, in the statistics' shape and dtype.

    Raises:
        ValueError: epsilon is not positive, or a shape differs from the mean's.
        TypeError: the mean is not floating.

    Example:
        >>> scale, offset = fold_statistics([2.0], [3.999], gamma=[4.0], beta=[1.0])
        >>> scale.numpy().round(5).tolist(), offset.numpy().round(5).tolist()
        ([2.0], [-3.0])
    """
    epsilon = check_epsilon(epsilon, caller="fold_statistics")
    mean = as_floating(mean, name="mean", caller="fold_statistics")
    variance = _of_the_same_shape(variance, mean, "variance")
    scale = tf.math.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * _of_the_same_shape(gamma, mean, "gamma")
    lost = mean * scale
    return scale, -lost if beta is None else _of_the_same_shape(beta, mean, "beta") - lost


def _of_the_same_shape(value: TensorLike, mean: tf.Tensor, name: str) -> tf.Tensor:
    parameter = as_dtype(value, mean.dtype)
    if parameter.shape.rank != 0 and not parameter.shape.is_compatible_with(mean.shape):
        raise ValueError(
            f"fold_statistics: `{name}` must be a scalar or have the shape of the mean, "
            f"{tuple(mean.shape)}. Received: {name}.shape={tuple(parameter.shape)}. "
            "Fold one layer's own parameters."
        )
    return parameter


def multiply_and_add(
    x: TensorLike, scale: TensorLike, offset: TensorLike, *, axes: Axes
) -> tf.Tensor:
    """Apply a folded batch norm: one multiply and one add for each element.

    Implements: Alg. 2, l. 11.

    Args:
        x: floating tensor of rank 2 or more.
        scale: from `fold_statistics`, a scalar or in the shape of the kept axes.
        offset: likewise.
        axes: the axes that were reduced over for the statistics.

    Returns:
        y in the shape and dtype of `x`.

    Raises:
        ValueError: axes, rank, or the shape of scale or offset do not fit.
        TypeError: `x` is not floating.

    Numerics:
        x*scale and offset cancel where the mean is far larger than the standard deviation: expect
        an error of about |mean|/std * 1e-7 in float32. `infer` does not cancel.

    Example:
        >>> multiply_and_add([[2.0], [3.0]], [2.0], [-3.0], axes=[0]).numpy().tolist()
        [[1.0], [3.0]]
    """
    caller = "multiply_and_add"
    x, axes, dtype = _prepare(x, axes, caller)
    scale = _parameter(scale, x, axes, "scale", caller)
    offset = _parameter(offset, x, axes, "offset", caller)
    return tf.cast(_affine(x, scale, offset), dtype)
