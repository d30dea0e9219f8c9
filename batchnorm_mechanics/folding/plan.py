"""Which batch norm goes into which layer, past which others, and which stays and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np

from batchnorm_mechanics._keras import layers_in, nodes_in, own_variables
from batchnorm_mechanics.layers.intercept import own_call
from batchnorm_mechanics.models.linear import (
    Affine,
    Array,
    Weights,
    activation_of,
    affine_of,
    channel_axis,
    obstacle,
    offset_obstacle,
    read,
    takes_a_norm,
)
from batchnorm_mechanics.models.norms import Norm, calls_in, norms_in
from batchnorm_mechanics.models.wiring import (
    Wiring,
    baked_training,
    graph_of,
    graphs_reached,
    method_of_its_own,
)

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


@dataclass(frozen=True)
class FoldPlan:
    """What folding does to a model.

    Attributes:
        weights: by id of a layer, its new weights in float64.
        folded: ids of the batch norm layers that go.
        left: by path of each other batch norm layer, why it stays.
        is_undefined: whether a layer gives no number whatever it gets: a batch norm whose scale or
            offset in inference is not finite, or another layer with NaN.
    """

    weights: Mapping[int, Weights]
    folded: frozenset[int]
    left: Mapping[str, str]
    is_undefined: bool = False


def tolerance_of(dtype: str) -> float:
    """Return how far, relatively, a model that computes in a dtype may move when it is folded.

    Two equal sums in another order differ by some units in the last place, and layers add that up:
    1e-4 for float32, 16 units for what is coarser. Some deep models add up more: `fold` measures.
    """
    return max(1e-4, 16 * float(ml_dtypes.finfo(dtype).eps))


def plan_of(model: Any) -> FoldPlan:
    """Decide what to fold in a model.

    Args:
        model: a functional or sequential Keras model, with weights.
    """
    return _Planner(model).plan()


class _Closed(NamedTuple):
    """A call of a model within the model which no batch norm goes into or out of."""

    node: Any
    graph: Any
    reason: str


def _why_closed(node: Any, graph: Any, calls: int) -> str | None:
    """Return why what is beside a model within the model cannot take in what is in it, or None."""
    if calls > 1:
        return f"is called {calls} times"
    if len(node.input_tensors) != 1 or len(graph.inputs) != 1:
        return "has several inputs"
    (given,), (taken,) = node.input_tensors, graph.inputs
    if given.dtype != taken.dtype or len(given.shape) != len(taken.shape):
        return "takes its input in another type or shape"
    return None


class _Planner:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.norms = norms_in(model)
        self.reached = {id(reached.graph): reached for reached in graphs_reached(model)}
        self.calls = {key: len(calls) for key, calls in calls_in(model).items()}
        self.wiring = Wiring(*(reached.graph for reached in self.reached.values()))
        self.closed: list[_Closed] = []
        self.weights: dict[int, Weights] = {}
        nodes = {node: one for one in self.reached.values() for node in nodes_in(one.graph)}
        for node, reached in nodes.items():
            within = graph_of(node.operation)
            if within is not None:
                reason = _why_closed(node, within, self.calls[id(node.operation)])
                if reason is None:
                    self.wiring.enter(node, within)
                else:
                    self.closed.append(_Closed(node, within, reason))
            elif is_identity(node, training=reached.training):
                self.wiring.bridge(node)

    def plan(self) -> FoldPlan:
        reasons = {norm.name: self._reason_to_stay(norm) for norm in self.norms}
        waiting = [norm for norm in self.norms if reasons[norm.name] is None]
        folded: set[int] = set()
        # Each norm that goes can bring another one next to a layer that takes it: go round until
        # nothing changes.
        while waiting:
            reasons |= {norm.name: self._fold(norm) for norm in waiting}
            gone = {id(norm.layer) for norm in waiting if reasons[norm.name] is None}
            if not gone:
                break
            folded |= gone
            waiting = [norm for norm in waiting if id(norm.layer) not in gone]
        left = {name: reason for name, reason in reasons.items() if reason is not None}
        return FoldPlan(
            MappingProxyType(self.weights),
            frozenset(folded),
            MappingProxyType(left),
            is_undefined=self._is_undefined(),
        )

    def _is_undefined(self) -> bool:
        # Whatever flag a call has: Keras predicts by the moving statistics.
        if not all(np.isfinite(_affine(norm)).all() for norm in self.norms):
            return True
        norms = {id(norm.layer) for norm in self.norms}
        others = [layer for layer in layers_in(self.model) if id(layer) not in norms]
        weights = [one for layer in others for one in own_variables(layer) if "float" in one.dtype]
        numbers = (np.asarray(keras.ops.convert_to_numpy(one), np.float64) for one in weights)
        return any(np.isnan(one).any() for one in numbers)

    def _reason_to_stay(self, norm: Norm) -> str | None:
        """Return why a norm cannot go, whatever stands beside it."""
        if not norm.calls or any(id(call.graph) not in self.reached for call in norm.calls):
            container = norm.name.rpartition("/")[0]
            within = f" of {container}" if container else ""
            return f"it is called by Python code{within}, which cannot be rewritten"
        call, *others = norm.calls
        if others:
            return f"it is called {len(norm.calls)} times, and would have to go into several layers"
        if method := method_of_its_own(norm.layer, ("__call__", "build", "call")):
            return f"it has a `{method}` of its own, which may compute something else"
        if norm.layer.trainable and (
            baked_training(call.node) or self.reached[id(call.graph)].training
        ):
            return "training=True is baked into its call, so it normalizes by the batch"
        if not np.isfinite(_affine(norm)).all():
            return "its statistics, gamma or beta are not finite, or its variance is negative"
        return None

    def _fold(self, norm: Norm) -> str | None:
        """Put a norm into a layer beside it, or return why neither takes it."""
        before = self._into_previous(norm)
        if before is not None:
            after = self._into_next(norm)
            if after is not None:
                return f"before it: {before}; after it: {after}"
        self.wiring.bridge(norm.calls[0].node)
        return None

    def _into_previous(self, norm: Norm) -> str | None:
        tensor = self.wiring.origin(norm.calls[0].node.input_tensors[0])
        layer = self.wiring.source(tensor)
        if layer is None:
            return self._outside(tensor)
        users = self.wiring.users(tensor)
        reason = self._reason_against(norm, layer, _placed(norm))
        if reason is None and (activation := activation_of(layer)) is not None:
            reason = f"has the activation {activation}"
        if reason is None and (users.is_output or len(users.nodes) > 1):
            reason = "has an output that is used elsewhere too"
        if reason is None:
            reason = self._take(layer, self._weights_of(layer).followed_by(_affine(norm)))
        return None if reason is None else f"{layer.name} {reason}"

    def _outside(self, tensor: Any) -> str:
        """Say what is before an input, and why it cannot be reached."""
        closed = [one for one in self.closed if any(tensor is entry for entry in one.graph.inputs)]
        if not closed:
            return "nothing but the input"
        sources = (self.wiring.source(given) for one in closed for given in one.node.input_tensors)
        names = dict.fromkeys("the input" if one is None else one.name for one in sources)
        within = f"{closed[0].node.operation.name}, which {closed[0].reason}"
        return f"{', '.join(names)}, outside of {within}"

    def _into_next(self, norm: Norm) -> str | None:
        placed, whose = _placed(norm), "its"
        tensor = norm.calls[0].node.output_tensors[0]
        while True:
            users = self.wiring.users(tensor)
            if users.is_output:
                ends = (
                    f"of {one.node.operation.name}, which {one.reason}"
                    for one in self.closed
                    if any(tensor is self.wiring.origin(end) for end in one.graph.outputs)
                )
                where = next(ends, "of the model's")
                return f"{whose} output is one {where}"
            if len(users.nodes) != 1:
                return f"{whose} output is used {len(users.nodes)} times"
            (node,) = users.nodes
            layer = node.operation
            moved = moved_past(node, placed)
            if moved is None:
                break
            placed, whose, tensor = moved, f"{layer.name}'s", node.output_tensors[0]
        reason = (
            self._reason_against(norm, layer, placed)
            or offset_obstacle(layer, placed.affine)
            or _digits_lost(norm, layer)
        )
        if reason is None:
            reason = self._take(layer, self._weights_of(layer).preceded_by(placed.affine))
        return None if reason is None else f"{layer.name} {reason}"

    def _reason_against(self, norm: Norm, layer: Any, placed: Placed) -> str | None:
        """Return why a layer beside a norm can take no norm in, or not this one."""
        if not takes_a_norm(layer):
            return f"({type(layer).__name__}) is no layer that takes it in"
        if self.calls[id(layer)] > 1:
            return f"is called {self.calls[id(layer)]} times"
        if reason := obstacle(layer):
            return reason
        theirs = channel_axis(layer, placed.rank)
        if placed.axis != theirs:
            return f"has its channels on axis {theirs}, it on axis {placed.axis}"
        if layer.compute_dtype != norm.layer.compute_dtype:
            return f"computes in {layer.compute_dtype}, it in {norm.layer.compute_dtype}"
        return None

    def _weights_of(self, layer: Any) -> Weights:
        return self.weights.get(id(layer)) or read(layer)

    def _take(self, layer: Any, weights: Weights) -> str | None:
        """Keep new weights of a layer, or return why it cannot have them."""
        largest = float(ml_dtypes.finfo(layer.compute_dtype).max)
        if any(np.any(np.abs(part) > largest) for part in (*weights.kernels, weights.bias)):
            return f"would need weights beyond the range of {layer.compute_dtype}"
        self.weights[id(layer)] = weights
        return None


def _affine(norm: Norm) -> Affine:
    return affine_of(norm.mean, norm.variance, norm.gamma, norm.beta, norm.layer.epsilon)


def _placed(norm: Norm) -> Placed:
    rank = len(norm.calls[0].shape)
    return Placed(_affine(norm), norm.layer.axis % rank, rank)


def _digits_lost(norm: Norm, layer: Any) -> str | None:
    """Return why the next layer would compute too coarsely on what is not normalized, or None.

    It would sum numbers of the size of the mean to get one of the size of the deviation. The layer
    before a norm has done that already, so there the question does not arise.
    """
    if "float" not in norm.calls[0].node.input_tensors[0].dtype:
        return "would get integers"
    times = float(np.max(np.abs(norm.mean) / np.sqrt(norm.variance + norm.layer.epsilon)))
    dtype = layer.compute_dtype
    if times * float(ml_dtypes.finfo(dtype).eps) > tolerance_of(dtype) / 4:
        return f"would lose digits in {dtype}: its mean is up to {times:.3g} times the deviation"
    return None


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
        if placed.axis != channel_axis(layer, placed.rank):
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
