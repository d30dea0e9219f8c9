"""What is wrong with a layer can be seen from its weights alone: rules BN101 to 106 and others."""

import math
from typing import Any

import keras
import ml_dtypes
import numpy as np

from batchnorm_mechanics.doctor.checks.past import Past, affine_moved, at_start, past_of, start_of
from batchnorm_mechanics.doctor.checks.training import check_training
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.making import finding
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector

# BN115: with fewer channels, means that are all positive are no rarity: 2**-8 by chance.
_FEWEST_CHANNELS = 8
# BN112: such a channel has 1e-6 of the power of a usual one.
_TINY_GAMMA = 1e-3
# BN104: of epsilon; a variance below it leaves the output less than a tenth of the deviation that
# normalizing promises, sqrt(v / (v + epsilon)).
_DROWNED = 0.01
# BN104: a step count read off a moving average, in steps.
_STEP_TOLERANCE = 0.01


def check_weights(model: Any, norms: tuple[Norm, ...]) -> list[Finding]:
    """Return what the weights, the settings and the optimizer show: BN101-106, 110-112, 114, 115.

    Args:
        model: any Keras model.
        norms: its batch norm layers, as `norms_in` returns them.

    Returns:
        Findings, layer by layer, then those of the model as a whole.

    Example:
        >>> from batchnorm_mechanics.doctor.structure.norms import norms_in
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((3,)), layer])
        >>> _ = layer.moving_variance.assign([1.0, -2.0, 1.0])
        >>> findings = check_weights(model, norms_in(model))
        >>> [(found.code, found.layer, found.channels) for found in findings]
        [('BN102', 'bn', (1,))]
    """
    past = past_of(model, norms)
    findings: list[Finding] = []
    for norm in norms:
        findings += _non_finite(norm)
        swapped = _swapped(norm)
        findings += swapped
        findings += _negative_variance(norm, root=swapped[0].key if swapped else None)
        if not swapped:
            # What stands in the variance's place is no variance to be judged.
            findings += [*_collapsed(norm, past), *_epsilon(norm)]
        findings += _dead_gamma(norm, past)
    return findings + check_training(norms, past)


def is_finite(norm: Norm) -> Any:
    """Return where all of a layer's weights are finite, as booleans of shape (channels,)."""
    parts = [norm.mean, norm.variance, norm.gamma, norm.beta]
    return np.all([np.isfinite(part) for part in parts if part is not None], axis=0)


def _non_finite(norm: Norm) -> list[Finding]:
    where: dict[str, Any] = {}
    for weight in norm.layer.weights:
        if tuple(weight.shape) == (norm.channels,):
            values = np.asarray(keras.ops.convert_to_numpy(weight), np.float64)
            if not np.isfinite(values).all():
                where[weight.name] = ~np.isfinite(values)
    if not where:
        return []
    counts: dict[str, Any] = {f"non_finite_{name}": int(bad.sum()) for name, bad in where.items()}
    return [
        finding(
            "BN101",
            norm.name,
            channels=np.any(list(where.values()), axis=0),
            cause=f"{' and '.join(where)} hold NaN or infinity, so these channels output NaN; "
            "a moving average never forgets one bad batch.",
            remedy="Re-estimate the statistics on clean data with `bnm repair`, which also puts a "
            "spoilt gamma or beta back to 1 or 0; then look for the batch that did it.",
            **counts,
        )
    ]


def _negative_variance(norm: Norm, root: str | None) -> list[Finding]:
    variance = norm.variance
    negative = np.isfinite(variance) & (variance < 0)
    if not negative.any():
        return []
    epsilon = norm.layer.epsilon
    undefined = int((variance[negative] + epsilon <= 0).sum())
    return [
        finding(
            "BN102",
            norm.name,
            channels=negative,
            root=root,
            cause="No variance is below 0: the weights were loaded in the wrong order, averaged "
            "with others, or computed as E[x^2] - E[x]^2, which cancels.",
            remedy="Re-estimate the statistics on data with `bnm repair`, or load the right ones.",
            lowest_variance=variance[negative].min(),
            epsilon=epsilon,
            channels_with_undefined_output=undefined,
        )
    ]


def _swapped(norm: Norm) -> list[Finding]:
    mean, variance = norm.mean, norm.variance
    if norm.channels < _FEWEST_CHANNELS or not np.isfinite([mean, variance]).all():
        return []
    negative = int((variance < 0).sum())
    # One channel below 0 may be a spoilt one; a tenth of them and more is how means look.
    if negative < max(2, norm.channels / 10) or mean.min() < 0 or np.median(mean) <= 0:
        return []
    return [
        finding(
            "BN115",
            norm.name,
            channels=range(norm.channels),
            cause="The moving variance has values of both signs and the moving mean none below 0: "
            "each was loaded in the other's place, as after a port that orders weights "
            "differently.",
            remedy="Swap the two with `bnm repair`, and in the script that ported the weights.",
            negative_variances=negative,
            lowest_variance=variance.min(),
            lowest_mean=mean.min(),
            chance=2.0**-norm.channels,
        )
    ]


def _collapsed(norm: Norm, past: Past) -> list[Finding]:
    variance, epsilon = norm.variance, float(norm.layer.epsilon)
    usable = np.isfinite(variance) & (variance >= 0)
    small = usable & (variance <= epsilon)
    if at_start(norm) or not usable.any():
        return []
    remedy = (
        "Train with more than one sample for each statistic, or freeze the layer; then "
        "re-estimate the statistics with `bnm repair`."
    )
    steps = steps_of_decay(norm)
    if steps is not None:
        return [
            finding(
                "BN104",
                norm.name,
                channels=range(norm.channels),
                cause="All channels hold the start value times the same power of the momentum, so "
                "every batch had variance 0: batches of one sample, or a constant input.",
                remedy=remedy,
                variance=variance[0],
                momentum=norm.momentum or 0.0,
                steps_of_decay=steps,
                optimizer_steps=past.steps,
            )
        ]
    if not small.any():
        return []
    evidence: dict[str, Any] = {
        "lowest_variance": variance[small].min(),
        "largest_variance": variance[small].max(),
        "epsilon": epsilon,
        "largest_gain": _gain(norm)[small].max(),
    }
    if norm.channels > 1 and (usable & (variance <= epsilon * _DROWNED)).all():
        return [
            finding(
                "BN104",
                norm.name,
                channels=small,
                cause="Beside epsilon all variances are next to nothing, so that epsilon and not "
                "the data sets the scale: the batches were of one sample, or the input is tiny.",
                remedy=f"{remedy} If the input is tiny, scale it or lower epsilon.",
                **evidence,
            )
        ]
    return [
        finding(
            "BN104",
            norm.name,
            channels=small,
            severity="note",
            cause="The input of these channels hardly ever varied in training, as behind a dead "
            "ReLU; should it vary in inference, it is amplified by the gain given here.",
            remedy="Nothing, if such channels are meant; else prune them, or re-estimate the "
            "statistics with `bnm repair`.",
            **evidence,
        )
    ]


def steps_of_decay(norm: Norm) -> int | None:
    """Return how many batches of variance 0 alone explain a layer's moving variance.

    Args:
        norm: a layer whose statistics have left their start.

    Returns:
        The steps if each channel holds momentum**steps of what it began with, up to the rounding of
        as many float32 products; None otherwise, and for a policy that is no moving average.
    """
    start, momentum = start_of(norm).variance, norm.momentum
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


def _epsilon(norm: Norm) -> list[Finding]:
    layer = norm.layer
    epsilon, dtype = float(layer.epsilon), str(layer.compute_dtype)
    limits = ml_dtypes.finfo(dtype)
    usable = is_finite(norm) & (norm.variance >= 0)
    # An input near its mean is off by at most u * |mean|; the variance of that rounding.
    noise = (float(limits.eps) / 2 * norm.mean) ** 2 / 3
    drowned = usable & (norm.variance + epsilon <= noise)
    scale = np.sqrt(norm.variance[usable].max()) if usable.any() else 0.0
    overflowing = usable & (
        _gain(norm) > float(limits.max) / max(scale, float(limits.smallest_normal))
    )
    evidence = {
        "epsilon": epsilon,
        "compute_dtype": dtype,
        "smallest_normal": float(limits.smallest_normal),
    }
    if drowned.any() or overflowing.any():
        return [
            finding(
                "BN111",
                norm.name,
                channels=drowned | overflowing,
                cause=f"Variance and epsilon together are less than the rounding of a {dtype} "
                "input, or so small that an input of usual size overflows the output.",
                remedy="Raise epsilon, to 1e-3 for instance, and train on or re-estimate.",
                channels_of_rounding=int(drowned.sum()),
                channels_of_overflow=int(overflowing.sum()),
                rounding_variance=float(noise[usable].max()),
                **evidence,
            )
        ]
    if dtype == "float16" and epsilon < float(limits.smallest_normal):
        return [
            finding(
                "BN111",
                norm.name,
                severity="note",
                cause="float16 has no normal number as small as this epsilon; Keras adds it in "
                "float32, but a runtime that computes in float16 loses it.",
                remedy="Nothing in Keras; before exporting to a float16 runtime, fold the layer "
                "with `bnm fold`, or raise epsilon.",
                **evidence,
            )
        ]
    return []


def _gain(norm: Norm) -> Vector:
    """Return |gamma| / sqrt(variance + epsilon); 0 where there is no such root."""
    gamma = np.ones(norm.channels) if norm.gamma is None else np.abs(norm.gamma)
    total = norm.variance + float(norm.layer.epsilon)
    defined = np.isfinite(total) & (total >= 0) & np.isfinite(gamma)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(defined, gamma / np.sqrt(np.where(defined, total, 1)), 0)


def _dead_gamma(norm: Norm, past: Past) -> list[Finding]:
    gamma = norm.gamma
    if gamma is None or not np.isfinite(gamma).any():
        return []
    size = np.abs(gamma)
    median = float(np.median(size[np.isfinite(size)]))
    dead = np.isfinite(size) & ((size == 0) | (size < _TINY_GAMMA * median))
    trains = norm.layer.trainable and past.steps > 0
    # A residual branch may begin with gamma 0 everywhere and be meant to leave it.
    if not dead.any() or not (affine_moved(norm) or trains):
        return []
    return [
        finding(
            "BN112",
            norm.name,
            channels=dead,
            cause="With a gamma of 0, or tiny beside the others, a channel outputs beta whatever "
            "its input, and hardly learns: training or pruning has switched it off.",
            remedy="Prune these channels, or ease the weight decay on gamma if that was not meant.",
            exactly_zero=int((size == 0).sum()),
            median_gamma=median,
            largest_dead=float(size[dead].max()),
        )
    ]
