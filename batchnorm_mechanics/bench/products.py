"""The matrix products of a training step alone: the measure of what any training loop reaches."""

import itertools

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# Where every step had the same batch, XLA would multiply it once, before the loop.
_BATCHES = 2


class Products:
    """The products of dense layers, forward and backward, many times in one XLA-compiled loop.

    Nothing else of a training step is in it: the layers are linear, the slopes of the loss are the
    logits, and no weight changes. The gradient of the inputs is left out, as in training.

    Args:
        widths: of the input, of each hidden layer and of the output.
        batch: rows of a batch.
        steps: how often.
    """

    def __init__(self, widths: tuple[int, ...], batch: int, steps: int) -> None:
        rng = np.random.default_rng(0)
        self.batches = rng.standard_normal((_BATCHES, batch, widths[0]), np.float32)
        self.kernels = [
            rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
            for shape in itertools.pairwise(widths)
        ]
        # An argument, not a constant, so that XLA cannot unroll the loop.
        self._inputs = (
            tf.constant(steps),
            tf.constant(self.batches),
            [tf.constant(kernel) for kernel in self.kernels],
        )
        self._loop = tf.function(_loop, jit_compile=True)

    def run(self) -> list[NDArray[np.float32]]:
        """Multiply, and return the kernels' gradients of the last step when they are there."""
        return [gradient.numpy() for gradient in self._loop(*self._inputs)]

    def compiled(self) -> str:
        """Return what XLA made of the loop, as text."""
        return self._loop.experimental_get_compiler_ir(*self._inputs)(stage="optimized_hlo")


def _loop(steps: tf.Tensor, batches: tf.Tensor, kernels: list[tf.Tensor]) -> list[tf.Tensor]:
    # The loop carries every gradient: a product whose result nobody takes would be removed.
    _, gradients = tf.while_loop(
        lambda step, _: step < steps,
        lambda step, _: (step + 1, _gradients(batches[step % _BATCHES], kernels)),
        (tf.constant(0), [tf.zeros_like(kernel) for kernel in kernels]),
    )
    return gradients


def _gradients(batch: tf.Tensor, kernels: list[tf.Tensor]) -> list[tf.Tensor]:
    inputs = [batch]
    for kernel in kernels:
        inputs.append(tf.matmul(inputs[-1], kernel))
    slopes = inputs.pop()
    gradients: list[tf.Tensor] = []
    for number in reversed(range(len(kernels))):
        gradients.insert(0, tf.matmul(inputs[number], slopes, transpose_a=True))
        if number:
            slopes = tf.matmul(slopes, kernels[number], transpose_b=True)
    return gradients
