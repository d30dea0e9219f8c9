"""What every layer has to compute to be timed, and whether it did."""

import math
from dataclasses import dataclass, fields

import numpy as np

MOMENTUM = 0.99
EPSILON = 1e-3

# Elements from which one step is long enough to be timed by itself, and the most steps in a chain.
_ALONE_FROM = 2**22
_LONGEST_CHAIN = 200

# Channels do not depend on one another, so some of them tell; float64 copies of all of them would
# take gigabytes. Below this many elements all are compared.
_COMPARE_ALL_TO = 2**20
_COMPARED = 16

# Of the largest expected value of each result. Sums of 800,000 float32 numbers are off by 5e-5; a
# term left out of the gradient shows at 0.1, for dy has a mean and follows x.
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Results:
    """What one training step gives; statistics are the batch's, found from the moving ones."""

    y: np.ndarray
    dx: np.ndarray
    dgamma: np.ndarray
    dbeta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs of one shape, channels last, float32, the same for every contestant.

    The moving statistics begin at 0 and 1 in training, as every library has them; inference has
    its own, which stay.
    """

    x: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray

    @property
    def steps(self):
        """How many steps to take between two looks at the clock."""
        return steps_between_looks(self.x.shape)


def steps_between_looks(shape):
    """Return how many steps of a shape are long enough for the clock to see them."""
    return max(1, min(_LONGEST_CHAIN, _ALONE_FROM // max(1, math.prod(shape))))


def make_problem(shape, *, seed=0):
    """Return random inputs whose every result is far from zero, so that no mistake hides.

    Args:
        shape: channels last, rank 2 or more.
        seed: of the random numbers.

    Returns:
        x of standard deviation 1 and channel means up to 1; dy with a mean of 0.5 that follows x;
        gamma from 0.5 to 1.5; beta from -0.5 to 0.5. The moving
        variance is above the square of every gamma: a chain of inference steps, which feeds y to
        the next, would grow without end otherwise.
    """
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    x = rng.standard_normal(shape, np.float32)
    dy = rng.standard_normal(shape, np.float32)
    dy += 0.3 * x
    dy += 0.5
    x += rng.uniform(-1, 1, channels).astype(np.float32)
    return Problem(
        x=x,
        dy=dy,
        gamma=rng.uniform(0.5, 1.5, channels).astype(np.float32),
        beta=rng.uniform(-0.5, 0.5, channels).astype(np.float32),
        moving_mean=rng.uniform(-0.5, 0.5, channels).astype(np.float32),
        moving_variance=rng.uniform(2.5, 4, channels).astype(np.float32),
    )


def batch_statistics(moving_mean, moving_variance):
    """Return the batch's mean and variance from the moving ones after their first update."""
    variance = np.asarray(moving_variance, np.float64)
    return (
        np.asarray(moving_mean, np.float64) / (1 - MOMENTUM),
        (variance - MOMENTUM) / (1 - MOMENTUM),
    )


def mistake(problem, results, *, unbiased):
    """Say what is wrong with results, by the paper's formulas in float64; None if nothing is.

    Implements: Alg. 1 and the gradients of sec. 3.

    Args:
        problem: what was computed.
        results: in the layout of the problem.
        unbiased: whether the moving variance takes the batch's unbiased variance.

    Returns:
        The first result that is off, and how far, in words.
    """
    channels = problem.x.shape[-1]
    some = _compared(problem)
    right = expected(problem, some, unbiased=unbiased)
    for field in fields(Results):
        found = getattr(results, field.name)
        shape = problem.x.shape if field.name in ("y", "dx") else (channels,)
        if found.shape != shape:
            return f"{field.name} has the shape {found.shape}, not {shape}"
        wrong = _difference(field.name, found[..., some], getattr(right, field.name))
        if wrong is not None:
            return wrong
    return None


def inference_mistake(problem, y):
    """Say what is wrong with an inference step's output, by float64; None if nothing is.

    Implements: Alg. 2, line 11, with the problem's moving statistics.

    Args:
        problem: what was computed.
        y: in the layout of the problem.

    Returns:
        How far y is off, in words.
    """
    if y.shape != problem.x.shape:
        return f"inference's y has the shape {y.shape}, not {problem.x.shape}"
    some = _compared(problem)
    return _difference("inference's y", y[..., some], expected_inference(problem, some))


def _compared(problem):
    channels = problem.x.shape[-1]
    if problem.x.size > _COMPARE_ALL_TO:
        return np.unique(np.linspace(0, channels - 1, _COMPARED).astype(int))
    return np.arange(channels)


def _difference(name, found, wanted):
    error = float(np.max(np.abs(found.astype(np.float64) - wanted), initial=0.0))
    size = float(np.max(np.abs(wanted), initial=0.0))
    # Not `error > ...`, which NaN passes.
    if not error <= _TOLERANCE * size:
        return f"{name} is off by {error:.2g}, where the largest is {size:.2g}"
    return None


def expected_inference(problem, channels):
    """Compute some channels of an inference step in float64."""
    x = problem.x[..., channels].astype(np.float64)
    mean, variance, gamma, beta = (
        p[channels].astype(np.float64)
        for p in (problem.moving_mean, problem.moving_variance, problem.gamma, problem.beta)
    )
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def expected(problem, channels, *, unbiased):
    """Compute some channels of a problem in float64."""
    x, dy = (tensor[..., channels].astype(np.float64) for tensor in (problem.x, problem.dy))
    gamma, beta = (p[channels].astype(np.float64) for p in (problem.gamma, problem.beta))
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    mean = x.mean(axes)
    centred = x - mean
    variance = (centred**2).mean(axes)
    deviation = np.sqrt(variance + EPSILON)
    x_hat = centred / deviation
    dgamma, dbeta = (dy * x_hat).sum(axes), dy.sum(axes)
    dx = gamma / deviation * (dy - dbeta / count - x_hat * dgamma / count)
    kept = variance * count / (count - 1) if unbiased else variance
    return Results(gamma * x_hat + beta, dx, dgamma, dbeta, mean, kept)
