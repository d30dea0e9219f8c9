"""Put a question to a subject that may refuse it, raise, or answer with something odd."""

from collections.abc import Callable
from typing import TypeVar

import ml_dtypes
import numpy as np

from batchnorm_mechanics.conformance.subject import Ability, Running, Session, Setting, Subject

Answer = TypeVar("Answer")


def attempt(ask: Callable[[], Answer]) -> Answer | None:
    """Return the answer, or None if the subject raised: to a probe that is an answer as well.

    Args:
        ask: calls the subject and does nothing else, so that no mistake of ours hides here.

    Returns:
        What it returned, or None.

    Example:
        >>> attempt(lambda: 1 / 0) is None
        True
    """
    try:
        with np.errstate(all="ignore"):
            return ask()
    except Exception:
        # A subject may raise whatever it likes; what the probe learns is that it does.
        return None


def start(subject: Subject, setting: Setting, *needed: Ability) -> Session | None:
    """Return a session, or None if the subject lacks an ability, refuses the setting or raises.

    Args:
        subject: whom to ask.
        setting: how it is to be set up.
        *needed: the abilities that the questions to come need.

    Returns:
        The subject set up, or None.
    """
    if not subject.abilities.issuperset(needed):
        return None
    # None means that the setting is not refused: anything else, and whatever it raises, is a no.
    claimed = attempt(lambda: subject.refusal(setting) is None)
    return attempt(lambda: subject.open(setting)) if claimed else None


def start_at_first(
    subject: Subject, settings: tuple[Setting, ...], *needed: Ability
) -> tuple[Session, Setting] | tuple[None, None]:
    """Return a session with the first of the settings that the subject takes, and that setting."""
    for setting in settings:
        session = start(subject, setting, *needed)
        if session is not None:
            return session, setting
    return None, None


def output(ask: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """Return an output in float64, or None if the subject raised or gave another shape."""
    answer = attempt(lambda: np.asarray(ask()).astype(np.float64))
    return answer if answer is not None and answer.shape == shape else None


def running(session: Session) -> Running | None:
    """Return the moving statistics in float64 as they are now, or None if that fails.

    They are copies: a subject may hand out the arrays that it goes on writing to.
    """
    return attempt(
        lambda: Running(*(np.array(part).astype(np.float64) for part in session.running()))
    )


def as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array of a setting's dtype: NumPy does not know bfloat16 by its name."""
    return np.asarray(values).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def varied(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return samples whose mean and spread differ from channel to channel on every axis."""
    samples = np.random.default_rng(3).normal(size=shape)
    for axis, size in enumerate(shape[1:], 1):
        steps = np.linspace(0.6, 1.4, size).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
        samples = samples * steps + 2 * steps
    return as_type(samples, dtype)
