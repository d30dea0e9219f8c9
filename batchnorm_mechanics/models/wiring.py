"""What is connected to what in a functional graph, as if some of its calls were not there."""

from typing import Any, NamedTuple

import keras

from batchnorm_mechanics._keras import functional_of, has_mask, layers_in, nodes_in, origin_of


class Users(NamedTuple):
    """Who uses a tensor.

    Attributes:
        nodes: calls that take it in, themselves or through bridged ones.
        is_output: whether it leaves the graph, likewise.
    """

    nodes: tuple[Any, ...]
    is_output: bool


class Wiring:
    """Functional graphs, in which one tensor can be made to stand for another."""

    def __init__(self, *graphs: Any) -> None:
        """Note who uses what in functional graphs."""
        self._inputs = {id(tensor) for graph in graphs for tensor in graph.inputs}
        self._outputs = {id(tensor) for graph in graphs for tensor in graph.outputs}
        self._users: dict[int, list[Any]] = {}
        self._before: dict[int, Any] = {}
        self._after: dict[int, list[Any]] = {}
        for node in dict.fromkeys(node for graph in graphs for node in nodes_in(graph)):
            # A call such as add([x, x]) uses a tensor twice.
            for tensor in node.input_tensors:
                self._users.setdefault(id(tensor), []).append(node)

    def bridge(self, node: Any) -> None:
        """Look through a call of one input, and maybe its mask, and one output from now on."""
        (tensor, *_), (output,) = node.input_tensors, node.output_tensors
        self._users[id(tensor)].remove(node)
        self._join(tensor, output)

    def enter(self, node: Any, graph: Any) -> None:
        """Look from now on at the calls of a graph of one input in place of the one call of it."""
        (tensor,), (entry,) = node.input_tensors, graph.inputs
        self._users[id(tensor)].remove(node)
        self._inputs.remove(id(entry))
        self._join(tensor, entry)
        for inner, outer in zip(graph.outputs, node.output_tensors, strict=True):
            self._outputs.discard(id(inner))
            self._join(inner, outer)

    def _join(self, before: Any, after: Any) -> None:
        self._before[id(after)] = before
        self._after.setdefault(id(before), []).append(after)

    def origin(self, tensor: Any) -> Any:
        """Return the tensor that one stands for: the first of those that are the same."""
        while id(tensor) in self._before:
            tensor = self._before[id(tensor)]
        return tensor

    def source(self, tensor: Any) -> Any | None:
        """Return the layer or operation that makes a tensor; None where it is a graph's input."""
        tensor = self.origin(tensor)
        return None if id(tensor) in self._inputs else origin_of(tensor).operation

    def users(self, tensor: Any) -> Users:
        """Return who uses a tensor, and what stands for it further on."""
        nodes = [*self._users.get(id(tensor), ())]
        is_output = id(tensor) in self._outputs
        for same in self._after.get(id(tensor), ()):
            further = self.users(same)
            nodes += further.nodes
            is_output |= further.is_output
        return Users(tuple(nodes), is_output)


def held_by(layer: Any) -> list[Any]:
    """Return the layers that a layer holds, at any depth; operations hold none."""
    return layers_in(layer, itself=False) if isinstance(layer, keras.Layer) else []


def holds(holder: Any, layer: Any) -> bool:
    """Return whether a layer is another one, or holds it at any depth."""
    return holder is layer or any(one is layer for one in held_by(holder))


def why_not_apart(model: Any, layer: Any) -> str | None:
    """Return why a layer cannot have a copy for each of its calls, or None.

    Example:
        >>> bn = keras.layers.BatchNormalization()
        >>> inputs = keras.layers.Input((None, 2))
        >>> model = keras.Model(inputs, keras.layers.TimeDistributed(bn, name="td")(inputs))
        >>> why_not_apart(model, bn)
        'td goes through a number of steps that varies'
    """
    if model is layer:
        return None
    graph = graph_of(model)
    if graph is None:
        return f"{model.name}, which holds it, has its own code"
    for node in nodes_in(graph):
        one = node.operation
        if not holds(one, layer):
            continue
        if isinstance(one, keras.layers.TimeDistributed):
            (given, *_), name, one = node.input_tensors, one.name, one.layer
            if has_mask(given):
                return f"{name} goes by a mask, which single steps lack"
            if given.shape[1] is None:
                return f"{name} goes through a number of steps that varies"
        if isinstance(one, keras.layers.RNN | keras.layers.Bidirectional):
            return f"{one.name} goes through all steps with one cell"
        if (reason := why_not_apart(one, layer)) is not None:
            return reason
    return None


def graph_of(layer: Any) -> Any | None:
    """Return the functional graph that a model is, or None where its own code decides.

    A subclass that only builds a graph is that graph; one with a `call` of its own is not.
    """
    graph = functional_of(layer)
    return None if graph is None or method_of_its_own(layer, ("__call__", "call")) else graph


def method_of_its_own(layer: Any, methods: tuple[str, ...]) -> str | None:
    """Return which of these methods a layer does not have from Keras or from us, or None."""
    known = {"keras", "batchnorm_mechanics"}
    for method in methods:
        if method in vars(layer):
            owner = getattr(vars(layer)[method], "__module__", None) or ""
        else:
            owner = next(kind for kind in type(layer).__mro__ if method in vars(kind)).__module__
        if owner.partition(".")[0] not in known:
            return method
    return None


def baked_training(node: Any) -> bool:
    """Say whether a call has training=True baked in."""
    value = node.arguments.kwargs.get("training")
    return value is not None and value is not False


class Reached(NamedTuple):
    """A graph that can be built anew.

    Attributes:
        graph: the functional model.
        training: whether a baked flag runs it in training mode.
        is_sequence: whether Keras made it of a sequence of layers.
    """

    graph: Any
    training: bool
    is_sequence: bool


def graphs_reached(model: Any) -> tuple[Reached, ...]:
    """Return the graphs in a model that can be built anew.

    Those within a layer or model that has its own code are missing.
    """
    found: dict[int, Reached] = {}

    def visit(layer: Any, *, training: bool) -> None:
        graph = graph_of(layer)
        if graph is None or (id(graph) in found and found[id(graph)].training >= training):
            return
        found[id(graph)] = Reached(graph, training, isinstance(layer, keras.Sequential))
        for node in nodes_in(graph):
            visit(node.operation, training=training or baked_training(node))

    visit(model, training=False)
    return tuple(found.values())


def calls_around(model: Any, layer: Any) -> list[Any]:
    """Return the calls of a layer, and of what holds it, that can be changed in a new model.

    Missing are those within layers that have their own code, and those of sequences of layers, in
    which no call has a flag and no layer has two.
    """
    graphs = (one.graph for one in graphs_reached(model) if not one.is_sequence)
    return [node for graph in graphs for node in nodes_in(graph) if holds(node.operation, layer)]
