"""What a batch norm can be moved past: layers that do nothing in inference, or commute with it."""

from typing import Any, NamedTuple

import keras
import numpy as np

from batchnorm_mechanics.doctor.folding.arithmetic import Affine, Array
from batchnorm_mechanics.doctor.structure.wiring import baked_training
from batchnorm_mechanics.layers.intercept import own_call

L = keras.layers

# By exact class: a subclass may compute something that we do not know.
_IDENTITIES = frozenset(
    {
        L.Identity,
        L.ActivityRegularization,
        L.Dropout,
        L.SpatialDropout1D,
        L.SpatialDropout2D,
        L.SpatialDropout3D,
        L.AlphaDropout,
        L.GaussianDropout,
        L.GaussianNoise,
    }
)
_AVERAGES = frozenset(
    {L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D}
)


class Placed(NamedTuple):
    """A scale and an offset, and where they apply.

    Attributes:
        affine: one scale and one offset for each place of the axis.
        axis: on which they lie, counted from 0.
        rank: of the tensor, the axis of samples included.
    """

    affine: Affine
    axis: int
    rank: int


def is_identity(node: Any, *, training: bool) -> bool:
    """Say whether a call returns its input in inference.

    Args:
        node: the call.
        training: whether its graph runs in training mode.

    Example:
        >>> x = keras.Input((3,))
        >>> y = keras.layers.Dropout(0.5)(x)
        >>> (node,) = y._keras_history.operation._inbound_nodes
        >>> is_identity(node, training=False), is_identity(node, training=True)
        (True, False)
    """
    layer = node.operation
    if training or baked_training(node) or not _keeps_dtype(node):
        return False
    if _is(layer, frozenset({L.Activation})):
        return layer.activation is keras.activations.linear
    return _is(layer, _IDENTITIES)


def moved_past(node: Any, placed: Placed) -> Placed | None:
    """Return what, applied after a call, does what `placed` does before it, or None.

    A mean over places is linear, and its weights sum to 1. Flattening gives each place and channel
    a place of its own.
    """
    if not _keeps_dtype(node):
        return None
    layer, (tensor,) = node.operation, node.input_tensors
    if _is(layer, _AVERAGES):
        channels = 1 if layer.data_format == "channels_first" else placed.rank - 1
        if placed.axis != channels:
            return None
        return placed if layer.keepdims else Placed(placed.affine, axis=1, rank=2)
    shape = tuple(tensor.shape[1:])
    in_order = _is(layer, frozenset({L.Flatten})) and layer.data_format == "channels_last"
    if not in_order or placed.axis == 0 or None in shape:
        return None

    def spread(values: Array) -> Array:
        after = placed.rank - 1 - placed.axis
        return np.broadcast_to(values.reshape(-1, *(1,) * after), shape).reshape(-1)

    return Placed(Affine(*map(spread, placed.affine)), axis=1, rank=2)


def _is(layer: Any, kinds: frozenset[type]) -> bool:
    return type(layer) in kinds and own_call(layer) is None


def _keeps_dtype(node: Any) -> bool:
    """Say whether a call takes one tensor and gives one, of the same type of numbers."""
    if len(node.input_tensors) != 1 or len(node.output_tensors) != 1:
        return False
    return node.input_tensors[0].dtype == node.output_tensors[0].dtype
