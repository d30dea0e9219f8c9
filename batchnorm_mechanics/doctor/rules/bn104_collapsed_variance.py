"""BN104: variances next to nothing, as batches of one sample leave them."""

import math
from typing import TYPE_CHECKING

import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm

# Of epsilon; a variance below it leaves the output less than a tenth of the deviation that
# normalizing promises, sqrt(v / (v + epsilon)).
_DROWNED = 0.01
# A step count read off a moving average, in steps.
_STEP_TOLERANCE = 0.01
_REMEDY = (
    "Train with more than one sample for each statistic, or freeze the layer; then re-estimate the "
    "statistics with `bnm repair`."
)


class CollapsedVariance(Rule):
    """Batches of one sample, or a constant input, left no variance."""

    severity = "warning"
    parts_modes = True
    may_explain = ("BN201",)
    # The others may be right.
    estimates = "channels"

    def check(self, case: Case) -> Findings:
        """Look for the mark of batches without variance, then for variances below epsilon."""
        for norm in case.norms:
            steps = steps_of_decay(norm)
            if norm.is_at_start:
                continue
            if steps is not None:
                yield self.finding(
                    norm.name,
                    channels=range(norm.channels),
                    cause="All channels hold the start value times the same power of the momentum, "
                    "so every batch had variance 0: batches of one sample, or a constant input.",
                    remedy=_REMEDY,
                    variance=norm.variance[0],
                    momentum=norm.momentum or 0.0,
                    steps_of_decay=steps,
                    optimizer_steps=case.past.steps,
                )
            else:
                yield from self._below_epsilon(norm)

    def _below_epsilon(self, norm: "Norm") -> Findings:
        variance, epsilon = norm.variance, float(norm.layer.epsilon)
        usable = np.isfinite(variance) & (variance >= 0)
        small = usable & (variance <= epsilon)
        if not small.any():
            return
        cause = (
            "The input of these channels hardly ever varied in training, as behind a dead ReLU; "
            "should it vary in inference, it is amplified by the gain given here."
        )
        remedy = (
            "Nothing, if such channels are meant; else prune them, or re-estimate the statistics "
            "with `bnm repair`."
        )
        are_all = norm.channels > 1 and (usable & (variance <= epsilon * _DROWNED)).all()
        if are_all:
            cause = (
                "Beside epsilon all variances are next to nothing, so that epsilon and not the "
                "data sets the scale: the batches were of one sample, or the input is tiny."
            )
            remedy = f"{_REMEDY} If the input is tiny, scale it or lower epsilon."
        yield self.finding(
            norm.name,
            channels=small,
            severity="warning" if are_all else "note",
            cause=cause,
            remedy=remedy,
            lowest_variance=variance[small].min(),
            largest_variance=variance[small].max(),
            epsilon=epsilon,
            largest_gain=norm.gain[small].max(),
        )


def steps_of_decay(norm: "Norm") -> int | None:
    """Return how many batches of variance 0 alone explain a layer's moving variance.

    Args:
        norm: a layer whose statistics have left their start.

    Returns:
        The steps if each channel holds momentum**steps of what it began with, up to the rounding of
        as many float32 products; None otherwise, and for a policy that is no moving average.
    """
    start, momentum = norm.begun("moving_variance"), norm.momentum
    if momentum is None or not 0 < momentum < 1 or norm.renorm or norm.channels < 2:
        return None
    if not (np.isfinite(norm.variance).all() and norm.variance.min() > 0 and start.min() > 0):
        return None
    left = norm.variance / start
    steps = math.log(left[0]) / math.log(momentum)
    # Each step rounds the product, and the momentum itself is rounded once: 2**-24 each.
    rounding = (abs(steps) + 1) * 2.0**-23
    if left.max() / left.min() - 1 > rounding or round(steps) < 1:
        return None
    if abs(steps - round(steps)) > min(_STEP_TOLERANCE + rounding / -math.log(momentum), 0.25):
        return None
    return round(steps)
