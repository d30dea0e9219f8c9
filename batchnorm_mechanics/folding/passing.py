"""Past which layers a scale and an offset can be moved, and what becomes of them on the way."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import keras
import numpy as np

from batchnorm_mechanics.folding.reasons import Reason, about, not_taken
from batchnorm_mechanics.layers.intercept import own_call
from batchnorm_mechanics.models.linear import Affine, Array, channel_axis
from batchnorm_mechanics.models.wiring import baked_training

L = keras.layers
Shape = tuple[int | None, ...]

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
_GLOBAL_AVERAGES = frozenset(
    {L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D}
)
# What each place of their output is, is a mean of places of the input, by weights that sum to 1. At
# a border, averages leave the padding out, and interpolation repeats the last place.
_MEANS = frozenset(
    {
        *(L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D),
        *(L.UpSampling1D, L.UpSampling2D, L.UpSampling3D),
        *(L.Cropping1D, L.Cropping2D, L.Cropping3D),
    }
)
_PADDINGS = frozenset({L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D})
_INTERPOLATIONS = ("nearest", "bilinear")


class Placed(NamedTuple):
    """A scale and an offset, and where in a tensor they apply.

    Attributes:
        scale: float64, of as many axes as the tensor without that of the samples; of size 1 along
            those on which it is the same everywhere.
        offset: likewise, of the same shape.
    """

    scale: Array
    offset: Array

    @property
    def axes(self) -> tuple[int, ...]:
        """On which axes of the tensor they vary, that of the samples being 0."""
        return tuple(axis for axis, size in enumerate(self.scale.shape, 1) if size > 1)

    def within_steps(self) -> "Placed | None":
        """Return the same without the axis of steps, the first; None where they vary along it."""
        return None if 1 in self.axes else Placed(self.scale[0], self.offset[0])

    def over_steps(self) -> "Placed":
        """Return the same with an axis of steps before the others."""
        return Placed(self.scale[None], self.offset[None])

    def along(self, axis: int, size: int) -> Affine:
        """Return one scale and one offset for each place of the only axis on which they vary.

        Args:
            axis: that of the samples being 0.
            size: of the tensor there.
        """
        one, other = (np.moveaxis(part, axis - 1, -1).reshape(-1) for part in self)
        return Affine(np.broadcast_to(one, size), np.broadcast_to(other, size))


def placed(affine: Affine, axis: int, rank: int) -> Placed:
    """Return where a batch norm applies its scale and offset.

    Args:
        affine: by channel.
        axis: of the channels, that of the samples being 0.
        rank: of the tensor, the axis of samples included.

    Example:
        >>> norm = placed(Affine(np.ones(3), np.arange(3.0)), axis=3, rank=4)
        >>> norm.offset.shape, norm.axes
        ((1, 1, 3), (3,))
    """
    shape = [1] * (rank - 1)
    shape[axis - 1] = -1
    return _compact(*(part.reshape(shape) for part in affine))


def _compact(scale: Array, offset: Array) -> Placed:
    """Return both with size 1 wherever neither varies."""
    for axis in range(scale.ndim):
        first = [part.take([0], axis) for part in (scale, offset)]
        if np.array_equal(scale, np.broadcast_to(first[0], scale.shape)) and np.array_equal(
            offset, np.broadcast_to(first[1], offset.shape)
        ):
            scale, offset = first
    return Placed(scale, offset)


def is_identity(node: Any, *, training: bool) -> bool:
    """Say whether a call returns its input in inference.

    Args:
        node: the call.
        training: whether its graph runs in training mode.

    Example:
        >>> from batchnorm_mechanics._keras import origin_of
        >>> x = keras.Input((3,))
        >>> y = keras.layers.Dropout(0.5)(x)
        >>> node = origin_of(y).node
        >>> is_identity(node, training=False), is_identity(node, training=True)
        (True, False)
    """
    if training or baked_training(node) or not _keeps_dtype(node):
        return False
    layer = step_of(node.operation) or node.operation
    if _is(layer, frozenset({L.Activation})):
        return layer.activation is keras.activations.linear
    return _is(layer, _IDENTITIES)


def step_of(operation: Any) -> Any | None:
    """Return the layer that a `TimeDistributed` calls for each step; None of all else."""
    return operation.layer if _is(operation, frozenset({L.TimeDistributed})) else None


def moved(node: Any, what: Placed, *, back: bool) -> Placed | Reason:
    """Return what does on one side of a call what a scale and an offset do on the other.

    Args:
        node: the call.
        what: behind it if `back`, else before it.
        back: whether it is to be moved to before the call.

    Returns:
        What does the same on the other side; or why nothing does, or nothing that is known.
    """
    if not _keeps_dtype(node):
        return not_taken(node.operation)
    (given,), (made,) = node.input_tensors, node.output_tensors
    found = _moved(node.operation, what, tuple(given.shape[1:]), tuple(made.shape[1:]), back)
    return (
        about(node.operation, found)
        if isinstance(found, str)
        else found or not_taken(node.operation)
    )


def _moved(
    layer: Any, what: Placed, before: Shape, after: Shape, back: bool
) -> Placed | str | None:
    """Return what `moved` does, a reason without the layer's name, or None of an unknown layer."""
    if (step := step_of(layer)) is not None:
        within = what.within_steps()
        if within is None:
            return "does the same at each step, which it does not"
        found = _moved(step, within, before[1:], after[1:], back)
        return found.over_steps() if isinstance(found, Placed) else found
    if _is(layer, _GLOBAL_AVERAGES | _MEANS | _PADDINGS):
        return _mixed(layer, what, len(before), back)
    if _is(layer, frozenset({L.Permute})):
        order = np.array(layer.dims) - 1
        return Placed(*(part.transpose(np.argsort(order) if back else order) for part in what))
    if _is(layer, frozenset({L.Flatten, L.Reshape})):
        return _reshaped(layer, what, before, after, back)
    return None


def _mixed(layer: Any, what: Placed, rank: int, back: bool) -> Placed | str | None:
    """Return what is moved past a layer that makes each place of several, or of none."""
    if getattr(layer, "interpolation", "nearest") not in _INTERPOLATIONS:
        return None
    axis = channel_axis(layer, rank + 1)
    shape = [1] * rank
    shape[axis - 1] = -1
    if _is(layer, _GLOBAL_AVERAGES) and not layer.keepdims:
        if back:
            return Placed(*(part.reshape(shape) for part in what))
        return _unless(set(what.axes) - {axis}, Placed(*(part.reshape(-1) for part in what)))
    if _is(layer, _PADDINGS) and np.any(what.offset):
        return "pads with zeros, which know no offset"
    return _unless(set(what.axes) - {axis}, what)


def _unless(varying: set[int], what: Placed) -> Placed | str:
    return "joins or moves places that it scales differently" if varying else what


def _reshaped(layer: Any, what: Placed, before: Shape, after: Shape, back: bool) -> Placed | str:
    turns = getattr(layer, "data_format", None) == "channels_first" and len(before) > 1
    # The order of the axes in which the numbers lie when they get their new shape.
    order = (*range(1, len(before)), 0) if turns else tuple(range(len(before)))
    sizes = tuple(before[axis] for axis in order)
    parts = what if back else Placed(*(part.transpose(order) for part in what))
    old, new = (after, sizes) if back else (sizes, after)
    found = _in_shape(parts, old, new)
    if found is None:
        return "gives another shape to sizes that are left open"
    return Placed(*(part.transpose(np.argsort(order)) for part in found)) if back else found


def _in_shape(what: Placed, old: Shape, new: Shape) -> Placed | None:
    """Return what varies over one shape as it does over another of the same numbers."""
    if not what.axes:
        return Placed(*(part.reshape((1,) * len(new)) for part in what))
    # The last axis varies fastest, so that what it alone decides is left as it is.
    if what.axes == (len(old),) and new and old[-1] == new[-1] and old[-1] is not None:
        return Placed(*(part.reshape(*(1,) * (len(new) - 1), -1) for part in what))
    if None in old or None in new or prod(old) != prod(new):  # type: ignore[arg-type]
        return None
    return _compact(*(np.broadcast_to(part, old).reshape(new) for part in what))  # type: ignore[arg-type]


def _is(layer: Any, kinds: frozenset[Callable[..., Any]]) -> bool:
    return type(layer) in kinds and own_call(layer) is None


def _keeps_dtype(node: Any) -> bool:
    """Say whether a call takes one tensor and gives one, of the same type of numbers."""
    if len(node.input_tensors) != 1 or len(node.output_tensors) != 1:
        return False
    return node.input_tensors[0].dtype == node.output_tensors[0].dtype
