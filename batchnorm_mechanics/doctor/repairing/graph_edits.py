"""The same model with other calls: without baked training flags, and with shared layers split."""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics.doctor.repairing.plan import Action
from batchnorm_mechanics.doctor.structure.norms import Norm, nodes_in
from batchnorm_mechanics.doctor.structure.wiring import calls_in, graph_of


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """A model built anew.

    Attributes:
        model: with copies of all layers and weights, compiled like the old one if that was.
        split: the new layers, one for each call, by the name of the layer that was shared.
        lost: what could not be carried over, in words.
    """

    model: Any
    split: Mapping[str, tuple[Any, ...]]
    lost: tuple[str, ...]


def obstacle(model: Any, norm: Norm, action: Action) -> str | None:
    """Return why an action that needs the graph cannot be taken at a layer, or None.

    Args:
        model: that holds the layer.
        norm: the layer.
        action: "unflag", "split" or "fold-bias".
    """
    if action == "fold-bias":
        if len(norm.calls) == 1 and calls_in(model)[id(norm.calls[0].before)] == 1:
            return None
        return "it or the layer before it is called more than once"
    if graph_of(model) is None:
        return "the model's own code calls the layer, which only its author can change"
    graphs = _graphs(model)
    if action == "unflag":
        if any(_is_flagged(node, [norm.layer]) for graph in graphs for node in nodes_in(graph)):
            return None
        return "the flag stands within a layer that has its own code"
    if len(norm.calls) < 2:
        return "a model that holds the layer is called on several inputs; split that by hand"
    if any(all(call.graph is not graph for graph in graphs) for call in norm.calls):
        return "one of its calls stands within a sequence, or a layer that has its own code"
    return None


def rebuilt(model: Any, *, unflag: Collection[Norm], split: Collection[Norm]) -> Rebuilt:
    """Build a functional or sequential model anew, with some calls changed.

    Nothing of the old model changes, and the new one shares nothing with it.

    Args:
        model: functional or sequential, nested ones included.
        unflag: layers from whose calls, and from those of models that hold them, `training=...` is
            taken away.
        split: layers that get a copy for each of their calls; the first keeps the name, and the
            others are "name_2" and so on.

    Raises:
        FailureError: a layer cannot be made from its own configuration.
    """
    copies = _Copies(unflag, split)
    new = copies.of(model)
    copies.fill()
    names = {id(norm.layer): norm.name for norm in split}
    by_call = {names[key]: tuple(layers) for key, layers in copies.by_call.items()}
    return Rebuilt(new, MappingProxyType(by_call), _compile_like(model, new))


def _graphs(model: Any) -> list[Any]:
    """Return the graphs whose calls `rebuilt` can change.

    Missing are those within layers that have their own code, and those of sequences of layers, in
    which no call has a flag and no layer has two.
    """
    found: dict[int, Any] = {}

    def visit(layer: Any) -> None:
        graph = graph_of(layer)
        if graph is not None and id(graph) not in found:
            found[id(graph)] = None if isinstance(layer, keras.Sequential) else graph
            for node in nodes_in(graph):
                visit(node.operation)

    visit(model)
    return [graph for graph in found.values() if graph is not None]


def _is_flagged(node: Any, layers: Collection[Any]) -> bool:
    """Whether a call has a training flag that one of the layers obeys."""
    is_layer = isinstance(node.operation, keras.Layer)
    if not is_layer or node.arguments.kwargs.get("training") is None:
        return False
    held = {id(layer) for layer in node.operation._flatten_layers(include_self=True)}
    return any(id(layer) in held for layer in layers)


class _Copies:
    """The copies of layers and models, each made once, so that what was shared is shared again."""

    def __init__(self, unflag: Collection[Norm], split: Collection[Norm]) -> None:
        self._unflag = [norm.layer for norm in unflag]
        self._split = {id(norm.layer) for norm in split}
        self._made: dict[int, tuple[Any, Any]] = {}
        self.by_call: dict[int, list[Any]] = {}

    def of(self, layer: Any) -> Any:
        if id(layer) not in self._made:
            graph = graph_of(layer)
            if graph is None:
                copy = _copy_of(layer)
            elif isinstance(layer, keras.Sequential):
                copy = keras.Sequential([self.of(one) for one in layer._layers], name=layer.name)
            else:
                copy = self._of_a_graph(graph)
            self._made[id(layer)] = (layer, copy)
        return self._made[id(layer)][1]

    def _of_a_graph(self, graph: Any) -> Any:
        names = {node.operation.name for node in nodes_in(graph)}
        tensors: dict[int, Any] = {}
        for node in nodes_in(graph):
            if node.is_input:
                outputs = self.of(node.operation).output
            else:
                positional, named = node.arguments.fill_in(tensors)
                if _is_flagged(node, self._unflag):
                    named = {name: value for name, value in named.items() if name != "training"}
                outputs = self._for_call(node.operation, names)(*positional, **named)
            for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = new
        inputs, outputs = (
            keras.tree.map_structure(lambda tensor: tensors[id(tensor)], structure)
            for structure in (graph.input, graph.output)
        )
        return keras.Model(inputs, outputs, name=graph.name)

    def _for_call(self, layer: Any, names: set[str]) -> Any:
        if id(layer) not in self._split:
            return self.of(layer)
        calls = self.by_call.setdefault(id(layer), [])
        copy = self.of(layer) if not calls else _copy_of(layer, name=_unused(layer.name, names))
        calls.append(copy)
        return copy

    def fill(self) -> None:
        """Give the copies their weights and flags."""
        made = list(self._made.values())
        # A model's flag is handed down to all in it, which come into their own after it.
        for model, copy in reversed([pair for pair in made if graph_of(pair[0]) is not None]):
            copy.trainable = model.trainable
        for layer, copy in made:
            if graph_of(layer) is not None or not isinstance(layer, keras.Layer):
                continue
            for one in self.by_call.get(id(layer), [copy]):
                one.set_weights(layer.get_weights())
                pairs = zip(layer._flatten_layers(), one._flatten_layers(), strict=True)
                for old, new in pairs:
                    new.trainable = old.trainable
                    _copy_state(old, new)


def _unused(name: str, names: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in names:
        number += 1
    names.add(f"{name}_{number}")
    return f"{name}_{number}"


def _copy_of(layer: Any, **settings: Any) -> Any:
    """Return a layer or operation with the same settings, still without weights."""
    # Its configuration holds Python code, which Keras runs only when it is told to; here the
    # function is at hand.
    if type(layer) is keras.layers.Lambda:
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
        )
    try:
        return type(layer).from_config({**layer.get_config(), **settings})
    except Exception as error:
        raise FailureError(
            f"repair: the graph cannot be built anew: the layer {layer.name!r} of class "
            f"{type(layer).__name__} cannot be made by `get_config` and `from_config`. "
            f"It said: {error}. The model is as it was."
        ) from error


def _copy_state(layer: Any, copy: Any) -> None:
    """Copy what a preprocessing layer holds besides weights."""
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)
    elif hasattr(layer, "finalize_state") and layer.built:
        copy.finalize_state()


def _compile_like(model: Any, copy: Any) -> tuple[str, ...]:
    """Compile a model like another, the optimizer's state included; return what was lost."""
    if not model.compiled:
        return ()
    try:
        copy.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        (first, *_) = str(error).splitlines() or [""]
        return (f"the new model is not compiled, since its settings cannot be copied: {first}",)
    old, new = model.optimizer, copy.optimizer
    if old is None or not old.built:
        return ()
    shapes = [[tuple(weight.shape) for weight in of.variables] for of in (old, new)]
    if shapes[0] != shapes[1]:
        new.iterations.assign(old.iterations)
        return ("the optimizer's state, but for the number of steps",)
    for before, after in zip(old.variables, new.variables, strict=True):
        after.assign(before)
    return ()
