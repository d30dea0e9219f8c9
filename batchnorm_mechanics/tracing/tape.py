"""Gradients by TensorFlow's autodiff, by name."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


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
