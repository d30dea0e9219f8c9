"""What `bnm.compare` costs beside a call of the slower model, layer by layer as it runs them."""

import functools
import time

import numpy as np
from runner import Runner

SAMPLES = 8
SIZES = (96, 224)
CALLS = ("a call", "compare with the folded model")


def calls(loops, size, call):
    """Return the seconds of as many calls; the first was before."""
    import batchnorm_mechanics as bnm

    model, folded, x = _set_up(size)
    run = {
        CALLS[0]: lambda: model(x, training=False),
        CALLS[1]: lambda: bnm.compare(model, folded, x, samples=SAMPLES),
    }[call]
    run()
    start = time.perf_counter()
    for _ in range(loops):
        run()
    return time.perf_counter() - start


@functools.cache
def _set_up(size):
    import keras

    import batchnorm_mechanics as bnm

    keras.utils.set_random_seed(0)
    make = keras.applications.MobileNetV2
    model = make(weights=None, input_shape=(size, size, 3), classes=10)
    x = np.random.default_rng(0).standard_normal((SAMPLES, size, size, 3), np.float32)
    bnm.recalibrate(model, x)
    return model, bnm.fold(model, x).model, x


def main():
    """Time both at every size."""
    runner = Runner(processes=2, values=3)
    for size in SIZES:
        for call in CALLS:
            runner.time(
                f"compare, MobileNetV2, {SAMPLES} of {size}x{size}: {call}", calls, size, call
            )
    runner.finish()


if __name__ == "__main__":
    main()
