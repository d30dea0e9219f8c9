"""Find out what a subject's moving average weighs and takes in, from one update."""

from typing import Literal, NamedTuple

import numpy as np

from batchnorm_mechanics.conformance.asking import attempt, running, start_at_first, varied
from batchnorm_mechanics.conformance.subject import Ability, Running, Setting, Subject

_SHAPE = (5, 4)
_OLD_MEAN = np.array([-1.0, 2.0, 0.5, 3.0])
_OLD_VARIANCE = np.array([0.5, 2.0, 4.0, 1.0])
# Far from one half, so that a weight cannot be taken for its complement.
_MOMENTUM = 0.25
# Measured numbers carry float32 rounding, amplified by what is solved for.
_CLOSE = 1e-3


class MovingAverage(NamedTuple):
    """What a moving average does, None where it could not be told.

    Attributes:
        variance, weighs, default: as `moving_variance`, `momentum_weighs` and `default_momentum`
            of `Conventions`.
    """

    variance: Literal["biased", "unbiased", "none", "other"] | None = None
    weighs: Literal["old", "new"] | None = None
    default: float | None = None


class _Step(NamedTuple):
    """One update: the weight of the old value and the variance taken in, by the biased one."""

    decay: float | None
    ratio: float | None
    moved: bool


def moving_average(subject: Subject, dtype: str) -> MovingAverage:
    """Tell momentum and the kind of variance from one update, of the mean alone if need be.

    Args:
        subject: whom to ask.
        dtype: of the input, one that the subject takes.

    Returns:
        What could be told. Where the mean does not move, or is not right, momentum is told from
        the variance.
    """
    given = _update(subject, dtype, _MOMENTUM)
    own = _update(subject, dtype, None)
    step = given or own
    if step is None:
        return MovingAverage()
    if not step.moved and not (own or step).moved:
        return MovingAverage("none")
    weighs = None
    if given is not None and given.decay is not None:
        if abs(given.decay - _MOMENTUM) < _CLOSE:
            weighs = "old"
        elif abs(given.decay - (1 - _MOMENTUM)) < _CLOSE:
            weighs = "new"
    default = None
    if weighs is not None and own is not None and own.decay is not None:
        # The weight of the new value is the small one, and what rounding spares most.
        new = float(f"{1 - own.decay:.3g}")
        default = round(1 - new, 9) if weighs == "old" else new
    return MovingAverage(_kind(step.ratio), weighs, default)


def _kind(ratio: float | None) -> Literal["biased", "unbiased", "none", "other"] | None:
    if ratio is None:
        return None
    count = _SHAPE[0]
    if np.isnan(ratio):
        return "none"
    if abs(ratio - 1) < 10 * _CLOSE:
        return "biased"
    return "unbiased" if abs(ratio - count / (count - 1)) < 10 * _CLOSE else "other"


def _update(subject: Subject, dtype: str, momentum: float | None) -> _Step | None:
    """Train on one batch and solve what became of the moving statistics.

    The old values are set where the subject lets one, else they are what it starts with. ratio is
    NaN if the variance stayed where it was while it should have moved.
    """
    common = {"shape": _SHAPE, "kept": (1,), "dtype": dtype, "momentum": momentum}
    session, _ = start_at_first(
        subject,
        (
            Setting(**common, moving_mean=_OLD_MEAN, moving_variance=_OLD_VARIANCE),
            Setting(**common),
        ),
        Ability.TRAIN,
        Ability.STATISTICS,
    )
    if session is None:
        return None
    x = varied(_SHAPE, dtype)
    before = running(session)
    trained = attempt(lambda: session.train(x))
    after = running(session)
    if before is None or trained is None or after is None or not _fits(before, after):
        return None
    values = x.astype(np.float64)
    mean_decay, _ = _solve(before.mean, after.mean, values.mean(0))
    decay, ratio = _solve(before.variance, after.variance, values.var(0), mean_decay)
    stays = np.array_equal(before.variance, after.variance)
    moved = not (stays and np.array_equal(before.mean, after.mean))
    return _Step(decay if mean_decay is None else mean_decay, np.nan if stays else ratio, moved)


def _fits(before: Running, after: Running) -> bool:
    """Whether all moving statistics have a number for each channel."""
    parts = (*before, *after)
    return all(part.shape == (_SHAPE[1],) and np.all(np.isfinite(part)) for part in parts)


def _solve(
    old: np.ndarray, new: np.ndarray, taken: np.ndarray, decay: float | None = None
) -> tuple[float | None, float | None]:
    """Solve new = decay * old + (1 - decay) * ratio * taken for decay and ratio.

    Args:
        old: a moving statistic before one batch.
        new: the same after it.
        taken: the batch's own, biased.
        decay: where it is known already.

    Returns:
        decay and ratio; both None if it does not move, or not in this way. Where old is 0
        everywhere, decay cannot be told from ratio, and ratio is taken to be 1.
    """
    if np.array_equal(old, new):
        return None, None
    if decay is None and not np.any(old):
        decay = 1 - float(taken @ new / (taken @ taken))
    if decay is None:
        columns = np.stack([old, taken], axis=1)
        decay, weight = (float(value) for value in np.linalg.lstsq(columns, new)[0])
    else:
        weight = float(taken @ (new - decay * old) / (taken @ taken))
    off = np.max(np.abs(decay * old + weight * taken - new))
    if abs(1 - decay) < 1e-9:
        return None, None
    # The step may be as small as momentum makes it: it is the step that must be explained.
    if off > _CLOSE * max(float(np.max(np.abs(new - old))), 1e-5):
        return None, np.inf
    return decay, weight / (1 - decay)
