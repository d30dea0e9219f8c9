"""What a mistake would have given in one case, beside what the subject gave."""

from collections.abc import Hashable
from dataclasses import replace
from functools import cached_property

import ml_dtypes
import numpy as np

from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence, distance
from batchnorm_mechanics.conformance.mistakes import Mistake
from batchnorm_mechanics.conformance.precision import Imprecision
from batchnorm_mechanics.conformance.prediction import Material, Prediction
from batchnorm_mechanics.conformance.record import LOADED, STEP_LATER, parts
from batchnorm_mechanics.conformance.tolerance import bound

# The steps that an output depends on: a mistake in no other can change it.
_BATCH = {"axes", "place", "mask", "moments", "stored"}
_OUTPUT = {*_BATCH, "use", "epsilon", "normalize", "affine", "training"}
_UPDATE = {"decay", "intake", "update", "moves_in_inference"}
_DEPENDS = {
    record.TRAINING_OUTPUT: {*_OUTPUT, *_UPDATE},
    record.INFERENCE_OUTPUT: {*_OUTPUT, *_UPDATE, "inference"},
    record.MOVING_MEAN: {*_BATCH, *_UPDATE},
    record.MOVING_VARIANCE: {*_BATCH, *_UPDATE},
    **{name: {*_OUTPUT, *_UPDATE, "slopes"} for name in record.GRADIENTS},
}
_PARAMETERS = (record.DGAMMA, record.DBETA)
# What comes of the variance of a batch, which is chance where that is rounding errors.
_OF_NOISE = {record.TRAINING_OUTPUT, record.MOVING_VARIANCE, *record.GRADIENTS}


class Trial:
    """One case, and what has been tried on it.

    Args:
        evidence: the case's.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.material = Material(evidence)
        self.eps = float(ml_dtypes.finfo(evidence.setting.dtype).eps)
        self._predictions: dict[Hashable, Prediction] = {}
        self._verdicts: dict[Hashable, bool] = {}
        judged = evidence.actual.keys() & evidence.expected.keys() & evidence.tolerance.keys()
        self.judged = frozenset(judged)
        self.passing = frozenset(what for what in judged if evidence.passes(what))
        self.failing = self.judged - self.passing
        self._actual = {what: _float64(evidence.actual[what]) for what in judged}
        self._expected = {what: _float64(evidence.expected[what]) for what in judged}
        # Where the right value is not finite there is no tolerance to speak of.
        self._tolerance = {
            what: np.where(np.isfinite(due), evidence.tolerance[what], 0.0)
            for what, due in self._expected.items()
        }

    def explains(self, mistake: Mistake | Imprecision, what: str) -> bool:
        """Whether a mistake gives a failing output as the subject gave it.

        It must come within the tolerance, and take away at least half of what was wrong: a mistake
        that hardly changes anything explains nothing. A gradient is only explained together with
        the output that it belongs to.

        Args:
            mistake: the mistake.
            what: the output.

        Returns:
            Whether it does.
        """
        if what not in self.failing:
            return False
        if isinstance(mistake, Imprecision):
            given = mistake.gives(self.evidence, what, self._actual[what])
            return self._within(what, given) and self._mends(what, given)
        if not self._concerned(mistake, what) or not self._key(mistake, what):
            return False
        asked = [what]
        if what in record.GRADIENTS and record.TRAINING_OUTPUT in self.judged:
            asked = [record.TRAINING_OUTPUT, what]
        agrees = all(self.agrees(mistake, each) for each in asked)
        return agrees and self._mends(what, self._predicted(mistake, what))

    def follows(self, imprecision: Imprecision, what: str) -> bool:
        """Whether an imprecision that is found elsewhere may have made this failure."""
        if what not in self.failing:
            return False
        noise = what in _OF_NOISE and bool(np.all(self._dull))
        return noise or imprecision.follows(self.evidence, what, self._actual[what])

    def is_noise(self, mistake: Mistake, what: str) -> bool:
        """Whether a mistake bears on a failure of which nothing can be predicted.

        Where every channel is constant but for rounding, a variance is rounding errors, and an
        output such errors divided by next to nothing; what they are there is chance.
        """
        bears = self._concerned(mistake, what) and bool(self._key(mistake, what))
        return what in _OF_NOISE & self.failing and bears and bool(np.all(self._dull))

    def refuted(self, mistake: Mistake | Imprecision, *, gradients: bool) -> list[str]:
        """Return the outputs that are right and would not be with this mistake.

        Args:
            mistake: the mistake.
            gradients: whether to try the gradients too.

        Returns:
            Their names.
        """
        if isinstance(mistake, Imprecision):
            # It changes nothing that it can be sure of.
            return []
        # To try one on the gradients costs ten times as much.
        asked = [what for what in record.OUTPUTS if gradients or what not in record.GRADIENTS]
        return [
            what
            for what in self.passing
            if (parts(what)[1] or what in asked)
            and self._concerned(mistake, what)
            and not self.agrees(mistake, what)
        ]

    def _concerned(self, mistake: Mistake, what: str) -> bool:
        """Whether a mistake can show in an output: one of saving and loading only after that."""
        return mistake.reloaded == (parts(what)[1] in (LOADED, STEP_LATER))

    def agrees(self, mistake: Mistake, what: str) -> bool:
        """Whether a mistake gives an output, right or wrong, as the subject gave it.

        The tolerance grows with the size of what is predicted: it was derived for the right value,
        and rounding errors grow with what they are errors of.
        """
        key = self._key(mistake, what), what
        if key not in self._verdicts:
            self._verdicts[key] = self._within(what, self._predicted(mistake, what))
        return self._verdicts[key]

    def _key(self, mistake: Mistake, what: str) -> Hashable:
        """Return what of a mistake bears on an output; mistakes that agree in it give the same."""
        depends = _DEPENDS[parts(what)[0]]
        changes = mistake.changes
        if self.material.shares is not None:
            of_parts = parts(what)[0] in record.STATISTICS
            depends = depends | ({"merges"} if of_parts else {"synchronizes"})
        # Moving statistics bear on outputs only where these are made by them.
        plain = not changes.keys() & {"training", "moves_in_inference"}
        if plain and parts(what)[0] not in record.STATISTICS:
            depends = depends - _UPDATE
        rank, axes = self.material.rank, self.material.axes
        return frozenset(
            # Two rules may choose the same axes here; two other changes are never the same.
            (step, change(rank, axes) if step in ("axes", "place") else id(change))
            for step, change in changes.items()
            if step in depends
        )

    def _predicted(self, mistake: Mistake, what: str) -> np.ndarray | None:
        # Outputs that depend on the same steps share one: another's may differ in steps of its own.
        key = self._key(mistake, what), frozenset(_DEPENDS[parts(what)[0]])
        if key not in self._predictions:
            self._predictions[key] = Prediction(mistake.steps, self.material)
        return self._predictions[key].of(what)

    def _within(self, what: str, predicted: np.ndarray | None) -> bool:
        actual = self._actual[what]
        if predicted is None or predicted.shape != actual.shape:
            return False
        allowed = self._tolerance[what]
        usual, when = parts(what)
        if when and usual in self.judged:
            # What only has to stay as it was has no tolerance; a computation has the usual one.
            allowed = np.maximum(allowed, np.max(self._tolerance[usual], initial=0.0))
        if self.material.shares is not None and what in self._of_parts:
            # Of a part with few samples, whose variance is small, errors are larger.
            allowed = np.maximum(allowed, self._of_parts[what])
        for other in _PARAMETERS if what in _PARAMETERS else ():
            # A mistake may make one of them into what the other is, errors included.
            if other in self.judged:
                allowed = np.maximum(allowed, self._tolerance[other])
        allowed = allowed * self._growth(what, predicted)
        allowed = allowed + 4 * self.eps * np.abs(_finite(predicted))
        return bool(np.all(self._telling(what, distance(actual, predicted) <= allowed, 1.0)))

    @cached_property
    def _of_parts(self) -> dict[str, np.ndarray]:
        """The tolerances if each replica were by itself."""
        setting = self.evidence.setting
        shares = setting.shares and replace(setting.shares, synchronized=False)
        apart = replace(self.evidence, setting=replace(setting, shares=shares))
        wide = {what: bound(apart, what).tolerance for what in self.judged if apart.is_apart(what)}
        return {what: np.nan_to_num(tolerance) for what, tolerance in wide.items()}

    def _telling(self, what: str, values: np.ndarray, otherwise: float) -> np.ndarray:
        """Return values with those of channels that tell nothing replaced.

        A channel whose spread is below what rounding leaves of its size normalizes rounding errors:
        the right tolerance covers them, and a mistake may blow them up to anything. If all
        channels are so, they are left as they are.
        """
        of_batch = what == record.TRAINING_OUTPUT or what in record.GRADIENTS
        if not of_batch or np.all(self._dull) or not np.any(self._dull):
            return values
        kept = values.ndim == self._dull.ndim
        dull = self._dull if kept else np.squeeze(self._dull, self.evidence.axes)
        return np.where(np.broadcast_to(dull, values.shape), otherwise, values)

    @cached_property
    def _dull(self) -> np.ndarray:
        """Which channels of the first batch are constant but for rounding."""
        x, axes = self.evidence.batches[0].astype(np.float64), self.evidence.axes
        largest = np.max(np.abs(x), axes, keepdims=True, initial=0.0)
        with np.errstate(invalid="ignore"):
            spread = np.max(x, axes, keepdims=True) - np.min(x, axes, keepdims=True)
            return spread <= 4 * self.eps * largest

    def _growth(self, what: str, predicted: np.ndarray) -> np.ndarray:
        """How many times larger than the right values the predicted ones are, 1 at least."""
        expected = self._expected[what]
        axes = self.evidence.axes if expected.ndim == len(self.evidence.setting.shape) else ()
        largest = [
            np.max(np.abs(_finite(value)), axis=axes, keepdims=True, initial=0.0)
            for value in (predicted, expected)
        ]
        return np.maximum(
            1.0, np.divide(*largest, out=np.ones_like(largest[0]), where=largest[1] > 0)
        )

    def _mends(self, what: str, given: np.ndarray | None) -> bool:
        """Whether at most half of what was wrong is left beside this value."""
        wrong, left = (
            np.max(self._telling(what, distance(self._actual[what], value), 0.0), initial=0.0)
            for value in (self._expected[what], given)
            if value is not None
        )
        return bool(left <= 0.5 * wrong)


def _float64(value: np.ndarray) -> np.ndarray:
    return np.asarray(value).astype(np.float64)


def _finite(value: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(value), value, 0.0)
