"""What training did to statistics, or failed to do: rules BN103, 105, 106, 110 and 114."""

import math
from typing import Any

import numpy as np

from batchnorm_mechanics.doctor.checks.past import (
    LINEAR,
    Past,
    affine_moved,
    at_start,
    mean_at_start,
    start_of,
    variance_at_start,
)
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.making import finding
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import ExponentialMovingAverage

# BN105: PyTorch's default is 0.1; from 0.5 down the last batch outweighs all others together.
_LARGEST_REVERSED = 0.5
# BN106: below it the start moves no statistic by more than that share of itself.
_SMALLEST_WEIGHT = 0.01
# BN106: of a variance, when the start makes it 1.5 times what it should be.
_SHARE_OF_START = 1 / 3
# BN106: in standard deviations, how far the start draws the mean away.
_SHIFT_OF_MEAN = 0.25
_SEEMS_TRAINED = (
    ", as it seems: gamma or beta is farther from its start than they reach at this learning rate"
)


def check_training(norms: tuple[Norm, ...], past: Past) -> list[Finding]:
    """Return the findings of BN103, 105, 106, 110 and 114.

    Args:
        norms: the batch norm layers of a model.
        past: of the model's training.
    """
    if norms and not past.is_trained:
        return [_untrained(norms), *(found for norm in norms for found in _momentum(norm))]
    began_here = _began_in_this_training(norms, past)
    findings: list[Finding] = []
    for norm in norms:
        findings += [*_never_updated(norm, past), *_momentum(norm), *_stale(norm, past)]
        if began_here:
            findings += _unconverged(norm, past)
        findings += _frozen_apart(norm)
    return findings + _partly_frozen(norms)


def _untrained(norms: tuple[Norm, ...]) -> Finding:
    return finding(
        "BN103",
        "",
        severity="note",
        cause="No weight has left its start, so the model is not trained yet and the statistics "
        "are still mean 0 and variance 1.",
        remedy="Nothing before training; if it was trained, load the weights of that training.",
        layers=len(norms),
    )


def _never_updated(norm: Norm, past: Past) -> list[Finding]:
    if not variance_at_start(norm) or not np.isfinite(norm.mean).all():
        return []
    evidence = {
        "moving_mean": norm.mean[0],
        "moving_variance": norm.variance[0],
        "optimizer_steps": past.steps,
    }
    everywhere: Any = range(norm.channels)
    if not mean_at_start(norm):
        return [
            finding(
                "BN103",
                norm.name,
                channels=everywhere,
                severity="warning",
                cause="The moving variance is exactly what it began with and the moving mean is "
                "not: no batch had two samples to take a variance of, or only the mean was loaded.",
                remedy="Re-estimate the statistics on data with `bnm repair`.",
                **(evidence | {"largest_mean": np.abs(norm.mean).max()}),
            )
        ]
    frozen = not norm.layer.trainable
    affine = norm.gamma is not None or norm.beta is not None
    if affine_moved(norm) or (not frozen and (past.steps > 0 or not affine)):
        return [
            finding(
                "BN103",
                norm.name,
                channels=everywhere,
                cause="The weights were trained, but mean and variance are exactly what they began "
                "with: a training loop of one's own called the model without `training=True`, or "
                "a port left the statistics out.",
                remedy="Left out, they are re-estimated by `bnm repair`. Trained without them, the "
                "weights fit them as they are: train again with `model(x, training=True)`. With "
                "labels, `bnm repair` tells which: what makes the model worse it takes back.",
                **evidence,
            )
        ]
    if frozen:
        return [
            finding(
                "BN103",
                norm.name,
                channels=everywhere,
                severity="warning",
                cause="The layer was frozen before it ever saw a batch, so it normalizes by mean 0 "
                "and variance 1, which is not at all.",
                remedy="Unfreeze the layer and train, or re-estimate its statistics with "
                "`bnm.recalibrate(..., include_frozen=True)`; train on after that.",
                **evidence,
            )
        ]
    return [
        finding(
            "BN103",
            norm.name,
            channels=everywhere,
            severity="note",
            cause="Other layers of the model are trained and this one is not yet: its statistics, "
            "gamma and beta are what they began with.",
            remedy="Train the model before using it for inference.",
            **evidence,
        )
    ]


def _momentum(norm: Norm) -> list[Finding]:
    momentum = norm.momentum
    if momentum is None or _LARGEST_REVERSED < momentum < 1:
        return []
    if momentum == 1:
        cause = "With momentum 1 the moving statistics keep their start for ever."
        remedy = (
            "Set the momentum to 0.99 or 0.9, and re-estimate the statistics with `bnm repair`."
        )
    elif momentum == _LARGEST_REVERSED:
        cause = (
            "Keras's momentum is the weight of the old value: at 0.5 the last batch weighs as much "
            "as all before it. PyTorch's, the complement, is the same number."
        )
        remedy = "Set the momentum to 0.99 or 0.9, unless so short an average is meant."
    else:
        cause = (
            f"Keras's momentum is the weight of the old value: {momentum:g} makes the statistics "
            "follow the last few batches; it looks like PyTorch's, which is the complement."
        )
        remedy = f"Set the momentum to {1 - momentum:g}, as `bnm repair` does, if it is PyTorch's."
    return [
        finding(
            "BN105",
            norm.name,
            # A frozen layer's average does not move, whatever its momentum; and 0.5 is no mistake
            # of whoever took it for the complement.
            severity="warning"
            if norm.layer.trainable and momentum != _LARGEST_REVERSED
            else "note",
            cause=cause,
            remedy=remedy,
            momentum=momentum,
            complement=1 - momentum,
            batches_averaged=0.0 if momentum == 1 else (1 + momentum) / (1 - momentum),
        )
    ]


def weight_of_start(norm: Norm, past: Past) -> float | None:
    """Return how much of a moving average is still its start, if it began with this training.

    Args:
        norm: a layer.
        past: of the model's training.

    Returns:
        momentum**updates, in (0, 1); None where nothing is averaged so: a frozen layer, one of
        renormalization, a policy without that start, no step of the optimizer, or statistics that
        were estimated anew since.
    """
    ours = isinstance(norm.layer, BatchNormalization)
    if ours and not isinstance(norm.layer.policy, ExponentialMovingAverage):
        return None
    momentum = norm.momentum
    if norm.renorm or not norm.layer.trainable or past.steps == 0 or momentum is None:
        return None
    if norm.name in past.estimated:
        return None
    if not 0 < momentum < 1:
        return None
    # A layer that the graph calls twice is updated twice a step.
    return momentum ** (past.steps * max(1, len(norm.calls)))


def _began_in_this_training(norms: tuple[Norm, ...], past: Past) -> bool:
    """Whether all statistics can have begun at their start when the optimizer began.

    A share of the start as large as it must then be is in every variance; one variance below that
    shows that a model was trained before, as in fine-tuning, and steps before are not counted.
    """
    for norm in norms:
        weight = weight_of_start(norm, past)
        if weight is None or at_start(norm):
            continue
        usable = np.isfinite(norm.variance) & (norm.variance >= 0)
        floor = weight * start_of(norm).variance * (1 - 1e-3)
        if (norm.variance < floor)[usable].any():
            return False
    return True


def _unconverged(norm: Norm, past: Past) -> list[Finding]:
    weight = weight_of_start(norm, past)
    if weight is None or weight <= _SMALLEST_WEIGHT or at_start(norm):
        return []
    if _is_pure_decay(norm, weight):
        return []
    start = start_of(norm)
    share, shift = _influence_of_start(norm, start.mean, start.variance, weight)
    touched = (share > _SHARE_OF_START) | (shift > _SHIFT_OF_MEAN)
    if not touched.any():
        return []
    momentum = norm.momentum or 0.0
    return [
        finding(
            "BN106",
            norm.name,
            channels=touched,
            severity="note" if past.came_from_afar else "warning",
            cause=f"After {past.steps} steps with momentum {momentum:g} the start value still "
            f"makes {weight:.0%} of the moving statistics, unless the layer was trained before "
            f"these steps{_SEEMS_TRAINED if past.came_from_afar else ''}.",
            remedy="Re-estimate the statistics with `bnm repair`, or train on; a lower momentum or "
            "`DebiasedMovingAverage` serves short trainings.",
            weight_of_start=weight,
            momentum=momentum,
            optimizer_steps=past.steps,
            steps_needed=math.ceil(math.log(_SMALLEST_WEIGHT) / math.log(momentum)),
            largest_share_of_variance=float(share[touched].max()),
            largest_shift_of_mean=float(shift[touched].max()),
        )
    ]


def _influence_of_start(
    norm: Norm, start_mean: Vector, start_variance: Vector, weight: float
) -> tuple[Vector, Vector]:
    """Return, by channel, the start's share of the variance, and its pull on the mean in sigmas."""
    usable = np.isfinite(norm.mean) & np.isfinite(norm.variance) & (norm.variance > 0)
    variance = np.where(usable, norm.variance, 1)
    share = weight * start_variance / variance
    # Without the start, the batches' own average: (moving - weight * start) / (1 - weight).
    own_variance = np.maximum(variance - weight * start_variance, 0) / (1 - weight)
    pull = weight * np.abs(np.where(usable, norm.mean, 0) - start_mean) / (1 - weight)
    shift = pull / np.sqrt(own_variance + float(norm.layer.epsilon))
    return np.where(usable, share, 0), np.where(usable, shift, 0)


def _is_pure_decay(norm: Norm, weight: float) -> bool:
    """Whether no batch added any variance, which is BN104's to tell."""
    return bool(np.allclose(norm.variance, weight * start_of(norm).variance, rtol=1e-3, atol=0))


def _stale(norm: Norm, past: Past) -> list[Finding]:
    if past.ema_momentum is None or not norm.layer.trainable or norm.name in past.estimated:
        return []
    if norm.calls and all(call.before is None for call in norm.calls):
        return []  # its input has passed no weight
    return [
        finding(
            "BN110",
            norm.name,
            cause="The weights are averages over the training (`use_ema`), and the statistics are "
            "of what the weights were before averaging: no layer ever saw these activations.",
            remedy="Re-estimate the statistics of the averaged weights with `bnm repair`.",
            ema_momentum=past.ema_momentum,
            optimizer_steps=past.steps,
        )
    ]


def _frozen_apart(norm: Norm) -> list[Finding]:
    """Compare a layer with the one that feeds it, where that has weights."""
    for call in norm.calls:
        before = call.before
        if not isinstance(before, LINEAR) or before.trainable == norm.layer.trainable:
            continue
        if norm.layer.trainable:
            cause = (
                f"{before.name} is frozen and this layer is not: in training it normalizes by the "
                "batch, and its statistics move away from those that the frozen part was "
                "trained with."
            )
            remedy = "Freeze this layer too, unless its statistics are to adapt; then recompile."
        else:
            cause = (
                f"This layer is frozen and {before.name} is not: the statistics stay while the "
                "activations that they describe change."
            )
            remedy = "Keep the learning rate small, or re-estimate the statistics afterwards."
        return [
            finding(
                "BN114",
                norm.name,
                cause=cause,
                remedy=remedy,
                layer_before=before.name,
                trainable=str(norm.layer.trainable),
                layer_before_trainable=str(before.trainable),
            )
        ]
    return []


def _partly_frozen(norms: tuple[Norm, ...]) -> list[Finding]:
    frozen = [norm.name for norm in norms if not norm.layer.trainable]
    if not frozen or len(frozen) == len(norms):
        return []
    return [
        finding(
            "BN114",
            "",
            cause="Some batch norm layers are frozen and infer even in training, and the others "
            "normalize by the batch.",
            remedy="Nothing if this is meant, as in fine-tuning; `trainable` takes effect at "
            "the next `compile`.",
            frozen=len(frozen),
            trainable=len(norms) - len(frozen),
            first_frozen=frozen[0],
        )
    ]
