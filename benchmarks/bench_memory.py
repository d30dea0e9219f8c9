"""The peak of memory of training steps, ours beside Keras's layer, above what it began with."""

import resource
import sys
from pathlib import Path

import numpy as np
from runner import Runner

SHAPE = (64, 56, 56, 64)
LAYERS = ("ours", "Keras")
_STEPS = 3
_STATUS = Path("/proc/self/status")


def peak(loops, shape, name):
    """Return by how many bytes steps raise the peak of this process, inputs and graph ready.

    Memory that was given back once is reused without a trace: a process can be asked once.
    """
    import keras
    import tensorflow as tf

    import batchnorm_mechanics as bnm

    kind = bnm.BatchNormalization if name == "ours" else keras.layers.BatchNormalization
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.standard_normal(shape, np.float32)) for _ in range(2))
    layer = kind()
    layer.build(shape)
    weights = [weight.value for weight in layer.trainable_weights]

    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return [y, *tape.gradient(y, [x, *weights], output_gradients=[dy])]

    compiled = tf.function(step).get_concrete_function(x, dy)
    before = _start()
    for _ in range(loops * _STEPS):
        compiled(x, dy)
    return loops * (_peak() - before)


def _start():
    """Forget the peak so far where the system can, and return what is held now, or was at most."""
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak():
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    # Kilobytes, except on macOS.
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    """Measure each layer in processes of its own."""
    runner = Runner(processes=3, values=1, warmups=0)
    for name in LAYERS:
        runner.time(f"memory {SHAPE}: {name}", peak, SHAPE, name, metadata={"unit": "byte"})
    runner.finish()


if __name__ == "__main__":
    main()
