"""The same model with other calls: without baked training flags, and with shared layers split."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.repairing.plan import Action
from batchnorm_mechanics.doctor.structure.copies import Edits, copied
from batchnorm_mechanics.doctor.structure.layer_copies import at_hand
from batchnorm_mechanics.doctor.structure.norms import Norm, nodes_in
from batchnorm_mechanics.doctor.structure.wiring import (
    calls_in,
    graph_of,
    graphs_reached,
    method_of_its_own,
)


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
    graphs = _editable(model)
    if action == "unflag":
        if any(_is_flagged(node, [norm.layer]) for graph in graphs for node in nodes_in(graph)):
            return None
        return "the flag stands within a layer that has its own code"
    if len(norm.calls) < 2:
        return "a model that holds the layer is called on several inputs; split that by hand"
    if any(all(call.graph is not graph for graph in graphs) for call in norm.calls):
        return "one of its calls stands within a sequence, or a layer that has its own code"
    return None


def why_no_copy(model: Any) -> str | None:
    """Return why a model cannot be built anew at all, or None: the only way to know is to try."""
    try:
        copied(model, caller="repair")
    except InputError as error:
        return f"its graph cannot be built anew: {str(error).partition('Received: ')[2]}"
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
        InputError: a layer cannot be copied.
    """
    flagged = frozenset(
        id(node)
        for graph in _editable(model)
        for node in nodes_in(graph)
        if _is_flagged(node, [norm.layer for norm in unflag])
    )
    edits = Edits(unflagged=flagged, split=frozenset(id(norm.layer) for norm in split))
    new = copied(model, edits, caller="repair")
    by_call = {norm.name: new.of[id(norm.layer)] for norm in split}
    lost = (*new.lost, *_compile_like(model, new.model))
    return Rebuilt(new.model, MappingProxyType(by_call), lost)


def _editable(model: Any) -> list[Any]:
    """Return the graphs whose calls `rebuilt` can change.

    Missing are those within layers that have their own code, and those of sequences of layers, in
    which no call has a flag and no layer has two.
    """
    return [reached.graph for reached in graphs_reached(model) if not reached.is_sequence]


def _is_flagged(node: Any, layers: Collection[Any]) -> bool:
    """Whether a call has a training flag that one of the layers obeys."""
    is_layer = isinstance(node.operation, keras.Layer)
    if not is_layer or node.arguments.kwargs.get("training") is None:
        return False
    held = {id(layer) for layer in node.operation._flatten_layers(include_self=True)}
    return any(id(layer) in held for layer in layers)


def _compile_like(model: Any, copy: Any) -> tuple[str, ...]:
    """Compile a model like another, the optimizer's state included; return what was lost."""
    if not model.compiled:
        return ()
    if method_of_its_own(model, ("compile",)) and not method_of_its_own(
        model, ("compile_from_config",)
    ):
        return ("the new model is not compiled, since its class has a `compile` of its own",)
    try:
        with at_hand(keras.tree.flatten(dict(model._compile_config.config))):
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
