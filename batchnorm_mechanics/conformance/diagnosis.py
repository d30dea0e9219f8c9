"""Name the mistake behind a subject's failures: the one that gives what the subject gave."""

from collections.abc import Iterable, Sequence

import numpy as np

from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.mistakes import Mistake, together
from batchnorm_mechanics.conformance.mistakes.catalogue import (
    CATALOGUE,
    FORWARD,
    GRADIENT,
    STATISTICS,
)
from batchnorm_mechanics.conformance.precision import IMPRECISIONS, Imprecision
from batchnorm_mechanics.conformance.record import parts
from batchnorm_mechanics.conformance.trial import Trial

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
    fruitless, found, first = 0, None, None
    while left and fruitless < _FRUITLESS:
        sample = _spread(left)
        # One imprecision is enough for a subject: another would fit the leavings of the first too
        # easily.
        imprecisions = IMPRECISIONS if found is None else (found,)
        candidates = _candidates(sample, imprecisions, pairs=not fruitless)
        causes, explained = _best(candidates, left, trials)
        if not causes:
            fruitless, explained = fruitless + 1, sample
        elif isinstance(causes[0], Imprecision):
            found = causes[0]
            # It counts for all that it may have spoilt: a mistake that fits some of that as well
            # shows elsewhere too, if it is there.
            explained += [
                (trial, what)
                for trial, what in left
                if (trial, what) not in explained and trial.follows(found, what)
            ]
        if causes:
            mode = _only_mode(causes, explained)
            names |= _labels(causes, explained, mode)
            if first is None and isinstance(causes[0], Mistake):
                first = causes[0], mode
        told = set(explained)
        left = [failure for failure in left if failure not in told]
    if first is not None:
        names |= _noise_of(*first, [failure for failure in asked if failure not in names])
    return [names.get(failure) for failure in asked]


def _noise_of(mistake: Mistake, mode: str, left: Iterable[Failure]) -> dict[Failure, str]:
    """Return the name of a mistake for what is noise: no more can be said than that it bears on it.

    Args:
        mistake: the one that explains most of a subject's failures.
        mode: what its name ends in.
        left: the failures without a name.
    """
    return {
        (trial, what): mistake.label(trial.material.rank, trial.material.axes) + mode
        for trial, what in left
        if trial.is_noise(mistake, what)
    }


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
            further = getattr(cause, "goes_further", False)
            score = -len(explained), spoiled + apart, anywhere, further
            ranked.append((score, cause, explained))
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


def _labels(causes: Sequence[Cause], explained: list[Failure], mode: str) -> dict[Failure, str]:
    """Return the mistakes' names as each case has them, and the mode if they are in one alone."""
    names = {}
    for trial, what in explained:
        setting = trial.evidence.setting
        labels = [cause.label(len(setting.shape), setting.axes) for cause in causes]
        names[trial, what] = " or ".join(dict.fromkeys(labels)) + mode
    return names


def _only_mode(causes: Sequence[Cause], explained: list[Failure]) -> str:
    """Return in words in which mode alone a mistake is made, if it is so."""
    modes = {_mode(what) for _, what in explained}
    first, *others = causes
    if others or first.kind != "forward" or len(modes) != 1:
        return ""
    mode = modes.pop()
    other = {"training": record.INFERENCE_OUTPUT, "inference": record.TRAINING_OUTPUT}.get(mode)
    cases = dict.fromkeys(trial for trial, _ in explained)
    alone = any(other in trial.refuted(first, gradients=False) for trial in cases)
    return f", in {mode} only" if alone else ""
