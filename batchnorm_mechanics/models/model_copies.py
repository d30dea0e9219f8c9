"""A new model like another, with copies of its layers and some of them, or of their calls, other.

Keras's `clone_model` leaves weights, flags and seeds behind, copies what was shared within models
several times, and cannot copy a layer with a function of one's own.
"""

import inspect
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import direct_layers, nodes_in, own_variables, takes_training
from batchnorm_mechanics.models.compiling import compile_like
from batchnorm_mechanics.models.layer_copies import copy_of, fill, naming
from batchnorm_mechanics.models.wiring import graph_of, held_by


@dataclass(frozen=True)
class Edits:
    """What a copy has other than its original, by the ids of the original's layers and calls.

    Attributes:
        left_out: layers whose calls go: their input, one tensor, stands for their output.
        settings: layers with other settings, in the graph or of a `TimeDistributed` in it; they get
            no weights, since those may not fit.
        flags: the `training` that calls get in place of their own; None for none at all.
        split: layers with a copy for each of their calls, in models that are called several times
            and for each step of `TimeDistributed` too. Such models become a part of the graph that
            calls them, in which all else of them stays shared: two models with layers in common
            cannot be saved. The first copy keeps the name, the others are "name_2" and so on.
        exchanged: layers in whose place another one stands, which is taken as it is.
    """

    left_out: Collection[int] = frozenset()
    settings: Mapping[int, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    flags: Mapping[int, bool | None] = field(default_factory=lambda: MappingProxyType({}))
    split: Collection[int] = frozenset()
    exchanged: Mapping[int, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __or__(self, other: "Edits") -> "Edits":
        """Return the edits of both."""
        return Edits(
            frozenset(self.left_out) | frozenset(other.left_out),
            MappingProxyType({**self.settings, **other.settings}),
            MappingProxyType({**self.flags, **other.flags}),
            frozenset(self.split) | frozenset(other.split),
            MappingProxyType({**self.exchanged, **other.exchanged}),
        )


@dataclass(frozen=True, eq=False)
class Copied:
    """A copy of a model.

    Attributes:
        model: the copy. Nothing in it is the original's.
        of: by id of each layer of the original, its copies: one, or as many as calls if it was
            split.
        lost: what could not be taken along, in sentences.
    """

    model: Any
    of: Mapping[int, tuple[Any, ...]]
    lost: tuple[str, ...]


def copied(model: Any, edits: Edits | None = None, *, caller: str) -> Copied:
    """Copy a functional or sequential model, and the models and layers in it.

    Weights, seeds of random numbers, types of numbers, and what is frozen are the same, down to
    single weights; names and the structure of inputs and outputs too. What is shared within the
    model is shared within the copy. A subclass stays what it is if its constructor takes what
    Keras's does.

    Args:
        model: functional or sequential, and built.
        edits: what shall be other than in the original; None for nothing.
        caller: the function to name in an error.

    Raises:
        InputError: a layer cannot be copied; the message says which, and why.

    Example:
        >>> layer = keras.layers.Dense(2, name="dense")
        >>> model = keras.Sequential([keras.layers.Input((3,)), layer, keras.layers.ReLU()])
        >>> (copy,) = copied(model, caller="fold").of[id(layer)]
        >>> copy.name, copy is layer, bool((copy.kernel == layer.kernel).numpy().all())
        ('dense', False, True)
    """
    copies = _Copies(Edits() if edits is None else edits, caller)
    new = copies.of(model)
    copies.fill()
    of = {key: tuple(made) for key, (_, made) in copies.made.items()}
    lost = dict.fromkeys((*copies.lost, *copies.untied()))
    return Copied(new, MappingProxyType(of | copies.steps), tuple(lost))


def rebuilt(model: Any, edits: Edits, *, caller: str) -> Copied:
    """Copy a functional or sequential model as `copied` does, and compile the copy like it.

    The state of the optimizer goes along. `lost` says what could not be carried over.
    """
    new = copied(model, edits, caller=caller)
    return replace(new, lost=(*new.lost, *compile_like(model, new.model)))


def why_no_copy(model: Any) -> str | None:
    """Return why a model cannot be built anew at all, or None: the only way to know is to try."""
    try:
        copied(model, caller="repair")
    except InputError as error:
        return f"its graph cannot be built anew: {str(error).partition('Received: ')[2]}"
    return None


class _Copies:
    """The copies of layers and models, each made once, so that what was shared is shared again."""

    def __init__(self, edits: Edits, caller: str) -> None:
        self._edits = edits
        self._caller = caller
        # By id, beside the original, which must live as long as its id is asked for.
        self.made: dict[int, tuple[Any, list[Any]]] = {}
        # Of layers that a `TimeDistributed` calls for each step, and that have other settings.
        self.steps: dict[int, tuple[Any, ...]] = {}
        self.lost: list[str] = []

    def of(self, layer: Any) -> Any:
        if id(layer) not in self.made:
            self.made[id(layer)] = (layer, [self._copy(layer)])
        return self.made[id(layer)][1][0]

    def _copy(self, layer: Any) -> Any:
        if id(layer) in self._edits.exchanged:
            return self._edits.exchanged[id(layer)]
        graph = graph_of(layer)
        if graph is None:
            return self._of_a_layer(layer)
        if isinstance(layer, keras.Sequential) and not any(
            self._holds_split(one) for one in direct_layers(layer)
        ):
            return self._of_a_sequence(layer)
        return self._of_a_graph(graph, layer.name)

    def _of_a_layer(self, layer: Any, **settings: Any) -> Any:
        settings |= self._edits.settings.get(id(layer), {})
        step = layer.layer if type(layer) is keras.layers.TimeDistributed else None
        if id(step) not in self._edits.settings:
            return copy_of(layer, settings, caller=self._caller)
        with naming(layer, self._caller):
            own = keras.saving.serialize_keras_object(step)
        own["config"] |= self._edits.settings[id(step)]
        copy = copy_of(layer, {**settings, "layer": own}, caller=self._caller)
        self.steps[id(step)] = (copy.layer,)
        return copy

    def _of_a_sequence(self, model: Any) -> Any:
        layers = [self.of(layer) for layer in direct_layers(model) if self._stays(layer)]
        with naming(model, self._caller):
            return self._model_like(model, layers, name=model.name)

    def _of_a_graph(self, graph: Any, name: str) -> Any:
        names = {node.operation.name: id(node.operation) for node in nodes_in(graph)}
        inputs = [node for node in nodes_in(graph) if node.is_input]
        tensors = {id(node.outputs[0]): self.of(node.operation).output for node in inputs}
        self._call_all(graph, tensors, names)
        ends = (
            keras.tree.map_structure(lambda tensor: tensors[id(tensor)], structure)
            for structure in (graph.input, graph.output)
        )
        return self._model_like(graph, *ends, name=name)

    def _call_all(
        self, graph: Any, tensors: dict[int, Any], names: dict[str, int], **flag: Any
    ) -> None:
        """Call the copies of a graph's layers on tensors, by the ids of those of the graph."""
        for node in nodes_in(graph):
            layer = node.operation
            if node.is_input:
                continue
            if self._stays(layer):
                positional, named = self._arguments(node, tensors)
                if isinstance(layer, keras.Layer) and takes_training(layer):
                    named = flag | named
                if id(layer) in self._edits.exchanged:
                    named = _taken_by(self.of(layer), named)
                with naming(layer, self._caller):
                    outputs = self._call(layer, names, *positional, **named)
            else:
                outputs = tensors[id(node.input_tensors[0])]
            for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = new
        self._look_outside(graph)

    def _call(self, layer: Any, names: dict[str, int], *positional: Any, **named: Any) -> Any:
        """Call a layer's copy; of one that holds layers to be split, all that it holds."""
        if not self._holds_split(layer):
            return self._for_call(layer, names)(*positional, **named)
        flag = {name: value for name, value in named.items() if name == "training"}
        if isinstance(layer, keras.layers.TimeDistributed):
            steps = keras.ops.unstack(positional[0], axis=1)
            steps = [self._call(layer.layer, names, step, **flag) for step in steps]
            return keras.ops.stack(steps, axis=1)
        graph: Any = graph_of(layer)
        self.lost.append(
            f"{layer.name} is no model of its own any more: its layers stand where it was called."
        )
        inputs = keras.tree.flatten(positional[0])
        tensors = {id(of): tensor for of, tensor in zip(graph.inputs, inputs, strict=True)}
        self._call_all(graph, tensors, names, **flag)
        return keras.tree.map_structure(lambda tensor: tensors[id(tensor)], graph.output)

    def _for_call(self, layer: Any, names: dict[str, int]) -> Any:
        """Return the copy of a layer to call in a graph, by whose names of layers are taken."""
        _, copies = self.made.get(id(layer), (layer, []))
        if copies and id(layer) not in self._edits.split:
            return copies[0]
        name = layer.name
        if copies or names.setdefault(name, id(layer)) != id(layer):
            numbered = (f"{layer.name}_{number}" for number in itertools.count(2))
            name = next(one for one in numbered if one not in names)
            names[name] = id(layer)
        if copies:
            copies.append(self._of_a_layer(layer))
        else:
            self.of(layer)
            _, copies = self.made[id(layer)]
        copies[-1].name = name
        return copies[-1]

    def _look_outside(self, graph: Any) -> None:
        inside = {id(layer) for layer in graph.layers}
        outside = [layer.name for layer in direct_layers(graph) if id(layer) not in inside]
        outside += [v.path for v in own_variables(graph)]
        if outside:
            self.lost.append(
                f"What {graph.name} holds outside its graph is not in the new model: "
                f"{', '.join(outside)}."
            )

    def _stays(self, layer: Any) -> bool:
        return id(layer) not in self._edits.left_out

    def _arguments(self, node: Any, tensors: dict[int, Any]) -> tuple[Any, dict[str, Any]]:
        def constant(value: Any) -> Any:
            if not isinstance(value, keras.Variable):
                return value
            # As in a file of Keras's; left as it is, both models would train it.
            self.lost.append(
                f"{node.operation.name} takes the variable {value.path}, which is a constant in "
                "the new model."
            )
            return keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(value))

        arguments = keras.tree.map_structure(constant, node.arguments.fill_in(tensors))
        positional, named = arguments
        if id(node) in self._edits.flags:
            flag = self._edits.flags[id(node)]
            named = {name: value for name, value in named.items() if name != "training"}
            named |= {} if flag is None else {"training": flag}
        return positional, named

    def _holds_split(self, layer: Any) -> bool:
        return bool(self._edits.split) and any(
            id(one) in self._edits.split for one in held_by(layer)
        )

    def _model_like(self, model: Any, *parts: Any, name: str) -> Any:
        """Return a model of the same class, or of Keras's where that has another constructor."""
        kind = type(model)
        plain = next(one for one in kind.__mro__ if one.__module__.startswith("keras."))
        new = _constructed(kind, plain, parts, model.name)
        if new is None:
            new = plain(*parts, name=model.name)
            self.lost.append(
                f"{model.name} is a {plain.__name__} model now and no {kind.__name__}, whose "
                "constructor is one of its own."
            )
        # By default it is the one that is set at present, and a loss is scaled by it.
        if new.dtype_policy != model.dtype_policy:
            new.dtype_policy = model.dtype_policy
        return new

    def fill(self) -> None:
        """Give the copies their weights and flags."""
        # A model's flag is handed down to all in it, which come into their own after it.
        for layer, copies in reversed(self.made.values()):
            if graph_of(layer) is not None:
                for copy in copies:
                    copy.trainable = layer.trainable
        for layer, copies in self._single():
            for copy in copies:
                fill(layer, copy, apart=self._edits.settings, caller=self._caller)

    def untied(self) -> list[str]:
        """Say which layers had weights in common, which their copies have not."""
        owners: dict[int, list[str]] = {}
        for layer, _ in self._single():
            for variable in layer.variables:
                owners.setdefault(id(variable), []).append(layer.name)
        return [
            f"{' and '.join(names)} have weights of their own now, and no more in common."
            for names in owners.values()
            if len(names) > 1
        ]

    def _single(self) -> list[tuple[Any, list[Any]]]:
        """Return the layers that are no graphs, and their copies."""
        return [
            (layer, copies)
            for layer, copies in self.made.values()
            if isinstance(layer, keras.Layer)
            and graph_of(layer) is None
            and id(layer) not in self._edits.exchanged
        ]


def _taken_by(layer: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Return those of a call's arguments that another layer takes, too."""
    parameters = inspect.signature(type(layer).call).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return named
    return {name: value for name, value in named.items() if name in parameters}


def _constructed(kind: type, plain: type, parts: tuple[Any, ...], name: str) -> Any | None:
    """Return a model made from what one of Keras's is made from; None where that is another."""
    names, own = (
        [
            parameter.kind if parameter.kind is parameter.VAR_POSITIONAL else parameter.name
            for parameter in inspect.signature(one.__init__).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        for one in (plain, kind)
    )
    if own not in (names, ["self", inspect.Parameter.VAR_POSITIONAL]):
        return None
    try:
        new = kind(*parts, name=name)
    except Exception:
        # Not a list of types: a user's constructor raises any. The caller says what comes of it.
        return None
    return new if _consists_of(new, parts) else None


def _consists_of(model: Any, parts: tuple[Any, ...]) -> bool:
    """Whether a constructor has added nothing to the layers, or the tensors, that it got."""
    made = (
        (direct_layers(model),)
        if isinstance(model, keras.Sequential)
        else (model.input, model.output)
    )
    return [id(part) for part in keras.tree.flatten(made)] == [
        id(part) for part in keras.tree.flatten(parts)
    ]
