"""What TensorFlow and Keras compute for the same input, each through its own interface."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics.core.axes import TensorLike
from batchnorm_mechanics.tracing.computation import Computation
from batchnorm_mechanics.tracing.steps import array
from batchnorm_mechanics.tracing.tape import tape_gradients


@dataclass(frozen=True)
class Answer:
    """What an implementation gave.

    Attributes:
        values: by step name; empty if it cannot do this.
        notes: sentences: why it cannot, or what to know about its values.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def tf_nn(computation: Computation, dy: tf.Tensor | None) -> Answer:
    """Compute with `tf.nn.moments` and `tf.nn.batch_normalization`.

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None.

    Returns:
        An `Answer`: mean and biased variance in the shape of the kept axes, in x's dtype.
    """
    if computation.mask is not None:
        return Answer(notes=("it takes no mask.",))
    x, axes = computation.x, list(computation.axes)
    given = computation.mode == "inference"
    # It wants all of one type, so a half input makes the gradients of gamma and beta half too.
    gamma, beta = (tf.cast(value, x.dtype) for value in _per_channel(computation))
    with tf.GradientTape() as tape:
        tape.watch((x, gamma, beta))
        if given:
            mean, variance = (
                _wide(computation.mean, computation),
                _wide(computation.variance, computation),
            )
        else:
            mean, variance = tf.nn.moments(x, axes, keepdims=True)
        scale, offset = _wide(gamma, computation), _wide(beta, computation)
        y = tf.nn.batch_normalization(x, mean, variance, offset, scale, computation.epsilon)
    normalize: Any = tf.nn.batch_normalization  # The stubs do not know that None leaves them out.
    x_hat = normalize(x, mean, variance, None, None, computation.epsilon)
    found = {"x_hat": x_hat, "y": y}
    if not given:
        found |= {"mean": tf.squeeze(mean, axes), "variance": tf.squeeze(variance, axes)}
    if dy is not None:
        found |= _gradients(tape, y, (x, gamma, beta), dy)
    return Answer({name: array(value) for name, value in found.items()})


def fused(computation: Computation, dy: tf.Tensor | None) -> Answer:
    """Compute with `FusedBatchNormV3`, the input brought to its layout (n, 1, 1, channels).

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None.

    Returns:
        An `Answer`: the variance is the op's own n/(n-1) one, brought back to the biased one.
    """
    if computation.mask is not None:
        return Answer(notes=("it takes no mask.",))
    if computation.x.dtype == tf.float64:
        return Answer(notes=("it takes no float64.",))
    if 0 in computation.x.shape:
        return Answer(notes=("left out: the input is empty.",))
    given = computation.mode == "inference"
    view = _Channels(computation)
    gamma, beta = (tf.reshape(value, [-1]) for value in _per_channel(computation))
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
    return Answer({name: array(value) for name, value in found.items()}, notes)


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


def keras_layer(computation: Computation, dy: tf.Tensor | None) -> Answer:
    """Compute with a new `keras.layers.BatchNormalization` that has these settings.

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None.

    Returns:
        An `Answer`. With momentum 0 the layer's moving statistics after a training call are the
        mean and variance of the batch.
    """
    import keras

    x, kept = computation.x, computation.kept
    if len(kept) != 1:
        return Answer(notes=(f"it keeps one axis; these axes keep {len(kept)}.",))
    if computation.mask is not None and (
        kept[0] != x.shape.rank - 1 or computation.mask.shape.rank != x.shape.rank - 1
    ):
        return Answer(notes=("its mask works with the last axis kept only.",))
    given = computation.mode == "inference"
    # Half types compute in half and keep float32 weights, as in mixed precision.
    dtype = x.dtype.name if x.dtype.size >= 4 else f"mixed_{x.dtype.name}"
    layer = keras.layers.BatchNormalization(
        axis=kept[0], epsilon=computation.epsilon, momentum=0.0, dtype=dtype
    )
    layer.build(tuple(x.shape))
    gamma, beta = _per_channel(computation)
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
    return Answer({name: array(value) for name, value in found.items()})


def _gradients(
    tape: tf.GradientTape, y: tf.Tensor, sources: tuple[tf.Tensor, ...], dy: tf.Tensor
) -> dict[str, tf.Tensor]:
    return tape_gradients(
        tape, y, dict(zip(("d_x", "d_gamma", "d_beta"), sources, strict=True)), dy
    )


def _per_channel(computation: Computation) -> tuple[tf.Tensor, tf.Tensor]:
    """Return gamma and beta with one number for each channel."""
    kept = computation.kept_shape
    gamma, beta = (
        tf.constant(start, computation.dtype) if value is None else value
        for value, start in ((computation.gamma, 1.0), (computation.beta, 0.0))
    )
    return tf.broadcast_to(gamma, kept), tf.broadcast_to(beta, kept)


def _wide(statistic: TensorLike, computation: Computation) -> tf.Tensor:
    """Return a statistic that broadcasts against x, in x's dtype, as tf.nn wants it."""
    statistic = tf.convert_to_tensor(statistic)
    if statistic.shape.rank:
        for axis in sorted(computation.axes):
            statistic = tf.expand_dims(statistic, axis)
    return tf.cast(statistic, computation.x.dtype)
