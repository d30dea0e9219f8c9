"""Trace a real layer's very call: Keras's or ours, alone or inside a model."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._tensorflow import missing_kernel
from batchnorm_mechanics.core.axes import TensorLike
from batchnorm_mechanics.core.moments import statistics_dtype
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.layers.freeze import follows_batches
from batchnorm_mechanics.tracing import capture
from batchnorm_mechanics.tracing.backward import trace_backward
from batchnorm_mechanics.tracing.capture import Call
from batchnorm_mechanics.tracing.compare import compare as compare_all
from batchnorm_mechanics.tracing.computation import (
    Computation,
    array,
    as_values,
    is_symbolic,
    tape_gradients,
)
from batchnorm_mechanics.tracing.notes import notes_on
from batchnorm_mechanics.tracing.reasons import Circumstances, reasons
from batchnorm_mechanics.tracing.record import Step, Trace
from batchnorm_mechanics.tracing.steps import forward_steps, state_steps


def trace_layer(
    subject: Any,
    x: Any,
    *,
    training: bool | None,
    mask: TensorLike,
    dy: TensorLike,
    compare: bool,
    name: str | None,
) -> Trace:
    """Trace one call of a batch-norm layer; see `batchnorm_mechanics.trace`.

    Args:
        subject: a batch-norm layer, or a model that holds one.
        x: the input of the layer or model.
        training: True, False, or None where it was left out.
        mask: boolean over the leading axes of the input, or None.
        dy: gradient of the loss with respect to the output, or None.
        compare: whether to show other implementations beside.
        name: the name or path of the layer inside a model, or None.

    Returns:
        A `Trace`. The layer and the model are as they were before.
    """
    if isinstance(subject, capture.KINDS):
        if name is not None:
            raise ValueError(
                "trace: `layer` must be left out where a layer itself is traced. Received: "
                f"layer={name!r}. It names a layer inside a model."
            )
        x, note = as_values(x)
        layer, fresh = capture.with_weights(subject, tuple(x.shape))
        whole, model = layer, None
    else:
        _check_model(subject, x)
        layer, fresh, note = capture.find_layer(subject, name), False, ""
        whole, model = subject, subject
        x = _model_input(x)
    given = {
        key: value for key, value in (("training", training), ("mask", mask)) if value is not None
    }
    with capture.put_back(whole):
        with capture.calls_of(layer) as calls:
            _run(whole, x, given)
        call = _first(calls, layer)
        about = Circumstances(layer, model, training, call, fresh)
        if model is None and not note and x.dtype != call.inputs.dtype:
            note = (
                f"It came as {x.dtype.name}; the layer's dtype policy has it cast to "
                f"{call.inputs.dtype.name}."
            )
        return _trace(about, note, dy=dy, compare=compare, calls=len(calls))


def _run(whole: Any, x: Any, given: dict[str, Any]) -> None:
    try:
        whole(x, **given)
    except (ValueError, tf.errors.OpError) as error:
        if (missing := missing_kernel(error, "trace")) is not None:
            raise missing from error
        raise


def _check_model(model: Any, x: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "trace: `layer` must be a BatchNormalization, Keras's or ours, or a model that holds "
            f"one. Received: layer={model!r}. Pass the layer itself, or its model with layer=name."
        )
    if not model.built:
        raise ValueError(
            f"trace: the model {model.name!r} must have weights. Received: built=False. Call it on "
            "data once, model(x), or begin it with an Input."
        )
    if any(is_symbolic(value) for value in keras.tree.flatten(x)):
        raise TypeError(
            "trace: `x` must hold values. Received: a symbolic tensor. Call it on data."
        )


def _model_input(x: Any) -> Any:
    """Return an input that Keras takes: nested lists of numbers would be many inputs to it."""
    if any(isinstance(value, int | float) for value in keras.tree.flatten(x)):
        return tf.convert_to_tensor(x)
    return keras.tree.map_structure(tf.convert_to_tensor, x)


def _first(calls: list[Call | None], layer: Any) -> Call:
    if not calls:
        raise ValueError(
            f"trace: the model must call the layer {layer.name!r}. Received: a call of the model "
            "in which the layer's Python code did not run. Check that the model's `call` reaches "
            "it, and not inside a tf.function, where values cannot be seen."
        )
    if calls[0] is None:
        raise ValueError(
            f"trace: the layer {layer.name!r} must run eagerly. Received: symbolic tensors, since "
            "it runs inside a tf.function. Call tf.config.run_functions_eagerly(True) first, and "
            "again with False afterwards."
        )
    return calls[0]


def _trace(
    about: Circumstances, x_note: str, *, dy: TensorLike, compare: bool, calls: int
) -> Trace:
    layer, call = about.layer, about.call
    computation = _computation(about, x_note)
    training = computation.mode == "training"
    if training and (getattr(layer, "renorm", False) or capture.policy_of(layer).renormalizes):
        renorm = "renorm=True" if isinstance(layer, keras.layers.BatchNormalization) else "a policy"
        raise ValueError(
            f"trace: `layer` must not use renorm in training mode. Received: {layer.name!r} with "
            f"{renorm}. Batch renormalization has other steps; trace it with training=False."
        )
    steps = forward_steps(computation)
    output = Step(
        "layer_output",
        "",
        "what the layer returned in this call",
        "",
        array(call.output),
    )
    policy = capture.policy_of(layer)
    cache = computation.forward()[1] if training else None
    notes = list(notes_on(computation, steps))
    if calls > 1:
        notes.append(
            f"The model called this layer {calls} times in one pass; this is the first call. In "
            "training its moving statistics mix those of all."
        )
    notes += _keras_notes(about)
    layer_values: dict[str, np.ndarray] = {"y": output.value}
    backward, gradient = None, None
    if dy is not None:
        gradient = as_values(dy, name="dy")[0]
        through = _tape(about, gradient) if training else {}
        backward = trace_backward(computation, gradient, through)
        layer_values |= through
    return Trace(
        title=_title(about),
        mode=computation.mode,
        why=reasons(about, computation),
        steps=(*steps, output),
        statistics=(
            *state_steps(call.before, "before", "as they were"),
            *state_steps(call.after, "after", policy.formula if training else "unchanged"),
        ),
        notes=tuple(notes),
        checks=capture.checks_of(layer, call, computation, cache),
        backward=backward,
        comparison=compare_all(computation, gradient, layer_values) if compare else None,
    )


def _computation(about: Circumstances, x_note: str) -> Computation:
    layer, call = about.layer, about.call
    rank = call.inputs.shape.rank
    batch = bool(call.training) and follows_batches(layer)
    dtype = statistics_dtype(call.inputs)
    gamma, beta, mean, variance = (
        None if value is None else tf.cast(value, dtype)
        for value in (
            call.gamma,
            call.beta,
            None if batch else call.before.mean,
            None if batch else call.before.variance,
        )
    )
    return Computation(
        call.inputs,
        tuple(axis for axis in range(rank) if axis != layer.axis % rank),
        gamma,
        beta,
        layer.epsilon,
        # Keras too counts the mask in training only.
        None if call.mask is None or not batch else tf.cast(call.mask, tf.bool),
        mean,
        variance,
        origin="the layer's moving statistics",
        x_note=x_note,
    )


def _title(about: Circumstances) -> str:
    layer = about.layer
    kind = "batchnorm_mechanics" if isinstance(layer, BatchNormalization) else "Keras"
    where = "" if about.model is None else f" in the model {about.model.name!r}"
    return f"{kind} layer {layer.name!r}{where} ({type(layer).__name__}, axis={layer.axis})"


def _keras_notes(about: Circumstances) -> list[str]:
    layer = about.layer
    if type(layer) in capture.KINDS:
        return []
    return [
        f"{type(layer).__name__} is a subclass: the steps are those of its base class, and the "
        "checks say whether its output agrees with them."
    ]


def _tape(about: Circumstances, dy: tf.Tensor) -> dict[str, np.ndarray]:
    """Return the gradients that autodiff finds through the layer itself."""
    layer, call = about.layer, about.call
    weights = {"d_gamma": layer.gamma, "d_beta": layer.beta}
    sources = {name: weight.value for name, weight in weights.items() if weight is not None}
    sources = {"d_x": call.inputs, **sources}
    mask = {} if call.mask is None else {"mask": call.mask}
    with tf.GradientTape() as tape:
        tape.watch(list(sources.values()))
        y = layer(call.inputs, training=True, **mask)
    return {name: array(value) for name, value in tape_gradients(tape, y, sources, dy).items()}
