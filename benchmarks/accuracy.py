"""Largest error of the normalized output against float64, ours beside TensorFlow's and Keras's.

Run as: python benchmarks/accuracy.py, which writes benchmarks/records/accuracy.json
"""

import json
from pathlib import Path

import numpy as np
from hardware import describe, limit_process

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference
from batchnorm_mechanics._io.files import write_atomically

RECORD = Path(__file__).parent / "records" / "accuracy.json"
SHAPE, AXES, EPSILON = (64, 14, 14, 32), [0, 1, 2], 1e-3
MEANS = (0, 100, 10_000, 1_000_000)


def composed(x):
    """TensorFlow's own two functions."""
    import tensorflow as tf

    mean, variance = tf.nn.moments(x, AXES)
    return tf.nn.batch_normalization(x, mean, variance, None, None, EPSILON)


def fused(x):
    """TensorFlow's fused operation."""
    import tensorflow as tf

    ones, zeros = tf.ones(SHAPE[-1]), tf.zeros(SHAPE[-1])
    return tf.compat.v1.nn.fused_batch_norm(x, ones, zeros, epsilon=EPSILON)[0]


def keras_layer(x):
    """Keras's layer in training mode."""
    import keras

    return keras.layers.BatchNormalization(epsilon=EPSILON)(x, training=True)


def ours(x):
    """Our forward pass."""
    return bnm.forward(x, axes=AXES, epsilon=EPSILON)[0]


IMPLEMENTATIONS = {
    "`bnm.forward`": ours,
    "`tf.nn.moments` and `tf.nn.batch_normalization`": composed,
    "`FusedBatchNormV3`": fused,
    "`keras.layers.BatchNormalization`": keras_layer,
}


def errors(mean):
    """Return the largest error of each implementation for data of this mean."""
    rng = np.random.default_rng(0)
    x = (mean + rng.normal(size=SHAPE)).astype(np.float32)
    # The oracle takes the same rounded input: what is judged is the computation alone.
    expected = reference.forward(x, None, None, AXES, EPSILON)[0]
    return {
        name: float(np.abs(implementation(x).numpy() - expected).max())
        for name, implementation in IMPLEMENTATIONS.items()
    }


def main():
    """Measure, and write the record."""
    limit_process()
    record = {
        "shape": SHAPE,
        "machine": describe(),
        "errors": [{"mean": mean, **errors(mean)} for mean in MEANS],
    }
    write_atomically(RECORD, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
