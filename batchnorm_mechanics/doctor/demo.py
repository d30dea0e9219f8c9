"""A small model on the shipped MNIST that gets sick, is diagnosed and repaired."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.files import written_whole
from batchnorm_mechanics.doctor.findings import Diagnosis
from batchnorm_mechanics.doctor.repair import Repair, repair
from batchnorm_mechanics.models.files import save_model

NAME = "demo"
_SICK, _REPAIRED, _DATA = "sick.keras", "repaired.keras", "data.npz"
_TRAINED, _TESTED, _EPOCHS, _BATCH = 10_000, 2_000, 2, 64
# PyTorch's usual momentum. There it weighs the new value; in Keras it weighs the old one.
_MOMENTUM = 0.1


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demonstration showed.

    Attributes:
        KEPT: files that are kept in a folder, if one is given.
        healthy: accuracy on the test images after training.
        sick: after the accident.
        repaired: after the repair.
        repair: the repair, with the diagnoses before and after.
        seconds: how long all of it took.
    """

    KEPT = (_SICK, _REPAIRED, _DATA)

    healthy: float
    sick: float
    repaired: float
    repair: Repair
    seconds: float

    @property
    def diagnosis(self) -> Diagnosis:
        """Of the sick model."""
        return self.repair.before

    def as_json(self) -> dict[str, Any]:
        """Return what `bnm doctor demo --json` prints."""
        return {
            "accuracy": {"healthy": self.healthy, "sick": self.sick, "repaired": self.repaired},
            "repair": self.repair.as_json(),
            "seconds": self.seconds,
        }


def run(
    say: Callable[[str], None],
    *,
    rows: int = _TRAINED,
    seed: int = 0,
    out: Path | None = None,
) -> Demo:
    """Train a network, make it sick as it happens to people, diagnose it and repair it.

    Its momentum was taken over from PyTorch, and after training one batch with a dead pixel, stored
    as infinity, went through it in training mode.

    Args:
        say: takes a sentence at each stage.
        rows: how many of the 60,000 images to train on.
        seed: of the weights and of the order of the images.
        out: folder for the sick and the repaired model and the data; None keeps nothing.

    Raises:
        InputError: `out` cannot be written to.
    """
    start = time.perf_counter()
    x, y, x_test, y_test = _digits(rows)
    if out is not None:
        _keep_data(out, x, y)
    keras.utils.set_random_seed(seed)
    model = _network()
    say(f"Training a small convolutional network on {rows:,} digits")
    model.fit(x, y, batch_size=_BATCH, epochs=_EPOCHS, verbose=0)
    healthy = _accuracy(model, x_test, y_test)
    say(f"It classifies {healthy:.1%} of the test images. Then one bad batch goes through it:")
    say("a dead pixel, stored as infinity, in training mode")
    _poison(model, x[:_BATCH])
    sick = _accuracy(model, x_test, y_test)
    say(f"Now it classifies {sick:.1%}. Diagnosing and repairing it")
    if out is not None:
        save_model(model, out / _SICK, caller="doctor demo")
    done = repair(model, x, labels=y, batch_size=_BATCH)
    repaired = _accuracy(done.model, x_test, y_test)
    if out is not None:
        save_model(done.model, out / _REPAIRED, caller="doctor demo")
    return Demo(healthy, sick, repaired, done, time.perf_counter() - start)


def _keep_data(folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Make the folder and write the data there, before any work that would be in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / _DATA) as part:
            np.savez(part, x=x, y=y)
    except OSError as error:
        raise InputError(
            "doctor demo: `out` must be a folder that can be written. "
            f"Received: out={str(folder)!r} ({error.strerror or error}). Name another."
        ) from error


def _digits(rows: int) -> tuple[Any, Any, Any, Any]:
    """Return images from 0 to 1 of shape (n, 28, 28, 1) and labels, to train and to test on."""
    file = resources.files("batchnorm_mechanics") / "studies" / "data" / "mnist.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        x, y = arrays["x_train"][:rows], arrays["y_train"][:rows]
        x_test, y_test = arrays["x_test"][:_TESTED], arrays["y_test"][:_TESTED]
    return _scaled(x), y.astype(np.int32), _scaled(x_test), y_test.astype(np.int32)


def _scaled(images: np.ndarray) -> np.ndarray:
    return (images[..., None] / 255.0).astype(np.float32)


def _network() -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, use_bias=False, name="conv_1"),
            layers.BatchNormalization(momentum=_MOMENTUM, name="bn_1"),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv_2"),
            layers.BatchNormalization(momentum=_MOMENTUM, name="bn_2"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(64, use_bias=False, name="dense"),
            layers.BatchNormalization(momentum=_MOMENTUM, name="bn_3"),
            layers.ReLU(),
            layers.Dense(10, name="logits"),
        ],
        name="digits",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _poison(model: Any, images: np.ndarray) -> None:
    """Run one batch with a broken pixel in training mode, as a calibration of one's own does."""
    broken = images.copy()
    broken[0, 14, 14, 0] = np.inf
    model(broken, training=True)


def _accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    predicted = model.predict(x, batch_size=500, verbose=0).argmax(axis=-1)
    return float((predicted == y).mean())
