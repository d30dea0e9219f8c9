"""The batch norm layers of a model: where they are, what they hold, and how graphs call them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics.layers import BatchNormalization

Vector = NDArray[np.float64]

KINDS = (keras.layers.BatchNormalization, BatchNormalization)


@dataclass(frozen=True, eq=False)
class Call:
    """How a functional graph calls a layer.

    Attributes:
        before: the layer or operation that makes the input; None where it is the graph's own.
        training: the flag baked into the call; None where there is none.
        shape: of the input, None where a size is not known.
        node: Keras's record of the call.
        graph: the functional model that it belongs to.
    """

    before: Any
    training: bool | None
    shape: tuple[int | None, ...]
    node: Any
    graph: Any


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm layer, Keras's or ours.

    Attributes:
        name: its path in the model, as "encoder/bn_1"; of several with one path, the second is
            "encoder/bn_1 (2)".
        layer: the layer itself, with weights.
        calls: how functional graphs within the model call it; none in a subclassed model.
    """

    name: str
    layer: Any
    calls: tuple[Call, ...]

    @property
    def mean(self) -> Vector:
        """The moving mean, float64 of shape (channels,)."""
        return _vector(self.layer.moving_mean)

    @property
    def variance(self) -> Vector:
        """The moving variance, likewise; biased with Keras and by default with ours."""
        return _vector(self.layer.moving_variance)

    @property
    def gamma(self) -> Vector | None:
        """Gamma likewise, or None where the layer does not scale."""
        return None if self.layer.gamma is None else _vector(self.layer.gamma)

    @property
    def beta(self) -> Vector | None:
        """Beta likewise, or None where the layer does not shift."""
        return None if self.layer.beta is None else _vector(self.layer.beta)

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return int(self.layer.moving_mean.shape[0])

    @property
    def momentum(self) -> float | None:
        """The weight of the old value in its moving average; None where the policy is no such."""
        if isinstance(self.layer, BatchNormalization):
            return getattr(self.layer.policy, "decay", None)
        return float(self.layer.momentum)

    @property
    def renorm(self) -> bool:
        """Whether the layer is one of batch renormalization, which derives its moving variance."""
        return bool(getattr(self.layer, "renorm", False))


def _vector(weight: Any) -> Vector:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float64)


def norms_in(model: Any) -> tuple[Norm, ...]:
    """Return the batch norm layers of a model that have weights, nested ones included.

    Args:
        model: any Keras model or layer.

    Returns:
        Each layer once, in the order in which the model tracks its layers, which is that of the
        graph for functional and sequential models.

    Example:
        >>> inner = keras.Sequential(
        ...     [keras.layers.Input((4,)), keras.layers.BatchNormalization(name="bn")], name="inner"
        ... )
        >>> model = keras.Sequential([keras.layers.Input((4,)), inner])
        >>> [(norm.name, norm.channels) for norm in norms_in(model)]
        [('inner/bn', 4)]
    """
    calls = _calls_in(model)
    found: dict[int, Norm] = {}
    names: set[str] = set()
    for path, layer in _walk(model, ""):
        if not isinstance(layer, KINDS) or layer.moving_mean is None or id(layer) in found:
            continue
        name, number = path, 1
        while name in names:
            number += 1
            name = f"{path} ({number})"
        names.add(name)
        found[id(layer)] = Norm(name, layer, tuple(calls.get(id(layer), ())))
    return tuple(found.values())


def _walk(layer: Any, prefix: str, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield the paths of all layers below one, those that it holds more than once too."""
    if id(layer) in seen:
        return
    if not prefix and isinstance(layer, KINDS):
        yield layer.name, layer
    # A sequential model holds, besides its layers, the functional one that Keras makes of them.
    children = layer.layers if isinstance(layer, keras.Sequential) else layer._layers
    for child in children:
        if not isinstance(child, keras.Layer):
            continue
        path = f"{prefix}{child.name}"
        yield path, child
        yield from _walk(child, f"{path}/", seen | {id(layer)})


def graphs_in(model: Any) -> tuple[Any, ...]:
    """Return the functional graphs in a model: itself, nested ones, and those of sequential models.

    Args:
        model: any Keras model or layer.
    """
    layers = model._flatten_layers(include_self=True, recursive=True)
    graphs = [graph for layer in layers if (graph := functional_of(layer)) is not None]
    return tuple({id(graph): graph for graph in graphs}.values())


def functional_of(layer: Any) -> Any | None:
    """Return the functional graph that a model is, or that Keras made of a sequence, or None."""
    graph = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else layer
    return graph if isinstance(graph, keras.Model) and hasattr(graph, "_nodes_by_depth") else None


def nodes_in(graph: Any) -> tuple[Any, ...]:
    """Return the calls of which a functional graph consists, in an order in which they can run."""
    by_depth = graph._nodes_by_depth
    return tuple(node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth])


def _calls_in(model: Any) -> dict[int, list[Call]]:
    calls: dict[int, list[Call]] = {}
    for graph in graphs_in(model):
        for node in nodes_in(graph):
            if not isinstance(node.operation, KINDS):
                continue
            (tensor, *_) = node.input_tensors
            before = tensor._keras_history.operation
            calls.setdefault(id(node.operation), []).append(
                Call(
                    before=None if isinstance(before, keras.layers.InputLayer) else before,
                    training=node.arguments.kwargs.get("training"),
                    shape=tuple(tensor.shape),
                    node=node,
                    graph=graph,
                )
            )
    return calls
