"""Put one question to a subject at a time, and tell a convention from the answer.

A subject may refuse a question, raise, or answer with something odd: then nothing is told.
"""

from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from batchnorm_mechanics.conformance.record import Conventions
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Session,
    Setting,
    Statistics,
    Subject,
    as_type,
)

Answer = TypeVar("Answer")

SHAPE = (5, 4)
OLD_MEAN = np.array([-1.0, 2.0, 0.5, 3.0])
OLD_VARIANCE = np.array([0.5, 2.0, 4.0, 1.0])
# Far from one half, so that a weight cannot be taken for its complement.
_MOMENTUM = 0.25
# Large, so that its root, itself and no epsilon at all are far apart.
_LARGE_EPSILON = 0.25
_TINY = 1e-12
# Measured numbers carry float32 rounding, amplified by what is solved for.
_CLOSE = 1e-3


class SilentError(Exception):
    """A question has no answer that tells anything."""


def told(probe: Callable[..., Answer], *args: Any) -> Answer | None:
    """Return what a probe tells, or None where its questions have no answer.

    Example:
        >>> told(answer, lambda: 1 / 0) is None
        True
    """
    try:
        return probe(*args)
    except SilentError:
        return None


def answer(ask: Callable[..., Answer], *args: Any) -> Answer:
    """Return what a subject answers; to a probe it is an answer as well that it raises.

    Args:
        ask: calls the subject and does nothing else, so that no mistake of ours hides here.
        *args: what it takes.

    Raises:
        SilentError: whatever the subject raised.
    """
    try:
        with np.errstate(all="ignore"):
            return ask(*args)
    except Exception as error:
        # A subject may raise whatever it likes; what the probe learns is that it does.
        raise SilentError from error


def numbers(ask: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return what a subject makes of an input, in float64."""
    # Of a copy: some write to what they are given.
    return answer(lambda: np.asarray(ask(x.copy())).astype(np.float64))


def output(ask: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the same, which must have the input's shape."""
    y = numbers(ask, x)
    if y.shape != x.shape:
        raise SilentError
    return y


def statistics(session: Session) -> Statistics:
    """Return the moving statistics in float64 as they are now.

    They are copies: a subject may hand out the arrays that it goes on writing to.
    """
    return answer(
        lambda: Statistics(*(np.array(part).astype(np.float64) for part in session.statistics()))
    )


def start(
    subject: Subject, *settings: Setting, needs: Set[Ability] = frozenset()
) -> tuple[Session, Setting]:
    """Return a session with the first of the settings that the subject takes, and that setting.

    Args:
        subject: whom to ask.
        *settings: how it is to be set up.
        needs: the abilities that the questions to come need.

    Raises:
        SilentError: it lacks an ability, or refuses or raises at each of them.
    """
    if not subject.abilities.issuperset(needs):
        raise SilentError
    for setting in settings:
        with suppress(SilentError):
            # None means that the setting is not refused: anything else is a no.
            if answer(subject.refusal, setting) is None:
                return answer(subject.open, setting), setting
    raise SilentError


def varied(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return samples whose mean and spread differ from channel to channel on every axis."""
    samples = np.random.default_rng(3).normal(size=shape)
    for axis, size in enumerate(shape[1:], 1):
        steps = np.linspace(0.6, 1.4, size).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
        samples = samples * steps + 2 * steps
    return as_type(samples, dtype)


class _Step(NamedTuple):
    """One update: the weight of the old value and the variance taken in, by the biased one."""

    decay: float | None
    ratio: float | None
    moved: bool


def moving_average(subject: Subject, dtype: str) -> Conventions:
    """Tell momentum and the kind of variance from one update, of the mean alone if need be.

    Args:
        subject: whom to ask.
        dtype: of the input, one that the subject takes.

    Returns:
        What could be told, and nothing of other conventions. Where the mean does not move, or is
        not right, momentum is told from the variance.
    """
    given = told(_update, subject, dtype, _MOMENTUM)
    own = told(_update, subject, dtype, None)
    step = given or own
    if step is None:
        return Conventions()
    if not step.moved and not (own or step).moved:
        return Conventions("none")
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
    if subject.declared_momentum is None and step.decay is not None:
        weighs, default = "old", _fixed(step.decay)
    return Conventions(_kind(step.ratio), weighs, default)


def _fixed(decay: float) -> float:
    """Return the decay that is meant where none can be set, from the one that is used.

    The new value's weight is the small one; and what keeps nothing of the old value is no average,
    which shows beside any decay.
    """
    if abs(decay) < _CLOSE:
        return 0.9
    return round(float(f"{decay if decay >= 0.5 else 1 - decay:.3g}"), 9)


def _kind(ratio: float | None) -> Literal["biased", "unbiased", "none", "other"] | None:
    if ratio is None:
        return None
    count = SHAPE[0]
    if np.isnan(ratio):
        return "none"
    if abs(ratio - 1) < 10 * _CLOSE:
        return "biased"
    return "unbiased" if abs(ratio - count / (count - 1)) < 10 * _CLOSE else "other"


def _update(subject: Subject, dtype: str, momentum: float | None) -> _Step:
    """Train on one batch and solve what became of the moving statistics.

    The old values are set where the subject lets one, else they are what it starts with. ratio is
    NaN if the variance stayed where it was while it should have moved.
    """
    plain = Setting(SHAPE, (1,), dtype, momentum=momentum)
    full = replace(plain, moving_mean=OLD_MEAN, moving_variance=OLD_VARIANCE)
    session, _ = start(subject, full, plain, needs={Ability.TRAIN, Ability.STATISTICS})
    x = varied(SHAPE, dtype)
    before = statistics(session)
    trained = answer(session.train, x)
    after = statistics(session)
    parts = (*before, *after)
    fit = all(part.shape == (SHAPE[1],) and np.all(np.isfinite(part)) for part in parts)
    if trained is None or not fit:
        raise SilentError
    values = x.astype(np.float64)
    mean_decay, _ = _solve(before.mean, after.mean, values.mean(0))
    decay, ratio = _solve(before.variance, after.variance, values.var(0), mean_decay)
    stays = np.array_equal(before.variance, after.variance)
    moved = not (stays and np.array_equal(before.mean, after.mean))
    return _Step(decay if mean_decay is None else mean_decay, np.nan if stays else ratio, moved)


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


def find_epsilon(
    subject: Subject, dtype: str
) -> tuple[Literal["inside", "outside"] | None, float | None]:
    """Tell where epsilon is added, and its value when none is set.

    At variance 0 what an input is divided by is sqrt(epsilon) or epsilon; at variance 4 it is
    sqrt(4 + epsilon) or 2 + epsilon, which a division by the variance itself is not.

    Args:
        subject: whom to ask.
        dtype: of the input, one that the subject takes.

    Returns:
        The place, and the default value; None where they could not be told.
    """
    if dtype not in ("float32", "float64"):
        return None, None
    given = _LARGE_EPSILON if subject.takes_epsilon else None
    smallest = _divisor(subject, dtype, None, 0.0)
    at_zero = _divisor(subject, dtype, given, 0.0) if given else smallest
    at_four = _divisor(subject, dtype, given, 4.0)
    place = None
    if abs(at_four - np.sqrt(4 + at_zero**2)) < _CLOSE * at_zero:
        place = "inside"
    elif abs(at_four - (2 + at_zero)) < _CLOSE * at_zero:
        place = "outside"
    if place is None or smallest <= 10 * _TINY:
        return place, None
    return place, _tidy(smallest**2 if place == "inside" else smallest)


def _tidy(value: float) -> float:
    """Return the short number that a measured one stands for, if there is one."""
    short = float(f"{value:.3g}")
    return short if abs(short - value) < _CLOSE / 10 * value else value


def _divisor(subject: Subject, dtype: str, epsilon: float | None, variance: float) -> float:
    """Return what the subject divides a centred input by, for this variance.

    By its moving variance in inference if that can be set, else by that of a batch. At variance 0
    a batch would leave nothing to divide, so that it gets one far below any epsilon.
    """
    signs = np.array([[1.0], [-1.0], [-1.0], [1.0]]) * np.ones((1, 3))
    plain = Setting((4, 3), (1,), dtype, epsilon=epsilon)
    full = replace(plain, moving_mean=np.zeros(3), moving_variance=np.full(3, variance))
    with suppress(SilentError):
        session, _ = start(subject, full, needs={Ability.INFER})
        return _quotient(session.infer, as_type(signs, dtype))
    session, _ = start(subject, plain, needs={Ability.TRAIN})
    return _quotient(session.train, as_type(signs * (np.sqrt(variance) or _TINY), dtype))


def _quotient(ask: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> float:
    """Return the one positive number that x was divided by; silent if there is none."""
    y = output(ask, x)
    if np.all(np.isfinite(y)) and np.all(y != 0):
        each = x.astype(np.float64) / y
        middle = float(np.median(each))
        if middle > 0 and np.all(np.abs(each - middle) < _CLOSE * middle):
            return middle
    raise SilentError
