"""The Keras layer: wiring and serialization of what `core` and `statistics` compute."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "batchnorm_mechanics.layers: Keras must run on the TensorFlow backend. Received: "
        f"backend={keras.config.backend()!r}. Set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is first imported."
    )

from batchnorm_mechanics.layers.accelerate import Accelerated, accelerate, restore
from batchnorm_mechanics.layers.batch_normalization import BatchNormalization
from batchnorm_mechanics.layers.callbacks import ResetStatistics
from batchnorm_mechanics.layers.convert import from_keras, to_keras
from batchnorm_mechanics.layers.freeze import Frozen, freeze, unfreeze
from batchnorm_mechanics.layers.replacements import (
    FrozenAffine,
    to_frozen_affine,
    to_group_normalization,
)
from batchnorm_mechanics.layers.synchronize import Synchronized, synchronize, unsynchronize

__all__ = [
    "Accelerated",
    "BatchNormalization",
    "Frozen",
    "FrozenAffine",
    "ResetStatistics",
    "Synchronized",
    "accelerate",
    "freeze",
    "from_keras",
    "restore",
    "synchronize",
    "to_frozen_affine",
    "to_group_normalization",
    "to_keras",
    "unfreeze",
    "unsynchronize",
]
