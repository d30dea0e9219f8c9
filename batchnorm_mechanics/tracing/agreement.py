"""Whether what a layer really gave agrees with the steps of its trace."""

from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._difference import elementwise_error
from batchnorm_mechanics.core import Cache
from batchnorm_mechanics.tracing.backward import worst
from batchnorm_mechanics.tracing.capture import Call, policy_of
from batchnorm_mechanics.tracing.computation import Computation
from batchnorm_mechanics.tracing.record import Check
from batchnorm_mechanics.tracing.steps import array


def checks_of(
    layer: Any, call: Call, computation: Computation, cache: Cache | None
) -> tuple[Check, ...]:
    """Compare what the layer gave with our steps, to within what rounding explains.

    Args:
        layer: that was called.
        call: what went in and came out.
        computation: the same as we understand it.
        cache: of our forward pass in training mode, None in inference mode.

    Returns:
        A check of the output and, in training mode, of the moving mean and variance.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return _compare(layer, call, computation, cache)


def _compare(
    layer: Any, call: Call, computation: Computation, cache: Cache | None
) -> tuple[Check, ...]:
    n = 16.0 + (0 if cache is None else float(np.max(array(cache.count), initial=0)))
    unit = float(ml_dtypes.finfo(computation.dtype.name).eps) * n
    found = [_output_check(call, computation, cache, unit)]
    if cache is not None:
        due = policy_of(layer).update(call.before, cache.mean, cache.variance, cache.count)
        size = _off_mean(computation, unit)
        spread = np.sqrt(_wide(cache.variance))
        kept = _squeezed(size, computation)
        bounds = {"mean": kept, "variance": 2 * kept * spread + kept**2}
        for name, bound in bounds.items():
            expected, actual = (_wide(getattr(state, name)) for state in (due, call.after))
            stored = float(ml_dtypes.finfo(array(getattr(call.after, name)).dtype).eps)
            found.append(
                worst(
                    f"the layer's moving {name} after the call is what its policy gives",
                    elementwise_error(actual, expected),
                    np.where(
                        np.isfinite(expected), bound + (unit + stored) * np.abs(expected), 0.0
                    ),
                )
            )
    return tuple(found)


def _output_check(call: Call, computation: Computation, cache: Cache | None, unit: float) -> Check:
    ours = _wide(computation.infer() if cache is None else computation.forward()[0])
    layers = _wide(call.output)
    # y = γ x̂ + β: an error of the mean moves x̂, and by the variance stretches it.
    off = _off_mean(computation, unit)
    if cache is None:
        variance = _wide(computation.variance)
        inverse_std = np.expand_dims(1 / np.sqrt(variance + computation.epsilon), computation.axes)
    else:
        inverse_std = _wide(cache.inverse_std)
    off = off * inverse_std
    gamma = 1.0 if computation.gamma is None else _spread(computation.gamma, computation)
    beta = 0.0 if computation.beta is None else _spread(computation.beta, computation)
    size = np.abs(ours - beta)
    bound = (
        np.abs(gamma) * off
        + size * (off + off**2 / 2 + unit)
        + unit * np.abs(beta)
        + float(ml_dtypes.finfo(array(call.output).dtype).eps) * np.abs(ours)
    )
    # The same NaN or infinity in both is agreement.
    error = elementwise_error(layers, ours)
    return worst(
        "the layer's output is the y of these steps",
        error,
        np.where(np.isfinite(ours), bound, 0.0),
    )


def _off_mean(computation: Computation, unit: float) -> np.ndarray:
    """Return how far rounding may put each channel's mean, or a product with it, off."""
    largest = np.max(np.abs(_wide(computation.x)), axis=computation.axes, keepdims=True, initial=0)
    if computation.mean is not None:
        largest = np.maximum(largest, np.abs(_spread(computation.mean, computation)))
    return unit * largest


def _spread(value: tf.Tensor, computation: Computation) -> np.ndarray:
    wide = _wide(value)
    return np.expand_dims(wide, computation.axes) if wide.ndim else wide


def _squeezed(value: np.ndarray, computation: Computation) -> np.ndarray:
    return np.squeeze(value, computation.axes)


def _wide(tensor: Any) -> np.ndarray:
    return array(tensor).astype(np.float64)
