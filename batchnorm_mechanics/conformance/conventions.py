"""Find out which conventions a subject follows, from its behaviour alone.

Each probe sets the subject up, asks it a question whose answer differs between the conventions,
and compares the answer with what each of them would give. What a subject refuses, raises at, or
answers with something that fits no convention stays None: the probe never guesses, and a broken
subject never stops it.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance.probes import (
    OLD_MEAN,
    OLD_VARIANCE,
    SHAPE,
    attempt,
    find_epsilon,
    moving_average,
    output_of,
    start,
    start_at_first,
    statistics_of,
    varied,
)
from batchnorm_mechanics.conformance.record import Conventions
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Setting,
    Statistics,
    Subject,
    as_type,
)

Growth = Literal["exact", "proportional", "quadratic"]

# Half decades: an error that grows with the square passes through its whole range, from rounding
# noise to nonsense, within two decades, and three measured points are wanted in it.
OFFSETS = tuple(float(f"{10 ** (step / 2):.3g}") for step in range(2, 11))
_SAMPLES = (32, 8)
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
    dtype = _dtype(subject)
    average = moving_average(subject, dtype)
    place, epsilon = find_epsilon(subject, dtype)
    initial = _initial(subject, dtype)
    found = Conventions(
        moving_variance=average.variance,
        momentum_weighs=average.weighs,
        default_momentum=average.default,
        epsilon_place=place,
        default_epsilon=epsilon,
        initial_mean=initial[0],
        initial_variance=initial[1],
        axis_kept=_axis_kept(subject, dtype),
        default_mode=_default_mode(subject, dtype),
        moves_in_inference=_moves_in_inference(subject, dtype),
        one_sample=_one_sample(subject, dtype),
        empty_batch=_empty_batch(subject, dtype),
        large_mean=error_growth(subject, epsilon),
    )
    # What the harness had to give, for want of a default, is no convention of the subject's.
    given = [name for need in subject.needs for name in _DEFAULTS[need]]
    return replace(found, **dict.fromkeys(given))


def _dtype(subject: Subject) -> str:
    """Return the first dtype that the subject takes; float32 if it refuses them all."""
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        setting = Setting(shape=SHAPE, kept=(1,), dtype=dtype)
        if attempt(lambda setting=setting: subject.refusal(setting) is None):
            return dtype
    return "float32"


def _initial(subject: Subject, dtype: str) -> tuple[float | None, float | None]:
    """Return mean and variance before any batch, None where channels differ."""
    setting = Setting(shape=SHAPE, kept=(1,), dtype=dtype)
    session = start(subject, setting, Ability.STATISTICS)
    found = None if session is None else statistics_of(session)
    if found is None:
        return None, None
    mean, variance = (
        float(part.flat[0]) if part.size and np.all(part == part.flat[0]) else None
        for part in found
    )
    return mean, variance


def _axis_kept(subject: Subject, dtype: str) -> int | None:
    """Tell the default axis of a rank-4 input by the shape of the statistics, or by the output."""
    shape = (2, 3, 4, 5)
    session = start(subject, Setting(shape=shape, dtype=dtype))
    if session is None:
        return None
    kept = {(shape[-1],): -1, (shape[1],): 1}
    if Ability.STATISTICS in subject.abilities:
        found = statistics_of(session)
        if found is not None and found.mean.shape in kept:
            return kept[found.mean.shape]
    if Ability.TRAIN not in subject.abilities:
        return None
    x = varied(shape, dtype)
    y = output_of(lambda: session.train(x), shape)
    if y is None:
        return None
    centred = [
        axis
        for axis in kept.values()
        if np.all(np.abs(y.mean(axis=tuple({0, 1, 2, 3} - {axis % 4}))) < 0.02)
    ]
    return centred[0] if len(centred) == 1 else None


def _default_mode(subject: Subject, dtype: str) -> Literal["training", "inference"] | None:
    """Compare a call without a mode with both modes, each asked of a fresh session."""
    setting = Setting(
        shape=SHAPE, kept=(1,), dtype=dtype, moving_mean=OLD_MEAN, moving_variance=OLD_VARIANCE
    )
    x = varied(SHAPE, dtype)
    sessions = [
        start(subject, setting, Ability.CALL, Ability.TRAIN, Ability.INFER) for _ in range(3)
    ]
    # One for each: a call that trains would change what inference gives.
    one, two, three = sessions
    if one is None or two is None or three is None:
        return None
    called = output_of(lambda: one.call(x), SHAPE)
    trained = output_of(lambda: two.train(x), SHAPE)
    inferred = output_of(lambda: three.infer(x), SHAPE)
    if called is None:
        return None
    like_training = trained is not None and np.allclose(called, trained, rtol=1e-5, atol=1e-5)
    like_inference = inferred is not None and np.allclose(called, inferred, rtol=1e-5, atol=1e-5)
    if like_training == like_inference:
        return None
    return "training" if like_training else "inference"


def _moves_in_inference(subject: Subject, dtype: str) -> bool | None:
    setting = Setting(shape=SHAPE, kept=(1,), dtype=dtype)
    session = start(subject, setting, Ability.INFER, Ability.STATISTICS)
    if session is None:
        return None
    x = varied(SHAPE, dtype)
    before = statistics_of(session)
    inferred = attempt(lambda: session.infer(x))
    after = statistics_of(session)
    if before is None or inferred is None or after is None:
        return None
    return not _same(before, after)


def _same(before: Statistics, after: Statistics) -> bool:
    return all(
        np.array_equal(old, new, equal_nan=True) for old, new in zip(before, after, strict=True)
    )


def _one_sample(subject: Subject, dtype: str) -> Literal["normalizes", "refuses"] | None:
    """Train on a single sample: x_hat is 0, so that the output is beta."""
    beta = np.array([0.5, -1.0, 2.0, 0.25])
    common = {"shape": SHAPE, "kept": (1,), "dtype": dtype}
    session, setting = start_at_first(
        subject, (Setting(**common, beta=beta), Setting(**common)), Ability.TRAIN
    )
    if session is None or setting is None:
        return None
    x = varied((1, SHAPE[1]), dtype)
    y = attempt(lambda: np.asarray(session.train(x)).astype(np.float64))
    if y is None:
        return "refuses"
    expected = np.zeros_like(beta) if setting.beta is None else beta
    right = y.shape == x.shape and np.allclose(y[0], expected, rtol=0, atol=0.01)
    return "normalizes" if right else None


def _empty_batch(subject: Subject, dtype: str) -> Literal["refuses", "ignores", "poisons"] | None:
    """Train on no samples at all and look what became of the moving statistics."""
    setting = Setting(shape=SHAPE, kept=(1,), dtype=dtype)
    session = start(subject, setting, Ability.TRAIN, Ability.STATISTICS)
    before = None if session is None else statistics_of(session)
    if session is None or before is None:
        return None
    empty = as_type(np.zeros((0, SHAPE[1])), dtype)
    if attempt(lambda: session.train(empty)) is None:
        return "refuses"
    after = statistics_of(session)
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
    setting = Setting(
        shape=_SAMPLES, kept=(1,), epsilon=_EPSILON if subject.takes_epsilon else None
    )
    used = setting.epsilon if subject.takes_epsilon else epsilon
    if used is None:
        return None
    errors = [_error(subject, setting, used, offset) for offset in (0.0, *OFFSETS)]
    if errors[0] is None or errors[0] > 1e-4:
        return None
    return growth(errors[0], OFFSETS, errors[1:])


def growth(floor: float, offsets: tuple[float, ...], errors: list[float | None]) -> Growth | None:
    """Return the rule's verdict on measured errors.

    Args:
        floor: error at mean 0.
        offsets: mean/std, ascending.
        errors: at each offset; None where the subject gave none.

    Returns:
        The growth; None if an error is missing.

    Example:
        >>> growth(1e-7, (10.0, 100.0, 1000.0), [1e-6, 1e-5, 1e-4])
        'proportional'
        >>> growth(1e-7, (10.0, 100.0, 1000.0), [6e-6, 6e-4, 6e-2])
        'quadratic'
        >>> growth(1e-7, (10.0, 100.0, 1000.0), [1e-7, 2e-7, 2e-7])
        'exact'
    """
    if any(error is None for error in errors):
        return None
    measured = [
        (offset, error)
        for offset, error in zip(offsets, errors, strict=True)
        if error is not None and 8 * max(floor, np.finfo(np.float32).eps / 2) < error < 0.05
    ]
    if len(measured) < 2:
        return "exact" if max(error or 0.0 for error in errors) < 0.05 else None
    distances, sizes = np.log(np.array(measured).T)
    slope = np.polyfit(distances, sizes, 1)[0]
    return "quadratic" if slope >= 1.5 else "proportional"


def _error(subject: Subject, setting: Setting, epsilon: float, offset: float) -> float | None:
    """Return the largest error of the training output at this mean, infinite for NaN."""
    samples = np.random.default_rng(7).normal(size=_SAMPLES)
    # Not a whole number: means that float32 holds exactly would flatter the subject.
    x = as_type(samples + 1.0371 * offset, setting.dtype)
    session = start(subject, setting, Ability.TRAIN)
    y = None if session is None else output_of(lambda: session.train(x), _SAMPLES)
    if y is None:
        return None
    error = np.abs(y - reference.forward(x, None, None, 0, epsilon)[0])
    return float(np.max(np.where(np.isnan(error), np.inf, error)))
