"""Find out how a subject's error grows with the ratio of mean to standard deviation."""

from typing import Literal

import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance.asking import as_type, output, start
from batchnorm_mechanics.conformance.subject import Ability, Setting, Subject

Growth = Literal["exact", "proportional", "quadratic"]

# Half decades: an error that grows with the square passes through its whole range, from rounding
# noise to nonsense, within two decades, and three measured points are wanted in it.
OFFSETS = tuple(float(f"{10 ** (step / 2):.3g}") for step in range(2, 11))
_SHAPE = (32, 8)
_EPSILON = 1e-3


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
    setting = Setting(shape=_SHAPE, kept=(1,), epsilon=_EPSILON if subject.takes_epsilon else None)
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
    samples = np.random.default_rng(7).normal(size=_SHAPE)
    # Not a whole number: means that float32 holds exactly would flatter the subject.
    x = as_type(samples + 1.0371 * offset, setting.dtype)
    session = start(subject, setting, Ability.TRAIN)
    y = None if session is None else output(lambda: session.train(x), _SHAPE)
    if y is None:
        return None
    error = np.abs(y - reference.forward(x, None, None, 0, epsilon)[0])
    return float(np.max(np.where(np.isnan(error), np.inf, error)))
