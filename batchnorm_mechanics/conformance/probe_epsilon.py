"""Find out where a subject adds epsilon, and how much when none is set."""

from typing import Literal

import numpy as np

from batchnorm_mechanics.conformance.asking import as_type, output, start
from batchnorm_mechanics.conformance.subject import Ability, Setting, Subject

# Large, so that its root, itself and no epsilon at all are far apart.
_EPSILON = 0.25
_TINY = 1e-12
_CLOSE = 1e-3


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
    given = _EPSILON if subject.takes_epsilon else None
    smallest = _divisor(subject, dtype, None, 0.0)
    at_zero = _divisor(subject, dtype, given, 0.0) if given else smallest
    at_four = _divisor(subject, dtype, given, 4.0)
    if at_zero is None or at_four is None or smallest is None:
        return None, None
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


def _divisor(subject: Subject, dtype: str, epsilon: float | None, variance: float) -> float | None:
    """Return what the subject divides a centred input by, for this variance.

    By its moving variance in inference if that can be set, else by that of a batch. At variance 0
    a batch would leave nothing to divide, so that it gets one far below any epsilon.
    """
    common = {"shape": (4, 3), "kept": (1,), "dtype": dtype, "epsilon": epsilon}
    signs = np.array([[1.0], [-1.0], [-1.0], [1.0]]) * np.ones((1, 3))
    set_variance = Setting(**common, moving_mean=np.zeros(3), moving_variance=np.full(3, variance))
    found = None
    session = start(subject, set_variance, Ability.INFER)
    if session is not None:
        x = as_type(signs, dtype)
        found = _quotient(x, output(lambda: session.infer(x), x.shape))
    trained = start(subject, Setting(**common), Ability.TRAIN)
    if found is None and trained is not None:
        x = as_type(signs * (np.sqrt(variance) or _TINY), dtype)
        found = _quotient(x, output(lambda: trained.train(x), x.shape))
    return found


def _quotient(x: np.ndarray, y: np.ndarray | None) -> float | None:
    """Return the one positive number that x was divided by, None if there is none."""
    if y is None or not np.all(np.isfinite(y)) or np.any(y == 0):
        return None
    each = x.astype(np.float64) / y
    middle = float(np.median(each))
    return middle if middle > 0 and np.all(np.abs(each - middle) < _CLOSE * middle) else None
