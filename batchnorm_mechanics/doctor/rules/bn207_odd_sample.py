"""BN207: one sample, or one batch, makes most of a layer's variance."""

from typing import TYPE_CHECKING

import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm


class OddSample(Rule):
    """A few batches vary so much more than the rest that the statistics are theirs."""

    severity = "warning"
    needs_data = True
    parts_modes = True
    explains_everywhere = ("BN201", "BN203")
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Look at the first layer that has batches which were left out of its moments."""
        measured = case.measured
        for norm, found, _ in case.heard():
            if not found.odd or measured is None:
                continue
            numbers = ", ".join(str(number) for number in found.odd)
            row = measured.again.odd_row() if measured.again.widest.number in found.odd else None
            yield self.finding(
                norm.name,
                severity=measured.effects.severity,
                cause=(
                    f"Of {measured.batches} batches, {numbers} (from 0) has more than half of the "
                    "variance of what the layer gets"
                    + ("." if row is None else f"; sample {row} (from 0) is what it comes from.")
                ),
                remedy="Look at that sample and take it out of the data, of training too. `bnm "
                "repair` re-estimates the statistics without such batches.",
                batches=numbers,
                times_the_usual=_times(norm, found.pool.variance),
                sample=row,
                **measured.effects.on_output,
            )
            return


def _times(norm: "Norm", variance: np.ndarray) -> float:
    """Return how much larger the moving variance is than the rest's, in the middle channel."""
    epsilon = norm.layer.epsilon
    with np.errstate(all="ignore"):
        return float(np.median((norm.variance + epsilon) / (variance + epsilon)))
