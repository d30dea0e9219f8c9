"""The studies' network, built from their settings, and how Keras's `fit` trains it fast."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import (
    AverageOfBatches,
    DebiasedMovingAverage,
    ExponentialMovingAverage,
)
from batchnorm_mechanics.studies.registry import Settings

CLASSES = 10
LAST_PRE_ACTIVATION = "last_pre_activation"


class StudyModel(keras.Model):
    """A functional model that `fit` trains an epoch at a time, and that obeys a baked flag.

    A step of so small a network takes less time than the return to Python after it. What Keras
    takes for a step is therefore a whole epoch: one loop over its batches, compiled by XLA. Epochs,
    metrics, callbacks and the history stay Keras's own.

    TensorFlow 2.1, in which the studies were made, normalized by the batch wherever a layer had
    been called with `training=True`. Keras 3 lets `evaluate` and `predict` override the flag.
    """

    batch_size = 0

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Pass `training` on, but let the graph decide where Keras says False."""
        return super().call(inputs, training=training or None, mask=mask)

    @tf.function(jit_compile=True, autograph=False)
    def train_step(self, data: Any) -> Any:
        """Train on an epoch.

        Args:
            data: all images, all labels, the row numbers of each batch, of shape (batches, batch
                size), and how many of these batches to train on. XLA compiles anew for each shape,
                and not for each count.
        """
        images, labels, numbers, count = data
        step = super().train_step

        def train_on(batch: tf.Tensor) -> None:
            rows = numbers[batch]
            step((tf.gather(images, rows), tf.gather(labels, rows)))

        return self._for_each(count, train_on)

    def test_step(self, data: Any) -> Any:
        """Evaluate images and labels in batches, a last smaller one included.

        Without XLA, which would compile for the last batch, and for each number of images, anew.
        """
        images, labels = data
        step = super().test_step

        def evaluate(batch: tf.Tensor) -> None:
            rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            step((images[rows], labels[rows]))

        return self._for_each(-(-tf.shape(images)[0] // self.batch_size), evaluate)

    def _for_each(self, count: tf.Tensor, do: Callable[[tf.Tensor], None]) -> Any:
        """Do something for batches 0 to count - 1 in turn, and return the metrics after it."""

        def body(batch: tf.Tensor) -> tuple[tf.Tensor]:
            do(batch)
            return (batch + 1,)

        tf.while_loop(lambda batch: batch < count, body, [0], parallel_iterations=1)
        return self.get_metrics_result()

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
    model.batch_size = settings.batch_size
    model.compile(
        optimizer=keras.optimizers.get(
            {
                "class_name": settings.optimizer,
                "config": {"learning_rate": settings.learning_rate},
            }
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        # The training step sees to it itself.
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
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
