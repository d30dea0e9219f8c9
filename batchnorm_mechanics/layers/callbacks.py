"""What happens to running statistics at the boundaries of training."""

from typing import Any

import keras

from batchnorm_mechanics._keras import layers_in
from batchnorm_mechanics.layers.batch_normalization import BatchNormalization


def batch_normalizations(model: keras.Model) -> list[BatchNormalization]:
    """Return our layers in `model`, those in nested models included, each once."""
    return [
        layer for layer in layers_in(model, itself=False) if isinstance(layer, BatchNormalization)
    ]


class ResetStatistics(keras.callbacks.Callback):
    """Reset the running statistics of every `BatchNormalization` when an epoch begins.

    Implements: Alg. 2, l. 7 to 10, in which the population statistics belong to one set of weights:
    averages over an epoch start anew with each epoch.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((3,)), BatchNormalization()])
        >>> _ = model.layers[0].moving_mean.assign([1.0, 2.0, 3.0])
        >>> callback = ResetStatistics()
        >>> callback.set_model(model)
        >>> callback.on_epoch_begin(epoch=0)
        >>> model.layers[0].moving_mean.numpy().tolist()
        [0.0, 0.0, 0.0]
    """

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reset the statistics; layers that have no weights yet have none to reset."""
        for layer in batch_normalizations(self.model):
            if layer.built:
                layer.reset_statistics()
