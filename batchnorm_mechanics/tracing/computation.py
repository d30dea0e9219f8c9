"""What one batch-norm computation is made of, and how what a user gave becomes tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.core.axes import Axes, TensorLike, as_parameter, normalize_axes
from batchnorm_mechanics.core.moments import statistics_dtype
from batchnorm_mechanics.core.transform import check_epsilon
from batchnorm_mechanics.tracing.record import Mode


@dataclass(frozen=True, eq=False)
class Computation:
    """Everything that goes into one forward pass.

    Attributes:
        x: floating tensor with values.
        axes: the axes reduced over, none negative, in the order given.
        gamma, beta: in the statistics' dtype, a scalar or in the shape of the kept axes, or None.
        epsilon: added to the variance inside the square root.
        mask: boolean over the leading axes of `x`, or None.
        mean, variance: what inference uses; None in training.
        origin: what the given statistics are, in words.
        x_note: what was done to `x` before it came here, or "".
    """

    x: tf.Tensor
    axes: tuple[int, ...]
    gamma: tf.Tensor | None
    beta: tf.Tensor | None
    epsilon: float
    mask: tf.Tensor | None = None
    mean: tf.Tensor | None = None
    variance: tf.Tensor | None = None
    origin: str = "the statistics given"
    x_note: str = ""

    @property
    def mode(self) -> Mode:
        """Training where no statistics are given."""
        return "training" if self.mean is None else "inference"

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the statistics."""
        return statistics_dtype(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input."""
        return tuple(self.x.shape.as_list())  # pyright: ignore[reportReturnType] - it has values

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """The shape of statistics, gamma and beta."""
        return tuple(self.shape[axis] for axis in self.kept)

    def aligned(self, statistic: tf.Tensor) -> tf.Tensor:
        """Return a statistic with size 1 where an axis is reduced; a scalar stays one."""
        for axis in sorted(self.axes) if statistic.shape.rank else ():
            statistic = tf.expand_dims(statistic, axis)
        return statistic

    def per_channel(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return gamma and beta with one number for each channel, 1 and 0 where there are none."""
        gamma, beta = (
            tf.constant(start, self.dtype) if value is None else value
            for value, start in ((self.gamma, 1.0), (self.beta, 0.0))
        )
        return tf.broadcast_to(gamma, self.kept_shape), tf.broadcast_to(beta, self.kept_shape)

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes that are kept."""
        return tuple(axis for axis in range(self.x.shape.rank) if axis not in self.axes)

    def forward(self) -> tuple[tf.Tensor, core.Cache]:
        """Normalize by the batch's own statistics, as `core.forward` does."""
        return core.forward(
            self.x, self.gamma, self.beta, axes=self.axes, epsilon=self.epsilon, mask=self.mask
        )

    def infer(self) -> tf.Tensor:
        """Normalize by the given statistics, as `core.infer` does."""
        return core.infer(
            self.x,
            self.mean,
            self.variance,
            self.gamma,
            self.beta,
            axes=self.axes,
            epsilon=self.epsilon,
        )


def make_computation(
    x: tf.Tensor,
    *,
    axes: Axes,
    parameters: Mapping[str, TensorLike],
    epsilon: float,
    mask: TensorLike = None,
    x_note: str = "",
) -> Computation:
    """Check what a user gave and put it together.

    Args:
        x: floating tensor with values.
        axes: the axes reduced over.
        parameters: gamma, beta, mean and variance, each a number, an array or None.
        epsilon: added to the variance.
        mask: boolean over the leading axes of `x`, or None.
        x_note: what was done to `x` before.

    Returns:
        A `Computation`.

    Raises:
        ValueError: axes, the shape of a parameter, or epsilon do not fit.
    """
    positive = normalize_axes(axes, x.shape.rank, caller="trace")
    wide = tf.cast(x, statistics_dtype(x))
    checked = {
        name: as_parameter(value, wide, positive, name=name, caller="trace")
        for name, value in parameters.items()
        if value is not None
    }
    return Computation(
        x,
        positive,
        checked.get("gamma"),
        checked.get("beta"),
        check_epsilon(epsilon, caller="trace"),
        None if mask is None else tf.cast(mask, tf.bool),
        checked.get("mean"),
        checked.get("variance"),
        x_note=x_note,
    )


def as_values(value: TensorLike, *, name: str = "x") -> tuple[tf.Tensor, str]:
    """Return `value` as a floating tensor that holds numbers, and what was done to it.

    Args:
        value: a tensor, an array, nested lists. Integers become float32.
        name: the argument's name, for the message of an error.

    Returns:
        The tensor, and a sentence on its conversion, "" where there was none.

    Raises:
        TypeError: the value is symbolic, or holds something else than real numbers.

    Example:
        >>> x, note = as_values([[1, 2], [3, 4]])
        >>> x.dtype.name, note
        ('float32', 'It came as int32 and was converted to float32.')
    """
    if is_symbolic(value):
        raise TypeError(
            f"trace: `{name}` must hold values. Received: {name}={value!r}. A trace shows numbers: "
            "call it on data, outside of `tf.function` and of a model's symbolic inputs."
        )
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"trace: `{name}` must be an array of numbers. Received: a {type(value).__name__} "
            f"that TensorFlow cannot convert ({str(error).splitlines()[0]}). Pass a NumPy array or "
            "a dense tensor."
        ) from error
    if tensor.dtype.is_floating:
        return tensor, ""
    if not tensor.dtype.is_integer:
        raise TypeError(
            f"trace: `{name}` must hold real numbers. Received: {name}.dtype="
            f"{tensor.dtype.name!r}. Convert it to float32 first."
        )
    converted = tf.cast(tensor, tf.float32)
    note = f"It came as {tensor.dtype.name} and was converted to float32."
    if bool(tf.reduce_any(tf.cast(converted, tensor.dtype) != tensor)):
        # float32 has 24 bits.
        note += " Some integers were rounded; pass float64 to keep them."
    return converted, note


def is_symbolic(value: Any) -> bool:
    """Return whether this is a tensor that stands for values it does not have yet."""
    if tf.is_tensor(value):
        return not hasattr(value, "numpy")
    # Keras's symbolic tensors are no TensorFlow tensors; Keras may not even be imported.
    return type(value).__name__ == "KerasTensor"


def array(tensor: TensorLike) -> np.ndarray:
    """Return a tensor's value."""
    # By way of numpy(): a bfloat16 tensor without axes refuses numpy.asarray.
    return np.asarray(tf.convert_to_tensor(tensor).numpy())


def wide_array(tensor: TensorLike) -> np.ndarray:
    """Return a tensor's value in float64."""
    return array(tensor).astype(np.float64)


def tape_gradients(
    tape: tf.GradientTape, y: tf.Tensor, sources: Mapping[str, tf.Tensor], dy: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Return the gradients of sum(y * dy) with respect to each source.

    Args:
        tape: that watched the sources while y was computed.
        y: what was computed.
        sources: what to differentiate by, each under the name that its gradient gets.
        dy: gradient of the loss with respect to y, in any floating dtype.

    Returns:
        The gradients under the names of their sources.

    Example:
        >>> x = tf.constant([2.0, 3.0])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = x * x
        >>> tape_gradients(tape, y, {"d_x": x}, tf.ones(2))["d_x"].numpy().tolist()
        [4.0, 6.0]
    """
    found: Any = tape.gradient([y], list(sources.values()), output_gradients=[tf.cast(dy, y.dtype)])
    return dict(zip(sources, found, strict=True))
