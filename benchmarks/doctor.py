"""What the doctor costs beside `model.predict` over the same data, and what repairing gives back.

Run as: python benchmarks/doctor.py
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from importlib import resources

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import batchnorm_mechanics as bnm

layers = keras.layers
TURNS = 3


def digits(part, rows):
    """Return images in [0, 1] of shape (n, 28, 28, 1), and labels."""
    file = resources.files("batchnorm_mechanics") / "studies" / "data" / "mnist.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        x, y = arrays[f"x_{part}"][:rows], arrays[f"y_{part}"][:rows]
    return (x[..., None] / 255).astype("float32"), y.astype("int32")


def convolutional():
    """Return a small network for digits, not trained."""
    model = keras.Sequential([layers.Input((28, 28, 1))])
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        model.add(layers.Conv2D(filters, 3, strides, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def application(name, size):
    """Return a network of Keras's with random weights."""
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)


def repairs():
    """Print the test accuracy of a trained model before, sick and repaired."""
    x, y = digits("train", 20_000)
    x_test, y_test = digits("test", 10_000)
    keras.utils.set_random_seed(0)
    model = convolutional()
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    bnm.recalibrate(model, x, batch_size=64)
    weights = model.get_weights()

    def accuracy():
        return model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]

    before = accuracy()
    rng = np.random.default_rng(0)
    ways = {
        "never updated": lambda n: (np.zeros(n), np.ones(n)),
        "random": lambda n: (rng.normal(0, 3, n), rng.uniform(0.01, 9, n)),
        "NaN": lambda n: (np.full(n, np.nan), np.full(n, np.nan)),
    }
    print("\n| statistics made | test accuracy before | sick | repaired |")
    print("| --- | --- | --- | --- |")
    for name, way in ways.items():
        model.set_weights(weights)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                mean, variance = way(layer.moving_mean.shape[0])
                layer.moving_mean.assign(mean)
                layer.moving_variance.assign(variance)
        sick = accuracy()
        bnm.repair(model, (x, y), batch_size=64)
        print(f"| {name} | {before:.2%} | {sick:.2%} | {accuracy():.2%} |", flush=True)


def costs():
    """Print how long diagnosing and re-estimating take, as multiples of `predict`."""
    rng = np.random.default_rng(0)
    cases = (
        ("3 layers, digits", convolutional(), digits("train", 20_000)[0], 64),
        ("3 layers, digits", convolutional(), digits("train", 20_000)[0], 32),
        ("MobileNetV2, 64 x 64", application("MobileNetV2", 64), 256, 32),
        ("MobileNetV2, 64 x 64", application("MobileNetV2", 64), 4096, 32),
        ("ResNet-50, 96 x 96", application("ResNet50", 96), 512, 32),
    )
    print("\n| model | samples | `predict`, s | `diagnose` | `recalibrate` | `sequential=True` |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, model, given, batch in cases:
        size = model.input_shape[1]
        made = isinstance(given, int)
        x = rng.normal(size=(given, size, size, 3)).astype("float32") if made else given
        calls = {
            "predict": lambda m=model, x=x, b=batch: m.predict(x, batch_size=b, verbose=0),
            "diagnose": lambda m=model, x=x, b=batch: bnm.diagnose(m, x, batch_size=b),
            "recalibrate": lambda m=model, x=x, b=batch: bnm.recalibrate(m, x, batch_size=b),
        }
        for call in calls.values():
            call()
        seconds = {key: [] for key in calls}
        for _ in range(TURNS):
            for key, call in calls.items():
                seconds[key].append(timed(call))
        usual = {key: statistics.median(values) for key, values in seconds.items()}
        slow = "-"
        if not made:
            once = timed(lambda m=model, x=x, b=batch: bnm.recalibrate(m, x, sequential=True))
            slow = f"{once / usual['predict']:.2f} times"
        print(
            f"| {name}, batches of {batch} | {len(x):,} | {usual['predict']:.2f} | "
            f"{usual['diagnose'] / usual['predict']:.2f} times | "
            f"{usual['recalibrate'] / usual['predict']:.2f} times | {slow} |",
            flush=True,
        )


def timed(call):
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def memory():
    """Print the peak memory of processes that diagnose few and many samples."""
    print("\n| samples | peak memory of the process, MB |")
    print("| --- | --- |")
    for rows in (2_000, 20_000, 200_000):
        code = (
            f"import sys; sys.path.insert(0, {sys.path[0]!r}); import doctor; doctor.peak({rows})"
        )
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        print(f"| {rows:,} | {int(output.split()[-1]):,} |", flush=True)


def peak(rows):
    """Diagnose and re-estimate from rows that are made as they are needed; print the peak."""
    import tensorflow as tf

    def batch(number):
        return tf.random.stateless_normal((64, 28, 28, 1), (0, number))

    data = tf.data.Dataset.range(rows // 64).map(lambda n: batch(tf.cast(n, tf.int32)))
    model = convolutional()
    bnm.diagnose(model, data)
    bnm.recalibrate(model, data)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def folds():
    """Print how far folded networks are from the originals, and how much faster they predict."""
    print("\n| model | batch norm layers merged | largest relative difference | prediction |")
    print("| --- | --- | --- | --- |")
    rng = np.random.default_rng(0)
    for name in ("ResNet50", "MobileNetV2"):
        keras.utils.set_random_seed(1)
        model = application(name, 96)
        x = rng.normal(size=(128, 96, 96, 3)).astype("float32")
        bnm.recalibrate(model, x)
        folded = bnm.fold(model, x, batch_size=32)
        merged = f"{folded.count} of {folded.count + len(folded.left)}"
        print(
            f"| {name} | {merged} | {folded.difference:.1e} | {folded.speed:.2f} times as fast |",
            flush=True,
        )


def main():
    """Print all tables in Markdown."""
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"{cores} cores, load average {load:.1f} at the start; medians of {TURNS} in turns.")
    for part in (repairs, costs, memory, folds):
        part()


if __name__ == "__main__":
    main()
