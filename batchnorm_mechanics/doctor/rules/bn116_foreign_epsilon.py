"""BN116: the weights come from a layer with another epsilon, where that is not small."""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.gaps import FLOOR, misfit
from batchnorm_mechanics.doctor.rule import (
    Action,
    Answer,
    Case,
    Circumstances,
    Findings,
    NewValues,
    Rule,
    Stage,
    Step,
)

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm

# Keras's, PyTorch's, and what others took.
USUAL = (1e-3, 1e-5, 1e-6, 1e-4, 1e-8, 1e-12)
# Of epsilon: at larger variances another one changes the output by a twentieth at most.
_MATTERS = 10.0


def _set(norm: "Norm", epsilon: float) -> Iterator[NewValues]:
    yield NewValues(norm.name, norm.layer, {"epsilon": epsilon})


class ForeignEpsilon(Rule):
    """What the next layers get is what their statistics are of only with another epsilon."""

    severity = "error"
    needs_data = True
    parts_modes = True
    explains_everywhere = ("BN201",)
    # That all variances are next to epsilon is why another one matters.
    hides = ("BN104",)

    def check(self, case: Case) -> Findings:
        """Try the usual values where variances are small and a later layer is off."""
        heard = [(norm, gap) for norm, found, gap in case.heard() if not found.frozen]
        small = [place for place, (norm, _) in enumerate(heard) if _is_small(norm)]
        if case.measured is None or not small:
            return
        later = [(norm, gap) for norm, gap in heard[small[0] + 1 :] if gap.is_large]
        if not later or heard[small[0]][1].is_large:
            return
        now = float(heard[small[0]][0].layer.epsilon)
        for epsilon in USUAL:
            if epsilon == now:
                continue
            pools = case.measured.again.with_epsilon(epsilon)
            left = max(
                misfit(norm, [pools[norm.name]], norm.moving, epsilon)
                for norm, _ in later
                if norm.name in pools
            )
            if left >= FLOOR:
                continue
            for place in small:
                norm = heard[place][0]
                yield self.finding(
                    norm.name,
                    severity=case.measured.effects.severity,
                    channels=norm.variance < _MATTERS * now,
                    cause=f"Its epsilon is {now:g}, larger than its variances or near them; with "
                    f"{epsilon:g}, the layers behind it get what their statistics are of.",
                    remedy=f"Build the layer with epsilon={epsilon:g}, as it was trained.",
                    epsilon=now,
                    epsilon_that_fits=epsilon,
                    gap_behind_it=max(gap.layer for _, gap in later),
                    gap_with_that=left,
                )
            return

    def steps(self, finding: Finding, norm: "Norm", circumstances: Circumstances) -> Answer:
        """Set the epsilon that fits."""
        del norm, circumstances
        epsilon = float(finding.evidence["epsilon_that_fits"])
        action = Action(
            name="epsilon",
            words=f"set epsilon to {epsilon:g}",
            stage=Stage.SETTINGS,
            new_values=functools.partial(_set, epsilon=epsilon),
        )
        return [Step(action, finding.layer, (), (finding.key,))]


def _is_small(norm: "Norm") -> bool:
    """Whether half of the variances are such that epsilon matters."""
    return bool(np.median(norm.variance) < _MATTERS * float(norm.layer.epsilon))
