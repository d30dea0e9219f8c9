"""What is wrong with a model can be seen from data that go through it: rules BN201 to BN206."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchnorm_mechanics.doctor.checks.gaps import FLOOR, Gap
from batchnorm_mechanics.doctor.checks.inputs import check_counts, check_finite, check_precision
from batchnorm_mechanics.doctor.findings import Finding, Severity
from batchnorm_mechanics.doctor.making import finding
from batchnorm_mechanics.doctor.probing.effects import Effects
from batchnorm_mechanics.doctor.probing.probe import Measured, NormMeasured
from batchnorm_mechanics.doctor.structure.norms import Norm

# Of the output: differences of a quarter of its spread, or another choice for 1 sample in 20.
_RELATIVE, _CHANGED = 0.25, 0.05
# BN115: as in the rule's part without data, fewer channels may fit by chance.
_FEWEST_CHANNELS = 8
# BN203: of all layers; and a first gap that a moving average that lags does not reach.
_NEARLY_ALL, _CLEAR = 0.8, 2 * FLOOR
# BN203: later layers that get what they had in training, and variances of the first that moved by
# factors of their own. Pixels in another order reach 0.33 and 0.13, noise for digits 0.34 and 0.1.
_NO_GAP, _SPREAD = 0.05, 0.4


def check_data(
    norms: tuple[Norm, ...], measured: Measured, gaps: Mapping[str, Gap]
) -> list[Finding]:
    """Return what data show: BN201 to BN206, and BN115 where weights alone cannot tell.

    Args:
        norms: the batch norm layers of a model.
        measured: what `measure` says of them.
        gaps: what `gaps_of` says of them.

    Returns:
        Findings in the order of the layers' first calls; roots are not yet named.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.doctor.checks.gaps import gaps_of
        >>> from batchnorm_mechanics.doctor.data import Data
        >>> from batchnorm_mechanics.doctor.structure.norms import norms_in
        >>> from batchnorm_mechanics.doctor.probing.probe import measure
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((1,)), layer])
        >>> x = np.random.default_rng(0).normal(5, 2, (512, 1))
        >>> norms = norms_in(model)
        >>> measured = measure(model, norms, Data(x))
        >>> [found.code for found in check_data(norms, measured, gaps_of(norms, measured))]
        ['BN201']
    """
    by_name = {norm.name: norm for norm in norms}
    findings = check_finite(list(gaps), measured)
    for name in gaps:
        norm, found = by_name[name], measured.norms[name]
        findings += _swapped(norm, found, gaps[name])
        findings += check_precision(norm, found)
        findings += check_counts(norm, found, measured)
    return (
        findings
        + _shift(by_name, gaps, measured)
        + _gaps(by_name, gaps, measured)
        + _alone(measured)
    )


def _severity(effects: Effects) -> Severity:
    """Return how bad a gap is by what it does to the output: a gap that does nothing is a note."""
    if effects.relative is None:
        return "warning"
    size = max(effects.relative / _RELATIVE, (effects.changed or 0.0) / _CHANGED)
    return "error" if size >= 2 else "warning" if size >= 1 else "note"


def _output(effects: Effects) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if effects.relative is not None:
        found["output_change"] = effects.relative
    if effects.changed is not None:
        found["predictions_changed"] = effects.changed
    return found


def _gaps(norms: dict[str, Norm], gaps: Mapping[str, Gap], measured: Measured) -> list[Finding]:
    """BN201: the moving statistics are not those of the data."""
    findings = []
    for name, gap in gaps.items():
        if not gap.is_large:
            continue
        found = measured.norms[name]
        worst = int(np.nanargmax(np.where(gap.moved, gap.channels, -1.0)))
        fits = gap.own is not None and gap.own < FLOOR and not found.frozen
        inherited, moved_on = fits and bool(findings), fits and not findings
        if found.frozen:
            cause = (
                "The layer is frozen, so that training normalizes by the same statistics, but they "
                "are not those of these data."
            )
        elif inherited:
            cause = (
                "What the layers before this one pass on is not what it was trained on; its own "
                "statistics fit an input that is right."
            )
        elif moved_on:
            cause = (
                "The statistics are those that the layer gets when the layers before it normalize "
                "by the batch; what they pass on in inference is another thing, though each of "
                "them fits."
            )
        else:
            cause = (
                "The moving statistics, which inference uses, are not those of what the layer gets "
                "from these data, which training uses."
            )
        findings.append(
            finding(
                "BN201",
                name,
                channels=gap.moved,
                severity="note" if found.frozen or gap.of_few else _severity(measured.effects),
                cause=cause,
                remedy=(
                    "Nothing needs doing unless the layer is to be trained again."
                    if found.frozen
                    else "Repair the layer named as the root first."
                    if inherited
                    else "Re-estimate layer by layer: bnm.recalibrate(model, data, "
                    "sequential=True) or `bnm repair --sequential`, with more data."
                    if moved_on
                    else "Re-estimate the statistics: bnm.recalibrate(model, data) or `bnm repair`."
                ),
                gap=gap.layer,
                **({} if gap.own is None else {"own_gap": gap.own}),
                worst_channel=worst,
                worst_gap=gap.channels[worst],
                mean_shift=gap.shift[worst],
                variance_ratio=gap.ratio[worst],
                channels_of=norms[name].channels,
                **_output(measured.effects),
            )
        )
    return findings


def _shift(norms: dict[str, Norm], gaps: Mapping[str, Gap], measured: Measured) -> list[Finding]:
    """BN203: it is the data that differ, since the first layer's input does already."""
    live = {name: gap for name, gap in gaps.items() if not measured.norms[name].frozen}
    if len(live) < 2:
        return []
    (name, first), *rest = live.items()
    large = [gap for gap in live.values() if gap.is_large]
    owns = [gap.own for _, gap in rest if gap.own is not None]
    if (
        not first.is_large
        or len(large) < _NEARLY_ALL * len(live)
        or first.own is None
        or first.own < _CLEAR
        or not owns
        or float(np.median(owns)) > first.own / 2
        or (float(np.median(owns)) < _NO_GAP and _is_spoilt(norms[name], first))
    ):
        return []
    severity = _severity(measured.effects)
    return [
        finding(
            "BN203",
            name,
            channels=first.moved,
            severity="note" if first.of_few or severity == "note" else "warning",
            cause=(
                "The data differ from those of the statistics from the first layer on, and the "
                "layers after it only pass the difference on: they are prepared in another way, or "
                "come from another domain; or this layer's statistics alone are spoilt, which "
                "looks the same."
            ),
            remedy=(
                "Compare how these data and the training data are scaled. If they are training's, "
                "`bnm repair --only BN203`; if the domain is new, "
                "bnm.recalibrate(model, data, blend=0.3) moves the statistics toward it."
            ),
            first_gap=first.layer,
            first_own_gap=first.own,
            later_own_gap=float(np.median(owns)),
            layers_moved=len(large),
            layers=len(live),
            channels_of=norms[name].channels,
            **_output(measured.effects),
        )
    ]


def _is_spoilt(norm: Norm, gap: Gap) -> bool:
    """Whether a first layer's variances are off by factors that no change of scale explains.

    Behind a linear layer, a change of scale multiplies all of them alike. As the very first, a
    layer sees features that may each have got a scale of their own.
    """
    if norm.calls and all(call.before is None for call in norm.calls):
        return False
    logs = np.log(gap.ratio[np.isfinite(gap.ratio) & (gap.ratio > 0)])
    if not logs.size:
        return False
    # The quartiles: channels that are dead in both have a ratio of 1 whatever the scale.
    low, high = np.quantile(logs, (0.25, 0.75))
    return bool((high - low) / 1.35 > _SPREAD)


def _alone(measured: Measured) -> list[Finding]:
    """BN202: a sample's output depends on the batch that it comes in."""
    effects = measured.effects
    if measured.non_finite_outputs:
        return []  # nothing can be compared, and BN205 says so
    guilty = [name for name, found in measured.norms.items() if found.by_batch]
    if effects.alone is not None and effects.alone > effects.rounding:
        return [
            finding(
                "BN202",
                guilty[0] if guilty else "",
                cause=(
                    "The layer normalizes by the batch although the model predicts."
                    if guilty
                    else "Something other than batch norm mixes the samples of a batch."
                ),
                remedy=(
                    "Have the model's code pass `training` on instead of setting it."
                    if guilty
                    else "Look for operations over the axis of the samples."
                ),
                output_change=effects.alone,
                rounding=effects.rounding,
                layers_by_batch=len(guilty),
            )
        ]
    difference = effects.alone_if_called
    if difference is None or difference <= effects.rounding or not effects.called_by_batch:
        return []
    return [
        finding(
            "BN202",
            effects.called_by_batch[0],
            severity="warning",
            cause=(
                "`model(x)` normalizes by the batch and moves the statistics, while "
                "`model.predict(x)` and `model(x, training=False)` do not."
            ),
            remedy=(
                "Call the model with training=False, or remove the training flag that is baked in: "
                "`bnm repair`."
            ),
            output_change=difference,
            rounding=effects.rounding,
            layers_by_batch=len(effects.called_by_batch),
        )
    ]


def _swapped(norm: Norm, found: NormMeasured, gap: Gap) -> list[Finding]:
    """BN115: the statistics fit if mean and variance change places."""
    if (
        norm.channels < _FEWEST_CHANNELS
        or gap.own is None
        or gap.swapped is None
        or (norm.mean < 0).any()
        or not gap.swapped < FLOOR < gap.own / 4
        # Nothing to swap fits as well, where every number is NaN.
        or not np.isfinite(found.pool.variance).all()
    ):
        return []
    return [
        finding(
            "BN115",
            norm.name,
            channels=np.ones(norm.channels, bool),
            cause="The moving mean is the data's variance, and the moving variance their mean.",
            remedy="Swap the two back: `bnm repair`, and load them in the right order.",
            gap=gap.own,
            gap_if_swapped=gap.swapped,
        )
    ]
