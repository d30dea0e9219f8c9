"""A process that measures its own peak of memory: `python -m ... '{"layer": ..., "shape": ...}'`.

It is a process of its own because memory that was given back once is reused without a trace.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

_STEPS = 3
_STATUS = Path("/proc/self/status")


def main() -> None:
    """Run some steps and print by how many bytes they raised the process's peak."""
    request = json.loads(sys.argv[1])
    import_tensorflow_quietly()
    import keras
    import tensorflow as tf

    from batchnorm_mechanics.layers import BatchNormalization

    kind = BatchNormalization if request["layer"] == "ours" else keras.layers.BatchNormalization
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.standard_normal(request["shape"], np.float32)) for _ in range(2))
    layer = kind()
    layer.build(tuple(request["shape"]))
    weights = [weight.value for weight in layer.trainable_weights]

    def step(x: tf.Tensor, dy: tf.Tensor) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return [y, *tape.gradient(y, [x, *weights], output_gradients=[dy])]

    compiled: Any = tf.function(step).get_concrete_function(x, dy)
    before = _start()
    for _ in range(_STEPS):
        compiled(x, dy)
    sys.stdout.write(json.dumps({"bytes": _peak() - before}) + "\n")


def _start() -> int:
    """Forget the peak so far where the system can, and return what is held now, or was at most."""
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    # Kilobytes, except on macOS.
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
