"""BN103: mean and variance are exactly what they began with."""

from typing import TYPE_CHECKING

import numpy as np

from batchnorm_mechanics.doctor.findings import Severity
from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.past import Past
    from batchnorm_mechanics.models.norms import Norm


class StatisticsNeverUpdated(Rule):
    """The moving statistics have not left their start, though the weights have."""

    severity = "error"
    parts_modes = True
    explains = ("BN201", "BN203")
    judges_whole_training = True
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Look for exact starts; one note is enough for a model that was not trained at all."""
        if case.norms and not case.past.is_trained:
            yield self.finding(
                "",
                severity="note",
                cause="No weight has left its start, so the model is not trained yet and the "
                "statistics are still mean 0 and variance 1.",
                remedy="Nothing before training; if it was trained, load the weights of that "
                "training.",
                layers=len(case.norms),
            )
            return
        for norm in case.norms:
            if norm.variance_is_at_start and np.isfinite(norm.mean).all():
                severity, cause, remedy = _judged(norm, case.past)
                largest = None if norm.mean_is_at_start else np.abs(norm.mean).max()
                yield self.finding(
                    norm.name,
                    severity=severity,
                    channels=range(norm.channels),
                    cause=cause,
                    remedy=remedy,
                    largest_mean=largest,
                    moving_mean=norm.mean[0],
                    moving_variance=norm.variance[0],
                    optimizer_steps=case.past.steps,
                )


def _judged(norm: "Norm", past: "Past") -> tuple[Severity, str, str]:
    """Return how bad it is that a variance is at its start, why it is so, and what to do."""
    if not norm.mean_is_at_start:
        return (
            "warning",
            "The moving variance is exactly what it began with and the moving mean is not: no "
            "batch had two samples to take a variance of, or only the mean was loaded.",
            "Re-estimate the statistics on data with `bnm repair`.",
        )
    frozen = not norm.layer.trainable
    has_affine = norm.gamma is not None or norm.beta is not None
    if norm.affine_has_moved or (not frozen and (past.steps > 0 or not has_affine)):
        return (
            "error",
            "The weights were trained, but mean and variance are exactly what they began with: a "
            "training loop of one's own called the model without `training=True`, or a port left "
            "the statistics out.",
            "Left out, they are re-estimated by `bnm repair`. Trained without them, the weights "
            "fit them as they are: train again with `model(x, training=True)`. With labels, `bnm "
            "repair` tells which: what makes the model worse it takes back.",
        )
    if frozen:
        return (
            "warning",
            "The layer was frozen before it ever saw a batch, so it normalizes by mean 0 and "
            "variance 1, which is not at all.",
            "Unfreeze the layer and train, or re-estimate its statistics with "
            "`bnm.recalibrate(..., include_frozen=True)`; train on after that.",
        )
    return (
        "note",
        "Other layers of the model are trained and this one is not yet: its statistics, gamma and "
        "beta are what they began with.",
        "Train the model before using it for inference.",
    )
