"""BN204: the mean is so large that rounding shows."""

import ml_dtypes
import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

# Keras's formula has at most 8 roundings of |mean| / sigma; see facts in the story.
_ROUNDINGS = 8.0
# What rounding an output to bfloat16 costs; a float32 layer that is worse than that wastes it.
_FORMULA_LIMIT = 2.0**-8
_INPUT_LIMIT = 2.0**-4


class PrecisionLoss(Rule):
    """The formula, or the type of the input, keeps too few digits of what differs."""

    severity = "warning"
    needs_data = True
    refusal = "the statistics are right, and Keras's formula loses digits: `accelerate` does not"

    def check(self, case: Case) -> Findings:
        """Hold the mean of each channel against its deviation."""
        for norm, found, _ in case.heard():
            pool = found.pool
            with np.errstate(all="ignore"):
                ratio = np.abs(pool.mean) / np.sqrt(pool.variance + norm.layer.epsilon)
            # Keras computes in float32 whatever the input's type; rounding the input comes on top.
            wide = np.finfo(np.float64 if found.dtype == "float64" else np.float32)
            roundings = 0.0 if norm.subtracts_the_mean_first else _ROUNDINGS
            formula = ratio * roundings * float(wide.eps)
            # Rounding to steps of eps |x| is off by a twelfth of a step's square.
            rounding = ratio * float(ml_dtypes.finfo(found.dtype).eps) / np.sqrt(12)
            wrong = (formula > _FORMULA_LIMIT) | (rounding > _INPUT_LIMIT)
            if not wrong.any():
                continue
            worst = int(np.argmax(np.where(wrong, ratio, -1)))
            by_input = bool((rounding > _INPUT_LIMIT)[wrong].any())
            yield self.finding(
                norm.name,
                channels=wrong,
                cause=(
                    "The mean is so much larger than the standard deviation that "
                    f"{found.dtype} does not hold the differences between samples."
                    if by_input
                    else "The layer's formula takes two large numbers from each other, x/sigma and "
                    "mean/sigma, and keeps what rounding left of them."
                ),
                remedy=(
                    "Keep the layer before this one in float32, or take its mean away there."
                    if by_input
                    else "bnm.accelerate(model) puts the layer on kernels that subtract the mean "
                    "first."
                ),
                mean_over_deviation=ratio[worst],
                error=max(formula[worst], rounding[worst]),
                worst_channel=worst,
                channels_of=norm.channels,
            )
