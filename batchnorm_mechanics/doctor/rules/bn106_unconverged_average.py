"""BN106: after few steps, the start value still makes a part of the statistics."""

import math
from typing import TYPE_CHECKING

import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.past import Past
    from batchnorm_mechanics.models.norms import Norm, Vector

# Below it the start moves no statistic by more than that share of itself.
_SMALLEST_WEIGHT = 0.01
# Of a variance, when the start makes it 1.5 times what it should be.
_SHARE_OF_START = 1 / 3
# In standard deviations, how far the start draws the mean away.
_SHIFT_OF_MEAN = 0.25


class UnconvergedAverage(Rule):
    """The moving average has not forgotten its start."""

    severity = "warning"
    parts_modes = True
    explains = ("BN201", "BN203")
    judges_whole_training = True
    # What moved these channels moved others below the threshold.
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Look at layers whose averages began with this training, unless data say they are well."""
        if not _began_in_this_training(case):
            return
        for norm in case.norms:
            weight = weight_of_start(norm, case.past)
            if weight is None or weight <= _SMALLEST_WEIGHT or norm.is_at_start:
                continue
            # That no batch added any variance is BN104's to tell.
            decayed = weight * norm.begun("moving_variance")
            if np.allclose(norm.variance, decayed, rtol=1e-3, atol=0):
                continue
            share, shift = _influence_of_start(norm, weight)
            touched = (share > _SHARE_OF_START) | (shift > _SHIFT_OF_MEAN)
            if touched.any():
                severity, gap = case.told_by_training(norm, self.severity)
                momentum = norm.momentum or 0.0
                yield self.finding(
                    norm.name,
                    channels=touched,
                    severity=severity,
                    cause=f"After {case.past.steps} steps with momentum {momentum:g} the start "
                    f"value still makes {weight:.0%} of the moving statistics, unless the layer "
                    "was trained before these steps.",
                    remedy="Re-estimate the statistics with `bnm repair`, or train on; a lower "
                    "momentum or `DebiasedMovingAverage` serves short trainings.",
                    weight_of_start=weight,
                    momentum=momentum,
                    optimizer_steps=case.past.steps,
                    steps_needed=math.ceil(math.log(_SMALLEST_WEIGHT) / math.log(momentum)),
                    largest_share_of_variance=float(share[touched].max()),
                    largest_shift_of_mean=float(shift[touched].max()),
                    **gap,
                )


def weight_of_start(norm: "Norm", past: "Past") -> float | None:
    """Return how much of a moving average is still its start, if it began with this training.

    Args:
        norm: a layer.
        past: of the model's training.

    Returns:
        momentum**updates, in (0, 1); None where nothing is averaged so: a frozen layer, one of
        renormalization, a policy without that start, no step of the optimizer, or statistics that
        were estimated anew since.
    """
    momentum = norm.momentum
    if norm.renorm or not norm.layer.trainable or past.steps == 0 or norm.name in past.estimated:
        return None
    if momentum is None or not 0 < momentum < 1:
        return None
    # A layer that is called twice in a pass is updated twice a step.
    weight = norm.policy.weight_of_start(past.steps * norm.per_pass)
    return weight if 0 < weight < 1 else None


def _began_in_this_training(case: Case) -> bool:
    """Whether all statistics can have begun at their start when the optimizer began.

    A share of the start as large as it must then be is in every variance; one variance below that
    shows that a model was trained before, as in fine-tuning, and steps before are not counted.
    """
    for norm in case.norms:
        weight = weight_of_start(norm, case.past)
        if weight is None or norm.is_at_start:
            continue
        usable = np.isfinite(norm.variance) & (norm.variance >= 0)
        floor = weight * norm.begun("moving_variance") * (1 - 1e-3)
        if (norm.variance < floor)[usable].any():
            return False
    return True


def _influence_of_start(norm: "Norm", weight: float) -> "tuple[Vector, Vector]":
    """Return, by channel, the start's share of the variance, and its pull on the mean in sigmas."""
    start = norm.begun("moving_variance")
    usable = np.isfinite(norm.mean) & np.isfinite(norm.variance) & (norm.variance > 0)
    variance = np.where(usable, norm.variance, 1)
    share = weight * start / variance
    # Without the start, the batches' own average: (moving - weight * start) / (1 - weight).
    own_variance = np.maximum(variance - weight * start, 0) / (1 - weight)
    away = np.abs(np.where(usable, norm.mean, 0) - norm.begun("moving_mean"))
    shift = weight * away / (1 - weight) / np.sqrt(own_variance + float(norm.layer.epsilon))
    return np.where(usable, share, 0), np.where(usable, shift, 0)
