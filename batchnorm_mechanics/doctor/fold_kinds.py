"""The layers of Keras that can take a batch norm in, and what that does to their weights.

Batch norm in inference is one scale and one offset a channel. Everything is float64, so that what
is merged is rounded once, when it is stored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def scale_outputs(kernel: Array, scale: Array) -> Array:
    """Scale the outputs of a dense or convolution kernel, (..., inputs, outputs)."""
    return kernel * scale


def scale_inputs(kernel: Array, scale: Array) -> Array:
    """Scale the inputs of a dense or convolution kernel.

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
    """Return what a dense or convolution kernel makes of inputs that are the same everywhere.

    Args:
        kernel: shape (..., inputs / groups, outputs).
        inputs: shape (inputs,).

    Returns:
        Shape (outputs,); true at every place where the kernel lies wholly within the input.
    """
    return (_over_places(kernel) * _by_group(inputs, kernel)).sum(axis=0)


def scale_depthwise_outputs(kernel: Array, scale: Array) -> Array:
    """Scale the outputs of a depthwise kernel, (..., inputs, multiplier).

    Output c * multiplier + m is the m-th of input c.
    """
    return kernel * scale.reshape(kernel.shape[-2:])


def scale_depthwise_inputs(kernel: Array, scale: Array) -> Array:
    """Scale the inputs of a depthwise kernel, (..., inputs, multiplier)."""
    return kernel * scale[:, np.newaxis]


def depthwise_response(kernel: Array, inputs: Array) -> Array:
    """Return what a depthwise kernel makes of inputs that are the same everywhere."""
    return scale_depthwise_inputs(_over_places(kernel), inputs).reshape(-1)


def scale_transposed_outputs(kernel: Array, scale: Array) -> Array:
    """Scale the outputs of a transposed convolution, whose kernel is (..., outputs, inputs)."""
    return kernel * scale[:, np.newaxis]


def scale_transposed_inputs(kernel: Array, scale: Array) -> Array:
    """Scale the inputs of a transposed convolution, whose kernel is (..., outputs, inputs)."""
    return kernel * scale


def transposed_response(kernel: Array, inputs: Array) -> Array:
    """Return what a transposed convolution of one place makes of inputs that are all the same.

    With more places than one the answer would differ from place to place.
    """
    return _over_places(kernel) @ inputs


def _over_places(kernel: Array) -> Array:
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)))


def _by_group(values: Array, kernel: Array) -> Array:
    """Return values by (input of the group, output), from those by input."""
    inputs, outputs = kernel.shape[-2:]
    groups = values.size // inputs
    return np.repeat(values.reshape(groups, inputs), outputs // groups, axis=0).T


class Weights(NamedTuple):
    """Kernels and bias of a layer, float64; the bias is zero where the layer has none.

    Attributes:
        kernels: those of a separable convolution are the depthwise and the pointwise one.
        bias: shape (outputs,).
        has_bias: whether the layer has one, or needs one now.
    """

    kernels: tuple[Array, ...]
    bias: Array
    has_bias: bool


@dataclass(frozen=True)
class Kind:
    """How one kind of layer takes a scale in.

    Attributes:
        kernels: the names of the layer's kernels.
        scale_outputs: (kernel, scale) to kernel, for the last of them.
        scale_inputs: likewise, for the first.
        responses: for each kernel, what it makes of inputs that are the same everywhere.
    """

    kernels: tuple[str, ...]
    scale_outputs: Callable[[Array, Array], Array]
    scale_inputs: Callable[[Array, Array], Array]
    responses: tuple[Callable[[Array, Array], Array], ...]

    def read(self, layer: Any) -> Weights:
        """Return the weights of a layer of this kind."""
        kernels = tuple(_array(getattr(layer, name)) for name in self.kernels)
        if layer.bias is not None:
            return Weights(kernels, _array(layer.bias), has_bias=True)
        nothing = np.zeros(channels_of(layer))
        return Weights(kernels, nothing, has_bias=False)

    def after(self, weights: Weights, affine: Affine) -> Weights:
        """Return the weights of a layer followed by a batch norm."""
        *others, last = weights.kernels
        return Weights(
            (*others, self.scale_outputs(last, affine.scale)),
            weights.bias * affine.scale + affine.offset,
            has_bias=True,
        )

    def before(self, weights: Weights, affine: Affine) -> Weights:
        """Return the weights of a layer that comes after a batch norm.

        The bias is right where `offset_obstacle` finds nothing.
        """
        first, *others = weights.kernels
        constant = affine.offset
        for kernel, response in zip(weights.kernels, self.responses, strict=True):
            constant = response(kernel, constant)
        return Weights(
            (self.scale_inputs(first, affine.scale), *others),
            weights.bias + constant,
            has_bias=weights.has_bias or bool(np.any(constant)),
        )


_CONVOLUTION = Kind(("kernel",), scale_outputs, scale_inputs, (response,))
_DEPTHWISE = Kind(
    ("kernel",),
    scale_depthwise_outputs,
    scale_depthwise_inputs,
    (depthwise_response,),
)
_SEPARABLE = Kind(
    ("depthwise_kernel", "pointwise_kernel"),
    scale_outputs,
    scale_depthwise_inputs,
    (depthwise_response, response),
)
_TRANSPOSED = Kind(
    ("kernel",),
    scale_transposed_outputs,
    scale_transposed_inputs,
    (transposed_response,),
)

# By exact class: a subclass may compute something that we do not know.
KINDS: Mapping[type, Kind] = MappingProxyType(
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


def kind_of(layer: Any) -> Kind | None:
    """Return the kind of a layer, or None where it is none that can take a batch norm in."""
    return None if own_call(layer) is not None else KINDS.get(type(layer))


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis on which such a layer has its channels, inputs and outputs alike.

    Args:
        layer: of a kind above.
        rank: of its input.
    """
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def channels_of(layer: Any) -> int:
    """Return how many outputs such a layer has."""
    if isinstance(layer, keras.layers.Dense):
        return layer.units
    if kind_of(layer) is _DEPTHWISE:
        return int(np.prod(layer.kernel.shape[-2:]))
    return layer.filters


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
    if kind_of(layer) is _TRANSPOSED:
        if one_place and set(layer.strides) == {1}:
            return None
        return "spreads its input over places that overlap unevenly"
    if one_place or layer.padding == "valid":
        return None
    return f"pads its input with zeros (padding={layer.padding!r}), which know no offset"


def _array(weight: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float64)
