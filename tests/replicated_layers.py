"""Tests of one layer, made into tests of a layer on two replicas that share each batch.

What a test creates, it creates under the strategy; where it calls a layer in training on an array,
each replica gets a part, of unequal size where the batch allows it, and the parts are put together
again. The layer is synchronized, and so must be the oracle's on the whole batch.
"""

import contextlib

import numpy as np
import tensorflow as tf
from two_replicas import halves, on_replicas, strategy

import batchnorm_mechanics as bnm


def _divided(layer, x, mask):
    """Return the axis to divide an input along, and two parts of the input and of its mask."""
    # The first that the layer reduces: the samples', unless it keeps that.
    axis = next(axis for axis in range(x.ndim) if axis != layer.axis % x.ndim)
    if mask is None:
        return axis, halves(x, axis), None
    mask = np.asarray(mask)
    whole = mask.ndim <= axis or mask.shape[axis] == 1
    return axis, halves(x, axis), [mask] * 2 if whole else halves(mask, axis)


def step(layer, x, dy, mask=None):
    """Return what a training step gives, as the tests' own `step`, each replica on its part."""
    layer.synchronized = True
    axis, parts, masks = _divided(layer, x, mask)

    def one(x, dy, mask=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
            loss = tf.reduce_sum(tf.cast(dy, y.dtype) * y)
        return y, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])

    results = on_replicas(one, parts, halves(dy, axis), *([] if masks is None else [masks]))
    y, d_x, d_gamma, d_beta = zip(*results, strict=True)
    return {
        "y": tf.concat(y, axis),
        "d_x": tf.concat(d_x, axis),
        "d_gamma": d_gamma[0] + d_gamma[1],
        "d_beta": d_beta[0] + d_beta[1],
        "moving_mean": layer.moving_mean.numpy(),
        "moving_variance": layer.moving_variance.numpy(),
    }


@contextlib.contextmanager
def on_two_replicas(module, monkeypatch):
    """Run what is within under the strategy, calls in training in two parts.

    Args:
        module: of the tests; its `step` is replaced, if it has one.
        monkeypatch: pytest's.
    """
    called = bnm.BatchNormalization.__call__

    def call_in_two_parts(layer, x, training=None, mask=None):
        outside = tf.distribute.in_cross_replica_context() and tf.executing_eagerly()
        if not (training and outside and isinstance(x, np.ndarray)):
            return called(layer, x, training=training, mask=mask)
        layer.synchronized = True
        if not layer.built:
            layer.build(x.shape)
        axis, parts, masks = _divided(layer, x, mask)
        both = on_replicas(
            lambda x, mask=None: called(layer, x, training=True, mask=mask),
            parts,
            *([] if masks is None else [masks]),
        )
        return tf.concat(both, axis)

    if hasattr(module, "step"):
        monkeypatch.setattr(module, "step", step)
    monkeypatch.setattr(bnm.BatchNormalization, "__call__", call_in_two_parts)
    with strategy().scope():
        yield
