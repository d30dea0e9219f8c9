"""The backward pass of a trace: the six gradients, their sums, and what the tape gives."""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._difference import difference
from batchnorm_mechanics.core.axes import as_weights
from batchnorm_mechanics.tracing.computation import (
    Computation,
    array,
    tape_gradients,
    wide_array,
)
from batchnorm_mechanics.tracing.record import Backward, Beside, Check, Step

# Name, symbol and formula, in the paper's order.
_SIX = (
    ("d_x_hat", "∂L/∂x̂", "dy · γ"),
    ("d_variance", "∂L/∂σ²_B", "−½ (σ²_B + ε)^(−3/2) Σ d_x̂ (x − μ_B)"),
    ("d_mean", "∂L/∂μ_B", "−Σ d_x̂ / √(σ²_B + ε) − 2 d_σ² Σ (x − μ_B) / m′"),
    ("d_x", "∂L/∂x", "d_x̂ / √(σ²_B + ε) + 2 d_σ² (x − μ_B) / m′ + d_μ / m′"),
    ("d_gamma", "∂L/∂γ", "Σ dy · x̂"),
    ("d_beta", "∂L/∂β", "Σ dy"),
)
_OURS = "Differences are taken from our six gradients above."


def trace_backward(
    computation: Computation, dy: tf.Tensor, through_layer: dict[str, np.ndarray] | None = None
) -> Backward:
    """Return the six gradients with their sums checked, beside `tf.GradientTape`'s.

    Implements: sec. 3, the chain of six gradients below Alg. 1.

    Args:
        computation: of training mode.
        dy: gradient of the loss with respect to y, floating, in the shape of x.
        through_layer: gradients by name that a tape gave through a real layer, to show beside.

    Returns:
        A `Backward`.

    Raises:
        ValueError: `dy` has another shape than the input, or the mode is inference.
    """
    if computation.mode == "inference":
        raise ValueError(
            "trace: `dy` must be left out in inference mode. Received: dy of shape "
            f"{tuple(dy.shape)}. The six gradients are those of training, where mean and variance "
            "depend on x; in inference they are constants and dx = dy · scale."
        )
    if tuple(dy.shape) != computation.shape:
        raise ValueError(
            f"trace: `dy` must have the shape of the input, {computation.shape}. Received: "
            f"dy.shape={tuple(dy.shape)}. Pass the gradient of the loss with respect to y."
        )
    _, cache = computation.forward()
    six = core.gradients(dy, cache)._asdict()
    steps = tuple(
        Step(name, symbol, formula, f"sec. 3, {place} gradient of 6", array(six[name]))
        for place, (name, symbol, formula) in zip(
            ("1st", "2nd", "3rd", "4th", "5th", "6th"), _SIX, strict=True
        )
    )
    tapes = {"GradientTape": _by_tape(computation, dy)}
    if through_layer:
        tapes["GradientTape through the layer"] = through_layer
    rows = [
        Beside(
            step.name,
            by,
            values[step.name],
            difference(values[step.name], step.value.astype(np.float64), step.dtype),
        )
        for step in steps
        for by, values in tapes.items()
        if step.name in values
    ]
    notes = (
        "GradientTape differentiates Alg. 1 as four lines of TensorFlow operations, in "
        f"{computation.dtype.name}. {_OURS}",
    )
    return Backward(
        (Step("dy", "∂L/∂y", "the gradient given", "sec. 3", array(dy)), *steps),
        tuple(_checks(_Pass.of(computation, dy, cache, six))),
        tuple(rows),
        notes,
    )


def _by_tape(computation: Computation, dy: tf.Tensor) -> dict[str, np.ndarray]:
    """Return all six gradients as autodiff finds them, knowing nothing of the formulas above."""
    dtype, axes = computation.dtype, computation.axes
    x = tf.cast(computation.x, dtype)
    gamma, beta = computation.per_channel()
    counted = tf.ones_like(x, tf.bool)
    if computation.mask is not None:
        counted = tf.broadcast_to(as_weights(computation.mask, x, caller="trace"), x.shape)
        x = tf.where(counted | tf.math.is_finite(x), x, tf.zeros_like(x))
    count = tf.reduce_sum(tf.cast(counted, dtype), axes, keepdims=True)

    def average(value: tf.Tensor) -> tf.Tensor:
        total = tf.reduce_sum(tf.where(counted, value, tf.zeros_like(value)), axes, keepdims=True)
        return tf.math.divide_no_nan(total, count)

    with tf.GradientTape() as tape:
        tape.watch((x, gamma, beta))
        mean = average(x)
        variance = average(tf.square(x - mean))
        x_hat = (x - mean) / tf.sqrt(variance + computation.epsilon)
        y = x_hat * computation.aligned(gamma) + computation.aligned(beta)
    sources = zip(
        (name for name, _, _ in _SIX), (x_hat, variance, mean, x, gamma, beta), strict=True
    )
    values = tape_gradients(tape, y, dict(sources), dy)
    for name in ("d_variance", "d_mean"):
        values[name] = tf.squeeze(values[name], axes)
    return {name: array(value) for name, value in values.items()}


class _Pass(NamedTuple):
    """A backward pass in NumPy's float64; statistics have size 1 where an axis was reduced."""

    dy: np.ndarray
    x_hat: np.ndarray
    deviation: np.ndarray
    inverse_std: np.ndarray
    share: np.ndarray  # 1/m′ where a sample counted, else 0
    six: dict[str, np.ndarray]
    axes: tuple[int, ...]
    epsilon: float
    unit: float  # how far rounding may bring a sum, in terms of the sum of its sizes

    @classmethod
    def of(
        cls, computation: Computation, dy: tf.Tensor, cache: core.Cache, six: dict[str, tf.Tensor]
    ) -> "_Pass":
        axes = computation.axes
        count = np.expand_dims(wide_array(cache.count), axes)
        share = np.divide(1, count, out=np.zeros_like(count), where=count > 0)
        if cache.weights is not None:
            share = np.where(array(cache.weights), share, 0)
        wide = {name: wide_array(value) for name, value in six.items()}
        for name in ("d_variance", "d_mean", "d_gamma", "d_beta"):
            wide[name] = np.expand_dims(wide[name], axes)
        return cls(
            wide_array(tf.cast(dy, computation.dtype)),
            wide_array(cache.x_hat),
            wide_array(cache.deviation),
            wide_array(cache.inverse_std),
            share,
            wide,
            axes,
            computation.epsilon,
            # A sum of m terms makes m - 1 roundings; each term has up to some 15 behind it.
            float(ml_dtypes.finfo(computation.dtype.name).eps)
            * (math.prod(computation.shape[axis] for axis in axes) + 16),
        )

    def total(self, value: np.ndarray) -> np.ndarray:
        return np.sum(value, axis=self.axes, keepdims=True)


@np.errstate(invalid="ignore", over="ignore")
def _checks(done: _Pass) -> list[Check]:
    """Return the identities that the six gradients must satisfy, each with its rounding bound."""
    six, total = done.six, done.total
    # d_x is the sum of these three; their sizes bound what rounding can do to its sums.
    sizes = np.abs(six["d_x_hat"]) * done.inverse_std + done.share * (
        2 * np.abs(six["d_variance"] * done.deviation) + np.abs(six["d_mean"])
    )
    pulled = six["d_x_hat"] * done.x_hat
    stretch = done.epsilon * done.inverse_std**3 * total(pulled)
    return [
        _check(
            "Σ d_x = 0: moving a channel changes nothing", total(six["d_x"]), 0, total(sizes), done
        ),
        _check(
            "Σ d_x · x_hat = ε · inverse_std³ · Σ d_x_hat · x_hat: stretching one changes only "
            "what ε does",
            total(six["d_x"] * done.x_hat),
            stretch,
            # The variance has roundings of its own, which a large x_hat shows most.
            total(sizes * np.abs(done.x_hat)) + np.abs(stretch),
            done,
        ),
        _check(
            "d_variance = −½ · inverse_std² · Σ d_x_hat · x_hat",
            six["d_variance"],
            -0.5 * done.inverse_std**2 * total(pulled),
            done.inverse_std**2 * total(np.abs(pulled)),
            done,
        ),
        _check(
            "d_mean = −inverse_std · Σ d_x_hat, since the deviations add to 0",
            six["d_mean"],
            -done.inverse_std * total(six["d_x_hat"]),
            total(sizes)
            + 2 * np.abs(six["d_variance"]) * total(np.abs(done.deviation) * done.share),
            done,
        ),
        _check(
            "d_gamma = Σ dy · x_hat",
            six["d_gamma"],
            total(done.dy * done.x_hat),
            total(np.abs(done.dy * done.x_hat)),
            done,
        ),
        _check("d_beta = Σ dy", six["d_beta"], total(done.dy), total(np.abs(done.dy)), done),
    ]


def _check(
    what: str, actual: np.ndarray, expected: np.ndarray | float, size: np.ndarray, done: _Pass
) -> Check:
    bound, error = done.unit * size, np.abs(actual - expected)
    # Where NaN came in, nothing can be checked; a NaN that came from numbers stays, and fails.
    known = np.isfinite(bound)
    return worst(what, error[known], bound[known])


def worst(what: str, error: np.ndarray, bound: np.ndarray) -> Check:
    """Return the check of the element that exceeds its bound the most, or comes closest to it.

    Args:
        what: the statement.
        error: float64, one for each element.
        bound: likewise.
    """
    if not error.size:
        return Check(what, 0.0, 0.0)
    if np.any(np.isnan(error)):
        return Check(what, float("nan"), float(np.max(bound)))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error > 0, error / bound, 0.0)
    at = int(np.argmax(share))
    return Check(what, float(error.flat[at]), float(bound.flat[at]))
