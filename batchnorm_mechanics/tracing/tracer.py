"""`trace`: one batch-norm computation, step by step, of functions or of a real layer."""

import sys
from typing import Any, TypedDict, Unpack

import tensorflow as tf

from batchnorm_mechanics.core.axes import Axes, TensorLike, as_parameter
from batchnorm_mechanics.statistics import ExponentialMovingAverage, Policy
from batchnorm_mechanics.tracing.backward import trace_backward
from batchnorm_mechanics.tracing.compare import compare as compare_all
from batchnorm_mechanics.tracing.computation import Computation, as_values, make_computation
from batchnorm_mechanics.tracing.notes import notes_on
from batchnorm_mechanics.tracing.record import Step, Trace
from batchnorm_mechanics.tracing.steps import forward_steps, moving_steps


class Setting(TypedDict, total=False):
    """What a layer knows by itself, and the functions must be told; see `trace`."""

    axes: Axes
    gamma: TensorLike
    beta: TensorLike
    epsilon: float
    statistics: "Policy | tuple[Any, Any] | None"


_OPTIONS = tuple(Setting.__annotations__)


def trace(
    subject: Any,
    x: Any = None,
    *,
    training: bool | None = None,
    mask: TensorLike = None,
    dy: TensorLike = None,
    compare: bool = False,
    layer: str | None = None,
    **setting: Unpack[Setting],
) -> Trace:
    """Show one batch-norm computation step by step, with the reasons for what it did.

    There are three ways to call it:

    - `trace(x, axes=..., gamma=..., ...)` traces the functions on data;
    - `trace(bn_layer, x, training=...)` traces the very call `bn_layer(x, training=...)` of
      `keras.layers.BatchNormalization` or ours;
    - `trace(model, x, layer="bn", training=...)` traces the call of one batch-norm layer while the
      model runs on `x`.

    Layers and models are run for real and are left as they were: weights, moving statistics and
    seeds are put back, and a layer without weights is traced on a copy. Keras's subclasses are
    traced as Keras's layer.

    Implements: Alg. 1; Alg. 2, l. 11; sec. 3, the six gradients.

    Args:
        subject: floating tensor of rank 2 or more (integers become float32), or the layer or model.
        x: the layer's or model's input; left out where `subject` is the data.
        training: True normalizes by the batch's statistics, False by running ones. Left out, the
            functions take True and a layer does what it does when the argument is left out.
        mask: boolean tensor over the leading axes of `x`, True where a sample counts.
        dy: gradient of the loss with respect to y, in the shape of y, to trace the backward pass of
            training mode too.
        compare: whether to show tf.nn, `FusedBatchNormV3`, Keras's layer and the float64 oracle
            beside it.
        layer: name or path of the batch-norm layer where `subject` is a model.
        **setting: of the functions alone, since a layer has its own: `axes`, the axes reduced over
            (default 0); `gamma` and `beta`, scalars or in the shape of the kept axes, or None;
            `epsilon` (default 0.001); `statistics`, in inference a pair (mean, variance), by
            default the initial 0 and 1; in training a `Policy` or a pair that starts a moving
            average, to show the running statistics before and after this batch.

    Returns:
        A frozen `Trace`.

    Raises:
        ValueError: axes, shapes, epsilon, the layer's name or the mode do not fit; a training batch
            is empty.
        TypeError: the data are symbolic or no real numbers, an option does not exist or does not
            go with a layer.

    Example:
        >>> found = trace([[1, 2, 3], [4, 5, 6]], gamma=2.0, beta=1.0)
        >>> found["mean"].value.tolist(), found["variance"].value.tolist()
        ([2.5, 3.5, 4.5], [2.25, 2.25, 2.25])
        >>> found["y"].value[:, 0].tolist()
        [-0.99955571, 2.9995556]
    """
    unknown = sorted(set(setting) - set(_OPTIONS))
    if unknown:
        raise TypeError(
            f"trace: `{unknown[0]}` must be one of its options. Received: "
            f"{unknown[0]}={setting[unknown[0]]!r}. They are training, mask, dy, compare, layer, "
            f"{', '.join(_OPTIONS)}."
        )
    if _is_layer(subject):
        from batchnorm_mechanics.tracing.layer import trace_layer

        _check_layer_call(subject, x, setting)
        return trace_layer(
            subject, x, training=training, mask=mask, dy=dy, compare=compare, name=layer
        )
    if x is not None or layer is not None:
        name, value = ("x", x) if x is not None else ("layer", layer)
        raise TypeError(
            f"trace: `{name}` must go with a layer or a model. Received: {name}={value!r} beside "
            f"data of type {type(subject).__name__}. Pass the layer first: trace(layer, x)."
        )
    return _of_functions(
        subject, setting, training=training is not False, mask=mask, dy=dy, compare=compare
    )


def _is_layer(subject: Any) -> bool:
    # Keras takes a second to import, and who never did has no layer to give.
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(subject, keras.layers.Layer)


def _check_layer_call(subject: Any, x: Any, setting: Setting) -> None:
    for name, value in setting.items():
        raise TypeError(
            f"trace: `{name}` must be left out where a layer or model is traced. Received: "
            f"{name}={value!r}. The layer {subject.name!r} has its own."
        )
    if x is None:
        raise TypeError(
            f"trace: `x` must be given where a layer or model is traced. Received: x=None. Pass "
            f"the input of {subject.name!r}: trace(layer, x)."
        )


def _of_functions(
    subject: Any,
    setting: Setting,
    *,
    training: bool,
    mask: TensorLike,
    dy: TensorLike,
    compare: bool,
) -> Trace:
    x, x_note = as_values(subject)
    if mask is not None and not training:
        raise ValueError(
            "trace: `mask` must be left out in inference mode. Received: a mask with "
            "training=False. A mask says which samples count in a batch's statistics."
        )
    statistics = setting.get("statistics")
    parameters = {"gamma": setting.get("gamma"), "beta": setting.get("beta")}
    if not training:
        mean, variance = _pair(statistics, training=False)
        parameters |= {"mean": mean, "variance": variance}
    computation = make_computation(
        x,
        axes=setting.get("axes", 0),
        parameters=parameters,
        epsilon=setting.get("epsilon", 1e-3),
        mask=mask,
        x_note=x_note,
    )
    steps = forward_steps(computation)
    gradient = None if dy is None else as_values(dy, name="dy")[0]
    reduced = ", ".join(str(axis) for axis in computation.axes)
    return Trace(
        title=f"Batch norm of {x.dtype.name} {tuple(x.shape)}, reduced over axes ({reduced})",
        mode=computation.mode,
        why=_why(computation, initial=statistics is None),
        steps=steps,
        statistics=_moving(computation, statistics) if training else (),
        notes=notes_on(computation, steps),
        backward=None if gradient is None else trace_backward(computation, gradient),
        comparison=compare_all(computation, gradient) if compare else None,
    )


def _why(computation: Computation, *, initial: bool) -> tuple[str, ...]:
    if computation.mode == "training":
        return (
            "Training mode: every channel is normalized by the mean and the biased variance of "
            "this batch.",
        )
    used = "Inference mode: the batch's own mean and variance play no part."
    if initial:
        return (
            used,
            "No statistics were given, so the initial moving statistics, mean 0 and variance 1, "
            f"were used, as in a layer that has seen no batch: x_hat = x / √(1 + "
            f"{computation.epsilon:g}) is almost x itself.",
        )
    return (used, "The mean and variance that were given were used.")


def _pair(statistics: Any, *, training: bool) -> tuple[Any, Any]:
    if statistics is None:
        return 0.0, 1.0
    if isinstance(statistics, tuple | list) and len(statistics) == 2:
        return statistics[0], statistics[1]
    expected, advice = (
        (
            "a policy or a pair (mean, variance)",
            "Pass for instance ExponentialMovingAverage(decay=0.99)",
        )
        if training
        else (
            "a pair (mean, variance) in inference mode",
            "What a policy holds is policy.read(state)",
        )
    )
    raise TypeError(
        f"trace: `statistics` must be {expected}. Received: statistics={statistics!r}. {advice}."
    )


def _moving(computation: Computation, statistics: Any) -> tuple[Step, ...]:
    if statistics is None:
        return ()
    shape = computation.kept_shape
    if isinstance(statistics, Policy):
        policy, before = statistics, statistics.init(shape, computation.dtype)
    else:
        policy = ExponentialMovingAverage()
        before = policy.init(shape, computation.dtype)
        wide = tf.cast(computation.x, computation.dtype)
        before = before._replace(
            **{
                name: tf.broadcast_to(
                    as_parameter(value, wide, computation.axes, name=name, caller="trace"), shape
                )
                for name, value in zip(
                    ("mean", "variance"), _pair(statistics, training=True), strict=True
                )
            }
        )
    return moving_steps(policy, before, computation.forward()[1])
