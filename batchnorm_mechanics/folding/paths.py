"""Which layers a batch norm reaches in a model, by way of those that it can be moved past."""

from typing import Any, NamedTuple

from batchnorm_mechanics._keras import direct_layers, layers_in, nodes_in, origin_of
from batchnorm_mechanics.folding.passing import Placed, is_identity, moved, placed, step_of
from batchnorm_mechanics.folding.reasons import Reason, about, of, plain
from batchnorm_mechanics.folding.taking import Taker, taker_of, what_it_gets
from batchnorm_mechanics.models.linear import Affine, activation_of, affine_of
from batchnorm_mechanics.models.norms import Call, Norm, calls_in
from batchnorm_mechanics.models.wiring import Wiring, graph_of, graphs_reached


class Reached(NamedTuple):
    """A call that is to take a scale and an offset in.

    Attributes:
        node: the call.
        taker: the layer that is called.
        got: what it gets, in the form in which it takes it.
    """

    node: Any
    taker: Taker
    got: Any


class _Closed(NamedTuple):
    """A call of a model within the model which no batch norm goes into or out of."""

    node: Any
    graph: Any
    reason: str


def affine(norm: Norm) -> Affine:
    """Return what a batch norm does in inference."""
    return affine_of(norm.mean, norm.variance, norm.gamma, norm.beta, norm.layer.epsilon)


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


class Paths:
    """The graphs of a model, and what a batch norm in them can reach."""

    def __init__(self, model: Any) -> None:
        """Note what is called by what; look through what does nothing in inference."""
        self.reached = {id(reached.graph): reached for reached in graphs_reached(model)}
        self._calls = calls_in(model)
        # By id of each layer, what calls it by code of its own, not as a graph.
        self._holders: dict[int, list[Any]] = {}
        for holder in layers_in(model):
            if graph_of(holder) is None:
                for layer in {id(one): one for one in direct_layers(holder)}.values():
                    self._holders.setdefault(id(layer), []).append(holder)
        self._wiring = Wiring(*(reached.graph for reached in self.reached.values()))
        self._closed: list[_Closed] = []
        nodes = {node: one for one in self.reached.values() for node in nodes_in(one.graph)}
        for node, reached in nodes.items():
            within = graph_of(node.operation)
            if within is not None:
                reason = _why_closed(node, within, self.times(node.operation))
                if reason is None:
                    self._wiring.enter(node, within)
                else:
                    self._closed.append(_Closed(node, within, reason))
            elif is_identity(node, training=reached.training):
                self._wiring.bridge(node)

    def times(self, operation: Any) -> int:
        """Return how often graphs call a layer."""
        return len(self._calls.get(id(operation), ()))

    def callers(self, layer: Any) -> list[Any]:
        """Return the layers that call one by code of their own."""
        return self._holders.get(id(layer), [])

    def host(self, norm: Norm) -> Any:
        """Return what graphs call of a norm: itself, or what calls it for each step."""
        callers = self.callers(norm.layer)
        alone = len(callers) == 1 and not self.times(norm.layer)
        return callers[0] if alone and step_of(callers[0]) is norm.layer else norm.layer

    def calls_of(self, norm: Norm) -> list[Call]:
        """Return the calls by which a norm works in graphs."""
        return self._calls.get(id(self.host(norm)), [])

    def axis(self, norm: Norm, call: Call) -> int:
        """Return the axis of a norm's channels in the input of a call; 0 is that of the samples."""
        shift = int(self.host(norm) is not norm.layer)
        axis = norm.layer.axis % (len(call.shape) - shift)
        return axis + shift if axis else 0

    def look_through(self, norm: Norm) -> None:
        """Take a norm as gone from now on."""
        for call in self.calls_of(norm):
            self._wiring.bridge(call.node)

    def before(self, norm: Norm) -> list[Reached] | Reason:
        """Return the calls of the one layer before a norm that can take it in, or why none can."""
        calls = self.calls_of(norm)
        found: list[Reached] = []
        for call in calls:
            one = self._backwards(norm, call)
            if isinstance(one, Reason):
                return one
            found.append(one)
        makers = {id(one.taker.layer): one.taker.host for one in found}
        if len(makers) > 1:
            names = ", ".join(layer.name for layer in makers.values())
            since = f"since it is called {len(calls)} times"
            return Reason(f"several layers ({names}), {since}", f"several layers, {since}")
        return found

    def after(self, norm: Norm) -> list[Reached] | Reason:
        """Return all calls behind a norm, which together can take it in, or why they cannot."""
        found: list[Reached] = []
        for call in self.calls_of(norm):
            what = self._placed(norm, call)
            ends = self._onwards(norm, call.node.output_tensors[0], what, plain("its"))
            if isinstance(ends, Reason):
                return ends
            found += ends
        return found

    def _placed(self, norm: Norm, call: Call) -> Placed:
        return placed(affine(norm), self.axis(norm, call), len(call.shape))

    def _backwards(self, norm: Norm, call: Call) -> Reached | Reason:
        """Return the call before that of a norm that can take it in, or why none can."""
        tensor, what = call.node.input_tensors[0], self._placed(norm, call)
        while True:
            tensor = self._wiring.origin(tensor)
            layer = self._wiring.source(tensor)
            if layer is None:
                return self._outside(tensor)
            node, users = origin_of(tensor).node, self._wiring.users(tensor)
            used = users.is_output or len(users.nodes) > 1
            elsewhere = about(layer, "has an output that is used elsewhere too")
            if (taker := taker_of(layer)) is not None:
                got = self._got(norm, taker, what, tuple(tensor.shape))
                if isinstance(got, Reason):
                    return got
                if (activation := activation_of(taker.layer)) is not None:
                    return about(layer, f"has the activation {activation}")
                return elsewhere if used else Reached(node, taker, got)
            further = moved(node, what, back=True)
            if isinstance(further, Reason) or used:
                return further if isinstance(further, Reason) else elsewhere
            what, tensor = further, node.input_tensors[0]

    def _outside(self, tensor: Any) -> Reason:
        """Say what is before an input, and why it cannot be reached."""
        closed = [one for one in self._closed if any(tensor is entry for entry in one.graph.inputs)]
        if not closed:
            return plain("nothing but the input")
        sources = (self._wiring.source(given) for one in closed for given in one.node.input_tensors)
        names = dict.fromkeys("the input" if one is None else one.name for one in sources)
        within = f"{closed[0].node.operation.name}, which {closed[0].reason}"
        return Reason(
            f"{', '.join(names)}, outside of {within}",
            f"what is outside of a model within, which {closed[0].reason}",
        )

    def _onwards(
        self, norm: Norm, tensor: Any, what: Placed, whose: Reason
    ) -> list[Reached] | Reason:
        """Return all calls behind a tensor that together can take a norm in, or why they cannot."""
        users = self._wiring.users(tensor)
        if users.is_output:
            ends = (
                (
                    f"of {one.node.operation.name}, which {one.reason}",
                    f"of a model which {one.reason}",
                )
                for one in self._closed
                if any(tensor is self._wiring.origin(end) for end in one.graph.outputs)
            )
            where = next(ends, ("of the model's", "of the model's"))
            return Reason(
                *(f"{one} output is one {end}" for one, end in zip(whose, where, strict=True))
            )
        if not users.nodes:
            return Reason(*(f"{one} output is not used" for one in whose))
        found: list[Reached] = []
        for node in users.nodes:
            layer = node.operation
            if (taker := taker_of(layer)) is not None:
                got = self._got(norm, taker, what, tuple(node.input_tensors[0].shape))
                if isinstance(got, Reason):
                    return got
                found.append(Reached(node, taker, got))
                continue
            further = moved(node, what, back=False)
            if isinstance(further, Reason):
                return further
            ends = self._onwards(norm, node.output_tensors[0], further, of(layer))
            if isinstance(ends, Reason):
                return ends
            found += ends
        return found

    def _got(self, norm: Norm, taker: Taker, what: Placed, shape: Any) -> Any:
        """Return what a layer beside a norm gets of it, or why it can take no norm, or not this."""
        if self._is_called_elsewhere(taker):
            return about(taker.host, "shares its weights with another layer")
        if reason := taker.obstacle():
            return about(taker.host, reason)
        got = what_it_gets(taker, what, shape)
        if isinstance(got, str):
            return about(taker.host, got)
        theirs, its = (one.compute_dtype for one in (taker.layer, norm.layer))
        if theirs != its:
            return about(taker.host, f"computes in {theirs}, it in {its}")
        return got

    def _is_called_elsewhere(self, taker: Taker) -> bool:
        """Say whether the layer with the weights is called for steps and otherwise, or twice."""
        steps = [one for one in self.callers(taker.layer) if step_of(one) is taker.layer]
        if taker.by_steps:
            return len(self.callers(taker.layer)) > 1 or bool(self.times(taker.layer))
        return bool(steps)
