"""`accelerate` puts the Keras layers of a model on our kernels, in place; `restore` undoes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, MethodType
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._keras import layers_in
from batchnorm_mechanics._tensorflow import is_recomputing, one_dnn_is_left_off
from batchnorm_mechanics.core.moments import where_counted
from batchnorm_mechanics.distribute.replicas import normalize_batch
from batchnorm_mechanics.layers.batch_normalization import as_floating_inputs
from batchnorm_mechanics.layers.compiled import renew_compiled_functions
from batchnorm_mechanics.layers.convert import renormalization_of
from batchnorm_mechanics.layers.intercept import own_call, put_call
from batchnorm_mechanics.statistics.renormalization import RenormState

# The figures are those of the networks in benchmarks/worlds.md.
_ADVICE = (
    "This processor leaves oneDNN off: TF_ENABLE_ONEDNN_OPTS=1, set before TensorFlow is imported, "
    "makes convolutional networks train about twice as fast; results change in the last digits."
)

# What decides what a layer computes. A subclass with its own version of one computes something
# that we do not know; one that changes only other things, such as defaults, is Keras's layer.
_DECIDING = (
    "__call__",
    "build",
    "call",
    "_moments",
    # From Keras 3.15 on.
    "_renorm_correction_and_moments",
    "_compose_transforms",
    "_update_renorm_statistics",
)


# As the fields of `RenormState`.
_RENORM_WEIGHTS = (
    "moving_mean",
    "moving_variance",
    "moving_stddev",
    "renorm_mean",
    "renorm_stddev",
)


@dataclass(frozen=True)
class Accelerated:
    """What `accelerate` did to a model.

    Attributes:
        count: how many `keras.layers.BatchNormalization` run on our kernels now.
        left: the name of each one that does not, and why. Of several layers of one name, the
            second is called "name (2)" here, and so on.
    """

    count: int
    left: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Accelerated(count={self.count}, left={dict(self.left)})"

    def __str__(self) -> str:
        """Return the same, and where oneDNN is off by default what it would give."""
        return "\n".join([repr(self), *([_ADVICE] if self.count and one_dnn_is_left_off() else [])])


def accelerate(model: keras.Layer) -> Accelerated:
    """Make Keras's batch normalization in a model run on our kernels, in place.

    Each `keras.layers.BatchNormalization` stays the layer that it is, with its type, weights,
    settings and name; only its `call` becomes ours, on this object and in this process. So the
    optimizer, checkpoints, `trainable` and whoever holds the layer go on with it, in every kind of
    model. Saved files, exports, clones and pickles hold Keras's layer and need nothing of ours;
    accelerate what you load or clone anew. `restore` gives Keras's `call` back.

    A compiled model takes the change with its next step, within `fit` too. A `tf.function` of your
    own that was traced before does not, and neither does another model that shares the layers and
    was trained before: call `accelerate` on that one too.

    Args:
        model: any Keras model, or a layer, which may be a batch normalization itself. Found are
            the layers that Keras tracks in it, those in nested models, wrappers, lists and cells
            included, with weights or still without. Layers that a model creates later are not.

    Returns:
        `Accelerated`: how many layers run on our kernels now, and which do not and why. Left are
        layers whose class or object has its own `call` (or other method that decides the result),
        and those whose `epsilon` is not above 0. Layers with `renorm` are taken, by
        `Renormalization`. Our own `BatchNormalization` is fast already and is not counted.

    Raises:
        TypeError: `model` is no Keras model or layer.

    Numerics:
        Outputs, gradients and moving statistics, whose variance is the biased one, agree with
        Keras's to rounding; where the mean of the input is large, ours err less. They differ on
        purpose where a mask lets no sample of a batch count: Keras then moves the statistics
        towards 0, ours keep them. Under a strategy, the moving statistics become those of the whole
        batch, the same on all replicas, where Keras keeps each replica's own; and a synchronized
        layer stays so with a mask. In the backward pass of `tf.recompute_grad` they do not move
        again.

    Example:
        >>> layer = keras.layers.BatchNormalization(name="kept", epsilon=0)
        >>> model = keras.Sequential([keras.layers.BatchNormalization(name="first"), layer])
        >>> accelerate(model)
        Accelerated(count=1, left={'kept': 'its epsilon is 0.0'})
        >>> restore(model)
        1
    """
    layers = checked_layers_in(model, caller="accelerate")
    count, changed, left = 0, 0, {}
    for layer in layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        if not is_accelerated(layer):
            reason = _reason_to_leave(layer)
            if reason is not None:
                left[_unused(layer.name, left)] = reason
                continue
            put_call(layer, MethodType(_call, layer))
            changed += 1
        count += 1
    if changed:
        renew_compiled_functions(model)
    return Accelerated(count, MappingProxyType(left))


def restore(model: keras.Layer) -> int:
    """Give the accelerated layers of a model Keras's `call` back, in place.

    Args:
        model: any Keras model or layer.

    Returns:
        How many layers were accelerated. Our own `BatchNormalization` is another layer and stays;
        `to_keras` converts it.

    Raises:
        TypeError: `model` is no Keras model or layer.

    Example:
        >>> layer = keras.layers.BatchNormalization()
        >>> accelerate(layer).count, restore(layer), restore(layer)
        (1, 1, 0)
    """
    layers = checked_layers_in(model, caller="restore")
    accelerated = [layer for layer in layers if is_accelerated(layer)]
    for layer in accelerated:
        put_call(layer, None)
    if accelerated:
        renew_compiled_functions(model)
    return len(accelerated)


def checked_layers_in(model: Any, *, caller: str) -> list[Any]:
    """Return `model` and every layer in it, each once, or say that it is none."""
    if not isinstance(model, keras.Layer):
        raise TypeError(
            f"{caller}: `model` must be a Keras model or layer. Received: model={model!r}. "
            "Pass a keras.Model; what tf_keras or another library makes is none."
        )
    return layers_in(model)


def is_accelerated(layer: Any) -> bool:
    """Return whether a layer of Keras runs on our kernels."""
    return getattr(own_call(layer), "__func__", None) is _call


def _reason_to_leave(layer: Any) -> str | None:
    """Return why a layer of Keras or a subclass must keep its `call`, or None."""
    for method in _DECIDING:
        theirs = getattr(keras.layers.BatchNormalization, method, None)
        if getattr(type(layer), method, None) is not theirs:
            return f"its class, {type(layer).__name__}, has its own `{method}`"
    if own_call(layer) is not None:
        return "its `call` was replaced"
    if not layer.epsilon > 0:
        return f"its epsilon is {layer.epsilon}"
    return None


def _unused(name: str, names: Mapping[str, str]) -> str:
    number, candidate = 1, name
    while candidate in names:
        number += 1
        candidate = f"{name} ({number})"
    return candidate


def _call(
    self: Any, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """Compute what `keras.layers.BatchNormalization.call` computes, on its own weights."""
    inputs = as_floating_inputs(inputs, self.compute_dtype)
    rank = inputs.shape.rank
    axes = [axis for axis in range(rank) if axis != self.axis % rank]
    if training and self.trainable:
        again = is_recomputing()
        renorm = Renorm(self) if self.renorm else None
        outputs, batch = normalize_batch(
            inputs,
            self.gamma,
            self.beta,
            axes=axes,
            epsilon=self.epsilon,
            mask=mask,
            synchronized=self.synchronized,
            moments_are_wanted=not again,
            correction=None if renorm is None else renorm.correction,
        )
        if renorm is not None and not again:
            renorm.move(batch)
        elif not again:
            _move(self.moving_mean, batch.mean, batch.count, self.momentum)
            _move(self.moving_variance, batch.variance, batch.count, self.momentum)
    else:
        outputs = core.normalize_with(
            inputs,
            self.moving_mean,
            self.moving_variance,
            self.gamma,
            self.beta,
            axes=axes,
            epsilon=self.epsilon,
        )
    return tf.cast(outputs, self.compute_dtype)


def _move(weight: Any, batch: tf.Tensor, count: tf.Tensor, momentum: float) -> None:
    """Move a running statistic towards the batch's, in the batch's dtype, as Keras does.

    Not by `ExponentialMovingAverage`, which works in the dtype of the weight: under the policy
    "float16" that is too coarse for (1 - momentum) * batch.
    """
    old = tf.cast(weight, batch.dtype)
    weight.assign(where_counted(count, old * momentum + batch * (1.0 - momentum), old))


class Renorm:
    """The policy of a layer with `renorm`, and its state in the layer's own weights."""

    def __init__(self, layer: Any) -> None:
        self._policy = renormalization_of(layer).of_layer(layer.epsilon)
        self._weights = [getattr(layer, name) for name in _RENORM_WEIGHTS]

    def _state(self, dtype: tf.DType) -> RenormState:
        # In the batch's dtype, as `_move`.
        return RenormState(*(tf.cast(weight, dtype) for weight in self._weights))

    def correction(self, mean: tf.Tensor, variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return r and d."""
        return self._policy.correction(self._state(mean.dtype), mean, variance)

    def move(self, batch: core.Moments) -> None:
        """Take a batch in."""
        state = self._policy.update(self._state(batch.mean.dtype), *batch)
        for weight, value in zip(self._weights, state, strict=True):
            weight.assign(value)
