"""Train one study with one seed: its network, and how Keras's `fit` trains it fast.

Imported by worker processes alone: TensorFlow takes seconds.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._io.files import written_whole
from batchnorm_mechanics.layers import BatchNormalization, ResetStatistics
from batchnorm_mechanics.statistics import (
    AverageOfBatches,
    DebiasedMovingAverage,
    ExponentialMovingAverage,
)
from batchnorm_mechanics.studies.dataset import CLASSES, Arrays, evaluation_rows, training_epochs
from batchnorm_mechanics.studies.registry import Run, Settings, Study, network_settings

LAST_PRE_ACTIVATION = "last_pre_activation"

# Any unit serves; the paper shows "a typical sigmoid".
TRACKED_UNIT = 0
PERCENTILES = (15, 50, 85)

# The histograms of an epoch take as long as 200 steps of training.
_HISTOGRAM_EPOCHS = 3

Progress = Callable[[int, Mapping[str, float]], None]


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


# Models of earlier runs, by what they were built from.
Networks = dict[tuple[Settings, int], StudyModel]


class _Tracker(keras.callbacks.Callback):
    """Add test accuracy and the percentiles of one hidden input to the logs of each epoch."""

    def __init__(self, model: keras.Model, arrays: Arrays) -> None:
        super().__init__()
        self._probe = keras.Model(
            model.input, [model.get_layer(LAST_PRE_ACTIVATION).output, model.output]
        )
        self._x = keras.ops.convert_to_tensor(arrays.x_test)
        self._labels = arrays.y_test.argmax(axis=1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure in inference mode, on all test images."""
        inputs, logits = self._probe(self._x, training=False)
        measured = {
            "test_accuracy": np.mean(np.argmax(logits, axis=1) == self._labels),
            **{f"percentile_{q}": np.percentile(inputs[:, TRACKED_UNIT], q) for q in PERCENTILES},
        }
        if logs is not None:
            logs.update({name: float(value) for name, value in measured.items()})


class _Best(keras.callbacks.Callback):
    """Keep the model of the lowest validation loss, and save it when training ends.

    Saving a model takes as long as a fifth of an epoch, and an early one improves often. Nothing is
    lost by waiting: a run that is broken off is done again.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._lowest = math.inf
        self._kept: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Copy the weights and the optimizer's state if the loss is lower than ever."""
        loss = (logs or {}).get("val_loss", math.inf)
        if loss < self._lowest:
            self._lowest = loss
            self._kept = _snapshot(self.model)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save what was kept, and leave the model as training left it."""
        if self._kept is None:
            return
        last = _snapshot(self.model)
        _assign(self.model, self._kept)
        with written_whole(self._file) as part:
            self.model.save(part)
        _assign(self.model, last)


def train(
    study: Study,
    *,
    seed: int,
    arrays: Arrays,
    folder: Path,
    progress: Progress = lambda epoch, logs: None,
    networks: Networks | None = None,
) -> Run:
    """Train the study's network once.

    Args:
        study: what to train.
        seed: of the kernels and of the shuffling.
        arrays: prepared for the study's settings.
        folder: where `history.csv`, `best.keras` (lowest validation loss) and the TensorBoard logs
            go; it exists.
        progress: called after each epoch with its number, from 1, and its logs.
        networks: models of earlier runs. One that fits is taken from there, begun anew, so that XLA
            compiles once for all of them; what is built is put there.

    Returns:
        The `Run`, with accuracies in percent.
    """
    started = time.perf_counter()
    settings = study.settings
    keras.utils.set_random_seed(seed)
    model = _begin(settings, arrays.x_train.shape[1], seed, networks)
    history = model.fit(
        training_epochs(arrays, settings, seed),
        epochs=settings.epochs,
        steps_per_epoch=1 if settings.stream == "continue" else None,
        validation_data=evaluation_rows(
            arrays.x_val, arrays.y_val, settings, batches=settings.validation_batches
        ),
        callbacks=_callbacks(model, arrays, settings, folder, progress),
        # The data are shuffled.
        shuffle=False,
        verbose=0,
    ).history
    test = evaluation_rows(arrays.x_test, arrays.y_test, settings)
    tested = model.evaluate(test, verbose=0, return_dict=True)
    return Run(
        seed=seed,
        train=100 * history["accuracy"][-1],
        val=100 * history["val_accuracy"][-1],
        test=100 * tested["accuracy"],
        seconds=time.perf_counter() - started,
        history={name: [float(value) for value in values] for name, values in history.items()},
    )


def _begin(settings: Settings, pixels: int, seed: int, networks: Networks | None) -> StudyModel:
    """Return the model with its first weights: a new one, or an old one made equal to it."""
    new = build(settings, pixels=pixels, seed=seed)
    if networks is None:
        return new
    kept = networks.setdefault((network_settings(settings), pixels), new)
    if kept is not new:
        # Building takes a tenth of a second, compiling several: values from the new model make
        # sure that an old one begins exactly as it would.
        _assign(kept, _snapshot(new))
    return kept


def _state(model: keras.Model) -> list[Any]:
    """Return the variables that training changes, those of the optimizer included."""
    return [*model.weights, *model.optimizer.variables]


def _snapshot(model: keras.Model) -> list[np.ndarray]:
    """Return copies: what Keras gives may share memory with a variable that goes on changing."""
    return [np.copy(keras.ops.convert_to_numpy(variable)) for variable in _state(model)]


def _assign(model: keras.Model, values: list[np.ndarray]) -> None:
    for variable, value in zip(_state(model), values, strict=True):
        variable.assign(value)


def _callbacks(
    model: keras.Model, arrays: Arrays, settings: Settings, folder: Path, progress: Progress
) -> list[keras.callbacks.Callback]:
    callbacks: list[keras.callbacks.Callback] = []
    if settings.reset_each_epoch:
        callbacks.append(ResetStatistics())
    if settings.track_inputs:
        # First of those that read the logs, so that the others see what it adds.
        callbacks.append(_Tracker(model, arrays))
    return [
        *callbacks,
        # These two grow in their places. A run that is broken off leaves them behind without
        # run.json, which says that they are whole, and is done again in a new folder.
        keras.callbacks.CSVLogger(folder / "history.csv"),
        _Best(folder / "best.keras"),
        keras.callbacks.TensorBoard(
            folder / "tensorboard", histogram_freq=_HISTOGRAM_EPOCHS, write_graph=False
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: progress(epoch + 1, logs)),
    ]
