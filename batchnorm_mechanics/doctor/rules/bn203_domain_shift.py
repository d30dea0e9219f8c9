"""BN203: it is the data that differ, since the first layer's input does already."""

from typing import TYPE_CHECKING

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.gaps import FLOOR, Gap
from batchnorm_mechanics.doctor.rule import Answer, Case, Circumstances, Findings, Rule, Step

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm

# Of all layers; and a first gap that a moving average that lags does not reach.
_NEARLY_ALL, _CLEAR = 0.8, 2 * FLOOR
# Later layers that get what they had in training, and variances of the first that moved by factors
# of their own. Pixels in another order reach 0.33 and 0.13, noise for digits 0.34 and 0.1. Of 11
# kinds of models with data in another range all are told by these, and of 11 whose first layer
# alone is spoilt 8 (benchmarks/doctor_models.md).
_NO_GAP, _SPREAD = 0.05, 0.4


class DomainShift(Rule):
    """Data from another domain, or prepared in another way than those of training."""

    severity = "warning"
    parts_modes = True
    needs_data = True
    explains_everywhere = ("BN201",)
    # A gap from the first layer on is no other domain where that layer's own weights explain it.
    is_only_unexplained = True
    keeps_effects = True
    is_told_by_range = True
    only_if_asked = "If the model is to work on such data"

    def check(self, case: Case) -> Findings:
        """Compare the first layer that trains with those after it."""
        live = [(norm, gap) for norm, measured, gap in case.heard() if not measured.frozen]
        if len(live) < 2 or case.measured is None:
            return
        (norm, first), *rest = live
        moved = sum(gap.is_large for _, gap in live)
        owns = [gap.own for _, gap in rest if gap.own is not None]
        if not first.is_large or first.own is None or first.own < _CLEAR or not owns:
            return
        # Statistics that suit all calls together are those of these data.
        if first.stale < FLOOR:
            return
        later = float(np.median(owns))
        if moved < _NEARLY_ALL * len(live) or later > first.own / 2:
            return
        if later < _NO_GAP and _is_spoilt(norm, first):
            return
        effects = case.measured.effects
        yield self.finding(
            norm.name,
            channels=first.moved,
            severity="note" if effects.severity == "note" else "warning",
            cause=(
                "The data differ from those of the statistics from the first layer on, and the "
                "layers after it only pass the difference on: they are prepared in another way, or "
                "come from another domain; or this layer's statistics alone are spoilt, which "
                "looks the same."
            ),
            remedy=(
                "Compare how these data and the training data are scaled. If they are training's, "
                "`bnm repair --only BN203`; if the domain is new, "
                "bnm.recalibrate(model, data, blend=0.3) moves the statistics toward it."
            ),
            first_gap=first.layer,
            first_own_gap=first.own,
            later_own_gap=later,
            layers_moved=moved,
            layers=len(live),
            channels_of=norm.channels,
            **effects.on_output,
        )

    def steps(self, finding: Finding, norm: "Norm", circumstances: Circumstances) -> Answer:
        """Estimate all layers that train, if that is asked for or labels can judge it."""
        if not (circumstances.asks_for(finding) or circumstances.has_labels):
            return (
                "the statistics may be right for other data: if these are training's, say "
                "only=BN203 (`--only BN203`); else `recalibrate(model, data, blend=0.3)` moves "
                "them toward these"
            )
        steps: list[Step] = []
        for other in circumstances.norms.values():
            if other.layer.trainable:
                answer = circumstances.re_estimated(finding, other)
                if isinstance(answer, str):
                    return answer
                steps += answer
        return steps


def _is_spoilt(norm: "Norm", gap: Gap) -> bool:
    """Whether a first layer's variances are off by factors that no change of scale explains.

    Behind a linear layer, a change of scale multiplies all of them alike. As the very first, a
    layer sees features that may each have got a scale of their own.
    """
    if norm.calls and all(call.before is None for call in norm.calls):
        return False
    logs = np.log(gap.ratio[np.isfinite(gap.ratio) & (gap.ratio > 0)])
    if not logs.size:
        return False
    # The quartiles: channels that are dead in both have a ratio of 1 whatever the scale.
    low, high = np.quantile(logs, (0.25, 0.75))
    return bool((high - low) / 1.35 > _SPREAD)
