"""Train one study with one seed, and leave its artifacts in a folder."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.layers import ResetStatistics
from batchnorm_mechanics.studies.dataset import Arrays, evaluation_rows, training_epochs
from batchnorm_mechanics.studies.network import LAST_PRE_ACTIVATION, StudyModel, build
from batchnorm_mechanics.studies.registry import Settings, Study, network_settings
from batchnorm_mechanics.studies.runs import Run

# Any unit serves; the paper shows "a typical sigmoid".
TRACKED_UNIT = 0
PERCENTILES = (15, 50, 85)

# The histograms of an epoch take as long as 200 steps of training.
_HISTOGRAM_EPOCHS = 3

Progress = Callable[[int, Mapping[str, float]], None]

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
        self.model.save(self._file)
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
        keras.callbacks.CSVLogger(folder / "history.csv"),
        _Best(folder / "best.keras"),
        keras.callbacks.TensorBoard(
            folder / "tensorboard", histogram_freq=_HISTOGRAM_EPOCHS, write_graph=False
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: progress(epoch + 1, logs)),
    ]
