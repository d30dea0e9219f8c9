"""What is traced becomes a tensor with values, or an error that says why it cannot."""

from typing import Any

import tensorflow as tf

from batchnorm_mechanics.core.axes import TensorLike


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
