"""BN113: one layer normalizes several inputs, by one mixture of their statistics."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from batchnorm_mechanics._keras import origin_of
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.gaps import FLOOR, Gap
from batchnorm_mechanics.doctor.rule import Action, Case, Findings, Rule, Stage

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.measuring import NormMeasured
    from batchnorm_mechanics.doctor.outputs import Effects
    from batchnorm_mechanics.models.model_copies import Edits
    from batchnorm_mechanics.models.norms import Call, Norm


def _a_layer_each(model: Any, norm: "Norm") -> "Edits | str":
    from batchnorm_mechanics.models.model_copies import Edits
    from batchnorm_mechanics.models.wiring import why_not_apart

    if (reason := why_not_apart(model, norm.layer)) is not None:
        return reason
    if norm.per_pass < 2:
        return "its calls cannot be told apart in the graph"
    return Edits(split=frozenset({id(norm.layer)}))


SPLIT = Action(
    name="split",
    words="give each call a layer of its own",
    stage=Stage.GRAPH,
    edits=_a_layer_each,
)
_MIXED = (
    "in training each call is normalized by its own batch, in inference all by one mixture of the "
    "statistics"
)


class SharedLayer(Rule):
    """Training normalizes each input by itself, inference all of them by one mixture."""

    severity = "warning"
    parts_modes = True
    may_explain = ("BN201",)
    actions = (SPLIT,)
    # Apart, the layers still hold statistics of all inputs together.
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Compare what the calls get; without data, count the inputs that the graph gives."""
        heard = {norm.name: (found, gap) for norm, found, gap in case.heard()}
        for norm in case.norms:
            found, gap = heard.get(norm.name, (None, None))
            fed_by = _fed_by(case, norm)
            about: dict[str, Any] = {}
            if len(fed_by) > 1:
                about = {"inputs": len(fed_by), "fed_by": ", ".join(fed_by)}
            if found and gap and case.measured:
                # Of a layer in a loop the graph shows one call, and of one's own code none.
                if len(found.calls) > 1 and not found.frozen:
                    yield from self._measured(norm, found, gap, case.measured.effects, about)
            elif about:
                yield self._told_by_graph(norm, about)

    def _measured(
        self, norm: "Norm", found: "NormMeasured", gap: Gap, effects: "Effects", about: Any
    ) -> Findings:
        if gap.unlike < FLOOR:
            if not about:
                return
            yield self.finding(
                norm.name,
                severity="note",
                cause=f"It is called {len(found.calls)} times in one pass and keeps one mixture of "
                "their statistics; these data are alike in all calls, so that it suits them.",
                remedy="Nothing as long as they are alike; else give each call its own batch norm.",
                **about,
            )
            return
        yield self.finding(
            norm.name,
            severity=effects.severity,
            cause=f"It is called {len(found.calls)} times in one pass, and these data are unlike "
            f"from call to call: {_MIXED}, which suits none.",
            remedy="Give each call a layer of its own, as `bnm repair` does where the graph allows "
            "it; of steps that are to share statistics, normalize all at once, without "
            "TimeDistributed or before the recurrent layer.",
            **about,
            calls=len(found.calls),
            gap_of_the_mixture=gap.unlike,
            stale_gap=gap.stale,
            **effects.on_output,
        )

    def _told_by_graph(self, norm: "Norm", about: Any) -> Finding:
        if len(norm.calls) > 1:
            return self.finding(
                norm.name,
                cause=f"The graph feeds this one layer from several places: {_MIXED}.",
                remedy="Give each input a layer of its own, as `bnm repair` does.",
                **about,
            )
        return self.finding(
            norm.name,
            severity="note",
            cause="What holds it is called on several inputs, and their statistics are mixed; that "
            "is right where they are alike, as in a siamese network.",
            remedy="Nothing if the inputs are alike, which data tell; else give each its own.",
            **about,
        )


def _fed_by(case: Case, norm: "Norm") -> list[str]:
    """Return what makes the different inputs of a layer, or of what holds it."""
    inputs = [_inputs(calls) for calls in (norm.calls, *case.around(norm))]
    return max((list(of_one.values()) for of_one in inputs), key=len)


def _inputs(calls: "Iterable[Call]") -> dict[int, str]:
    """Return the different tensors that calls take, by identity, each with its maker's name."""
    tensors = (call.node.input_tensors[0] for call in calls)
    return {id(tensor): origin_of(tensor).operation.name for tensor in tensors}
