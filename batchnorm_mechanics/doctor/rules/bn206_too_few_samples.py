"""BN206: batches of this size say too little of a variance."""

from collections import Counter

import numpy as np

from batchnorm_mechanics.doctor.findings import Severity
from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

# Below, a batch's variance is off by half of itself.
_FEWEST = 9


class TooFewSamples(Rule):
    """Training normalizes by noise where few samples stand behind each statistic."""

    severity = "warning"
    needs_data = True
    explains = ("BN104",)
    refusal = "it is about the batches of training: make them larger, or leave out the last one"

    def check(self, case: Case) -> Findings:
        """Count what stands behind the statistics of full batches and of the last."""
        if case.measured is None or not case.measured.full:
            return
        for norm, found, _ in case.heard():
            if found.frozen:
                continue
            counts = sum((Counter(call.counts) for call in found.calls), Counter())
            usual, least = max(counts, key=counts.__getitem__), min(counts)
            judged = _judged(usual, least)
            if judged is None:
                continue
            severity, cause = judged
            yield self.finding(
                norm.name,
                severity=severity,
                cause=cause,
                remedy=(
                    "Drop the last batch in training: batch(..., drop_remainder=True)."
                    if severity == "note"
                    else "Train with larger batches, or freeze the layer, if these are training's."
                ),
                samples_behind_statistic=usual,
                fewest=least,
                variance_noise=float(np.sqrt(2 / (usual - 1))) if usual > 1 else float("inf"),
            )


def _judged(usual: int, least: int) -> tuple[Severity, str] | None:
    """Return how bad it is that so many samples stand behind a statistic, and why; or None."""
    if usual == 1:
        return (
            "error",
            "With one sample behind each statistic, training gives beta whatever the input.",
        )
    if usual < _FEWEST:
        return (
            "warning",
            "In batches of this size, training normalizes by variances that are mostly noise.",
        )
    if least == 1:
        return (
            "note",
            "The last batch leaves one sample behind each statistic; training on it gives beta.",
        )
    return None
