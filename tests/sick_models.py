"""Files of small models and data for the commands that examine and repair them."""

import fcntl
import hashlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np

from batchnorm_mechanics.studies.dataset import SHIPPED

CUSTOM = """
import os
import time

import keras


class Square(keras.layers.Layer):
    def call(self, inputs):
        return inputs * inputs

    def save_own_variables(self, store):
        if os.environ.get("SQUARE_IS_SLOW"):
            print("saving", flush=True)
            time.sleep(600)
        super().save_own_variables(store)
"""


def digits(rows):
    with np.load(SHIPPED) as arrays:
        x, y = arrays["x_train"][:rows], arrays["y_train"][:rows]
    return (x.reshape(rows, -1) / 255.0).astype("float32"), y.astype("int32")


def trained(x, y):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((784,)),
            keras.layers.Dense(32, use_bias=False, name="dense_1"),
            keras.layers.BatchNormalization(momentum=0.9, name="bn_1"),
            keras.layers.ReLU(),
            keras.layers.Dense(32, use_bias=False, name="dense_2"),
            keras.layers.BatchNormalization(momentum=0.9, name="bn_2"),
            keras.layers.ReLU(),
            keras.layers.Dense(10, name="logits"),
        ],
        name="digits",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    return model


def poison(model):
    """Leave NaN in two channels of the first batch norm, as one bad batch does."""
    norm = model.get_layer("bn_1")
    mean = norm.moving_mean.numpy()
    mean[[3, 17]] = np.nan
    norm.moving_mean.assign(mean)


def write(folder):
    """Write the files, and return the accuracy before the poison.

    They are made once for all processes of a test run, and copied: to train the model takes three
    seconds. What makes them is in the name of the folder in which they are kept.
    """
    made = _kept_beside(folder)
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "accuracy.json").exists():
            accuracy = _make(made)
            (made / "accuracy.json").write_text(json.dumps(accuracy))
    shutil.copytree(
        made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock", "accuracy.json")
    )
    return json.loads((made / "accuracy.json").read_text())


def _kept_beside(folder):
    """Return where all processes of this run keep the files: each has a folder of its own there."""
    run = folder.parent
    if run.name.startswith("popen-gw"):
        run = run.parent
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return run / f"sick-models-{digest[:16]}"


def _make(folder):
    x, y = digits(4000)
    model = trained(x, y)
    accuracy = model.evaluate(x, y, verbose=0)[1]
    model.save(folder / "healthy.keras")
    poison(model)
    model.save(folder / "sick.keras")
    keras.Sequential([keras.layers.Input((784,)), keras.layers.Dense(2)], name="plain").save(
        folder / "plain.keras"
    )
    np.savez(folder / "data.npz", x=x, y=y)
    (folder / "squares.py").write_text(CUSTOM)
    return accuracy


def write_custom(folder):
    """Write a sick model with the layer of `squares.py`."""
    scope = {}
    exec(CUSTOM, scope)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((784,)),
            scope["Square"](),
            keras.layers.BatchNormalization(name="bn_1"),
        ]
    )
    model.get_layer("bn_1").moving_mean.assign(np.full(784, np.nan, "float32"))
    model.save(folder / "custom.keras")
