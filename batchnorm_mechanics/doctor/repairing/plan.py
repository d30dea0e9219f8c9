"""What to do about findings: pure decisions, nothing is changed here."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.structure.norms import Norm

Action = Literal["unflag", "split", "swap", "reset", "momentum", "fold-bias", "re-estimate"]
# In this order: the graph first, since it makes new layers; statistics last, since they follow
# from everything else.
ACTIONS: tuple[Action, ...] = get_args(Action)
IN_WORDS: Mapping[Action, str] = MappingProxyType(
    {
        "unflag": "remove the baked training flag",
        "split": "give each call a layer of its own",
        "swap": "swap mean and variance",
        "reset": "set gamma to 1 and beta to 0, where they were not finite",
        "momentum": "correct the momentum",
        "fold-bias": "move the bias of the layer before into the moving mean",
        "re-estimate": "re-estimate the statistics",
    }
)

_RE_ESTIMATED = frozenset({"BN101", "BN102", "BN103", "BN104", "BN106", "BN110", "BN201"})
# Faults of single channels. What moved a layer's average away from the data moved all of it, and
# channels below the threshold too.
_OF_CHANNELS = frozenset({"BN101", "BN102", "BN104"})
# Findings whose effects are no reason to touch what they explain.
_KEEPS_EFFECTS = frozenset({"BN108", "BN203"})
_OF_THE_GRAPH: Mapping[str, Action] = MappingProxyType(
    {"BN107": "unflag", "BN109": "fold-bias", "BN113": "split"}
)
_DONE = (
    "its statistics were estimated anew, and this is left; `sequential` estimates layer by layer, "
    "exactly for inference"
)
_FROZEN = (
    "it is frozen, and stays as it is unless `only` asks for this code; "
    "`recalibrate(..., include_frozen=True)` does it, too"
)
_REFUSED = {
    "BN108": "its weights are of positions and not of features: build it with the right axis, and "
    "train again",
    "BN111": "epsilon is part of what the model computes: choose it where the model is built",
    "BN112": "a gamma of 0 may be what training wanted: prune the channels, or train on",
    "BN114": "which layers are frozen is a choice of training",
    "BN202": "the model's own code has the layer normalize by the batch: pass `training` on there",
    "BN203": "the statistics may be right for other data: if these are training's, say only=BN203 "
    "(`--only BN203`); else `recalibrate(model, data, blend=0.3)` moves them toward these",
    "BN204": "the statistics are right, and Keras's formula loses digits: `accelerate` does not",
    "BN205": "the values come from a layer before it",
    "BN206": "it is about the batches of training: make them larger, or leave out the last one",
}


@dataclass(frozen=True)
class Step:
    """One thing to do to one layer.

    Attributes:
        action: what.
        layer: path of the layer.
        channels: which channels; none means the layer as a whole.
        findings: keys of the findings that call for it.
    """

    action: Action
    layer: str
    channels: tuple[int, ...]
    findings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.layer}: {IN_WORDS[self.action]} ({', '.join(self.findings)})"


@dataclass(frozen=True)
class Plan:
    """What to do, in order.

    Attributes:
        steps: in the order of `ACTIONS`, then of the model.
        refused: by the keys of the findings, why nothing is done about them.
    """

    steps: tuple[Step, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class Circumstances:
    """What a plan depends on besides the findings.

    Attributes:
        asked: codes that were asked for; None where none was named, which means all, but no notes.
        has_data: whether there are data.
        obstacle: tells why an action that needs the graph cannot be taken at a layer, or None.
        done: actions already taken, each with the layer's name and channels: doing them again
            helps nothing.
    """

    asked: frozenset[str] | None
    has_data: bool
    obstacle: Callable[[Norm, Action], str | None]
    done: Set[tuple[Action, str, tuple[int, ...]]] = frozenset()


def plan(findings: Sequence[Finding], norms: Sequence[Norm], circumstances: Circumstances) -> Plan:
    """Decide what is done about findings, and what is not.

    A finding that another one explains is left until that is repaired: most such effects go with
    their cause.

    Args:
        findings: of a diagnosis.
        norms: the batch norm layers of the model.
        circumstances: what was asked for and can be done.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.doctor.making import finding
        >>> from batchnorm_mechanics.doctor.structure.norms import norms_in
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> norms = norms_in(keras.Sequential([keras.layers.Input((3,)), layer]))
        >>> found = finding("BN102", "bn", channels=[1], cause="...", remedy="...")
        >>> without = Circumstances(asked=None, has_data=False, obstacle=lambda *_: None)
        >>> dict(plan([found], norms, without).refused)
        {'BN102 bn': 'it needs data'}
    """
    asked = circumstances.asked
    wanted = {
        finding.key: finding
        for finding in findings
        if (finding.code in asked if asked is not None else finding.severity != "note")
    }
    by_name = {norm.name: norm for norm in norms}
    answers = {key: _answer(finding, by_name, circumstances) for key, finding in wanted.items()}
    steps: list[Step] = []
    refused: dict[str, str] = {}
    for key, finding in wanted.items():
        answer, of_root = answers[key], answers.get(finding.root or "")
        if isinstance(of_root, str) and (finding.root or "").split()[0] in _KEEPS_EFFECTS:
            refused[key] = f"{finding.root} explains it, which is not repaired"
        elif isinstance(of_root, list) and _heals(of_root):
            continue
        elif isinstance(answer, str):
            refused[key] = answer
        else:
            new = [step for step in answer if not _is_done(step, circumstances)]
            steps += new
            if not new:
                refused[key] = _DONE
    return Plan(_in_order(steps, list(by_name)), MappingProxyType(refused))


def _is_done(step: Step, circumstances: Circumstances) -> bool:
    whole = (step.action, step.layer, ())
    return not circumstances.done.isdisjoint({whole, (step.action, step.layer, step.channels)})


def _heals(steps: Sequence[Step]) -> bool:
    """Whether these steps change what the layer gives: a momentum does not, by itself."""
    return any(step.action != "momentum" for step in steps)


def _answer(
    finding: Finding, by_name: Mapping[str, Norm], circumstances: Circumstances
) -> list[Step] | str:
    """Return what to do about a finding, or why nothing."""
    if finding.code in _REFUSED and not (
        finding.code == "BN203" and _is_asked(finding, circumstances)
    ):
        return _REFUSED[finding.code]
    if finding.layer not in by_name:
        return "it is about the model as a whole, and names no layer"
    norm = by_name[finding.layer]
    if finding.code in _OF_THE_GRAPH:
        return _graph_steps(finding, norm, circumstances)
    if finding.code == "BN105":
        if norm.momentum == 0.5:
            return "a momentum of 0.5 is its own complement"
        return [_step("momentum", finding)]
    if finding.code == "BN115":
        return [_step("swap", finding)]
    if finding.code == "BN203":
        targets = [other for other in by_name.values() if other.layer.trainable]
        reason = None if circumstances.has_data else "it needs data"
        return reason or [Step("re-estimate", other.name, (), (finding.key,)) for other in targets]
    steps = _resets(finding, norm) if finding.code == "BN101" else []
    if finding.code == "BN101" and not _spoilt_statistics(norm):
        return steps
    reason = _reason_not_to_estimate(finding, norm, circumstances)
    if reason is None:
        channels = () if finding.code not in _OF_CHANNELS else finding.channels
        if finding.code == "BN101":
            channels = _spoilt_statistics(norm)
        return [*steps, _step("re-estimate", finding, channels)]
    return steps or reason


def _reason_not_to_estimate(
    finding: Finding, norm: Norm, circumstances: Circumstances
) -> str | None:
    if finding.code not in _RE_ESTIMATED:
        return "nothing is known to do about it"
    if not circumstances.has_data:
        return "it needs data"
    if not norm.layer.trainable and not _is_asked(finding, circumstances):
        return _FROZEN
    return None


def _graph_steps(finding: Finding, norm: Norm, circumstances: Circumstances) -> list[Step] | str:
    action = _OF_THE_GRAPH[finding.code]
    reason = circumstances.obstacle(norm, action)
    if reason is None and action == "split" and not circumstances.has_data:
        reason = "it needs data"
    if reason is not None:
        return reason
    # Apart, the layers still hold statistics of all inputs together.
    actions: tuple[Action, ...] = (action, "re-estimate") if action == "split" else (action,)
    return [_step(one, finding, ()) for one in actions]


def _is_asked(finding: Finding, circumstances: Circumstances) -> bool:
    return circumstances.asked is not None and finding.code in circumstances.asked


def _step(action: Action, finding: Finding, channels: tuple[int, ...] | None = None) -> Step:
    channels = finding.channels if channels is None else channels
    return Step(action, finding.layer, channels, (finding.key,))


def _resets(finding: Finding, norm: Norm) -> list[Step]:
    spoilt = spoilt_parameters(norm)
    return [_step("reset", finding, spoilt)] if spoilt else []


def spoilt_parameters(norm: Norm) -> tuple[int, ...]:
    """Return the channels whose gamma or beta is not finite."""
    parts = [part for part in (norm.gamma, norm.beta) if part is not None]
    return _not_finite(parts, norm.channels)


def _spoilt_statistics(norm: Norm) -> tuple[int, ...]:
    parameters = {id(norm.layer.gamma), id(norm.layer.beta)}
    statistics = [
        np.asarray(weight.numpy(), np.float64)
        for weight in norm.layer.weights
        if id(weight) not in parameters and tuple(weight.shape) == (norm.channels,)
    ]
    return _not_finite(statistics, norm.channels)


def _not_finite(parts: Sequence[np.ndarray], channels: int) -> tuple[int, ...]:
    bad = np.zeros(channels, bool)
    for part in parts:
        bad |= ~np.isfinite(part)
    return tuple(np.flatnonzero(bad).tolist())


def _in_order(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    """Return one step for each action and layer, of all channels that any finding names."""
    together: dict[tuple[Action, str], list[Step]] = {}
    for step in steps:
        together.setdefault((step.action, step.layer), []).append(step)
    merged = [
        Step(
            action,
            layer,
            ()
            if any(not step.channels for step in of_layer)
            else tuple(sorted({channel for step in of_layer for channel in step.channels})),
            tuple(dict.fromkeys(key for step in of_layer for key in step.findings)),
        )
        for (action, layer), of_layer in together.items()
    ]
    merged.sort(key=lambda step: (ACTIONS.index(step.action), names.index(step.layer)))
    return tuple(merged)
