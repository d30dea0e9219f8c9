"""Several implementations of one computation side by side, each against the float64 oracle."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core, reference
from batchnorm_mechanics._difference import difference
from batchnorm_mechanics.core.axes import TensorLike
from batchnorm_mechanics.tracing.computation import Computation, array, tape_gradients
from batchnorm_mechanics.tracing.record import Beside, Comparison
from batchnorm_mechanics.tracing.steps import folded

_ORDER = ("mean", "variance", "x_hat", "y", "d_x", "d_gamma", "d_beta")
_HOW_TO_READ = (
    "Errors are the largest over all elements, against the oracle: NumPy in float64, from the same "
    "input. A ULP is the distance to the next number of the value's type. Near zero that distance "
    "is tiny, so a value that is fine beside its neighbours can be millions of ULPs off: read ULPs "
    "only together with the absolute error."
)


def compare(
    computation: Computation,
    dy: tf.Tensor | None = None,
    layer_values: Mapping[str, np.ndarray] | None = None,
) -> Comparison:
    """Return what each implementation has at each step, and how far it is from the oracle.

    Args:
        computation: what goes in, the same for all.
        dy: gradient of the loss with respect to y, or None to leave the gradients out.
        layer_values: values by step name that the real layer of a trace gave, to show beside.

    Returns:
        A `Comparison`: ours, tf.nn, FusedBatchNormV3 and Keras's layer, where they can do it.
    """
    notes = [_HOW_TO_READ]
    values: dict[str, Mapping[str, np.ndarray]] = {"ours": _ours(computation, dy)}
    made: tuple[tuple[str, Callable[..., _Answer]], ...] = (
        ("tf.nn", _tf_nn),
        ("FusedBatchNormV3", _fused),
        ("Keras layer", _keras_layer),
    )
    for name, peer in made:
        answer = peer(computation, dy)
        values[name] = answer.values
        notes += [f"{name}: {note}" for note in answer.notes]
    if computation.mode == "inference":
        values["ours, folded"] = {"y": _folded(computation)}
    if layer_values:
        values["the layer traced"] = layer_values
    oracle = oracle_values(computation, dy)
    rows = []
    for step in (step for step in _ORDER if step in oracle):
        rows.append(_row(step, "oracle", oracle[step], oracle[step], computation))
        rows += [
            _row(step, by, found[step], oracle[step], computation)
            for by, found in values.items()
            if step in found
        ]
    return Comparison(tuple(rows), tuple(notes))


def _row(
    step: str, by: str, value: np.ndarray, oracle: np.ndarray, computation: Computation
) -> Beside:
    dtype = value.dtype.name if by != "oracle" else computation.dtype.name
    return Beside(step, by, value, difference(value, oracle, dtype))


def _ours(computation: Computation, dy: tf.Tensor | None) -> dict[str, np.ndarray]:
    if computation.mode == "inference":
        x = tf.cast(computation.x, computation.dtype)
        x_hat = core.normalize(
            x,
            computation.mean,
            computation.variance,
            axes=computation.axes,
            epsilon=computation.epsilon,
        )
        return {"x_hat": array(x_hat), "y": array(computation.infer())}
    y, cache = computation.forward()
    found = {"mean": cache.mean, "variance": cache.variance, "x_hat": cache.x_hat, "y": y}
    if dy is not None:
        found |= dict(zip(("d_x", "d_gamma", "d_beta"), core.backward(dy, cache), strict=True))
    return {name: array(value) for name, value in found.items()}


def _folded(computation: Computation) -> np.ndarray:
    scale, offset = folded(computation)
    return array(core.multiply_and_add(computation.x, scale, offset, axes=computation.axes))


def oracle_values(computation: Computation, dy: tf.Tensor | None = None) -> dict[str, np.ndarray]:
    """Return the float64 oracle's values by step name.

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None to leave the gradients out.

    Returns:
        x_hat and y; in training mode mean and biased variance too, and with `dy` the gradients.
    """
    x = array(computation.x)
    gamma, beta, mask = (
        None if value is None else array(value)
        for value in (computation.gamma, computation.beta, computation.mask)
    )
    axes, epsilon = computation.axes, computation.epsilon
    if computation.mode == "inference":
        mean, variance = array(computation.mean), array(computation.variance)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "x_hat": reference.normalize(x, mean, variance, axes, epsilon),
                "y": reference.infer(x, mean, variance, gamma, beta, axes, epsilon),
            }
    with np.errstate(invalid="ignore", over="ignore"):
        y, mean, variance, x_hat = reference.forward(x, gamma, beta, axes, epsilon, mask)
        found = {"mean": mean, "variance": variance, "x_hat": x_hat, "y": y}
        if dy is not None:
            all_six = reference.gradients(array(dy), x, gamma, axes, epsilon, mask)
            found |= {name: all_six[name] for name in ("d_x", "d_gamma", "d_beta")}
    return found


@dataclass(frozen=True)
class _Answer:
    """What an implementation gave.

    Attributes:
        values: by step name; empty if it cannot do this.
        notes: sentences: why it cannot, or what to know about its values.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _tf_nn(computation: Computation, dy: tf.Tensor | None) -> _Answer:
    """Compute with `tf.nn.moments` and `tf.nn.batch_normalization`.

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None.

    Returns:
        An `_Answer`: mean and biased variance in the shape of the kept axes, in x's dtype.
    """
    if computation.mask is not None:
        return _Answer(notes=("it takes no mask.",))
    x, axes = computation.x, list(computation.axes)
    given = computation.mode == "inference"
    # It wants all of one type, so a half input makes the gradients of gamma and beta half too.
    gamma, beta = (tf.cast(value, x.dtype) for value in computation.per_channel())
    with tf.GradientTape() as tape:
        tape.watch((x, gamma, beta))
        if given:
            mean, variance = (
                _as_x(computation.mean, computation),
                _as_x(computation.variance, computation),
            )
        else:
            mean, variance = tf.nn.moments(x, axes, keepdims=True)
        scale, offset = _as_x(gamma, computation), _as_x(beta, computation)
        y = tf.nn.batch_normalization(x, mean, variance, offset, scale, computation.epsilon)
    normalize: Any = tf.nn.batch_normalization  # The stubs do not know that None leaves them out.
    x_hat = normalize(x, mean, variance, None, None, computation.epsilon)
    found = {"x_hat": x_hat, "y": y}
    if not given:
        found |= {"mean": tf.squeeze(mean, axes), "variance": tf.squeeze(variance, axes)}
    if dy is not None:
        found |= _gradients(tape, y, (x, gamma, beta), dy)
    return _Answer({name: array(value) for name, value in found.items()})


def _fused(computation: Computation, dy: tf.Tensor | None) -> _Answer:
    """Compute with `FusedBatchNormV3`, the input brought to its layout (n, 1, 1, channels).

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None.

    Returns:
        An `_Answer`: the variance is the op's own n/(n-1) one, brought back to the biased one.
    """
    if computation.mask is not None:
        return _Answer(notes=("it takes no mask.",))
    if computation.x.dtype == tf.float64:
        return _Answer(notes=("it takes no float64.",))
    if 0 in computation.x.shape:
        return _Answer(notes=("left out: the input is empty.",))
    given = computation.mode == "inference"
    view = _Channels(computation)
    gamma, beta = (tf.reshape(value, [-1]) for value in computation.per_channel())
    empty = tf.zeros([0])
    statistics = (empty, empty)
    if given:
        kept = view.kept_shape
        statistics = tuple(
            tf.reshape(tf.broadcast_to(value, kept), [-1])
            for value in (computation.mean, computation.variance)
        )

    def run(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=scale,
            offset=offset,
            mean=statistics[0],
            variance=statistics[1],
            epsilon=computation.epsilon,
            is_training=not given,
        )[:3]

    with tf.GradientTape() as tape:
        tape.watch((computation.x, gamma, beta))
        y, mean, corrected = run(view.to(computation.x), gamma, beta)
        y = view.back(y)
    x_hat, _, _ = run(view.to(computation.x), tf.ones_like(gamma), tf.zeros_like(beta))
    found = {"x_hat": view.back(x_hat), "y": y}
    notes: tuple[str, ...] = ()
    if not given:
        n = view.count
        biased = corrected if n == 1 else corrected * ((n - 1) / n)
        found |= {
            "mean": tf.reshape(mean, view.kept_shape),
            "variance": tf.reshape(biased, view.kept_shape),
        }
        if n > 1:
            notes = (
                f"its variance output is Bessel-corrected, {n}/{n - 1} times the biased variance; "
                "shown is the biased one.",
            )
    if dy is not None:
        found |= _gradients(tape, y, (computation.x, gamma, beta), dy)
        for name in ("d_gamma", "d_beta"):
            found[name] = tf.reshape(found[name], view.kept_shape)
    return _Answer({name: array(value) for name, value in found.items()}, notes)


class _Channels:
    """The way to the layout (n, 1, 1, channels), which the fused op knows, and back."""

    def __init__(self, computation: Computation) -> None:
        shape = computation.shape
        self._order = [*computation.axes, *computation.kept]
        self._moved = [shape[axis] for axis in self._order]
        self.kept_shape = computation.kept_shape
        self.count = math.prod(shape[axis] for axis in computation.axes)

    def to(self, x: tf.Tensor) -> tf.Tensor:
        channels = math.prod(self.kept_shape)
        return tf.reshape(tf.transpose(x, self._order), [self.count, 1, 1, channels])

    def back(self, y: tf.Tensor) -> tf.Tensor:
        return tf.transpose(tf.reshape(y, self._moved), np.argsort(self._order))


def _keras_layer(computation: Computation, dy: tf.Tensor | None) -> _Answer:
    """Compute with a new `keras.layers.BatchNormalization` that has these settings.

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None.

    Returns:
        An `_Answer`. With momentum 0 the layer's moving statistics after a training call are the
        mean and variance of the batch.
    """
    import keras

    x, kept = computation.x, computation.kept
    if len(kept) != 1:
        return _Answer(notes=(f"it keeps one axis; these axes keep {len(kept)}.",))
    if computation.mask is not None and (
        kept[0] != x.shape.rank - 1 or computation.mask.shape.rank != x.shape.rank - 1
    ):
        return _Answer(notes=("its mask works with the last axis kept only.",))
    given = computation.mode == "inference"
    # Half types compute in half and keep float32 weights, as in mixed precision.
    dtype = x.dtype.name if x.dtype.size >= 4 else f"mixed_{x.dtype.name}"
    layer = keras.layers.BatchNormalization(
        axis=kept[0], epsilon=computation.epsilon, momentum=0.0, dtype=dtype
    )
    layer.build(tuple(x.shape))
    gamma, beta = computation.per_channel()
    values = {"gamma": gamma, "beta": beta}
    if given:
        channels = [x.shape[kept[0]]]
        values["moving_mean"] = tf.broadcast_to(computation.mean, channels)
        values["moving_variance"] = tf.broadcast_to(computation.variance, channels)
    for name, value in values.items():
        getattr(layer, name).assign(value)
    mask = {} if computation.mask is None else {"mask": computation.mask}
    watched = (x, layer.gamma.value, layer.beta.value)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        y = layer(x, training=not given, **mask)
    found = {"y": y}
    if not given:
        found |= {"mean": layer.moving_mean, "variance": layer.moving_variance}
    if dy is not None:
        found |= _gradients(tape, y, watched, dy)
    return _Answer({name: array(value) for name, value in found.items()})


def _gradients(
    tape: tf.GradientTape, y: tf.Tensor, sources: tuple[tf.Tensor, ...], dy: tf.Tensor
) -> dict[str, tf.Tensor]:
    return tape_gradients(
        tape, y, dict(zip(("d_x", "d_gamma", "d_beta"), sources, strict=True)), dy
    )


def _as_x(statistic: TensorLike, computation: Computation) -> tf.Tensor:
    """Return a statistic that broadcasts against x, in x's dtype, as tf.nn wants it."""
    aligned = computation.aligned(tf.convert_to_tensor(statistic))
    return tf.cast(aligned, computation.x.dtype)
