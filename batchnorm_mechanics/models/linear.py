"""The layers of Keras that can take a batch norm in, and what that does to their weights.

Batch norm in inference is one scale and one offset a channel. Everything is float64, so that what
is merged is rounded once, when it is stored.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics.layers.intercept import own_call

Array = NDArray[np.float64]


class Affine(NamedTuple):
    """What batch norm does in inference, y = scale * x + offset.

    Attributes:
        scale: float64 of shape (channels,).
        offset: likewise.
    """

    scale: Array
    offset: Array


def affine_of(
    mean: Array, variance: Array, gamma: Array | None, beta: Array | None, epsilon: float
) -> Affine:
    """Return the scale and the offset of a batch norm layer.

    Implements: Alg. 2, l. 11.

    Args:
        mean: moving mean, float64 of shape (channels,).
        variance: moving variance, whichever the layer keeps, likewise.
        gamma: likewise, or None for 1.
        beta: likewise, or None for 0.
        epsilon: added to the variance inside the square root.

    Returns:
        Not finite where a number that goes in is not, or where variance + epsilon is not above 0.

    Example:
        >>> one = np.ones(1)
        >>> affine_of(2 * one, 3 * one, 4 * one, one, epsilon=1.0)
        Affine(scale=array([2.]), offset=array([-3.]))
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + epsilon)
        offset = -mean * scale
    return Affine(scale, offset if beta is None else offset + beta)


def scale_inputs(kernel: Array, scale: Array) -> Array:
    """Scale the inputs of a kernel.

    Args:
        kernel: shape (..., inputs / groups, outputs).
        scale: shape (inputs,).

    Example:
        >>> grouped = np.ones((2, 4))  # 2 groups, the second of inputs 2 and 3
        >>> scale_inputs(grouped, np.array([1.0, 2.0, 3.0, 4.0]))
        array([[1., 1., 3., 3.], [2., 2., 4., 4.]])
    """
    return kernel * _by_group(scale, kernel)


def response(kernel: Array, inputs: Array) -> Array:
    """Return what a kernel makes of inputs that are the same everywhere.

    Args:
        kernel: shape (..., inputs / groups, outputs).
        inputs: shape (inputs,).

    Returns:
        Shape (outputs,); true at every place where the kernel lies wholly within the input. Of a
        transposed convolution of more places than one, the answer differs from place to place.
    """
    over_places = kernel.sum(axis=tuple(range(kernel.ndim - 2)))
    return (over_places * _by_group(inputs, kernel)).sum(axis=0)


def _by_group(values: Array, kernel: Array) -> Array:
    """Return values by (input of the group, output), from those by input."""
    inputs, outputs = kernel.shape[-2:]
    groups = values.size // inputs
    return np.repeat(values.reshape(groups, inputs), outputs // groups, axis=0).T


class Weights(NamedTuple):
    """Kernels and bias of a layer, float64; the bias is zero where the layer has none.

    Attributes:
        kernels: each of shape (..., inputs / groups, outputs), whatever the layer's own is; those
            of a separable convolution are the depthwise and the pointwise one.
        bias: shape (outputs,).
        has_bias: whether the layer has one, or needs one now.
    """

    kernels: tuple[Array, ...]
    bias: Array
    has_bias: bool

    def followed_by(self, affine: Affine) -> "Weights":
        """Return the weights that do what the layer and a batch norm behind it do."""
        *others, last = self.kernels
        return Weights(
            (*others, last * affine.scale),
            self.bias * affine.scale + affine.offset,
            has_bias=True,
        )

    def preceded_by(self, affine: Affine) -> "Weights":
        """Return the weights that do what the layer and a batch norm before it do.

        The bias is right where `offset_obstacle` finds nothing.
        """
        first, *others = self.kernels
        constant = affine.offset
        for kernel in self.kernels:
            constant = response(kernel, constant)
        return Weights(
            (scale_inputs(first, affine.scale), *others),
            self.bias + constant,
            has_bias=self.has_bias or bool(np.any(constant)),
        )


class Layout(Enum):
    """The last two axes of a layer's kernel."""

    USUAL = "inputs / groups, outputs"
    # Output c * multiplier + m is the m-th of input c: as many groups as inputs.
    DEPTHWISE = "inputs, multiplier"
    TRANSPOSED = "outputs, inputs"


_CONVOLUTION = {"kernel": Layout.USUAL}
_DEPTHWISE = {"kernel": Layout.DEPTHWISE}
_SEPARABLE = {"depthwise_kernel": Layout.DEPTHWISE, "pointwise_kernel": Layout.USUAL}
_TRANSPOSED = {"kernel": Layout.TRANSPOSED}

# The names and layouts of their kernels. By exact class: a subclass may compute something that we
# do not know.
KINDS: Mapping[type, Mapping[str, Layout]] = MappingProxyType(
    {
        keras.layers.Dense: _CONVOLUTION,
        keras.layers.Conv1D: _CONVOLUTION,
        keras.layers.Conv2D: _CONVOLUTION,
        keras.layers.Conv3D: _CONVOLUTION,
        keras.layers.DepthwiseConv1D: _DEPTHWISE,
        keras.layers.DepthwiseConv2D: _DEPTHWISE,
        keras.layers.SeparableConv1D: _SEPARABLE,
        keras.layers.SeparableConv2D: _SEPARABLE,
        keras.layers.Conv1DTranspose: _TRANSPOSED,
        keras.layers.Conv2DTranspose: _TRANSPOSED,
        keras.layers.Conv3DTranspose: _TRANSPOSED,
    }
)


def read(layer: Any) -> Weights:
    """Return the weights of such a layer."""
    kernels: list[Array] = []
    for name, layout in KINDS[type(layer)].items():
        kernel = _array(getattr(layer, name))
        if layout is Layout.DEPTHWISE:
            kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
        kernels.append(kernel.swapaxes(-1, -2) if layout is Layout.TRANSPOSED else kernel)
    has_bias = layer.bias is not None
    bias = _array(layer.bias) if has_bias else np.zeros(kernels[-1].shape[-1])
    return Weights(tuple(kernels), bias, has_bias)


def store(layer: Any, weights: Weights) -> None:
    """Give such a layer weights, each rounded once to the type of its variable."""
    for (name, layout), kernel in zip(KINDS[type(layer)].items(), weights.kernels, strict=True):
        variable = getattr(layer, name)
        own = kernel.swapaxes(-1, -2) if layout is Layout.TRANSPOSED else kernel
        variable.assign(_rounded(own.reshape(variable.shape), variable))
    if weights.has_bias:
        layer.bias.assign(_rounded(weights.bias, layer.bias))


def _rounded(value: Array, variable: Any) -> NDArray[Any]:
    return value.astype(keras.backend.standardize_dtype(variable.dtype))


def takes_a_norm(layer: Any) -> bool:
    """Return whether a layer is of a kind that can take a batch norm in."""
    return type(layer) in KINDS and own_call(layer) is None


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis on which such a layer has its channels, inputs and outputs alike.

    Args:
        layer: of a kind above.
        rank: of its input.
    """
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def activation_of(layer: Any) -> str | None:
    """Return the name of such a layer's activation; None where it changes nothing.

    Example:
        >>> [activation_of(keras.layers.Dense(2, activation=by)) for by in ("linear", "tanh")]
        [None, 'tanh']
        >>> activation_of(keras.layers.Dense(2, activation=keras.layers.ReLU(6.0)))
        'ReLU'
    """
    found = layer.activation
    # A layer may stand where a function is meant.
    while type(found) is keras.layers.Activation:
        found = found.activation
    if found is None or found is keras.activations.linear or type(found) is keras.layers.Identity:
        return None
    # Neither such a layer nor an object of one's own has the name of a function.
    return getattr(found, "__name__", type(found).__name__)


def obstacle(layer: Any) -> str | None:
    """Return why the weights of such a layer are not simply its kernel and bias, or None."""
    if getattr(layer, "quantization_mode", None):
        return f"is quantized ({layer.quantization_mode}): fold before you quantize"
    if getattr(layer, "lora_enabled", False):
        return "has LoRA weights"
    return None


def offset_obstacle(layer: Any, affine: Affine) -> str | None:
    """Return why an offset of the inputs is not a bias of the outputs in such a layer, or None."""
    if not np.any(affine.offset) or isinstance(layer, keras.layers.Dense):
        return None
    one_place = set(layer.kernel_size) == {1}
    if KINDS[type(layer)] is _TRANSPOSED:
        if one_place and set(layer.strides) == {1}:
            return None
        return "spreads its input over places that overlap unevenly"
    if one_place or layer.padding == "valid":
        return None
    return f"pads its input with zeros (padding={layer.padding!r}), which know no offset"


def _array(weight: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float64)
