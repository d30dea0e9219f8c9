"""BN107: the graph calls the layer, or a model that holds it, with a training flag of its own."""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from batchnorm_mechanics._keras import layers_in, nodes_in
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.rule import (
    Action,
    Answer,
    Case,
    Circumstances,
    Findings,
    Rule,
    Stage,
    Step,
)

if TYPE_CHECKING:
    from batchnorm_mechanics.models.model_copies import Edits
    from batchnorm_mechanics.models.norms import Call, Norm


def _flag(node: Any) -> Any:
    return node.arguments.kwargs.get("training")


def _without_flag(model: Any, norm: "Norm") -> "Edits | str":
    from batchnorm_mechanics.models.model_copies import Edits
    from batchnorm_mechanics.models.wiring import calls_around

    flagged = [id(node) for node in calls_around(model, norm.layer) if _flag(node) is not None]
    if not flagged:
        return "the flag stands within a layer that has its own code"
    return Edits(flags=dict.fromkeys(flagged))


def _pinned(model: Any, norm: "Norm") -> "Edits | str":
    import keras

    from batchnorm_mechanics.models.model_copies import Edits
    from batchnorm_mechanics.models.wiring import calls_around

    nodes = calls_around(model, norm.layer)
    # In a sequence no call has a flag of its own; what holds the sequence has one.
    own = [node for node in nodes if node.operation is norm.layer] or [
        node for node in nodes if isinstance(node.operation, keras.Sequential)
    ]
    if not own and all(_flag(node) is None for node in nodes):
        return "the model's own code calls it: pass training=False on there"
    return Edits(flags=dict.fromkeys(map(id, own), False))


PIN = Action(
    name="pin",
    words="call it with training=False, which `fit` overrides",
    stage=Stage.GRAPH,
    edits=_pinned,
)
UNFLAG = Action(
    name="unflag",
    words="remove the baked training flag",
    stage=Stage.GRAPH,
    edits=_without_flag,
)


class BakedTrainingFlag(Rule):
    """`fit` and `predict` of Keras 3 override such a flag, and `model(x)` obeys it."""

    severity = "warning"
    explains = ("BN202",)
    actions = (UNFLAG,)

    def steps(self, finding: Finding, norm: "Norm", circumstances: Circumstances) -> Answer:
        """Remove the layer's own flag, or keep one that comes from elsewhere away from it."""
        if "handed_on" not in finding.evidence:
            return super().steps(finding, norm, circumstances)
        reason = circumstances.obstacle(norm, PIN)
        return reason or [Step(PIN, finding.layer, (), (finding.key,))]

    def check(self, case: Case) -> Findings:
        """Look at all calls of a layer that trains, and of what holds it."""
        spoken_of: set[str] = set()
        flags = _flags_in(case.model)
        for norm in case.norms:
            # Frozen, a layer infers whatever it is told.
            if not norm.layer.trainable:
                continue
            calls = [*norm.calls, *itertools.chain(*case.around(norm))]
            train = [call for call in calls if _flag(call.node) is True]
            infer = [call for call in calls if _is_told_to_infer(call, norm)]
            if train:
                flag_on = train[0].node.operation.name
                spoken_of.add(flag_on)
                yield self.finding(
                    norm.name,
                    cause="The graph calls it with `training=True`: `fit` and `predict` of Keras 3 "
                    "override that, but `model(x)` obeys, normalizes by the batch, moves the "
                    "statistics, and hands the flag on to the layers that run next.",
                    remedy="Remove the flag with `bnm repair`, or call `model(x, training=False)`.",
                    training="True",
                    flag_on=flag_on,
                    norms_that_inherit_it=_inheriting(train[0]),
                )
            elif (flag_from := flags.reached.get(id(norm.layer)) or _heard_from(case, norm)) and (
                flag_from.rpartition("/")[2] not in spoken_of
            ):
                yield self.finding(
                    norm.name,
                    cause=f"{flag_from} is called with training=True, as Monte Carlo dropout is, "
                    "and Keras hands the flag on: this layer normalizes by the batch and moves its "
                    "statistics in inference, too.",
                    remedy="Call batch norm with training=False behind it, as `bnm repair` does; "
                    "`fit` overrides that, and the dropout stays.",
                    training="True",
                    flag_on=flag_from,
                    handed_on="True",
                )
            elif infer and id(norm.layer) not in flags.shielded:
                yield self.finding(
                    norm.name,
                    severity="note",
                    cause="The graph calls it with `training=False`, which `fit` of Keras 3 "
                    "overrides: the layer normalizes by the batch, and its statistics move.",
                    remedy="To keep the layer still, set `trainable = False` on it and compile.",
                    training="False",
                    flag_on=infer[0].node.operation.name,
                )


def _heard_from(case: Case, norm: "Norm") -> str:
    """Return the layer whose flag was heard to reach a batch norm layer, or ""."""
    if case.measured is None:
        return ""
    effects, found = case.measured.effects, case.measured.norms.get(norm.name)
    is_reached = norm.name in effects.called_by_batch or (found is not None and found.by_batch)
    # A batch norm that tells itself to train has code of its own, of which BN202 speaks.
    is_a_norm = any(one.name == effects.flag_from for one in case.norms)
    return effects.flag_from if is_reached and not is_a_norm else ""


class _Flags(NamedTuple):
    """Flags that `model(x)` hands from one layer to the next, by ids of batch norm layers.

    Attributes:
        reached: those that are told to train, each with whose flag it is.
        shielded: those that would be, but for a flag of their own.
    """

    reached: dict[int, str]
    shielded: set[int]


def _flags_in(model: Any) -> _Flags:
    import keras

    from batchnorm_mechanics._keras import functional_of, takes_training
    from batchnorm_mechanics.models.norms import KINDS, norm_layers_in

    found = _Flags({}, set())

    def visit(graph: Any, flag: Any, source: Any) -> tuple[Any, Any]:
        for node in nodes_in(graph):
            layer = node.operation
            if not isinstance(layer, keras.Layer) or not takes_training(layer):
                continue
            if _flag(node) is not None:
                # A batch norm's own flag is spoken of where it stands.
                if flag is True and not _flag(node) and not norm_layers_in(source):
                    found.shielded.update(map(id, layers_in(layer)))
                flag, source = _flag(node), layer
            elif flag is True and isinstance(layer, KINDS):
                found.reached[id(layer)] = source.name
            inner = functional_of(layer)
            if inner is not None:
                flag, source = visit(inner, flag, source)
        return flag, source

    graph = functional_of(model)
    if graph is not None:
        visit(graph, None, None)
    return found


def _is_told_to_infer(call: "Call", norm: "Norm") -> bool:
    from batchnorm_mechanics.models.norms import graphs_in

    layer = call.node.operation
    # Keras writes the default of a subclassed layer's `training=False` into the graph, too.
    return _flag(call.node) is False and (layer is norm.layer or bool(graphs_in(layer)))


def _inheriting(call: "Call") -> int:
    """Count the batch norm layers after a call to which `model(x)` passes the call's own flag."""
    from batchnorm_mechanics.models.norms import norm_layers_in

    order = nodes_in(call.graph)
    # Up to the next flag, which Keras wrote there too were it only the default of a Dropout.
    after = itertools.takewhile(lambda one: _flag(one) is None, order[order.index(call.node) + 1 :])
    return sum(norm.trainable for one in after for norm in norm_layers_in(one.operation))
