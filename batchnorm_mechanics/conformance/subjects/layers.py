"""The built-in layers: ours, run in each way, and Keras's."""

import keras

from batchnorm_mechanics.conformance.subjects.keras_layer import KerasLayer
from batchnorm_mechanics.layers import BatchNormalization


def our_layer() -> KerasLayer:
    """Return our layer, called eagerly."""
    return KerasLayer("bnm.layer", BatchNormalization, description="our layer, eager")


def our_layer_in_a_graph() -> KerasLayer:
    """Return our layer in a `tf.function`."""
    return KerasLayer(
        "bnm.layer-graph", BatchNormalization, "graph", description="our layer in a tf.function"
    )


def our_layer_compiled() -> KerasLayer:
    """Return our layer compiled by XLA."""
    return KerasLayer(
        "bnm.layer-compiled",
        BatchNormalization,
        "compiled",
        description="our layer in a tf.function compiled by XLA",
    )


def keras_layer() -> KerasLayer:
    """Return Keras's layer, called eagerly."""
    return KerasLayer(
        "keras",
        keras.layers.BatchNormalization,
        description=f"keras.layers.BatchNormalization of Keras {keras.__version__}",
    )
