"""From Keras's layer to ours and back, with settings and weights."""

import math
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics.layers.batch_normalization import BatchNormalization
from batchnorm_mechanics.statistics import Policy, Renormalization


def from_keras(
    layer: keras.layers.BatchNormalization, *, statistics: Policy | None = None
) -> BatchNormalization:
    """Return our layer with the settings and weights of a Keras layer.

    Args:
        layer: `keras.layers.BatchNormalization`, with or without weights.
        statistics: a policy to go on with; by default the layer's own moving average.

    Returns:
        A new `BatchNormalization` of the same name. Its weights are copies. With `renorm` and no
        other policy it has `Renormalization`; with that as a new policy, it begins to correct by
        the moving statistics that the layer has.

    Raises:
        TypeError: `layer` is another kind of layer, or a subclass, whose code we do not know.

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
    if statistics is None and layer.renorm:
        statistics = renormalization_of(layer)
    if statistics is not None:
        config.pop("momentum")
    config = {name: value for name, value in config.items() if not name.startswith("renorm")}
    ours = BatchNormalization.from_config({**config, "statistics": statistics})
    ours.trainable = layer.trainable
    if layer.built:
        ours.build(layer.get_build_config()["input_shape"])
        copied = _copy_weights(layer, ours)
        if ours.policy.renormalizes and "moving_stddev" not in copied:
            moving: Any = (ours.moving_mean, ours.moving_variance)
            mean, variance = map(tf.convert_to_tensor, moving)
            ours.take_statistics((mean, variance))
    return ours


def renormalization_of(layer: keras.layers.BatchNormalization) -> Renormalization:
    """Return the policy of a Keras layer with `renorm`.

    Args:
        layer: such a layer, with or without weights.

    Example:
        >>> layer = keras.layers.BatchNormalization(renorm=True, renorm_clipping={"rmax": 2.0})
        >>> policy = renormalization_of(layer)
        >>> policy.r_min, policy.r_max, policy.d_max
        (0.0, 2.0, inf)
    """
    given = layer.renorm_clipping or {}
    # Keras takes None for no bound, too.
    bounds = {name: value for name, value in given.items() if value is not None}
    return Renormalization(
        decay=layer.momentum,
        renorm_decay=layer.renorm_momentum,
        r_max=bounds.get("rmax", math.inf),
        d_max=bounds.get("dmax", math.inf),
        r_min=bounds.get("rmin", 0.0),
    )


def to_keras(layer: BatchNormalization) -> keras.layers.BatchNormalization:
    """Return a Keras layer with the settings and weights of ours.

    Args:
        layer: our layer, with or without weights.

    Returns:
        A new `keras.layers.BatchNormalization` of the same name, which infers the same. Its weights
        are copies. What a policy holds besides mean and variance is left behind: trained on, the
        Keras layer keeps its own biased moving average of `momentum`, which is the decay of the
        policy where that has one. `Renormalization` becomes `renorm`, by the bounds at the end of
        its `steps`.

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
    if isinstance(layer.policy, Renormalization):
        config |= _renorm_settings(layer.policy)
    theirs = keras.layers.BatchNormalization.from_config(config)
    theirs.trainable = layer.trainable
    if layer.built:
        theirs.build(layer.get_build_config()["input_shape"])
        _copy_weights(layer, theirs)
    return theirs


def _renorm_settings(policy: Renormalization) -> dict[str, Any]:
    bounds = {
        "rmax": policy.r_max,
        "rmin": 1 / policy.r_max if policy.r_min is None else policy.r_min,
        "dmax": policy.d_max,
    }
    finite = {name: value for name, value in bounds.items() if value < math.inf}
    return {
        "renorm": True,
        "renorm_clipping": finite,
        "renorm_momentum": policy.renorm_decay,
    }


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> set[str]:
    """Copy the weights that both have, which bear the same names, and return these."""
    given = {weight.name: weight for weight in source.weights}
    shared = [weight for weight in target.weights if weight.name in given]
    for weight in shared:
        weight.assign(given[weight.name])
    return {weight.name for weight in shared}
