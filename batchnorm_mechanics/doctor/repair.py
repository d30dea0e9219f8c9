"""`repair`: diagnose, do what the findings call for and nothing else, and diagnose again."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.findings import Diagnosis, Finding
from batchnorm_mechanics.doctor.recalibrate import check_model
from batchnorm_mechanics.doctor.repairing.change import (
    Change,
    LayerChange,
    changed,
    joined,
    undo_all,
)
from batchnorm_mechanics.doctor.repairing.graph_edits import obstacle, rebuilt, why_no_copy
from batchnorm_mechanics.doctor.repairing.outcome import worsening
from batchnorm_mechanics.doctor.repairing.plan import Action, Circumstances, Plan, Step, plan
from batchnorm_mechanics.doctor.repairing.renew import How, Method, estimate_anew
from batchnorm_mechanics.doctor.rules import matching
from batchnorm_mechanics.doctor.structure.marks import Mark, mark_of, put_mark
from batchnorm_mechanics.doctor.structure.norms import Norm, norms_in
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.layers.compiled import renew_compiled_functions

# Repairing a cause may bare what it hid; more than twice was never needed.
_MOST_ROUNDS = 3
# Where the momentum has no complement that averages: Keras's default.
_USUAL_MOMENTUM = 0.99


@dataclass(frozen=True, eq=False)
class Repair:
    """What was repaired in a model.

    Attributes:
        model: the repaired model: the one that was given, changed in place, or a new one where its
            graph had to be built anew.
        original: the model that was given.
        before: the diagnosis before.
        after: the diagnosis after; None for a dry run.
        steps: what was done, or would be.
        refused: by the keys of the findings, why nothing was done about them.
        change: what changed in the weights.
        notes: what else is to be known, such as what a new model could not take along.
    """

    model: Any
    original: Any
    before: Diagnosis
    after: Diagnosis | None
    steps: tuple[Step, ...]
    refused: Mapping[str, str]
    change: Change
    notes: tuple[str, ...] = ()

    def undo(self) -> Any:
        """Put the old weights and settings back, and return the model that was given.

        Raises:
            InputError: a layer was rebuilt since.
        """
        self.change.undo()
        renew_compiled_functions(self.original)
        return self.original

    def as_json(self) -> dict[str, Any]:
        """Return the repair as `bnm repair --json` prints it."""
        return {
            "before": self.before.as_json(),
            "after": None if self.after is None else self.after.as_json(),
            "new_model": self.model is not self.original,
            "steps": [
                {
                    "action": step.action,
                    "layer": step.layer,
                    "channels": list(step.channels),
                    "findings": list(step.findings),
                }
                for step in self.steps
            ],
            "refused": dict(self.refused),
            "notes": list(self.notes),
            "change": self.change.as_json(),
        }

    def __str__(self) -> str:
        lines = [
            f"{len(self.steps)} steps "
            + ("would be taken" if self.after is None else "were taken")
            + (", on a new model" if self.model is not self.original else "")
            + (":" if self.steps else "."),
            *(f"  {step}" for step in self.steps),
        ]
        if self.refused:
            lines += ["Not repaired:", *(f"  {key}: {why}" for key, why in self.refused.items())]
        lines += [f"Note: {note}" for note in self.notes]
        if self.after is not None:
            for name, old in self.before.measures.items():
                new = self.after.measures.get(name)
                lines.append(
                    f"{name}: {old:.4g} before, "
                    + ("unknown" if new is None else f"{new:.4g} after")
                )
            worse = [found for found in self.after.findings if found.severity != "note"]
            lines.append(
                "Nothing is left to repair."
                if not worse
                else "Still found: " + ", ".join(found.key for found in worse)
            )
        return "\n".join(lines)


def repair(  # noqa: PLR0913 - those of `diagnose` and of `recalibrate`, and two of its own
    model: Any,
    data: Any = None,
    *,
    labels: Any = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    only: Sequence[str] = (),
    method: Method = "pooled",
    sequential: bool = False,
    dry_run: bool = False,
) -> Repair:
    """Diagnose a model, repair what was found, and diagnose it again.

    Only layers and channels that a finding names are touched: statistics that are not finite,
    negative, never updated, collapsed, unconverged or stale, or not those of the data (BN101 to
    104, 106, 110, 201) are estimated anew from the data; gamma and beta that are not finite become
    1 and 0, which is a guess (BN101); mean and variance that were swapped are swapped back (BN115);
    PyTorch's momentum becomes Keras's (BN105); a baked training flag is removed (BN107) and a
    layer with several inputs split (BN113), both in a new model. With labels, what makes loss or
    accuracy worse is taken back: the statistics were then better as they were.

    Args:
        model: any Keras model. It is changed in place, unless its graph must be built anew.
        data: as for `diagnose`, like those of training; None repairs what needs no data.
        labels: likewise.
        batch_size: likewise.
        only: codes, or beginnings of codes, to repair and nothing else. It also asks for what is
            not done unasked: what notes say, moving a bias into the moving mean (BN109), another
            domain (BN203), and frozen layers.
        method: as for `recalibrate`.
        sequential: as for `recalibrate`.
        dry_run: only say what would be done.

    Returns:
        `Repair`, with the model, what was done and what was not and why, both diagnoses, and
        `undo()`.

    Raises:
        InputError: as `diagnose` and `recalibrate`. The model is then as it was, as after any
            exception.

    Example:
        >>> import keras
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), layer])
        >>> _ = layer.moving_mean.assign([float("nan"), 20.0])
        >>> _ = layer.moving_variance.assign([1.0, 100.0])
        >>> x = np.tile(np.array([[1.0, 10.0], [3.0, 30.0]], "float32"), (32, 1))
        >>> for step in repair(model, x).steps:
        ...     print(step)
        bn: re-estimate the statistics (BN101 bn)
        >>> layer.moving_mean.numpy().tolist()
        [2.0, 20.0]
    """
    check_model(model, caller="repair")
    how = How("repair", method, sequential)
    how.check()
    asked = matching(only, caller="repair", argument="only") if only else None
    batches = None
    if data is not None:
        batches = as_data(data, labels=labels, batch_size=batch_size, caller="repair")
    before = diagnose(model, batches)
    work = _Work(model, batches, how)
    refused: dict[str, str] = {}
    now, taken = before, []
    try:
        for _ in range(1 if dry_run else _MOST_ROUNDS):
            decided = work.plan(now.findings, asked)
            refused |= decided.refused
            if not decided.steps:
                break
            taken += decided.steps
            if dry_run:
                continue
            point = work.point()
            work.do(decided)
            then = work.diagnose()
            worse = worsening(now, then)
            if worse is not None:
                work.go_back(point)
                taken = taken[: -len(decided.steps)]
                refused |= {key: worse for step in decided.steps for key in step.findings}
                break
            now = then
    except BaseException:
        undo_all(work.changes)
        renew_compiled_functions(model)
        raise
    change = Change(
        joined(work.changes),
        samples=before.samples,
        how=str(how) if any(step.action == "re-estimate" for step in taken) else "",
    )
    return Repair(
        model=work.model,
        original=model,
        before=before,
        after=None if dry_run else now,
        steps=tuple(taken),
        refused=MappingProxyType(
            {
                key: why
                for key, why in refused.items()
                if key in {found.key for found in now.findings}
            }
        ),
        change=change,
        notes=tuple(work.notes),
    )


class _Work:
    """A repair under way: the model as it is by now, and what was changed in it."""

    def __init__(self, model: Any, data: Data | None, how: How) -> None:
        self.model, self.data, self.how = model, data, how
        self.changes: list[LayerChange] = []
        self.notes: list[str] = []
        self.done: set[tuple[Action, str, tuple[int, ...]]] = set()
        self._no_copy: dict[int, str | None] = {}

    def point(self) -> tuple[Any, Mark | None, int, int]:
        """Return what `go_back` needs to come back to where the work stands now."""
        return self.model, mark_of(self.model), len(self.changes), len(self.notes)

    def go_back(self, point: tuple[Any, Mark | None, int, int]) -> None:
        """Take back all that was done since."""
        self.model, mark, changes, notes = point
        undo_all(self.changes[changes:])
        del self.changes[changes:], self.notes[notes:]
        if mark is not None:
            put_mark(self.model, mark)
        renew_compiled_functions(self.model)

    def plan(self, findings: Sequence[Finding], asked: frozenset[str] | None) -> Plan:
        circumstances = Circumstances(
            asked=asked,
            has_data=self.data is not None,
            obstacle=self._obstacle,
            done=frozenset(self.done),
        )
        return plan(findings, norms_in(self.model), circumstances)

    def _obstacle(self, norm: Norm, action: Action) -> str | None:
        reason = obstacle(self.model, norm, action)
        if reason is not None or action == "fold-bias":
            return reason
        if id(self.model) not in self._no_copy:
            self._no_copy[id(self.model)] = why_no_copy(self.model)
        return self._no_copy[id(self.model)]

    def diagnose(self) -> Diagnosis:
        return diagnose(self.model, self.data)

    def do(self, decided: Plan) -> None:
        """Take the steps, in their order."""
        steps: dict[Action, list[Step]] = {}
        for step in decided.steps:
            steps.setdefault(step.action, []).append(step)
        renamed = self._rebuild(steps.get("unflag", []), steps.get("split", []))
        norms = {norm.name: norm for norm in norms_in(self.model)}
        for action, change in _CHANGES.items():
            for step in steps.get(action, []):
                self.changes += change(norms[step.layer], step.channels)
        if "momentum" in steps:
            renew_compiled_functions(self.model)
        self._estimate(steps.get("re-estimate", []), tuple(norms.values()), renamed)
        self.done |= {(step.action, step.layer, step.channels) for step in decided.steps}

    def _rebuild(self, unflag: list[Step], split: list[Step]) -> dict[str, tuple[str, ...]]:
        """Build the graph anew; return the names of the layers that came of the split ones."""
        if not unflag and not split:
            return {}
        norms = {norm.name: norm for norm in norms_in(self.model)}
        new = rebuilt(
            self.model,
            unflag=[norms[step.layer] for step in unflag],
            split=[norms[step.layer] for step in split],
        )
        self.model = new.model
        self.notes += new.lost
        names = {id(norm.layer): norm.name for norm in norms_in(new.model)}
        return {name: tuple(names[id(one)] for one in of) for name, of in new.split.items()}

    def _estimate(
        self, steps: list[Step], norms: tuple[Norm, ...], renamed: Mapping[str, tuple[str, ...]]
    ) -> None:
        if not steps or self.data is None:
            return
        channels = {
            name: step.channels for step in steps for name in renamed.get(step.layer, (step.layer,))
        }
        change = estimate_anew(self.model, self.data, norms, channels, self.how)
        self.changes += change.layers
        self.notes += [f"{name} was left: {reason}" for name, reason in change.left.items()]
        self.done |= {("re-estimate", name, of_layer) for name, of_layer in channels.items()}


def _swap(norm: Norm, _channels: tuple[int, ...]) -> list[LayerChange]:
    values: dict[str, Any] = {"moving_mean": norm.variance, "moving_variance": norm.mean}
    if norm.renorm:
        # Keras derives the moving variance from it with every step.
        values["moving_stddev"] = np.sqrt(np.maximum(norm.mean, 0) + norm.layer.epsilon)
    return [changed(norm.name, norm.layer, values)]


def _reset(norm: Norm, _channels: tuple[int, ...]) -> list[LayerChange]:
    values = {
        name: np.where(np.isfinite(old), old, start)
        for name, old, start in (("gamma", norm.gamma, 1.0), ("beta", norm.beta, 0.0))
        if old is not None and not np.isfinite(old).all()
    }
    return [changed(norm.name, norm.layer, values)] if values else []


def _correct_momentum(norm: Norm, _channels: tuple[int, ...]) -> list[LayerChange]:
    old = norm.momentum or 0.0
    new = 1 - old if 0 < old < 1 else _USUAL_MOMENTUM
    layer = norm.layer
    if isinstance(layer, BatchNormalization) and layer.statistics is not None:
        policy: Any = layer.statistics
        return [changed(norm.name, layer, {"statistics": dataclasses.replace(policy, decay=new)})]
    return [changed(norm.name, layer, {"momentum": new})]


def _fold_bias(norm: Norm, _channels: tuple[int, ...]) -> list[LayerChange]:
    before = norm.calls[0].before
    bias = np.asarray(before.bias.numpy(), np.float64)
    means = {"moving_mean": norm.mean - bias}
    if norm.renorm:
        means["renorm_mean"] = norm.layer.renorm_mean.numpy().astype(np.float64) - bias
    return [
        changed(before.name, before, {"bias": np.zeros_like(bias)}),
        changed(norm.name, norm.layer, means),
    ]


_CHANGES: Mapping[Action, Callable[[Norm, tuple[int, ...]], list[LayerChange]]] = {
    "swap": _swap,
    "reset": _reset,
    "momentum": _correct_momentum,
    "fold-bias": _fold_bias,
}
