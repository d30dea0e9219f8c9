"""Name the mistake behind a subject's failures: the one that gives what the subject gave."""

from collections.abc import Iterable, Sequence

import numpy as np

from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.mistakes import Mistake, together
from batchnorm_mechanics.conformance.mistakes.batch import FORWARD, GRADIENT
from batchnorm_mechanics.conformance.mistakes.statistics import (
    EXCHANGED,
    INFERENCE,
    RELOADED,
    STATISTICS,
)
from batchnorm_mechanics.conformance.precision import IMPRECISIONS, Imprecision
from batchnorm_mechanics.conformance.prediction import parts
from batchnorm_mechanics.conformance.trial import Trial

# In the order in which one is tried; those of saving and loading last.
CATALOGUE: tuple[Mistake, ...] = (
    *FORWARD,
    EXCHANGED,
    *GRADIENT,
    *STATISTICS,
    *INFERENCE,
    *RELOADED,
)

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
    # NaN and infinity are data here, of the cases about them or of a subject that is so wrong.
    with np.errstate(all="ignore"):
        return _diagnose(failures, [Trial(evidence) for evidence in passed])


def _diagnose(
    failures: Sequence[tuple[Evidence, str]], passed: Sequence[Trial]
) -> list[str | None]:
    trials = {id(evidence): Trial(evidence) for evidence, _ in failures}
    asked: list[Failure] = [(trials[id(evidence)], what) for evidence, what in failures]
    names: list[str | None] = [None] * len(asked)
    left = [index for index, (trial, what) in enumerate(asked) if what in trial.failing]
    fruitless = 0
    imprecisions = IMPRECISIONS
    while left and fruitless < _FRUITLESS:
        sample = _spread(left)
        found = _best(
            _candidates([asked[index] for index in sample], imprecisions, pairs=not fruitless),
            asked,
            left,
            passed,
        )
        if not found:
            fruitless += 1
            left = [index for index in left if index not in sample]
            continue
        best, explained = found
        if isinstance(best[0], Imprecision):
            # One is enough for a subject: another would fit the leavings of the first too easily.
            imprecisions = (best[0],)
        for index in explained:
            names[index] = _label(best, asked, explained, asked[index])
        left = [index for index in left if index not in explained]
    return names


def _mode(what: str) -> str:
    """Return which part of a subject's work an output shows."""
    return _MODES.get(parts(what)[0], "training")


def _spread(left: list[int]) -> list[int]:
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
        kinds = [[f for f in sample if f[1] in record.GRADIENTS], _moving(sample)]
        few = [min(kind, key=lambda f: len(f[0].material.xs)) for kind in kinds if kind]
        found = _explaining(_pairs(few), few)
        if found:
            return found
    return _explaining(imprecisions, sample)


def _moving(sample: list[Failure]) -> list[Failure]:
    return [failure for failure in sample if _mode(failure[1]) == "statistics"]


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
    if _moving(sample):
        moments = [h for h in FORWARD if h.changes.keys() & {"axes", "mask", "moments"}]
        pairs += [together(one, other) for one in moments for other in STATISTICS]
        pairs += [
            together(one, other)
            for number, one in enumerate(STATISTICS)
            for other in STATISTICS[:number]
        ]
    return [pair for pair in pairs if pair is not None]


def _best(
    candidates: list[Cause], asked: list[Failure], left: list[int], passed: Sequence[Trial]
) -> tuple[tuple[Cause, ...], list[int]] | None:
    """Return the candidates that explain most of what is left, and what that is.

    One that would spoil more right outputs, of the kind that it explains, than it explains wrong
    ones is none; of two that explain as much, the one that would spoil fewer is taken.
    """
    ranked = []
    for cause in candidates:
        explained = [i for i in left if asked[i][0].explains(cause, asked[i][1])]
        spoiled, apart = _spoiled(cause, asked, explained, passed)
        if explained and spoiled < len(explained):
            # What only saving can have done is likelier than what would have shown without it.
            anywhere = not getattr(cause, "reloaded", False)
            ranked.append(((-len(explained), spoiled + apart, anywhere), cause, explained))
    if not ranked:
        return None
    score, _, explained = min(ranked, key=lambda entry: entry[0])
    equal = tuple(cause for other, cause, same in ranked if other == score and same == explained)
    # One imprecision is preferred to another: a smaller one also fits what is said of a larger.
    return equal[: 1 if isinstance(equal[0], Imprecision) else None], explained


def _spoiled(
    cause: Cause, asked: list[Failure], explained: list[int], passed: Sequence[Trial]
) -> tuple[int, int]:
    """Count the right outputs that the mistake would spoil, in the modes it explains and others."""
    modes = {_mode(asked[index][1]) for index in explained}
    gradients = any(asked[index][1] in record.GRADIENTS for index in explained)
    trials = {id(trial): trial for trial, _ in asked}.values()
    refuted = [
        _mode(what)
        for trial in (*trials, *passed)
        for what in trial.refuted(cause, gradients=gradients)
    ]
    within = sum(mode in modes for mode in refuted)
    return within, len(refuted) - within


def _label(
    causes: Sequence[Cause],
    asked: list[Failure],
    explained: list[int],
    failure: Failure,
) -> str:
    """Return the mistakes' names as this case has them, and the mode if it is in one alone."""
    material = failure[0].material
    labels = dict.fromkeys(cause.label(material.rank, material.axes) for cause in causes)
    name = " or ".join(labels)
    modes = {_mode(asked[index][1]) for index in explained}
    first, *others = causes
    if others or first.kind != "forward" or len(modes) != 1:
        return name
    mode = modes.pop()
    other = {"training": record.INFERENCE_OUTPUT, "inference": record.TRAINING_OUTPUT}.get(mode)
    trials = {id(asked[index][0]): asked[index][0] for index in explained}.values()
    if other and any(other in t.refuted(first, gradients=False) for t in trials):
        return f"{name}, in {mode} only"
    return name
