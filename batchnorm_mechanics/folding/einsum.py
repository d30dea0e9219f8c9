"""What a batch norm does to the weights of `EinsumDense`, by the letters of its equation."""

from typing import Any, NamedTuple

import keras
import numpy as np

from batchnorm_mechanics.folding.passing import Placed
from batchnorm_mechanics.models.linear import Array


class Equation(NamedTuple):
    """The letters of an equation, one an axis.

    Attributes:
        inputs: of the input, without the axes that an ellipsis stands for.
        kernel: of the kernel.
        outputs: of the output, likewise.
        on_the_left: whether axes that an ellipsis stands for come first, else last.
    """

    inputs: str
    kernel: str
    outputs: str
    on_the_left: bool

    @property
    def obstacle(self) -> str | None:
        """Why an offset of its inputs may be no offset of its outputs, or None."""
        if any(len(set(part)) < len(part) for part in (self.inputs, self.kernel, self.outputs)):
            return "takes a diagonal"
        if set(self.inputs) - set(self.kernel) - set(self.outputs):
            return "sums over an axis that its kernel has not"
        return None


def equation_of(layer: Any) -> Equation:
    """Return the letters of such a layer.

    Example:
        >>> equation_of(keras.layers.EinsumDense("...x,xy->...y", output_shape=(3,)))
        Equation(inputs='x', kernel='xy', outputs='y', on_the_left=True)
    """
    left, _, outputs = layer.equation.partition("->")
    inputs, _, kernel = left.partition(",")
    return Equation(
        inputs.replace("...", ""), kernel, outputs.replace("...", ""), inputs.startswith("...")
    )


class EinsumWeights(NamedTuple):
    """Kernel and bias of such a layer, float64.

    Attributes:
        kernels: the kernel, its axes by the letters of the equation, alone.
        bias: its axes by the letters of the output, of size 1 along those on which it is the same.
        bias_axes: the letters of the axes that the layer's own bias has; "" for none.
        equation: the letters.
    """

    kernels: tuple[Array]
    bias: Array
    bias_axes: str
    equation: Equation

    def followed_by(self, what: Placed) -> "EinsumWeights | None":
        """Return the weights that do what the layer and a scale and an offset behind it do.

        None where these vary along an axis that the kernel has not.
        """
        letters = self.equation
        parts = [_lettered(part, letters.outputs, letters) for part in what]
        if any(part is None for part in parts):
            return None
        scale, offset = (np.asarray(part) for part in parts)
        (kernel,) = self.kernels
        scaled = kernel * _ordered(scale, letters.outputs, letters.kernel)
        return self._with(scaled, self.bias * scale + offset)

    def preceded_by(self, what: Placed) -> "EinsumWeights | None":
        """Return the weights that do what the layer and a scale and an offset before it do.

        None where these vary along an axis that the kernel has not.
        """
        letters = self.equation
        parts = [_lettered(part, letters.inputs, letters) for part in what]
        if any(part is None for part in parts):
            return None
        scale, offset = (
            _ordered(np.asarray(part), letters.inputs, letters.kernel) for part in parts
        )
        (kernel,) = self.kernels
        summed = tuple(
            axis for axis, letter in enumerate(letters.kernel) if letter not in letters.outputs
        )
        constant = (kernel * offset).sum(axis=summed)
        kept = "".join(letter for letter in letters.kernel if letter in letters.outputs)
        return self._with(kernel * scale, self.bias + _ordered(constant, kept, letters.outputs))

    def _with(self, kernel: Array, bias: Array) -> "EinsumWeights":
        """Return other numbers, and a bias of all axes along which it varies, and one at least."""
        letters = self.equation.outputs
        axes = {letter for letter, size in zip(letters, bias.shape, strict=True) if size > 1}
        axes |= set(self.bias_axes)
        if not axes and np.any(bias):
            axes = set([letter for letter in letters if letter in self.equation.kernel][-1:])
        ordered = "".join(letter for letter in letters if letter in axes)
        return self._replace(kernels=(kernel,), bias=bias, bias_axes=ordered)

    @property
    def settings(self) -> dict[str, Any]:
        """What the configuration of a layer with these weights has other than before."""
        return {"bias_axes": self.bias_axes or None}


def read_einsum(layer: Any) -> EinsumWeights:
    """Return the weights of such a layer."""
    letters = equation_of(layer)
    rank = len(letters.outputs)
    if layer.bias is None:
        bias = np.zeros((1,) * rank)
    else:
        own = np.asarray(keras.ops.convert_to_numpy(layer.bias), np.float64)
        # Its first axis is the first that varies; behind an ellipsis come some of size 1.
        first = min(map(letters.outputs.index, layer.bias_axes))
        bias = own.reshape((1,) * first + own.shape[: rank - first])
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
    return EinsumWeights((kernel,), bias, layer.bias_axes or "", letters)


def bias_like(weights: EinsumWeights, shape: tuple[int, ...]) -> Array:
    """Return the bias in the shape of a layer's own variable."""
    first = min(map(weights.equation.outputs.index, weights.bias_axes))
    own = weights.bias.reshape(weights.bias.shape[first:] + (1,) * weights.bias.ndim)
    return np.broadcast_to(own[(..., *(0,) * (own.ndim - len(shape)))], shape)


def _lettered(values: Array, letters: str, equation: Equation) -> Array | None:
    """Return values by letters, from those by the axes of a tensor but that of the samples.

    None where they vary along one that the kernel has not.
    """
    elided = values.ndim + 1 - len(letters)
    # The samples are the first letter's, or the first of those that an ellipsis stands for.
    values = values[None]
    front = elided if equation.on_the_left else 0
    own = values.shape[front : front + len(letters)]
    rest = values.shape[:front] + values.shape[front + len(letters) :]
    alone = (
        size for letter, size in zip(letters, own, strict=True) if letter not in equation.kernel
    )
    return values.reshape(own) if {*rest, *alone} <= {1} else None


def _ordered(values: Array, letters: str, wanted: str) -> Array:
    """Return values by other letters; those that are not wanted are of size 1, others become so."""
    kept = [letter for letter in letters if letter in wanted]
    sizes = dict(zip(letters, values.shape, strict=True))
    dense = values.reshape([sizes[letter] for letter in kept])
    turned = dense.transpose([kept.index(letter) for letter in wanted if letter in kept])
    return turned.reshape([sizes.get(letter, 1) for letter in wanted])
