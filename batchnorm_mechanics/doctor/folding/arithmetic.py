"""Batch norm in inference as one scale and one offset, and how kernels take them in: NumPy alone.

Everything is float64, so that what is merged is rounded once, when it is stored.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
