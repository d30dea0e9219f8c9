"""Which axes are reduced, how many samples that puts behind a statistic, and how shapes meet.

Everywhere in `core`, `axes` are the axes *reduced over*, as in `tf.nn.moments`. The axes that are
left are *kept*; statistics, gamma and beta have the shape of the kept axes.
"""

from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex

import tensorflow as tf

Axes = int | Sequence[int]
# Whatever TensorFlow makes a tensor of: a tensor, an array, a Keras variable, a list, a number.
TensorLike = Any


def normalize_axes(axes: Axes, rank: int, *, caller: str) -> tuple[int, ...]:
    """Return `axes` as non-negative integers, in the order given.

    Args:
        axes: one axis or several, each in [-rank, rank).
        rank: number of dimensions of the tensor that is reduced, 2 or more.
        caller: name of the public function, for the message of an error.

    Returns:
        The axes, each in [0, rank).

    Raises:
        ValueError: the rank is below 2, or an axis is out of range or named twice, or no axis is
            named at all.
        TypeError: an axis is not an integer.

    Example:
        >>> normalize_axes([0, -1], rank=4, caller="moments")
        (0, 3)
    """
    if rank < 2:
        raise ValueError(
            f"{caller}: `x` must have rank 2 or more (samples and channels). "
            f"Received: rank={rank}. Add an axis, for instance x[:, None]."
        )
    named = _as_tuple(axes)
    for axis in named:
        if isinstance(axis, bool) or not isinstance(axis, SupportsIndex):
            raise TypeError(
                f"{caller}: `axes` must be an integer or integers. Received: axes={axes!r}. "
                "Name the axes to reduce over, for instance axes=[0, 1, 2]."
            )
        if not -rank <= index(axis) < rank:
            raise ValueError(
                f"{caller}: `axes` must lie in [{-rank}, {rank}) for an input of rank {rank}. "
                f"Received: axes={axes!r}. Name axes that the input has."
            )
    positive = tuple(index(axis) % rank for axis in named)
    if len(set(positive)) != len(positive):
        raise ValueError(
            f"{caller}: `axes` must not name an axis twice. Received: axes={axes!r} for an input "
            f"of rank {rank}. Name each axis once; a negative axis counts from the end."
        )
    if not positive:
        raise ValueError(
            f"{caller}: `axes` must name at least one axis to reduce over. "
            f"Received: axes={axes!r}. Batch statistics need the samples' axis, for instance "
            "axes=[0]."
        )
    return positive


def _as_tuple(axes: Any) -> tuple[Any, ...]:
    # A NumPy scalar has __iter__ and refuses; trying it is the only way to know.
    try:
        return tuple(axes)
    except TypeError:
        return (axes,)


def kept_shape(x: tf.Tensor, axes: tuple[int, ...]) -> list[int | None]:
    """Return the static sizes of the axes that are not reduced: the shape of every statistic."""
    return [size for axis, size in enumerate(x.shape.as_list()) if axis not in axes]


def align(statistic: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
    """Put an axis of size 1 where each reduced axis was, so that a statistic broadcasts against x.

    A scalar stays as it is, and so does what belongs to the last axes, which broadcasts by itself.
    """
    if statistic.shape.rank == 0 or max(axes) < len(axes):
        return statistic
    for axis in sorted(axes):
        statistic = tf.expand_dims(statistic, axis)
    return statistic


def as_floating(value: TensorLike, *, name: str, caller: str) -> tf.Tensor:
    """Return `value` as a floating tensor, or say that it is none."""
    tensor = tf.convert_to_tensor(value)
    if not tensor.dtype.is_floating:
        raise TypeError(
            f"{caller}: `{name}` must be a floating tensor (float64, float32, bfloat16 or "
            f"float16). Received: {name}.dtype={tensor.dtype.name!r}. Convert it first: "
            f"tf.cast({name}, tf.float32)."
        )
    return tensor


def as_input(x: TensorLike, *, caller: str) -> tf.Tensor:
    """Return `x` as a floating tensor of known rank, or say what is wrong with it."""
    x = as_floating(x, name="x", caller=caller)
    if x.shape.rank is None:
        raise ValueError(
            f"{caller}: `x` must have a known rank. Received: x.shape={x.shape}. "
            "Give it one inside the function: x = tf.ensure_shape(x, [None, channels])."
        )
    return x


def as_dtype(value: TensorLike, dtype: tf.DType) -> tf.Tensor:
    """Return `value` as a tensor of this dtype.

    Plain numbers and lists go there directly: by way of TensorFlow's default float32 they would
    lose digits in a float64 computation.
    """
    return tf.cast(value, dtype) if hasattr(value, "dtype") else tf.convert_to_tensor(value, dtype)


def as_parameter(
    value: TensorLike,
    x: tf.Tensor,
    axes: tuple[int, ...],
    *,
    name: str,
    caller: str,
    dtype: tf.DType | None = None,
) -> tf.Tensor:
    """Return a statistic, gamma or beta, checked against the kept axes of `x`.

    A scalar serves all channels. The dtype is that of `x` if none is named.
    """
    parameter = as_dtype(value, dtype or x.dtype)
    expected = kept_shape(x, axes)
    if parameter.shape.rank != 0 and not parameter.shape.is_compatible_with(expected):
        raise ValueError(
            f"{caller}: `{name}` must be a scalar or have the shape of the axes that are kept, "
            f"{tuple(expected)}. Received: {name}.shape={tuple(parameter.shape)}. "
            f"The input has shape {tuple(x.shape)} and is reduced over axes {axes}."
        )
    return parameter


def as_weights(mask: TensorLike, x: tf.Tensor, *, caller: str) -> tf.Tensor:
    """Return a boolean mask with as many axes as `x`: True where a sample counts.

    The mask's axes are the leading axes of `x`, as in Keras, where a (batch, time) mask goes with a
    (batch, time, features) input.
    """
    mask = tf.cast(mask, tf.bool)
    rank = mask.shape.rank
    if (
        rank is None
        or rank > x.shape.rank
        or not all(
            size == 1 or tf.TensorShape([size]).is_compatible_with([other])
            for size, other in zip(mask.shape.as_list(), x.shape.as_list(), strict=False)
        )
    ):
        raise ValueError(
            f"{caller}: `mask` must have the leading axes of the input, of shape {tuple(x.shape)}. "
            f"Received: mask.shape={mask.shape}. Pass one boolean for each sample, for instance of "
            f"shape {tuple(x.shape[:-1])}."
        )
    for _ in range(x.shape.rank - rank):
        mask = tf.expand_dims(mask, -1)
    return mask
