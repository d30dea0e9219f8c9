"""Find out which conventions a subject follows, from its behaviour alone.

Each probe sets the subject up, asks it a question whose answer differs between the conventions,
and compares the answer with what each of them would give. What a subject refuses, raises at, or
answers with something that fits no convention stays None: the probe never guesses, and a broken
subject never stops it.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from batchnorm_mechanics.conformance.asking import (
    as_type,
    attempt,
    output,
    running,
    start,
    start_at_first,
    varied,
)
from batchnorm_mechanics.conformance.large_mean import error_growth
from batchnorm_mechanics.conformance.probe_average import moving_average
from batchnorm_mechanics.conformance.probe_epsilon import find_epsilon
from batchnorm_mechanics.conformance.record import Conventions
from batchnorm_mechanics.conformance.subject import Ability, Running, Setting, Subject

_SHAPE = (5, 4)
_OLD_MEAN = np.array([-1.0, 2.0, 0.5, 3.0])
_OLD_VARIANCE = np.array([0.5, 2.0, 4.0, 1.0])
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
        >>> from batchnorm_mechanics.conformance.subjects import registry
        >>> find_conventions(registry.resolve("keras")).moving_variance
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
        setting = Setting(shape=_SHAPE, kept=(1,), dtype=dtype)
        if attempt(lambda setting=setting: subject.refusal(setting) is None):
            return dtype
    return "float32"


def _initial(subject: Subject, dtype: str) -> tuple[float | None, float | None]:
    """Return mean and variance before any batch, None where channels differ."""
    setting = Setting(shape=_SHAPE, kept=(1,), dtype=dtype)
    session = start(subject, setting, Ability.STATISTICS)
    found = None if session is None else running(session)
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
        found = running(session)
        if found is not None and found.mean.shape in kept:
            return kept[found.mean.shape]
    if Ability.TRAIN not in subject.abilities:
        return None
    x = varied(shape, dtype)
    y = output(lambda: session.train(x), shape)
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
        shape=_SHAPE, kept=(1,), dtype=dtype, moving_mean=_OLD_MEAN, moving_variance=_OLD_VARIANCE
    )
    x = varied(_SHAPE, dtype)
    sessions = [
        start(subject, setting, Ability.CALL, Ability.TRAIN, Ability.INFER) for _ in range(3)
    ]
    # One for each: a call that trains would change what inference gives.
    one, two, three = sessions
    if one is None or two is None or three is None:
        return None
    called = output(lambda: one.call(x), _SHAPE)
    trained = output(lambda: two.train(x), _SHAPE)
    inferred = output(lambda: three.infer(x), _SHAPE)
    if called is None:
        return None
    like_training = trained is not None and np.allclose(called, trained, rtol=1e-5, atol=1e-5)
    like_inference = inferred is not None and np.allclose(called, inferred, rtol=1e-5, atol=1e-5)
    if like_training == like_inference:
        return None
    return "training" if like_training else "inference"


def _moves_in_inference(subject: Subject, dtype: str) -> bool | None:
    setting = Setting(shape=_SHAPE, kept=(1,), dtype=dtype)
    session = start(subject, setting, Ability.INFER, Ability.STATISTICS)
    if session is None:
        return None
    x = varied(_SHAPE, dtype)
    before = running(session)
    inferred = attempt(lambda: session.infer(x))
    after = running(session)
    if before is None or inferred is None or after is None:
        return None
    return not _same(before, after)


def _same(before: Running, after: Running) -> bool:
    return all(
        np.array_equal(old, new, equal_nan=True) for old, new in zip(before, after, strict=True)
    )


def _one_sample(subject: Subject, dtype: str) -> Literal["normalizes", "refuses"] | None:
    """Train on a single sample: x_hat is 0, so that the output is beta."""
    beta = np.array([0.5, -1.0, 2.0, 0.25])
    common = {"shape": _SHAPE, "kept": (1,), "dtype": dtype}
    session, setting = start_at_first(
        subject, (Setting(**common, beta=beta), Setting(**common)), Ability.TRAIN
    )
    if session is None or setting is None:
        return None
    x = varied((1, _SHAPE[1]), dtype)
    y = attempt(lambda: np.asarray(session.train(x)).astype(np.float64))
    if y is None:
        return "refuses"
    expected = np.zeros_like(beta) if setting.beta is None else beta
    right = y.shape == x.shape and np.allclose(y[0], expected, rtol=0, atol=0.01)
    return "normalizes" if right else None


def _empty_batch(subject: Subject, dtype: str) -> Literal["refuses", "ignores", "poisons"] | None:
    """Train on no samples at all and look what became of the moving statistics."""
    setting = Setting(shape=_SHAPE, kept=(1,), dtype=dtype)
    session = start(subject, setting, Ability.TRAIN, Ability.STATISTICS)
    before = None if session is None else running(session)
    if session is None or before is None:
        return None
    empty = as_type(np.zeros((0, _SHAPE[1])), dtype)
    if attempt(lambda: session.train(empty)) is None:
        return "refuses"
    after = running(session)
    return "ignores" if after is not None and _same(before, after) else "poisons"
