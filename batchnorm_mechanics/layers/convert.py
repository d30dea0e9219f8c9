"""From Keras's layer to ours and back, with settings and weights."""

from typing import Any

import keras

from batchnorm_mechanics.layers.batch_normalization import BatchNormalization
from batchnorm_mechanics.statistics import Policy


def from_keras(
    layer: keras.layers.BatchNormalization, *, statistics: Policy | None = None
) -> BatchNormalization:
    """Return our layer with the settings and weights of a Keras layer.

    Args:
        layer: `keras.layers.BatchNormalization`, with or without weights.
        statistics: a policy to go on with; by default the layer's own moving average.

    Returns:
        A new `BatchNormalization` of the same name. Its weights are copies.

    Raises:
        TypeError: `layer` is another kind of layer, or a subclass, whose code we do not know.
        ValueError: `layer` uses `renorm`, which is not in ours.

    Example:
        >>> ours = from_keras(keras.layers.BatchNormalization(axis=1, momentum=0.9))
        >>> ours.axis, ours.momentum
        (1, 0.9)
    """
    if type(layer) is not keras.layers.BatchNormalization:
        raise TypeError(
            "from_keras: `layer` must be a keras.layers.BatchNormalization itself. Received: "
            f"layer={layer!r}. A subclass may compute something else; convert it by hand."
        )
    config = layer.get_config()
    if statistics is not None:
        config.pop("momentum")
    ours = BatchNormalization.from_config({**config, "statistics": statistics})
    ours.trainable = layer.trainable
    if layer.built:
        ours.build(layer.get_build_config()["input_shape"])
        _copy_weights(layer, ours)
    return ours


def to_keras(layer: BatchNormalization) -> keras.layers.BatchNormalization:
    """Return a Keras layer with the settings and weights of ours.

    Args:
        layer: our layer, with or without weights.

    Returns:
        A new `keras.layers.BatchNormalization` of the same name, which infers the same. Its weights
        are copies. What a policy holds besides mean and variance is left behind: trained on, the
        Keras layer keeps its own biased moving average of `momentum`, which is the decay of the
        policy where that has one.

    Raises:
        TypeError: `layer` is not ours.

    Example:
        >>> from batchnorm_mechanics import ExponentialMovingAverage
        >>> layer = BatchNormalization(statistics=ExponentialMovingAverage(decay=0.9))
        >>> to_keras(layer).momentum
        0.9
    """
    if not isinstance(layer, BatchNormalization):
        raise TypeError(
            "to_keras: `layer` must be a batchnorm_mechanics.BatchNormalization. Received: "
            f"layer={layer!r}. Pass one of the model's layers of that type."
        )
    config: dict[str, Any] = layer.get_config()
    config.pop("statistics")
    decay = layer.policy.decay
    config["momentum"] = layer.momentum if decay is None else decay
    theirs = keras.layers.BatchNormalization.from_config(config)
    theirs.trainable = layer.trainable
    if layer.built:
        theirs.build(layer.get_build_config()["input_shape"])
        _copy_weights(layer, theirs)
    return theirs


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        weight = getattr(source, name)
        if weight is not None:
            getattr(target, name).assign(weight)
