"""The studies' network, built once for all of them from their settings."""

from typing import Any

import keras

from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import (
    AverageOfBatches,
    DebiasedMovingAverage,
    ExponentialMovingAverage,
)
from batchnorm_mechanics.studies.config import Settings

CLASSES = 10
LAST_PRE_ACTIVATION = "last_pre_activation"


class StudyModel(keras.Model):
    """A functional model that obeys a baked `training` flag in evaluation too.

    TensorFlow 2.1, in which the studies were made, normalized by the batch wherever a layer had
    been called with `training=True`. Keras 3 lets `evaluate` and `predict` override the flag.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Pass `training` on, but let the graph decide where Keras says False."""
        return super().call(inputs, training=training or None, mask=mask)

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save as the plain functional model that it is, so that a file needs nothing of ours."""
        plain = keras.Model(self.input, self.output, name=self.name)
        plain.compile(optimizer=self.optimizer, loss=self.loss, metrics=["accuracy"])
        plain.save(filepath, overwrite=overwrite, **kwargs)


def build(settings: Settings, *, pixels: int, seed: int) -> StudyModel:
    """Return the compiled network: dense, batch norm, activation for each hidden layer; logits.

    Args:
        settings: of the study.
        pixels: size of one input row.
        seed: of every kernel's initializer. As in the source, all share it.

    Returns:
        A compiled model from (n, pixels) to (n, 10) logits.
    """
    inputs = outputs = keras.Input((pixels,), name="pixels")
    last = len(settings.hidden_units)
    for number, (units, baked) in enumerate(
        zip(settings.hidden_units, settings.baked_training, strict=True), start=1
    ):
        outputs = keras.layers.Dense(
            units, kernel_initializer=_kernel(settings, seed), name=f"dense_{number}"
        )(outputs)
        layer = _normalization(settings, name=f"batch_norm_{number}")
        if layer is not None:
            outputs = layer(outputs, training=True) if baked else layer(outputs)
        if number == last:
            outputs = keras.layers.Identity(name=LAST_PRE_ACTIVATION)(outputs)
        outputs = keras.layers.Activation(settings.activation, name=f"activation_{number}")(outputs)
    outputs = keras.layers.Dense(
        CLASSES, kernel_initializer=_kernel(settings, seed), name="logits"
    )(outputs)
    model = StudyModel(inputs, outputs, name="study")
    model.compile(
        optimizer=keras.optimizers.get(
            {
                "class_name": settings.optimizer,
                "config": {"learning_rate": settings.learning_rate},
            }
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return model


def _kernel(settings: Settings, seed: int) -> keras.initializers.Initializer:
    if settings.kernel == "gaussian":
        return keras.initializers.RandomNormal(stddev=settings.kernel_scale, seed=seed)
    return keras.initializers.Orthogonal(gain=settings.kernel_scale, seed=seed)


def _normalization(settings: Settings, *, name: str) -> keras.layers.Layer | None:
    common = {"epsilon": settings.epsilon, "name": name}
    if settings.statistics == "none":
        return None
    if settings.statistics == "keras-layer":
        return keras.layers.BatchNormalization(momentum=0.99, **common)
    if settings.statistics == "reversed":
        # (1 - 0.99) of the old value and 0.99 of the batch, from zero.
        return BatchNormalization(
            statistics=ExponentialMovingAverage(decay=0.01),
            moving_variance_initializer="zeros",
            **common,
        )
    policy = {
        "moving-average": ExponentialMovingAverage(decay=0.99),
        "algorithm-2": AverageOfBatches(),
        "debiased": DebiasedMovingAverage(decay=0.99),
    }[settings.statistics]
    return BatchNormalization(statistics=policy, **common)
