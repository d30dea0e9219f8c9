"""`synchronize` has a model's replicas normalize by the whole batch; `unsynchronize` undoes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from batchnorm_mechanics.layers.accelerate import accelerate, checked_layers_in, is_accelerated
from batchnorm_mechanics.layers.batch_normalization import BatchNormalization
from batchnorm_mechanics.layers.compiled import renew_compiled_functions


@dataclass(frozen=True)
class Synchronized:
    """What `synchronize` did to a model.

    Attributes:
        count: how many batch normalizations are synchronized now, by our kernels.
        left: the name of each one that is not, and why; as in `Accelerated`.
    """

    count: int
    left: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Synchronized(count={self.count}, left={dict(self.left)})"


def synchronize(model: keras.Layer) -> Synchronized:
    """Have every batch normalization of a model normalize by the batch of all replicas, in place.

    Under a strategy of tf.distribute each replica gets its part of a batch. A layer normalizes by
    that part alone, unless it is synchronized: then it computes, and has the gradients, of one
    replica that has the whole batch. On one replica nothing changes.

    Our own layers get `synchronized=True`. So do Keras's, which `accelerate` then puts on our
    kernels: Keras's own computation of it takes a difference of squares, loses the variance where
    the mean is large, and turns itself off where there is a mask. Weights, names, activations, the
    optimizer's state and whoever holds the layers stay as they are; saved, the setting is part of
    the model. A compiled model takes the change with its next step.

    Args:
        model: any Keras model or layer, as for `accelerate`.

    Returns:
        `Synchronized`: how many layers are synchronized now, and which are not and why: those that
        `accelerate` leaves. They stay as they were.

    Raises:
        TypeError: `model` is no Keras model or layer.

    Example:
        >>> model = keras.Sequential([keras.layers.BatchNormalization(), BatchNormalization()])
        >>> synchronize(model)
        Synchronized(count=2, left={})
        >>> unsynchronize(model), [layer.synchronized for layer in model.layers]
        (2, [False, False])
    """
    layers = checked_layers_in(model, caller="synchronize")
    left = accelerate(model).left
    able = [one for one in layers if isinstance(one, BatchNormalization) or is_accelerated(one)]
    _set(model, [layer for layer in able if not layer.synchronized], synchronized=True)
    return Synchronized(len(able), left)


def unsynchronize(model: keras.Layer) -> int:
    """Have every batch normalization of a model normalize by its replica's part, in place.

    Args:
        model: any Keras model or layer.

    Returns:
        How many layers were synchronized, Keras's own among them. Accelerated ones stay so.

    Raises:
        TypeError: `model` is no Keras model or layer.

    Example:
        >>> unsynchronize(keras.layers.BatchNormalization(synchronized=True))
        1
    """
    kinds = (BatchNormalization, keras.layers.BatchNormalization)
    layers = [
        layer
        for layer in checked_layers_in(model, caller="unsynchronize")
        if isinstance(layer, kinds) and layer.synchronized
    ]
    _set(model, layers, synchronized=False)
    return len(layers)


def _set(model: keras.Layer, layers: list[Any], *, synchronized: bool) -> None:
    for layer in layers:
        layer.synchronized = synchronized
    if layers:
        renew_compiled_functions(model)
