"""What the doctor costs beside `model.predict` over the same data, and what folding gives back."""

import functools
import time
from importlib import resources

import numpy as np
from runner import Runner

BATCH = 64
DIGITS, MOBILE_NET = "3 layers, 20,000 digits", "MobileNetV2, 1,024 of 64x64"
DEEP, FEW = "32 layers, 24 samples, the first call", 24
CALLS = ("predict", "diagnose", "recalibrate")
FOLDED = "predict, folded"


def calls(loops, case, call):
    """Return the seconds of as many calls, traced before."""
    import batchnorm_mechanics as bnm

    model, x = _set_up(case, folded=call == FOLDED)
    run = {
        "diagnose": lambda: bnm.diagnose(model, x, batch_size=BATCH),
        "recalibrate": lambda: bnm.recalibrate(model, x, batch_size=BATCH),
    }.get(call, lambda: model.predict(x, batch_size=BATCH, verbose=0))
    start = time.perf_counter()
    for _ in range(loops):
        run()
    return time.perf_counter() - start


def first_calls(loops, call):
    """Return the seconds of as many calls, each of a model of its own that was never called."""
    import keras

    import batchnorm_mechanics as bnm

    x = np.random.default_rng(0).standard_normal((FEW, 32, 32, 3), np.float32)
    seconds = 0.0
    for _ in range(loops):
        keras.utils.set_random_seed(0)
        model = _convolutional(keras, x.shape[1:], 32 * [(16, 1)])
        run = {
            "diagnose": lambda: bnm.diagnose(model, x),  # noqa: B023 - called in this turn
            "predict": lambda: model.predict(x, verbose=0),  # noqa: B023 - likewise
        }[call]
        start = time.perf_counter()
        run()
        seconds += time.perf_counter() - start
    return seconds


@functools.cache
def _set_up(case, *, folded):
    import keras

    import batchnorm_mechanics as bnm

    keras.utils.set_random_seed(0)
    if case == DIGITS:
        x = _digits(20_000)
        model = _convolutional(keras, x.shape[1:], [(16, 1), (32, 2), (64, 2)])
    else:
        make = keras.applications.MobileNetV2
        model = make(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
        x = np.random.default_rng(0).standard_normal((1024, 64, 64, 3), np.float32)
    if folded:
        model = bnm.fold(model, x[:BATCH]).model
    return model, x


def _digits(rows):
    file = resources.files("batchnorm_mechanics") / "studies" / "data" / "mnist.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        return (arrays["x_train"][:rows, ..., None] / 255).astype("float32")


def _convolutional(keras, shape, convolutions):
    """Return a network of convolutions, each of so many filters and strides, with batch norm."""
    layers = keras.layers
    model = keras.Sequential([layers.Input(shape)])
    for filters, strides in convolutions:
        model.add(layers.Conv2D(filters, 3, strides, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


def main():
    """Time every call on every model."""
    runner = Runner(processes=2, values=3)
    for case in (DIGITS, MOBILE_NET):
        for call in (*CALLS, FOLDED):
            runner.time(f"doctor, {case}: {call}", calls, case, call)
    for call in CALLS[:2]:
        runner.time(f"doctor, {DEEP}: {call}", first_calls, call)
    runner.finish()


if __name__ == "__main__":
    main()
