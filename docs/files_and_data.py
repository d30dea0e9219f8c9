"""Write docs/files_and_data.md from what bnm says of each: python docs/files_and_data.py."""

import contextlib
import importlib.machinery
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

PAGE = Path(__file__).with_name("files_and_data.md")
INTRODUCTION = """# Which files of models and data bnm reads

Each line was tried: `python docs/files_and_data.py` writes the files with Keras 3, tf-keras 2,
pyarrow and TensorFlow, and this page with what came; a test compares it with what comes now. `bnm
doctor`, `bnm repair`, `bnm fold` and `bnm trace` read all of them alike. Exit code 2 means that the
file was not taken; the message says what to do. Of an old whole model the test compares the outputs
too, with those of the Keras that wrote it.
"""


@dataclass(frozen=True)
class Tried:
    """What was tried, and the command."""

    what: str
    arguments: str


OLD = (
    Tried("Keras 2, sequential, trained: its optimizer has `lr` and `decay`", "sequential.h5"),
    Tried("Keras 2, a graph with depthwise and separable convolutions", "graph.h5"),
    Tried("Keras 2, a model within a model", "nested.h5"),
    Tried("Keras 2, a model called on two inputs", "shared.h5"),
    Tried("Keras 2, recurrent layers and batch norm per time step", "steps.h5"),
    Tried("Keras 2, functions of TensorFlow's in the graph", "functions.h5"),
    Tried("Keras 2, a function that Keras 3 does not store", "clipped.h5"),
    Tried("Keras 2, a loss of one's own", "own_loss.h5"),
    Tried("the same, its loss given", "own_loss.h5 --loss mine.py:own_loss"),
    Tried("the same, with a loss of Keras's", "own_loss.h5 --loss mse"),
    Tried("Keras 2, a layer of one's own, which is not at hand", "own_layer.h5"),
    Tried("the same, named", "own_layer.h5 --custom mine.py:Twice"),
    Tried("Keras 2, Python code in a Lambda", "code.h5"),
    Tried("Keras 2 in the format `.keras`", "two.keras"),
    Tried("Keras 1, by its names of arguments and a list of layers", "one.h5"),
)
WHOLE = (
    Tried("Keras 3", "three.keras"),
    Tried("Keras 3, as HDF5", "three.h5"),
    Tried("SavedModel of tf.keras", "saved"),
    Tried("the same, trusted", "saved --trust"),
    Tried("SavedModel of a class of one's own, trusted", "saved_class --trust"),
)
WEIGHTS = (
    Tried("weights of Keras 3", "three.weights.h5"),
    Tried("the same, with their model", "three.weights.h5 --build mine.py:small"),
    Tried("the same, with a model that has another layer", "three.weights.h5 --build mine.py:wide"),
    Tried("weights of Keras 2", "two_weights.h5 --build mine.py:small"),
    Tried("the same, with a model that has another layer", "two_weights.h5 --build mine.py:wide"),
    Tried("weights of Keras 2 in Keras 3's format", "two.weights.h5 --build mine.py:small"),
    Tried("a TensorFlow checkpoint", "checkpoints/small"),
    Tried("the same, with its model", "checkpoints/small --build mine.py:small"),
    Tried(
        "the same, with a model that has another layer", "checkpoints/small --build mine.py:wide"
    ),
    Tried("the folder of checkpoints", "checkpoints --build mine.py:small"),
    Tried("a checkpoint of a class of one's own", "of_class/it --build mine.py:of_class"),
    Tried("a SavedModel's weights alone", "saved_class --build mine.py:of_class"),
    Tried("a whole old model's weights alone", "sequential.h5 --build mine.py:small"),
    Tried("a function that makes no model", "three.weights.h5 --build mine.py:pairs"),
)
DATA = (
    Tried("`.npz` with `x` and `y`", "three.keras --data xy.npz"),
    Tried("`.npy`", "three.keras --data x.npy"),
    Tried("the first samples alone", "three.keras --data x.npy --samples 5"),
    Tried("scaled", "three.keras --data bytes.npy --scale 1/255"),
    Tried("scaled, and moved", "three.keras --data bytes.npy --scale 1/127.5,-1"),
    Tried("a scale that is none", "three.keras --data bytes.npy --scale a"),
    Tried("a folder of `.npy` files", "three.keras --data shards"),
    Tried("several inputs by name", "two_inputs.keras --layer bn --data inputs.npz"),
    Tried("Parquet, columns of numbers", "three.keras --data numbers.parquet"),
    Tried("Parquet, a column of lists", "three.keras --data lists.parquet"),
    Tried("Parquet, images as Hugging Face keeps them", "images.keras --data images.parquet"),
    Tried("TFRecord, lists of numbers", "three.keras --data numbers.tfrecord"),
    Tried("TFRecord, images", "images.keras --data images.tfrecord"),
    Tried("TFRecord, raw bytes of images", "images.keras --data raw.tfrecord"),
    Tried("images, their labels by folder", "images.keras --data images --scale 1/255"),
    Tried("images in one folder", "images.keras --data images/dogs"),
    Tried("an image that is damaged", "images.keras --data damaged"),
    Tried("a function that returns arrays", "three.keras --data mine.py:arrays"),
    Tried("pairs of inputs and labels", "three.keras --data mine.py:pairs"),
    Tried("a generator of batches", "three.keras --data mine.py:batches"),
    Tried("one without an end", "three.keras --data mine.py:endless --samples 40"),
    Tried("a `tf.data.Dataset`", "three.keras --data mine.py:dataset"),
    Tried("the same, the first samples alone", "three.keras --data mine.py:dataset --samples 5"),
    Tried("several inputs of a function", "two_inputs.keras --layer bn --data mine.py:several"),
    Tried("a function that raises", "three.keras --data mine.py:broken"),
    Tried("a file of no known kind", "three.keras --data mine.py"),
)
# `trace` runs no more of a model than one batch.
COMMANDS = {
    "Models of older Keras": ("doctor", OLD),
    "Other whole models": ("doctor", WHOLE),
    "Weights alone": ("doctor", WEIGHTS),
    "Data": ("trace", DATA),
}
MINE = """
import keras
import numpy as np
import tensorflow as tf

X = np.arange(256, dtype=np.float32).reshape(64, 4)
Y = np.arange(64) % 2


def small(outputs=2):
    return keras.Sequential([
        keras.layers.Input((4,)),
        keras.layers.Dense(3, name="hidden"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.Dense(outputs, name="logits"),
    ])


def wide():
    return small(outputs=5)


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.bn = keras.layers.Dense(3), keras.layers.BatchNormalization()

    def call(self, inputs, training=None):
        return self.bn(self.hidden(inputs), training=training)


def of_class():
    model = Model()
    model(X)
    return model


class Twice(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def own_loss(labels, outputs):
    return keras.ops.mean(keras.ops.abs(labels - outputs) ** 1.5, axis=-1)


def arrays():
    return X


def pairs():
    return X, Y


def batches():
    for start in range(0, 64, 16):
        yield X[start : start + 16], Y[start : start + 16]


def endless():
    while True:
        yield X[:16], Y[:16]


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def several():
    return {"left": X, "right": -X}


def broken():
    raise ValueError("not today")
"""


def write_files(folder: Path) -> None:
    """Write what the commands are given, and `outputs.npz` with what old models make of `x`."""
    (folder / "mine.py").write_text(MINE)
    with warnings.catch_warnings():
        # That formats are old, which is what is tried.
        warnings.simplefilter("ignore")
        _write_models(folder)
        _write_old_models(folder)
    _write_data(folder)


def _write_models(folder: Path) -> None:
    import keras

    layers = keras.layers
    small = _module(folder / "mine.py").small()
    small.save(folder / "three.keras")
    small.save(folder / "three.h5")
    small.save_weights(folder / "three.weights.h5")
    left, right = layers.Input((4,), name="left"), layers.Input((4,), name="right")
    joined = layers.BatchNormalization(name="bn")(layers.Subtract()([left, right]))
    keras.Model([left, right], joined).save(folder / "two_inputs.keras")
    keras.Sequential(
        [layers.Input((8, 8, 3)), layers.BatchNormalization(), layers.GlobalAveragePooling2D()]
    ).save(folder / "images.keras")


def _module(path: Path) -> ModuleType:
    """Import a file that is no part of a package."""
    loader = importlib.machinery.SourceFileLoader(f"{path.stem}_of_the_page", str(path))
    module = ModuleType(loader.name)
    module.__file__ = str(path)
    loader.exec_module(module)
    return module


def _write_old_models(folder: Path) -> None:
    import tensorflow as tf
    import tf_keras as keras

    layers = keras.layers
    keras.utils.set_random_seed(1)

    def norm(name: str = "bn", **options: object) -> object:
        # Statistics that a wrong order of weights would show.
        return layers.BatchNormalization(
            name=name,
            moving_mean_initializer=keras.initializers.RandomUniform(-1, 1, seed=2),
            moving_variance_initializer=keras.initializers.RandomUniform(1, 2, seed=3),
            **options,
        )

    def small(name: str = "small") -> object:
        parts = [layers.Dense(3, name="hidden"), norm(), layers.Dense(2, name="logits")]
        return keras.Sequential([layers.Input((4,)), *parts], name=name)

    def own_loss(labels: object, outputs: object) -> object:
        return tf.reduce_mean(tf.abs(labels - outputs) ** 1.5, axis=-1)

    class Twice(layers.Layer):
        def call(self, inputs: object) -> object:
            return 2 * inputs

    optimizer = keras.optimizers.legacy.Adam(learning_rate=1e-3, decay=1e-4)
    models = {"sequential": small()}
    models["sequential"].compile(optimizer, "mse", metrics=["mae"])
    models["sequential"].train_on_batch(np.ones((8, 4)), np.ones((8, 2)))
    # With slots of the optimizer, and its iterations.
    x = layers.Input((8, 8, 3))
    h = norm("bn1")(layers.Conv2D(4, 3)(x))
    h = layers.LeakyReLU(0.1)(norm("bn2")(layers.DepthwiseConv2D(3)(h)))
    h = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(4, 1)(h))
    models["graph"] = keras.Model(x, layers.Dense(2, activation="softmax")(h))
    x, other = layers.Input((4,)), layers.Input((4,))
    models["nested"] = keras.Model(x, layers.Dense(2)(small("inner")(x)))
    encoder = small("encoder")
    models["shared"] = keras.Model([x, other], layers.Subtract()([encoder(x), encoder(other)]))
    steps = layers.Input((5, 4))
    h = layers.TimeDistributed(norm(), name="td")(layers.LSTM(4, return_sequences=True)(steps))
    models["steps"] = keras.Model(steps, layers.Bidirectional(layers.GRU(3))(h))
    h = tf.nn.relu6(norm()(layers.Dense(2)(x) * 2.0 + 1.0))
    models["functions"] = keras.Model(x, 1.0 - h)
    models["clipped"] = keras.Model(x, tf.clip_by_value(norm()(x), 0.0, 1.0))
    models["own_loss"] = small()
    models["own_loss"].compile("sgd", own_loss)
    models["own_layer"] = keras.Sequential([layers.Input((4,)), Twice(), norm()])
    models["code"] = keras.Sequential([layers.Input((4,)), layers.Lambda(_twice), norm()])
    outputs = {}
    rng = np.random.default_rng(0)
    for name, model in models.items():
        model.save(folder / f"{name}.h5")
        inputs = [rng.normal(size=(6, *one.shape[1:])).astype(np.float32) for one in model.inputs]
        made = model(inputs if len(inputs) > 1 else inputs[0]).numpy()
        outputs |= {f"{name}/{at}": one for at, one in enumerate(inputs)} | {name: made}
    model = models["sequential"]
    model.save(folder / "two.keras")
    _write_keras_1(folder / "sequential.h5", folder / "one.h5")
    for name in ("two", "one"):
        outputs |= {f"{name}/0": outputs["sequential/0"], name: outputs["sequential"]}
    np.savez(folder / "outputs.npz", **outputs)
    model.save(folder / "saved", save_format="tf")
    model.save_weights(folder / "two_weights.h5")
    model.save_weights(folder / "two.weights.h5")
    model.save_weights(folder / "checkpoints" / "small")
    own = _class_of_ones_own(keras)
    own.save(folder / "saved_class", save_format="tf")
    own.save_weights(folder / "of_class" / "it")


def _twice(inputs: object) -> object:
    return 2 * inputs


def _class_of_ones_own(keras: ModuleType) -> object:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = keras.layers.Dense(3)
            self.bn = keras.layers.BatchNormalization()

        def call(self, inputs: object, training: object = None) -> object:
            return self.bn(self.hidden(inputs), training=training)

    model = Model()
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((8, 4)), np.ones((8, 3)))
    return model


def _write_keras_1(old: Path, new: Path) -> None:
    """Write a sequential model's file once more as Keras 1 would have, by what its files held."""
    import h5py

    names = {
        "units": "output_dim",
        "kernel_initializer": "init",
        "kernel_regularizer": "W_regularizer",
        "use_bias": "bias",
        "beta_initializer": "beta_init",
        "gamma_initializer": "gamma_init",
    }
    with h5py.File(old) as before, h5py.File(new, "w") as after:
        layers = json.loads(before.attrs["model_config"])["config"]["layers"][1:]
        for layer in layers:
            config = layer["config"]
            kept = {key: value for key, value in config.items() if "initializer" not in key}
            layer["config"] = {names.get(key, key): value for key, value in kept.items()}
            kind = layer["class_name"]
            layer["config"] |= {"mode": 0} if kind == "BatchNormalization" else {"init": "uniform"}
        layers[0]["config"] |= {"batch_input_shape": [None, 4], "input_dim": 4, "bias": True}
        after.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers})
        before.copy("model_weights", after)


def _write_data(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tensorflow as tf

    x = np.arange(256, dtype=np.float32).reshape(64, 4)
    y = np.arange(64) % 2
    np.savez(folder / "xy.npz", x=x, y=y)
    np.savez(folder / "inputs.npz", left=x, right=-x)
    np.save(folder / "x.npy", x)
    np.save(folder / "bytes.npy", x.astype(np.uint8))
    (folder / "shards").mkdir()
    for number in (2, 10, 1):
        np.save(folder / "shards" / f"part_{number}.npy", x[:number])
    columns = {name: x[:, number] for number, name in enumerate("abcd")}
    pq.write_table(
        pa.table({**columns, "name": ["n"] * 64, "label": y}), folder / "numbers.parquet"
    )
    pq.write_table(pa.table({"x": list(x), "y": y}), folder / "lists.parquet")
    pictures = (np.arange(4 * 9 * 9 * 3) % 251).astype(np.uint8).reshape(4, 9, 9, 3)
    encoded = [tf.io.encode_png(picture).numpy() for picture in pictures]
    cells = [{"bytes": picture, "path": "a.png"} for picture in encoded]
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1]}), folder / "images.parquet")
    for number, picture in enumerate(encoded):
        name = ("cats", "dogs")[number % 2]
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        (folder / "images" / name / f"{number}.png").write_bytes(picture)
    (folder / "damaged").mkdir()
    (folder / "damaged" / "half.png").write_bytes(encoded[0][:40])
    raw = [picture[:8, :8].tobytes() for picture in pictures]
    records = {
        "numbers": [{"x": row, "label": [label]} for row, label in zip(x, y, strict=True)],
        "images": [{"image": [one], "label": [at % 2]} for at, one in enumerate(encoded)],
        "raw": [{"image_raw": [one], "label": [at % 2]} for at, one in enumerate(raw)],
    }
    for name, rows in records.items():
        with tf.io.TFRecordWriter(str(folder / f"{name}.tfrecord")) as writer:
            for row in rows:
                feature = {key: _feature(value) for key, value in row.items()}
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())


def _feature(values: object) -> object:
    import tensorflow as tf

    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], np.floating):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


# The page of bad inputs knows how to run a command.
_BAD_INPUTS = _module(Path(__file__).with_name("bad_inputs.py"))


def row(command: str, tried: Tried) -> str:
    """Run a command in the current folder, and return the line of the page for it."""
    more = " --batch-size 64" if command == "trace" else ""
    given = _BAD_INPUTS.BadInput(tried.what, tried.arguments + more)
    code, out, err = _BAD_INPUTS.said(command, given)
    lines = [line for line in out.splitlines() if line]
    # What was read stands last, and what the model is first.
    came = [] if not lines else [lines[-1] if command == "trace" else lines[0]]
    said = " ".join([*came, *err.splitlines()])
    # Tools that say where, and with which version, are no matter of ours.
    said = _BAD_INPUTS.without_reasons(said) if code == 2 else said
    said = re.sub(r"0x[0-9a-f]+", "0x...", said).replace("|", "\\|")
    return f"| {tried.what} | `bnm {command} {tried.arguments}` | {code} | {said} |"


def lines() -> Iterator[str]:
    """Yield the page, line by line, from what the commands say."""
    yield from INTRODUCTION.splitlines()
    for title, (command, tried) in COMMANDS.items():
        yield f"\n## {title}\n"
        yield "| what was tried | command | code | what came |"
        yield "| --- | --- | --- | --- |"
        for one in tried:
            yield row(command, one)


def page() -> str:
    """Return the page, made in a folder of its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as last:
        write_files(Path(name))
        os.chdir(name)
        last.callback(os.chdir, before)
        return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
