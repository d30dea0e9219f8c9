"""BN113: one layer normalizes several inputs, by one mixture of their statistics."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from batchnorm_mechanics._keras import origin_of
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.rule import Action, Case, Rule, Stage

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.model_copies import Edits
    from batchnorm_mechanics.doctor.norms import Norm


def _a_layer_each(_model: Any, norm: "Norm") -> "Edits":
    from batchnorm_mechanics.doctor.model_copies import Edits

    return Edits(split=frozenset({id(norm.layer)}))


def _obstacle(model: Any, norm: "Norm") -> str | None:
    from batchnorm_mechanics.doctor.wiring import editable_graphs

    if len(norm.calls) < 2:
        return "a model that holds the layer is called on several inputs; split that by hand"
    graphs = editable_graphs(model)
    if any(all(call.graph is not graph for graph in graphs) for call in norm.calls):
        return "one of its calls stands within a sequence, or a layer that has its own code"
    return None


SPLIT = Action(
    name="split",
    words="give each call a layer of its own",
    stage=Stage.GRAPH,
    edits=_a_layer_each,
    obstacle=_obstacle,
)


class SharedLayer(Rule):
    """Training normalizes each input by itself, inference all of them by one mixture."""

    code = "BN113"
    name = "shared-layer"
    severity = "warning"
    may_explain = ("BN201",)
    actions = (SPLIT,)
    # Apart, the layers still hold statistics of all inputs together.
    estimates = "layer"

    def check(self, case: Case) -> Iterator[Finding]:
        """Count the inputs of each layer, and of what holds it."""
        for norm in case.norms:
            own = _inputs([call.node for call in norm.calls])
            if len(own) > 1:
                yield self.finding(
                    norm.name,
                    cause="The graph feeds this one layer from several places: in training each "
                    "input is normalized by its own batch, in inference all by one mixture of "
                    "their statistics.",
                    remedy="Give each input a layer of its own, as `bnm repair` does.",
                    inputs=len(own),
                    fed_by=", ".join(own.values()),
                )
            else:
                yield from self._in_a_container(case, norm)

    def _in_a_container(self, case: Case, norm: "Norm") -> Iterator[Finding]:
        for container in case.around(norm):
            inputs = _inputs([node for node, _ in container.calls])
            if len(inputs) > 1:
                yield self.finding(
                    norm.name,
                    severity="note",
                    cause=f"{container.layer.name}, which holds it, is called on several inputs, "
                    "and their statistics are mixed; that is right where they are alike, as in a "
                    "siamese network.",
                    remedy="Nothing if the inputs are alike; else give each its own batch norm.",
                    inputs=len(inputs),
                    fed_by=", ".join(inputs.values()),
                )
                return


def _inputs(nodes: Sequence[Any]) -> dict[int, str]:
    """Return the different tensors that calls take, by identity, each with its maker's name."""
    tensors = {id(node.input_tensors[0]): node.input_tensors[0] for node in nodes}
    return {key: origin_of(tensor).operation.name for key, tensor in tensors.items()}
