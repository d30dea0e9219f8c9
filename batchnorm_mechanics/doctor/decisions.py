"""What is done about findings, and whether it did good: pure decisions, nothing is changed here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from batchnorm_mechanics.doctor.findings import Diagnosis, Finding
from batchnorm_mechanics.doctor.rule import Answer, Circumstances, Step
from batchnorm_mechanics.doctor.rules import RULES

_DONE = (
    "its statistics were estimated anew, and this is left; `sequential` estimates layer by layer, "
    "exactly for inference"
)
_LEAST_GROWTH = 1.1
# The distance of training mode from inference, without labels: what a few samples err by.
_FARTHER, _NEARLY_NOTHING = 1.02, 0.01
_WORSE = (
    "it made the model worse on these data, {} {:.4g} before and {:.4g} after, and was taken back"
)


@dataclass(frozen=True)
class Decided:
    """What to do, in order.

    Attributes:
        steps: by stage and action, then in the order of the model.
        refused: by the keys of the findings, why nothing is done about them.
    """

    steps: tuple[Step, ...]
    refused: Mapping[str, str]


def decide(findings: Sequence[Finding], circumstances: Circumstances) -> Decided:
    """Decide what is done about findings, and what is not.

    A finding that another one explains is left until that is repaired: most such effects go with
    their cause.

    Args:
        findings: of a diagnosis.
        circumstances: all else.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.models.norms import norms_in
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> norms = norms_in(keras.Sequential([keras.layers.Input((3,)), layer]))
        >>> found = RULES["BN102"].finding("bn", channels=[1], cause="...", remedy="...")
        >>> without = Circumstances({"bn": norms[0]}, None, False, obstacle=lambda *_: None)
        >>> dict(decide([found], without).refused)
        {'BN102 bn': 'it needs data'}
    """
    asked = circumstances.asked
    wanted = {
        finding.key: finding
        for finding in findings
        if (finding.code in asked if asked is not None else finding.severity != "note")
    }
    answers = {key: _answer(finding, circumstances) for key, finding in wanted.items()}
    steps: list[Step] = []
    refused: dict[str, str] = {}
    for key, finding in wanted.items():
        answer, of_root = answers[key], answers.get(finding.root or "")
        if isinstance(of_root, str) and RULES[(finding.root or "").split()[0]].keeps_effects:
            refused[key] = f"{finding.root} explains it, which is not repaired"
        elif isinstance(of_root, list) and any(step.how.heals for step in of_root):
            continue
        elif isinstance(answer, str):
            refused[key] = answer
        else:
            new = [step for step in answer if not _is_done(step, circumstances)]
            steps += new
            if not new:
                refused[key] = _DONE
    return Decided(_in_order(steps, list(circumstances.norms)), MappingProxyType(refused))


def _is_done(step: Step, circumstances: Circumstances) -> bool:
    whole = (step.action, step.layer, ())
    return not circumstances.done.isdisjoint({whole, (step.action, step.layer, step.channels)})


def _answer(finding: Finding, circumstances: Circumstances) -> Answer:
    """Return what to do about a finding, or why nothing."""
    rule = RULES[finding.code]
    if rule.refusal is not None:
        return rule.refusal
    if finding.layer not in circumstances.norms:
        return "it is about the model as a whole, and names no layer"
    return rule.steps(finding, circumstances.norms[finding.layer], circumstances)


def _in_order(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    """Return one step for each action and layer, of all channels that any finding names."""
    together: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        together.setdefault((step.action, step.layer), []).append(step)
    merged = [
        Step(
            of_layer[0].how,
            layer,
            ()
            if any(not step.channels for step in of_layer)
            else tuple(sorted({channel for step in of_layer for channel in step.channels})),
            tuple(dict.fromkeys(key for step in of_layer for key in step.findings)),
        )
        for (_, layer), of_layer in together.items()
    ]
    merged.sort(key=lambda step: (step.how.stage, step.action, names.index(step.layer)))
    return tuple(merged)


def worsening(before: Diagnosis, after: Diagnosis) -> str | None:
    """Say that a repair made a model worse on the data it was given; None if it did not.

    Accuracy decides, and the loss where there is none. A drop counts if chance does not explain it:
    of n samples of which a tenth changes sides at random, the accuracy moves by sqrt(0.1 / n), and
    three times that, or one point if that is more, is the limit. A loss counts if it grows by a
    tenth. Without labels, the distance between the outputs of training mode and inference counts.
    Where statistics, gamma or beta were not finite, nothing can get worse.

    Args:
        before: the diagnosis before.
        after: that after, of the same data.

    Example:
        >>> def measured(**measures):
        ...     return Diagnosis("net", ("bn",), (), samples=1000, measures=measures)
        >>> worsening(measured(accuracy=0.90), measured(accuracy=0.89)) is None
        True
        >>> worsening(measured(loss=0.1), measured(loss=0.5))
        'it made the model worse on these data, loss 0.1 before and 0.5 after, and was taken back'
    """
    # The outputs were no numbers, and what is right among them was so by chance. They may not show
    # it: kernels that compute a ReLU along with the layer before it can make NaN 0, and whether
    # TensorFlow uses such depends on the processor. So the weights are asked as well.
    spoilt = any(RULES[found.code].spoils_outputs for found in before.findings)
    if spoilt or math.isnan(before.measures.get("gap", 0.0)):
        return None
    for name, harm in (("accuracy", _has_dropped), ("loss", _has_grown)):
        if name in before.measures and name in after.measures:
            old, new = before.measures[name], after.measures[name]
            return _WORSE.format(name, old, new) if harm(old, new, before.samples) else None
    old, new = (one.measures.get("output_change") for one in (before, after))
    if old is not None and new is not None and new > _FARTHER * old + _NEARLY_NOTHING:
        return _WORSE.format("distance of both modes", old, new)
    return None


def no_better(before: Diagnosis, after: Diagnosis) -> str | None:
    """Say that a repair made a model no better, by labels or else by the distance of both modes.

    Example:
        >>> def measured(**measures):
        ...     return Diagnosis("net", ("bn",), (), samples=1000, measures=measures)
        >>> no_better(measured(output_change=0.9), measured(output_change=0.1)) is None
        True
    """
    for name, sign, least in (("loss", -1, 1e-6), ("accuracy", 1, 0), ("output_change", -1, 0.02)):
        if name in before.measures and name in after.measures:
            old, new = before.measures[name], after.measures[name]
            # A hundredth of a loss, or of a distance that a few samples tell, is nothing to act on.
            if sign * (new - old) > max(0.01 * abs(old), least):
                return None
            return f"it makes the model no better, {name} {old:.4g} before and {new:.4g} after"
    return "nothing says that it makes the model better"


def apart(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Return steps in groups that can be taken one without the other: by the findings they mend."""
    groups: list[tuple[set[str], list[Step]]] = []
    for step in steps:
        keys = set(step.findings)
        joined = [group for group in groups if group[0] & keys or group[1][0].layer == step.layer]
        for group in joined:
            groups.remove(group)
            keys |= group[0]
        groups.append((keys, [one for group in joined for one in group[1]] + [step]))
    return [tuple(of_one) for _, of_one in groups]


def _has_dropped(old: float, new: float, samples: int) -> bool:
    # Here: scores know TensorFlow.
    from batchnorm_mechanics.doctor.scores import changing_by_chance

    limit = changing_by_chance(samples)
    # Two quotients below 1 are each rounded by 2**-54 at most, and so is their difference: a drop
    # by the limit itself is none, whichever numbers it lies between.
    return old - new > limit + 2.0**-52


def _has_grown(old: float, new: float, _samples: int) -> bool:
    # What was NaN or infinite cannot get worse. Of a loss next to 0, a growth says nothing: float32
    # rounds logits of some 10 by as much as 1e-6, and kernels add them in orders of their own.
    return math.isfinite(old) and not new <= _LEAST_GROWTH * old + 1e-6
