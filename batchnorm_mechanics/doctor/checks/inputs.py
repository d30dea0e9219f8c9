"""What layers get as input: NaN, numbers too large for their type, too few samples a statistic."""

import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics.doctor.findings import Finding, Severity
from batchnorm_mechanics.doctor.making import finding
from batchnorm_mechanics.doctor.probing.probe import Measured, NormMeasured
from batchnorm_mechanics.doctor.structure.norms import Norm
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.layers.intercept import own_call

# BN204: Keras's formula has at most 8 roundings of |mean| / sigma; see facts in the rule's story.
_ROUNDINGS = 8.0
# What rounding an output to bfloat16 costs; a float32 layer that is worse than that wastes it.
_FORMULA_LIMIT = 2.0**-8
_INPUT_LIMIT = 2.0**-4
# BN205: one doubling away from infinity.
_NEAR_OVERFLOW = float(np.finfo(np.float16).max) / 2
# BN206: below, a batch's variance is off by half of itself.
_FEWEST_SAMPLES = 9


def check_precision(norm: Norm, found: NormMeasured) -> list[Finding]:
    """BN204: the mean is so large that rounding shows."""
    pool, epsilon = found.pool, norm.layer.epsilon
    with np.errstate(all="ignore"):
        ratio = np.abs(pool.mean) / np.sqrt(pool.variance + epsilon)
    # Keras computes in float32 whatever the input's type; rounding the input comes on top.
    wide = np.finfo(np.float64 if found.dtype == "float64" else np.float32)
    cancels = not isinstance(norm.layer, BatchNormalization) and own_call(norm.layer) is None
    formula = ratio * _ROUNDINGS * float(wide.eps) if cancels else 0 * ratio
    # Rounding to steps of eps |x| is off by a twelfth of a step's square.
    step = float(ml_dtypes.finfo(tf.as_dtype(found.dtype).as_numpy_dtype).eps)
    rounding = ratio * step / np.sqrt(12)
    wrong = (formula > _FORMULA_LIMIT) | (rounding > _INPUT_LIMIT)
    if not wrong.any():
        return []
    worst = int(np.argmax(np.where(wrong, ratio, -1)))
    by_input = bool((rounding > _INPUT_LIMIT)[wrong].any())
    return [
        finding(
            "BN204",
            norm.name,
            channels=wrong,
            cause=(
                f"The mean is so much larger than the standard deviation that {found.dtype} does "
                "not hold the differences between samples."
                if by_input
                else "The layer's formula takes two large numbers from each other, x/sigma and "
                "mean/sigma, and keeps what rounding left of them."
            ),
            remedy=(
                "Keep the layer before this one in float32, or take its mean away there."
                if by_input
                else "bnm.accelerate(model) puts the layer on kernels that subtract the mean first."
            ),
            mean_over_deviation=ratio[worst],
            error=max(formula[worst], rounding[worst]),
            worst_channel=worst,
            channels_of=norm.channels,
        )
    ]


def check_finite(order: list[str], measured: Measured) -> list[Finding]:
    """BN205: where values first are NaN or infinite; or are about to be."""
    for later, name in enumerate(order):
        found = measured.norms[name]
        wrong = found.pool.non_finite > 0
        if wrong.any():
            after = order[later + 1 :]
            return [
                finding(
                    "BN205",
                    name,
                    channels=wrong,
                    cause="The data are finite; this is the first layer whose input is not.",
                    remedy="Look before it for overflow, or for weights that are NaN.",
                    values=int(found.pool.non_finite.sum()),
                    of_values=int(found.pool.count) * len(wrong),
                    layers_after=sum(measured.norms[one].pool.non_finite.any() for one in after),
                    non_finite_outputs=measured.non_finite_outputs,
                    channels_of=len(wrong),
                )
            ]
    if measured.non_finite_outputs:
        return [
            finding(
                "BN205",
                "",
                cause="All batch norm layers get finite input, but the output is not finite.",
                remedy="Look at the last batch norm layer's weights and at the layers after it.",
                non_finite_outputs=measured.non_finite_outputs,
            )
        ]
    return [
        finding(
            "BN205",
            name,
            severity="warning",
            cause="The input is within a factor of two of the largest number of float16.",
            remedy="Keep the layer before this one in float32 or bfloat16, or scale it down.",
            largest=measured.norms[name].largest,
        )
        for name in order
        if measured.norms[name].largest > _NEAR_OVERFLOW
    ]


def check_counts(norm: Norm, found: NormMeasured, measured: Measured) -> list[Finding]:
    """BN206: batches of this size say too little of a variance."""
    if found.frozen or not measured.full:
        return []
    usual = max(found.pool.counts, key=lambda count: found.pool.counts[count])
    least = min(found.pool.counts)
    severity: Severity
    if usual == 1:
        severity = "error"
        cause = "With one sample behind each statistic, training gives beta whatever the input."
    elif usual < _FEWEST_SAMPLES:
        severity = "warning"
        cause = "In batches of this size, training normalizes by variances that are mostly noise."
    elif least == 1:
        severity = "note"
        cause = "The last batch leaves one sample behind each statistic; training on it gives beta."
    else:
        return []
    return [
        finding(
            "BN206",
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
    ]
