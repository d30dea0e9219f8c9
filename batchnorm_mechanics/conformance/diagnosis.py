"""Name the mistake behind a subject's failures: the one that gives what the subject gave."""

from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property

import ml_dtypes
import numpy as np

from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence, distance
from batchnorm_mechanics.conformance.mistakes import Mistake, together
from batchnorm_mechanics.conformance.mistakes.catalogue import (
    CATALOGUE,
    FORWARD,
    GRADIENT,
    STATISTICS,
)
from batchnorm_mechanics.conformance.precision import IMPRECISIONS, Imprecision
from batchnorm_mechanics.conformance.prediction import Material, Prediction
from batchnorm_mechanics.conformance.record import LOADED, STEP_LATER, parts

# So many failures are looked at to find candidates, which are then tried on all the others.
_SAMPLE = 6
# After so many looks that found nothing, the rest is left without a name: a subject that is wrong
# in a way of its own fails a hundred times in that one way.
_FRUITLESS = 3

_MODES = {
    record.INFERENCE_OUTPUT: "inference",
    record.MOVING_MEAN: "statistics",
    record.MOVING_VARIANCE: "statistics",
}

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
        key = self._key(mistake, what)
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
        for other in _PARAMETERS if what in _PARAMETERS else ():
            # A mistake may make one of them into what the other is, errors included.
            if other in self.judged:
                allowed = np.maximum(allowed, self._tolerance[other])
        allowed = allowed * self._growth(what, predicted)
        allowed = allowed + 4 * self.eps * np.abs(_finite(predicted))
        return bool(np.all(self._telling(what, distance(actual, predicted) <= allowed, 1.0)))

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


Failure = tuple[Trial, str]
Cause = Mistake | Imprecision


# NaN and infinity are data here, of the cases about them or of a subject that is so wrong.
@np.errstate(all="ignore")
def diagnose(
    failures: Sequence[tuple[Evidence, str]], passed: Sequence[Evidence] = ()
) -> list[str | None]:
    """Name the mistake that explains each failure of one subject, if there is one.

    A mistake explains a failure if a model with that mistake in it, given the very data of the
    case, gives what the subject gave, within the tolerance. Many mistakes explain a case with a
    single sample; so the one that explains most of the subject's failures is named first, then the
    one that explains most of what is left. Two mistakes at once are tried where no single one fits,
    and lost precision where no mistake does.

    Args:
        failures: the evidence of a case and the name of the output that failed in it, for all of
            the subject's failures.
        passed: evidence of cases in which all was right; a mistake that would have spoiled them is
            none.

    Returns:
        For each failure the mistake, in words, or None: nothing that was tried gives this output.
        Mistakes that explain the same failures are all named, joined by "or".

    Example:
        >>> diagnose([])
        []
    """
    own = {id(evidence): Trial(evidence) for evidence, _ in failures}
    trials = [*own.values(), *map(Trial, passed)]
    asked: list[Failure] = [(own[id(evidence)], what) for evidence, what in failures]
    left = [(trial, what) for trial, what in asked if what in trial.failing]
    names: dict[Failure, str] = {}
    fruitless, imprecisions = 0, IMPRECISIONS
    while left and fruitless < _FRUITLESS:
        sample = _spread(left)
        candidates = _candidates(sample, imprecisions, pairs=not fruitless)
        causes, explained = _best(candidates, left, trials)
        if not causes:
            fruitless, explained = fruitless + 1, sample
        elif isinstance(causes[0], Imprecision):
            # One is enough for a subject: another would fit the leavings of the first too easily.
            imprecisions = (causes[0],)
        if causes:
            names |= {failure: _label(causes, explained, failure) for failure in explained}
        left = [failure for failure in left if failure not in explained]
    return [names.get(failure) for failure in asked]


def _mode(what: str) -> str:
    """Return which part of a subject's work an output shows."""
    return _MODES.get(parts(what)[0], "training")


def _spread(left: list[Failure]) -> list[Failure]:
    """Return a few of the failures, from the whole length of the list."""
    places = np.linspace(0, len(left) - 1, min(_SAMPLE, len(left)))
    return [left[round(place)] for place in places]


def _candidates(
    sample: list[Failure], imprecisions: Iterable[Imprecision], *, pairs: bool
) -> list[Cause]:
    """Return the mistakes that explain at least one failure of the sample."""
    singles = _explaining(CATALOGUE, sample)
    if singles:
        return singles
    if pairs:
        # Pairs are many: one gradient and one moving statistic must do to find them.
        of_gradients = [failure for failure in sample if failure[1] in record.GRADIENTS]
        of_statistics = [failure for failure in sample if _mode(failure[1]) == "statistics"]
        few = [
            min(kind, key=lambda failure: len(failure[0].material.xs))
            for kind in (of_gradients, of_statistics)
            if kind
        ]
        found = _explaining(_pairs(few), few)
        if found:
            return found
    return _explaining(imprecisions, sample)


def _explaining(causes: Iterable[Cause], sample: list[Failure]) -> list[Cause]:
    return [cause for cause in causes if any(trial.explains(cause, what) for trial, what in sample)]


def _pairs(sample: list[Failure]) -> list[Mistake]:
    """Return a forward mistake with one of the gradient, or of the statistics, where they meet.

    The forward mistake must give the output that the subject gave, for a gradient; for the moving
    statistics it must be one of the moments.
    """
    outputs = [
        trial
        for trial, what in sample
        if what in record.GRADIENTS and record.TRAINING_OUTPUT in trial.judged
    ]
    forward = [
        h for h in FORWARD if any(trial.agrees(h, record.TRAINING_OUTPUT) for trial in outputs)
    ]
    pairs = [together(one, other) for one in forward for other in GRADIENT]
    if any(_mode(what) == "statistics" for _, what in sample):
        moments = [h for h in FORWARD if h.changes.keys() & {"axes", "mask", "moments"}]
        pairs += [together(one, other) for one in moments for other in STATISTICS]
        pairs += [
            together(one, other)
            for number, one in enumerate(STATISTICS)
            for other in STATISTICS[:number]
        ]
    return [pair for pair in pairs if pair is not None]


def _best(
    candidates: list[Cause], left: list[Failure], trials: Sequence[Trial]
) -> tuple[tuple[Cause, ...], list[Failure]]:
    """Return the candidates that explain most of what is left, none perhaps, and what that is.

    One that would spoil more right outputs, of the kind that it explains, than it explains wrong
    ones is none; of two that explain as much, the one that would spoil fewer is taken.
    """
    ranked = []
    for cause in candidates:
        explained = [(trial, what) for trial, what in left if trial.explains(cause, what)]
        spoiled, apart = _spoiled(cause, explained, trials)
        if explained and spoiled < len(explained):
            # What only saving can have done is likelier than what would have shown without it.
            anywhere = not getattr(cause, "reloaded", False)
            ranked.append(((-len(explained), spoiled + apart, anywhere), cause, explained))
    if not ranked:
        return (), []
    score, _, explained = min(ranked, key=lambda entry: entry[0])
    equal = tuple(cause for other, cause, same in ranked if other == score and same == explained)
    # One imprecision is preferred to another: a smaller one also fits what is said of a larger.
    return equal[: 1 if isinstance(equal[0], Imprecision) else None], explained


def _spoiled(cause: Cause, explained: list[Failure], trials: Sequence[Trial]) -> tuple[int, int]:
    """Count the right outputs that the mistake would spoil, in the modes it explains and others."""
    modes = {_mode(what) for _, what in explained}
    gradients = any(what in record.GRADIENTS for _, what in explained)
    refuted = [
        _mode(what) for trial in trials for what in trial.refuted(cause, gradients=gradients)
    ]
    within = sum(mode in modes for mode in refuted)
    return within, len(refuted) - within


def _label(causes: Sequence[Cause], explained: list[Failure], failure: Failure) -> str:
    """Return the mistakes' names as this case has them, and the mode if it is in one alone."""
    setting = failure[0].evidence.setting
    name = " or ".join(
        dict.fromkeys(cause.label(len(setting.shape), setting.axes) for cause in causes)
    )
    modes = {_mode(what) for _, what in explained}
    first, *others = causes
    if others or first.kind != "forward" or len(modes) != 1:
        return name
    mode = modes.pop()
    other = {"training": record.INFERENCE_OUTPUT, "inference": record.TRAINING_OUTPUT}.get(mode)
    if any(other in trial.refuted(first, gradients=False) for trial, _ in explained):
        return f"{name}, in {mode} only"
    return name
