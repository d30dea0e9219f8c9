"""Train one study with one seed, by `fit`, and leave its artifacts in a folder."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.layers import ResetStatistics
from batchnorm_mechanics.studies.config import Run, Settings, Study
from batchnorm_mechanics.studies.dataset import (
    Arrays,
    evaluation_batches,
    steps_in_epoch,
    training_batches,
)
from batchnorm_mechanics.studies.models import LAST_PRE_ACTIVATION, build

# Any unit serves; the paper shows "a typical sigmoid".
TRACKED_UNIT = 0
PERCENTILES = (15, 50, 85)

# Steps that TensorFlow takes between two returns to Python: a step is 0.2 ms of arithmetic.
_MOST_STEPS_AT_ONCE = 128

# The histograms of an epoch take as long as 200 steps of training.
_HISTOGRAM_EPOCHS = 3

Progress = Callable[[int, Mapping[str, float]], None]


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


class _Report(keras.callbacks.Callback):
    """Tell how far the run is."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Pass the epoch's number, from 1, and its logs on."""
        self._progress(epoch + 1, logs or {})


def train(
    study: Study,
    *,
    seed: int,
    arrays: Arrays,
    folder: Path,
    progress: Progress = lambda epoch, logs: None,
) -> Run:
    """Train the study's network once.

    Args:
        study: what to train.
        seed: of the kernels and of the shuffling.
        arrays: prepared for the study's settings.
        folder: where `history.csv`, `best.keras` (lowest validation loss) and the TensorBoard logs
            go; it exists.
        progress: called after each epoch with its number, from 1, and its logs.

    Returns:
        The `Run`, with accuracies in percent.
    """
    started = time.perf_counter()
    settings = study.settings
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(settings, pixels=arrays.x_train.shape[1], seed=seed)
    steps = steps_in_epoch(len(arrays.x_train), settings)
    model.steps_per_execution = _steps_at_once(steps, settings)
    history = model.fit(
        training_batches(arrays, settings, seed),
        epochs=settings.epochs,
        steps_per_epoch=steps if settings.stream == "continue" else None,
        validation_data=evaluation_batches(
            arrays.x_val, arrays.y_val, settings, batches=settings.validation_batches
        ),
        callbacks=_callbacks(model, arrays, settings, folder, progress),
        shuffle=False,  # the dataset shuffles
        verbose=0,
    ).history
    _, test = model.evaluate(evaluation_batches(arrays.x_test, arrays.y_test, settings), verbose=0)
    return Run(
        seed=seed,
        train=100 * history["accuracy"][-1],
        val=100 * history["val_accuracy"][-1],
        test=100 * test,
        seconds=time.perf_counter() - started,
        history={name: [float(value) for value in values] for name, values in history.items()},
    )


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
        keras.callbacks.CSVLogger(folder / "history.csv"),
        keras.callbacks.ModelCheckpoint(
            folder / "best.keras", monitor="val_loss", save_best_only=True
        ),
        keras.callbacks.TensorBoard(
            folder / "tensorboard", histogram_freq=_HISTOGRAM_EPOCHS, write_graph=False
        ),
        _Report(progress),
    ]


def _steps_at_once(steps: int, settings: Settings) -> int:
    """Return how many steps to run between two returns to Python.

    An endless stream has no end to stop at, so there it must divide the epoch.
    """
    most = min(steps, _MOST_STEPS_AT_ONCE)
    if settings.stream == "restart":
        return most
    return next(divisor for divisor in range(most, 0, -1) if steps % divisor == 0)
