"""A model without its batch norm: what no batch norm layer can be faster than."""

from typing import Any

import keras


class PassOn(keras.layers.Layer):
    """Return the input unchanged; takes the arguments that a batch norm layer takes."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the input."""
        return inputs


def without_batch_norm(model: keras.Model) -> keras.Model:
    """Return a model's copy whose batch norm layers pass their input on.

    Args:
        model: functional or sequential, compiled, with Keras's batch norm layers.

    Returns:
        A model of the same layers otherwise, with new random weights, compiled like `model`.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.BatchNormalization()])
        >>> without_batch_norm(model).count_params()
        0
    """
    return keras.models.clone_model(model, clone_function=_copy)


def _copy(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, keras.layers.BatchNormalization):
        return PassOn(name=layer.name)
    return type(layer).from_config(layer.get_config())
