"""Find out which conventions a subject follows, from its behaviour alone.

Each probe sets the subject up, asks it a question whose answer differs between the conventions,
and compares the answer with what each of them would give. What a subject refuses, raises at, or
answers with something that fits no convention stays None: the probe never guesses, and a broken
subject never stops it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance.lifted import lifted
from batchnorm_mechanics.conformance.probes import (
    OLD_MEAN,
    OLD_VARIANCE,
    SHAPE,
    SilentError,
    answer,
    find_epsilon,
    moving_average,
    numbers,
    output,
    start,
    statistics,
    told,
    varied,
)
from batchnorm_mechanics.conformance.record import Conventions
from batchnorm_mechanics.conformance.subject import Ability, Setting, Statistics, Subject, as_type

Growth = Literal["exact", "proportional", "quadratic"]

# Half decades: an error that grows with the square passes through its whole range, from rounding
# noise to nonsense, within two decades, and three measured points are wanted in it.
OFFSETS = tuple(float(f"{10 ** (step / 2):.3g}") for step in range(2, 11))
_SAMPLES = (32, 8)
# Of an input, the first that the subject takes.
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_EPSILON = 1e-3
# Conventions that are a default, by what a subject may have no default for.
_DEFAULTS = {
    "axis": ("axis_kept",),
    "epsilon": ("default_epsilon",),
    "momentum": ("default_momentum",),
    "statistics": ("initial_mean", "initial_variance"),
}


def find_conventions(subject: Subject) -> Conventions:
    """Find out what a subject does by itself and what its settings mean to it.

    Args:
        subject: whom to ask; nothing but its answers is looked at.

    Returns:
        The conventions, with None for each that could not be told.

    Example:
        >>> from batchnorm_mechanics.conformance import subjects
        >>> find_conventions(subjects.resolve("keras")).moving_variance
        'biased'
    """
    subject = lifted(subject, _DTYPES)
    dtype = _dtype(subject)
    place, epsilon = told(find_epsilon, subject, dtype) or (None, None)
    mean, variance = told(_initial, subject, dtype) or (None, None)
    found = replace(
        moving_average(subject, dtype),
        epsilon_place=place,
        default_epsilon=epsilon,
        initial_mean=mean,
        initial_variance=variance,
        axis_kept=told(_axis_kept, subject, dtype),
        default_mode=told(_default_mode, subject, dtype),
        moves_in_inference=told(_moves_in_inference, subject, dtype),
        one_sample=told(_one_sample, subject, dtype),
        empty_batch=told(_empty_batch, subject, dtype),
        large_mean=told(error_growth, subject, epsilon),
    )
    # What the harness had to give, for want of a default, is no convention of the subject's.
    given = [name for need in subject.needs for name in _DEFAULTS[need]]
    return replace(found, **dict.fromkeys(given))


def _dtype(subject: Subject) -> str:
    """Return the first dtype that the subject takes; float32 if it refuses them all."""
    for dtype in _DTYPES:
        with suppress(SilentError):
            if answer(subject.refusal, Setting(SHAPE, (1,), dtype)) is None:
                return dtype
    return "float32"


def _initial(subject: Subject, dtype: str) -> tuple[float | None, ...]:
    """Return mean and variance before any batch, None where channels differ."""
    session, _ = start(subject, Setting(SHAPE, (1,), dtype), needs={Ability.STATISTICS})
    return tuple(
        float(part.flat[0]) if part.size and np.all(part == part.flat[0]) else None
        for part in statistics(session)
    )


def _axis_kept(subject: Subject, dtype: str) -> int | None:
    """Tell the default axis of a rank-4 input by the shape of the statistics, or by the output."""
    shape = (2, 3, 4, 5)
    session, _ = start(subject, Setting(shape, dtype=dtype))
    kept = {(shape[-1],): -1, (shape[1],): 1}
    if Ability.STATISTICS in subject.abilities:
        found = told(statistics, session)
        if found is not None and found.mean.shape in kept:
            return kept[found.mean.shape]
    if Ability.TRAIN not in subject.abilities:
        return None
    y = output(session.train, varied(shape, dtype))
    centred = [
        axis
        for axis in kept.values()
        if np.all(np.abs(y.mean(axis=tuple({0, 1, 2, 3} - {axis % 4}))) < 0.02)
    ]
    return centred[0] if len(centred) == 1 else None


def _default_mode(subject: Subject, dtype: str) -> Literal["training", "inference"] | None:
    """Compare a call without a mode with both modes, each asked of a fresh session."""
    setting = Setting(SHAPE, (1,), dtype, moving_mean=OLD_MEAN, moving_variance=OLD_VARIANCE)
    x, needs = varied(SHAPE, dtype), {Ability.CALL, Ability.TRAIN, Ability.INFER}
    # One for each: a call that trains would change what inference gives.
    called, trained, inferred = (start(subject, setting, needs=needs)[0] for _ in range(3))
    y = output(called.call, x)
    modes = {"training": trained.train, "inference": inferred.infer}
    like = []
    for mode, ask in modes.items():
        other = told(output, ask, x)
        if other is not None and np.allclose(y, other, rtol=1e-5, atol=1e-5):
            like.append(mode)
    return like[0] if len(like) == 1 else None


def _moves_in_inference(subject: Subject, dtype: str) -> bool:
    needs = {Ability.INFER, Ability.STATISTICS}
    session, _ = start(subject, Setting(SHAPE, (1,), dtype), needs=needs)
    before = statistics(session)
    answer(session.infer, varied(SHAPE, dtype))
    return not _same(before, statistics(session))


def _same(before: Statistics, after: Statistics) -> bool:
    return all(
        np.array_equal(old, new, equal_nan=True) for old, new in zip(before, after, strict=True)
    )


def _one_sample(subject: Subject, dtype: str) -> Literal["normalizes", "refuses"] | None:
    """Train on a single sample: x_hat is 0, so that the output is beta."""
    plain = Setting(SHAPE, (1,), dtype)
    shifted = replace(plain, beta=np.array([0.5, -1.0, 2.0, 0.25]))
    session, setting = start(subject, shifted, plain, needs={Ability.TRAIN})
    y = told(numbers, session.train, varied((1, SHAPE[1]), dtype))
    if y is None:
        return "refuses"
    right = np.expand_dims(setting.parameters.beta, 0)
    close = y.shape == right.shape and np.allclose(y, right, rtol=0, atol=0.01)
    return "normalizes" if close else None


def _empty_batch(subject: Subject, dtype: str) -> Literal["refuses", "ignores", "poisons"]:
    """Train on no samples at all and look what became of the moving statistics."""
    needs = {Ability.TRAIN, Ability.STATISTICS}
    session, _ = start(subject, Setting(SHAPE, (1,), dtype), needs=needs)
    before = statistics(session)
    if told(answer, session.train, as_type(np.zeros((0, SHAPE[1])), dtype)) is None:
        return "refuses"
    after = told(statistics, session)
    return "ignores" if after is not None and _same(before, after) else "poisons"


def error_growth(subject: Subject, epsilon: float | None) -> Growth | None:
    """Tell how the error of the float32 training output grows with mean/std.

    The input has standard deviation 1 and means from 10 to 1e5. Rounding a mean that large costs
    one digit for each digit of mean/std ("proportional"), computing the variance as
    E[x^2] - E[x]^2 costs two ("quadratic"), and taking a sample away first costs nothing ("exact").

    Args:
        subject: whom to ask.
        epsilon: what it has by itself, for a subject whose epsilon cannot be set.

    Returns:
        The growth, or None if the subject does not train in float32 or is wrong already where the
        mean is 0.

    Numerics:
        The rule is the slope of log(error) over log(mean/std), between errors that stand eight
        times above the error at mean 0 and errors of 0.05, past which a wrong result cannot get
        much more wrong: 1.5 or more is quadratic. Without two such errors it is exact.
    """
    setting = Setting(_SAMPLES, (1,), epsilon=_EPSILON if subject.takes_epsilon else None)
    used = setting.epsilon if subject.takes_epsilon else epsilon
    if used is None:
        return None
    floor = _error(subject, setting, used, 0.0)
    if floor > 1e-4:
        return None
    return growth(floor, OFFSETS, [_error(subject, setting, used, offset) for offset in OFFSETS])


def growth(floor: float, offsets: tuple[float, ...], errors: Sequence[float]) -> Growth | None:
    """Return the rule's verdict on measured errors.

    Args:
        floor: error at mean 0.
        offsets: mean/std, ascending.
        errors: at each offset.

    Example:
        >>> growth(1e-7, (10.0, 100.0, 1000.0), [1e-6, 1e-5, 1e-4])
        'proportional'
        >>> growth(1e-7, (10.0, 100.0, 1000.0), [6e-6, 6e-4, 6e-2])
        'quadratic'
        >>> growth(1e-7, (10.0, 100.0, 1000.0), [1e-7, 2e-7, 2e-7])
        'exact'
    """
    measured = [
        (offset, error)
        for offset, error in zip(offsets, errors, strict=True)
        if 8 * max(floor, np.finfo(np.float32).eps / 2) < error < 0.05
    ]
    if len(measured) < 2:
        return "exact" if max(errors) < 0.05 else None
    distances, sizes = np.log(np.array(measured).T)
    slope = np.polyfit(distances, sizes, 1)[0]
    return "quadratic" if slope >= 1.5 else "proportional"


def _error(subject: Subject, setting: Setting, epsilon: float, offset: float) -> float:
    """Return the largest error of the training output at this mean, infinite for NaN."""
    samples = np.random.default_rng(7).normal(size=_SAMPLES)
    # Not a whole number: means that float32 holds exactly would flatter the subject.
    x = as_type(samples + 1.0371 * offset, setting.dtype)
    session, _ = start(subject, setting, needs={Ability.TRAIN})
    error = np.abs(output(session.train, x) - reference.forward(x, None, None, 0, epsilon)[0])
    return float(np.max(np.where(np.isnan(error), np.inf, error)))
