"""Run a real layer, note the very call, leave no change behind, and hold it to our steps."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._difference import elementwise_error
from batchnorm_mechanics._keras import layers_by_path, layers_in
from batchnorm_mechanics.core import Cache
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.layers.intercept import intercepted
from batchnorm_mechanics.statistics import ExponentialMovingAverage, Policy
from batchnorm_mechanics.statistics.moving_average import AverageState
from batchnorm_mechanics.tracing.backward import worst
from batchnorm_mechanics.tracing.computation import Computation, array, is_symbolic, wide_array
from batchnorm_mechanics.tracing.record import Check

KINDS = (keras.layers.BatchNormalization, BatchNormalization)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer's `call`, as it happened.

    Attributes:
        inputs: the tensor that arrived, cast by Keras as the layer's dtype policy has it.
        training: the argument that arrived, None where nothing set it.
        mask: likewise.
        output: what the layer returned.
        gamma, beta: as they were, or None.
        before, after: the moving statistics, as the state of `policy_of(layer)`.
    """

    inputs: tf.Tensor
    training: Any
    mask: Any
    output: tf.Tensor
    gamma: tf.Tensor | None
    beta: tf.Tensor | None
    before: Any
    after: Any


def policy_of(layer: Any) -> Policy:
    """Return the policy by which a layer's moving statistics move."""
    if isinstance(layer, BatchNormalization):
        return layer.policy
    return ExponentialMovingAverage(decay=layer.momentum)


def state_of(layer: Any) -> Any:
    """Return copies of a layer's moving statistics, as the state of its policy."""
    if isinstance(layer, BatchNormalization):
        return layer._state_type(*(_copy(weight) for weight in layer._state_weights))
    return AverageState(_copy(layer.moving_mean), _copy(layer.moving_variance))


def _copy(weight: Any) -> tf.Tensor:
    # A variable's own value would change with the variable.
    return tf.identity(tf.convert_to_tensor(weight))


@contextlib.contextmanager
def calls_of(layer: Any) -> Iterator[list[Call | None]]:
    """Note every call of `layer` inside the block; None stands for a symbolic one.

    Args:
        layer: a batch-norm layer with weights.

    Yields:
        The list to which the calls are added.
    """
    calls: list[Call | None] = []

    def noting(call: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if is_symbolic(inputs):
            calls.append(None)
            return call(inputs, *args, **kwargs)
        before = state_of(layer)
        gamma, beta = (
            None if weight is None else _copy(weight) for weight in (layer.gamma, layer.beta)
        )
        output = call(inputs, *args, **kwargs)
        training, mask = (kwargs.get(name) for name in ("training", "mask"))
        calls.append(Call(inputs, training, mask, output, gamma, beta, before, state_of(layer)))
        return output

    with intercepted(layer, noting):
        yield calls


@contextlib.contextmanager
def put_back(layer: Any) -> Iterator[None]:
    """Give all variables of a layer or model their old values at the end of the block.

    Seeds are among them, so that the next dropout is what it would have been.
    """
    saved = [(variable, _copy(variable)) for variable in layer.variables]
    try:
        yield
    finally:
        for variable, value in saved:
            variable.assign(value)


def with_weights(layer: Any, shape: tuple[int | None, ...]) -> tuple[Any, bool]:
    """Return the layer, or, where it has no weights yet, a copy that has; and whether it is one.

    Giving the caller's own layer weights would be a change that cannot be put back.

    Args:
        layer: a batch-norm layer.
        shape: of the input.
    """
    if layer.built:
        return layer, False
    copy = type(layer).from_config(layer.get_config())
    copy.trainable = layer.trainable
    copy.build(shape)
    return copy, True


def find_layer(model: Any, name: str | None) -> Any:
    """Return the batch-norm layer of a model, nested models included, that has this name or path.

    Args:
        model: a model.
        name: a name, or a path such as "block/bn" where a name is not enough; None where the model
            has one batch-norm layer only.

    Raises:
        ValueError: there is no such layer, or more than one.
    """
    ours = layers_by_path(model, lambda layer: isinstance(layer, KINDS))
    if name is None:
        found = list(ours.values())
    elif name in ours:
        # By a path that the doctor prints, too.
        found = [ours[name]]
    else:
        layers = layers_in(model, itself=False)
        found = [layer for layer in layers if name in {layer.name, layer.path}]
    if len(found) == 1 and isinstance(found[0], KINDS):
        return found[0]
    if found and not isinstance(found[0], KINDS):
        raise ValueError(
            f"trace: `layer` must name a batch-norm layer. Received: layer={name!r}, a "
            f"{type(found[0]).__name__}. {_choice(ours)}"
        )
    raise ValueError(
        f"trace: `layer` must name one batch-norm layer of the model {model.name!r}. Received: "
        f"layer={name!r}, which fits {len(found)}. {_choice(ours)}"
    )


def _choice(layers: Mapping[str, Any]) -> str:
    if not layers:
        return "The model has no BatchNormalization, Keras's or ours."
    names = [layer.name for layer in layers.values()]
    # Names repeat where models are nested; paths do not.
    shown = names if len(set(names)) == len(names) else layers
    return f"It has {', '.join(repr(one) for one in shown)}."


@np.errstate(invalid="ignore", over="ignore")
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
    n = 16.0 + (0 if cache is None else float(np.max(array(cache.count), initial=0)))
    unit = float(ml_dtypes.finfo(computation.dtype.name).eps) * n
    found = [_output_check(call, computation, cache, unit)]
    if cache is not None:
        due = policy_of(layer).update(call.before, cache.mean, cache.variance, cache.count)
        size = _off_mean(computation, unit)
        spread = np.sqrt(wide_array(cache.variance))
        kept = np.squeeze(size, computation.axes)
        bounds = {"mean": kept, "variance": 2 * kept * spread + kept**2}
        for name, bound in bounds.items():
            expected, actual = (wide_array(getattr(state, name)) for state in (due, call.after))
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
    ours = wide_array(computation.infer() if cache is None else computation.forward()[0])
    layers = wide_array(call.output)
    # y = γ x̂ + β: an error of the mean moves x̂, and by the variance stretches it.
    off = _off_mean(computation, unit)
    if cache is None:
        variance = wide_array(computation.variance)
        inverse_std = np.expand_dims(1 / np.sqrt(variance + computation.epsilon), computation.axes)
    else:
        inverse_std = wide_array(cache.inverse_std)
    off = off * inverse_std
    gamma = 1.0 if computation.gamma is None else wide_array(computation.aligned(computation.gamma))
    beta = 0.0 if computation.beta is None else wide_array(computation.aligned(computation.beta))
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
    largest = np.max(
        np.abs(wide_array(computation.x)), axis=computation.axes, keepdims=True, initial=0
    )
    if computation.mean is not None:
        largest = np.maximum(largest, np.abs(wide_array(computation.aligned(computation.mean))))
    return unit * largest
