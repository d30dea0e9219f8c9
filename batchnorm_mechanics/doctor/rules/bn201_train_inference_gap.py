"""BN201: the moving statistics are not those of the data."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding, Severity
from batchnorm_mechanics.doctor.gaps import FLOOR, Gap, misfit
from batchnorm_mechanics.doctor.rule import Answer, Case, Circumstances, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm

# How a layer came to a gap, and what to do about it.
_FROZEN = (
    "The layer is frozen, so that training normalizes by the same statistics, but they are not "
    "those of these data.",
    "Nothing, if the network is used for what it was trained on. For these data: "
    "bnm.recalibrate(model, data, include_frozen=True, blend=0.3), judged by labels.",
)
_INHERITED = (
    "What the layers before this one pass on is not what it was trained on; its own statistics fit "
    "an input that is right.",
    "Repair the layer named as the root first.",
)
_MOVED_ON = (
    "The statistics are those that the layer gets when the layers before it normalize by the "
    "batch; what they pass on in inference is another thing, though each of them fits.",
    "Re-estimate layer by layer: bnm.recalibrate(model, data, sequential=True) or "
    "`bnm repair --sequential`, with more data.",
)
_NOISE = (
    "The statistics are those of training, in which {behind} before the layer is at work, and what "
    "it gets in inference varies otherwise.",
    "Have no dropout before batch norm: put it behind the last one. For this model, `bnm repair` "
    "re-estimates the statistics as inference has them.",
)
_OFF = (
    "The moving statistics, which inference uses, are not those of what the layer gets from these "
    "data: they are stale, or calls with training=True moved them since, or the data are another "
    "domain's, which looks the same.",
    "If these data are training's, re-estimate: bnm.recalibrate(model, data) or `bnm repair`; with "
    "labels, `bnm repair` tries it and keeps what is better.",
)


class TrainInferenceGap(Rule):
    """Training normalizes by the batch, inference by statistics that are not those of the data."""

    severity = "error"
    parts_modes = True
    needs_data = True
    explains_later = ("BN201",)
    is_told_by_range = True
    # What moved these channels moved others below the threshold.
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Look at the gap of each layer, in the order of the calls."""
        is_first = True
        for norm, measured, gap in case.heard():
            if not gap.is_large or case.measured is None:
                continue
            effects = case.measured.effects
            worst = int(np.nanargmax(np.where(gap.moved, gap.channels, -1.0)))
            fits = gap.own is not None and gap.own < FLOOR
            cause, remedy = _OFF
            if measured.frozen:
                cause, remedy = _FROZEN
            elif fits:
                cause, remedy = _MOVED_ON if is_first else _INHERITED
            is_first = False
            noise = {} if measured.frozen or fits else _explained_by_noise(case, norm, gap)
            if noise:
                cause, remedy = (words.format(**noise) for words in _NOISE)
            yield self.finding(
                norm.name,
                channels=gap.moved,
                severity="note" if measured.frozen else effects.severity,
                cause=cause,
                remedy=remedy,
                gap=gap.layer,
                own_gap=gap.own,
                worst_channel=worst,
                worst_gap=gap.channels[worst],
                mean_shift=gap.shift[worst],
                variance_ratio=gap.ratio[worst],
                channels_of=norm.channels,
                stale_gap=gap.stale if len(measured.calls) > 1 else None,
                **noise,
                **effects.on_output,
            )

    def explained_by(self, finding: Finding) -> Iterator[str]:
        """Leave out another domain for a note, as of a frozen layer, and what is no inheritance."""
        own = finding.evidence.get("own_gap")
        # Right by itself: whatever is wrong came from before.
        is_inherited = isinstance(own, int | float) and own < FLOOR
        for way in super().explained_by(finding):
            fits_a_note = way != "explains_everywhere" or finding.severity != "note"
            if fits_a_note and (way != "explains_later" or is_inherited):
                yield way

    def steps(self, finding: Finding, norm: "Norm", circumstances: Circumstances) -> Answer:
        """Estimate the layer anew, unless its statistics are the best for all its calls."""
        stale = finding.evidence.get("stale_gap")
        if isinstance(stale, int | float) and stale < FLOOR:
            return "its statistics are right for all calls together, which are unlike one another"
        return super().steps(finding, norm, circumstances)

    def severity_under(self, finding: Finding, root: Finding) -> Severity:
        """Return a note in a model that was never trained, which has a gap at every layer."""
        is_untrained = root.code == "BN103" and root.severity == "note"
        return "note" if is_untrained else finding.severity


def _explained_by_noise(case: Case, norm: "Norm", gap: Gap) -> dict[str, Any]:
    """Return what is before a layer whose statistics fit what it gets in training with noise."""
    if norm.name not in case.noisy or gap.own is None:
        return {}
    behind, calls = case.noisy[norm.name]
    left = misfit(norm, calls, norm.moving)
    # What few samples differ by at random may be left, but not most of the gap.
    if left > max(gap.own / 2, FLOOR):
        return {}
    return {"behind": ", ".join(behind), "gap_with_noise": left}
