"""What can stand in the place of batch norm: group normalization, and a fixed affine map."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.layers.batch_normalization import (
    PACKAGE,
    BatchNormalization,
    as_floating_inputs,
)

_KINDS = (keras.layers.BatchNormalization, BatchNormalization)
# What both layers of normalization know.
_SHARED = (
    "name",
    "axis",
    "epsilon",
    "center",
    "scale",
    "beta_initializer",
    "gamma_initializer",
    "beta_regularizer",
    "gamma_regularizer",
    "beta_constraint",
    "gamma_constraint",
)
# Keras's default, of which the paper on group normalization found little to depend on.
_GROUPS = 32


def to_group_normalization(
    layer: keras.Layer, *, groups: int | None = None
) -> keras.layers.GroupNormalization:
    """Return group normalization with the gamma, beta and settings of a batch norm layer.

    It has no statistics to keep: training and inference are one, whatever the size of the batch.
    The weights around it were trained with another normalization, so train on.

    Implements: Wu and He, arXiv 1803.08494.

    Args:
        layer: Keras's or ours, with weights.
        groups: how many groups of channels are normalized by themselves; it must divide their
            number. By default 32, or the largest number below that divides it.

    Returns:
        A new layer of the same name, with copies of gamma and beta.

    Raises:
        InputError: the layer is none of these or has no weights, or `groups` does not fit.

    Example:
        >>> layer = keras.layers.BatchNormalization()
        >>> layer.build((None, 8, 8, 48))
        >>> to_group_normalization(layer).groups, to_group_normalization(layer, groups=6).groups
        (24, 6)
    """
    channels = _channels_of(layer, "to_group_normalization")
    if groups is None:
        groups = max(n for n in range(1, min(_GROUPS, channels) + 1) if channels % n == 0)
    if not 1 <= groups <= channels or channels % groups:
        raise InputError(
            f"to_group_normalization: `groups` must divide the number of channels, {channels}. "
            f"Received: groups={groups!r}. Leave it out for a number that does."
        )
    config = layer.get_config()
    new = keras.layers.GroupNormalization(
        groups=groups, dtype=layer.dtype_policy, **{name: config[name] for name in _SHARED}
    )
    new.trainable = layer.trainable
    new.build(layer.get_build_config()["input_shape"])
    for name in ("gamma", "beta"):
        if getattr(layer, name) is not None:
            getattr(new, name).assign(getattr(layer, name))
    return new


@keras.saving.register_keras_serializable(PACKAGE)
class FrozenAffine(keras.layers.Layer):
    """Multiply each channel by a number and add another, which are never trained.

    Implements: arXiv 1502.03167, Alg. 2, l. 11, with everything in it fixed.

    It is what a frozen batch norm computes, and nothing can set it loose: no flag, no statistics.
    `to_frozen_affine` makes one of a batch norm layer.

    Args:
        axis: integer, the axis of the channels.
        **kwargs: those of every Keras layer.

    Example:
        >>> layer = FrozenAffine()
        >>> layer.build((None, 2))
        >>> layer.scale.assign([2.0, 3.0]).numpy().tolist()
        [2.0, 3.0]
        >>> layer(tf.ones((1, 2)), training=True).numpy().tolist()
        [[2.0, 3.0]]
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        """Keep the settings; see the class."""
        super().__init__(**kwargs)
        self.axis = int(axis)
        self.supports_masking = True
        self.scale = self.offset = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create scale, 1, and offset, 0."""
        shape = (input_shape[self.axis],)
        fixed = {"shape": shape, "trainable": False, "autocast": False}
        self.scale = self.add_weight(name="scale", initializer="ones", **fixed)
        self.offset = self.add_weight(name="offset", initializer="zeros", **fixed)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Scale and shift; see the class."""
        inputs = as_floating_inputs(inputs, self.compute_dtype)
        rank = inputs.shape.rank
        axes = [axis for axis in range(rank) if axis != self.axis % rank]
        outputs = core.multiply_and_add(inputs, self.scale, self.offset, axes=axes)
        return tf.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input, which is the shape of the output."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the settings, as Keras serialization wants them."""
        return {**super().get_config(), "axis": self.axis}


def to_frozen_affine(layer: keras.Layer) -> FrozenAffine:
    """Return the fixed scale and offset that a batch norm layer amounts to in inference.

    Implements: arXiv 1502.03167, Alg. 2, l. 11.

    Args:
        layer: Keras's or ours, with weights.

    Returns:
        A new layer of the same name, which gives in training and inference what the layer gives in
        inference.

    Raises:
        InputError: the layer is none of these, or has no weights.

    Numerics:
        Computed in float64 and rounded once. x * scale + offset cancels where the mean is far
        larger than the standard deviation, as in every folded batch norm.

    Example:
        >>> layer = keras.layers.BatchNormalization(epsilon=3.0)
        >>> layer.build((None, 1))
        >>> affine = to_frozen_affine(layer)
        >>> affine.scale.numpy().tolist(), affine.offset.numpy().tolist()
        ([0.5], [0.0])
    """
    _channels_of(layer, "to_frozen_affine")
    new: Any = FrozenAffine(layer.axis, name=layer.name, dtype=layer.dtype_policy)
    new.build(layer.get_build_config()["input_shape"])
    mean, variance, gamma, beta = (
        None if weight is None else np.asarray(keras.ops.convert_to_numpy(weight), np.float64)
        for weight in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    scale, offset = core.fold_statistics(mean, variance, gamma, beta, epsilon=layer.epsilon)
    new.scale.assign(scale)
    new.offset.assign(offset)
    return new


def _channels_of(layer: Any, caller: str) -> int:
    if not isinstance(layer, _KINDS) or layer.moving_mean is None:
        raise InputError(
            f"{caller}: `layer` must be a batch normalization, Keras's or ours, with weights. "
            f"Received: layer={layer!r}. Call its model on data first."
        )
    return math.prod(layer.moving_mean.shape)
