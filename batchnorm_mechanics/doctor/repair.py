"""`repair`: diagnose, do what the findings call for and nothing else, and diagnose again."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from batchnorm_mechanics.doctor.changes import Change, LayerChange, changed, joined, undo_all
from batchnorm_mechanics.doctor.decisions import Decided, apart, decide, no_better, worsening
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.estimating import How, Method
from batchnorm_mechanics.doctor.findings import Diagnosis, Result
from batchnorm_mechanics.doctor.recalibrate import check_model, estimate_anew
from batchnorm_mechanics.doctor.rule import RE_ESTIMATE, Action, Circumstances, Stage, Step
from batchnorm_mechanics.doctor.rules import RULES, matching
from batchnorm_mechanics.layers.compiled import renew_compiled_functions
from batchnorm_mechanics.models.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.models.mark import Mark, mark_of, put_mark
from batchnorm_mechanics.models.model_copies import Edits, rebuilt, why_no_copy
from batchnorm_mechanics.models.norms import Norm, norms_in
from batchnorm_mechanics.models.wiring import graph_of

# Repairing a cause may bare what it hid; each round repairs what the last one did not know.
_MOST_ROUNDS = 10
# Half of what is worth a warning, of a layer's gap and of the outputs' distance.
_STILL_OFF = 0.125


@dataclass(frozen=True, eq=False, repr=False)
class Repair(Result):
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

    @property
    def summary(self) -> str:
        """What was done, in one line."""
        done = "planned" if self.after is None else "taken"
        return f"{self.original.name}, {len(self.steps)} steps {done}, {len(self.refused)} refused"


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
    call: Callable[[Any, Any], Any] | None = None,
) -> Repair:
    """Diagnose a model, repair what was found, and diagnose it again.

    Layers and channels that a finding names are touched: statistics that are not finite,
    negative, never updated, collapsed, unconverged or stale, or not those of the data (BN101 to
    104, 106, 110, 200, 201, 207) are estimated anew from the data, without batches that are odd;
    gamma and beta that are not finite become 1 and 0, which is a guess (BN101); mean and variance
    that were swapped are swapped back (BN115); PyTorch's momentum becomes Keras's (BN105), and
    epsilon that of the training (BN116); a training flag is removed or kept away (BN107) and a
    layer whose calls are unlike gets a copy for each (BN113), both in a new model. What makes the
    model worse is taken back: its loss or accuracy with labels, and without them the distance of
    its outputs in training mode and in inference. If they are apart after that, all layers that
    train are estimated anew, which is kept only if it makes the model better.

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
        call: as for `diagnose`.

    Returns:
        `Repair`, with the model, what was done and what was not and why, both diagnoses, and
        `undo()`.

    Raises:
        InputError: as `diagnose` and `recalibrate`. The model is then as it was, as after any
            exception.

    Example:
        >>> import keras
        >>> import numpy as np
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
    how = How("repair", method, sequential, without_odd=True)
    asked = matching(only, caller="repair", argument="only") if only else None
    batches = None
    if data is not None:
        batches = as_data(data, labels=labels, batch_size=batch_size, call=call, caller="repair")
    before = diagnose(model, batches)
    work = _Work(model, batches, how)
    refused: dict[str, str] = {}
    now, taken = before, []
    try:
        for _ in range(1 if dry_run else _MOST_ROUNDS):
            decided = work.decide(now, asked)
            refused |= decided.refused
            if not decided.steps:
                break
            if dry_run:
                taken += decided.steps
                break
            now, done = work.take(decided.steps, now)
            if not done:
                break
            taken += done
        if asked is None and not dry_run:
            now, more = work.with_all_estimated(now, taken)
            taken += more
    except BaseException:
        undo_all(work.changes)
        renew_compiled_functions(model)
        raise
    estimated = any(step.how is RE_ESTIMATE for step in taken)
    refused |= work.taken_back
    left = {found.key for found in now.findings}
    return Repair(
        model=work.model,
        original=model,
        before=before,
        after=None if dry_run else now,
        steps=tuple(taken),
        refused=MappingProxyType({key: why for key, why in refused.items() if key in left}),
        change=Change(
            joined(work.changes), samples=before.samples, how=str(how) if estimated else ""
        ),
        notes=tuple(work.notes),
    )


class _Work:
    """A repair under way: the model as it is by now, and what was changed in it."""

    def __init__(self, model: Any, data: Data | None, how: How) -> None:
        self.model, self.data, self.how = model, data, how
        self.changes: list[LayerChange] = []
        self.notes: list[str] = []
        self.done: set[tuple[str, str, tuple[int, ...]]] = set()
        self.taken_back: dict[str, str] = {}
        self._why_no_copy = functools.cache(why_no_copy)

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

    def take(self, steps: Sequence[Step], before: Diagnosis) -> tuple[Diagnosis, list[Step]]:
        """Take steps that make the model no worse: all of them, or those that do not alone.

        Returns:
            The diagnosis of the model as it is then, and the steps that were taken.
        """
        is_guess = any(RULES[key[:5]].keeps_effects for step in steps for key in step.findings)
        now, worse = self.tried(steps, before, is_guess=is_guess)
        if worse is None:
            return now, [*steps]
        groups = apart(steps)
        if len(groups) == 1:
            self.taken_back |= {key: worse for step in steps for key in step.findings}
            return now, []
        # What one of them spoils may hide what another one mends.
        done: list[Step] = []
        for group in groups:
            now, taken = self.take(group, now)
            done += taken
        return now, done

    def tried(
        self, steps: Sequence[Step], before: Diagnosis, *, is_guess: bool
    ) -> tuple[Diagnosis, str | None]:
        """Take steps; take them back if they made the model worse, or a guess no better.

        Returns:
            The diagnosis of the model as it is then, and why they were taken back, or None.
        """
        point = self.point()
        self.do(steps)
        after = diagnose(self.model, self.data)
        worse = worsening(before, after) or (no_better(before, after) if is_guess else None)
        if worse is None:
            return after, None
        # They stay among what is done: to take them once more would help as little.
        self.go_back(point)
        return before, worse

    def with_all_estimated(
        self, now: Diagnosis, taken: Sequence[Step]
    ) -> tuple[Diagnosis, list[Step]]:
        """Estimate all layers that train anew, and keep that if it is better still.

        Statistics that were off by less than a finding may add up. Where none was estimated, labels
        have to tell, and something be there to mend. Layers are touched that no finding names, so
        nothing is done where all is nearly right.
        """
        whole = {step.layer for step in taken if step.how is RE_ESTIMATE and not step.channels}
        notes = [one.key for one in now.findings if RULES[one.code].parts_modes]
        if not (whole or (notes and _has_labels(now))):
            return now, []
        off = max(now.measures.get(name, 0.0) for name in ("gap", "output_change"))
        if not (self.how.sequential or off >= _STILL_OFF):
            return now, []
        keys = tuple(dict.fromkeys([key for step in taken for key in step.findings] + notes))
        steps = [
            Step(RE_ESTIMATE, norm.name, (), keys)
            for norm in norms_in(self.model)
            if norm.layer.trainable
        ]
        if not self.how.sequential and {step.layer for step in steps} <= whole:
            return now, []
        now, worse = self.tried(steps, now, is_guess=True)
        return now, steps if worse is None else []

    def decide(self, diagnosis: Diagnosis, asked: frozenset[str] | None) -> Decided:
        circumstances = Circumstances(
            norms={norm.name: norm for norm in norms_in(self.model)},
            asked=asked,
            has_data=self.data is not None,
            has_labels=_has_labels(diagnosis),
            obstacle=self._obstacle,
            done=frozenset(self.done),
        )
        return decide(diagnosis.findings, circumstances)

    def _obstacle(self, norm: Norm, action: Action) -> str | None:
        if action.edits is None:
            return action.obstacle(self.model, norm)
        if graph_of(self.model) is None:
            return "the model's own code calls the layer, which only its author can change"
        edits = action.edits(self.model, norm)
        return edits if isinstance(edits, str) else self._why_no_copy(self.model)

    def do(self, steps: Sequence[Step]) -> None:
        """Take the steps, in their order."""
        renamed = self._rebuild([step for step in steps if step.how.edits is not None])
        norms = {norm.name: norm for norm in norms_in(self.model)}
        for step in steps:
            if step.how.new_values is not None:
                # One after another: what is computed next may depend on what this one leaves.
                for new in step.how.new_values(norms[step.layer]):
                    self.changes.append(changed(*new))
        if any(step.how.stage is Stage.SETTINGS for step in steps):
            renew_compiled_functions(self.model)
        estimated = [step for step in steps if step.how is RE_ESTIMATE]
        self._estimate(estimated, tuple(norms.values()), renamed)
        self.done |= {(step.action, step.layer, step.channels) for step in steps}

    def _rebuild(self, steps: list[Step]) -> dict[str, tuple[str, ...]]:
        """Build the graph anew; return the names of the layers that came of those concerned."""
        if not steps:
            return {}
        norms = {norm.name: norm for norm in norms_in(self.model)}
        edits = Edits()
        for step in steps:
            answer = step.how.edits and step.how.edits(self.model, norms[step.layer])
            # What stands in the way of one was asked for before.
            edits |= answer if isinstance(answer, Edits) else Edits()
        new = rebuilt(self.model, edits, caller="repair")
        self.model = new.model
        self.notes += new.lost
        names = {id(norm.layer): norm.name for norm in norms_in(new.model)}
        return {
            step.layer: tuple(names[id(one)] for one in new.of[id(norms[step.layer].layer)])
            for step in steps
        }

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
        self.notes += change.notes
        self.done |= {(RE_ESTIMATE.name, name, of_layer) for name, of_layer in channels.items()}


def _has_labels(diagnosis: Diagnosis) -> bool:
    return not {"accuracy", "loss"}.isdisjoint(diagnosis.measures)
