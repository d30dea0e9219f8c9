"""What the tests of the layer ask of it, asked of two replicas that share the batch.

The tests are those of tests/layers, in which a step is done in two parts, of unequal size where the
batch allows it, and a model trains under the strategy. A synchronized layer must then be the
oracle's on the whole batch.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from two_replicas import halves, on_replicas, strategy

LAYERS = Path(__file__).parents[1] / "layers"


def module_of(name):
    spec = importlib.util.spec_from_file_location(f"again_{name}", LAYERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ONE_LAYER, MODELS = module_of("test_batch_normalization"), module_of("test_training")

# Those of a training step, and those of a model in `fit`; the others ask nothing of replicas, or
# compare with Keras's layer, whose replicas have statistics of their own.
STEPS = (
    "test_masks_work_for_every_axis",
    "test_a_training_step_at_a_large_mean_is_still_the_oracles",
    "test_a_float64_layer_is_float64_all_the_way",
    "test_epsilon_counts_in_training_and_in_inference",
    "test_a_nan_stays_in_its_channel",
    "test_what_is_masked_out_does_not_reach_the_statistics",
    "test_a_batch_whose_mask_is_empty_leaves_the_statistics",
    "test_a_channel_whose_mask_is_empty_keeps_its_statistics",
)
FITS = (
    "test_a_constraint_holds_and_a_regularizer_pulls_in_fit",
    "test_moving_statistics_after_fit_are_the_oracles",
    "test_reset_at_each_epoch_leaves_the_population_of_the_last_one",
    "test_a_frozen_layer_stays_as_it_is_in_fit",
    "test_a_layer_within_a_layer_is_built_and_trained",
)
globals().update({name: getattr(ONE_LAYER, name) for name in STEPS})
globals().update({name: getattr(MODELS, name) for name in FITS})
float64_by_default = MODELS.float64_by_default


def axis_to_divide(layer, x):
    """Return the first axis that the layer reduces: the samples', unless it keeps that."""
    return next(axis for axis in range(x.ndim) if axis != layer.axis % x.ndim)


def divided(layer, x, mask):
    """Return two parts of an input and of its mask."""
    axis = axis_to_divide(layer, x)
    if mask is None:
        return axis, halves(x, axis), None
    mask = np.asarray(mask)
    whole = mask.ndim <= axis or mask.shape[axis] == 1
    return axis, halves(x, axis), [mask] * 2 if whole else halves(mask, axis)


def step_in_two_parts(layer, x, dy, mask=None):
    """Do what `step` does, each replica on its part."""
    layer.synchronized = True
    axis, parts, masks = divided(layer, x, mask)

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


@pytest.fixture(autouse=True)
def on_two_replicas(monkeypatch):
    """Create what a test creates under the strategy, and call layers in training on two parts."""
    called = ONE_LAYER.bnm.BatchNormalization.__call__

    def call_in_two_parts(layer, x, training=None, mask=None):
        outside = tf.distribute.in_cross_replica_context() and tf.executing_eagerly()
        if not (training and outside and isinstance(x, np.ndarray)):
            return called(layer, x, training=training, mask=mask)
        layer.synchronized = True
        if not layer.built:
            layer.build(x.shape)
        axis, parts, masks = divided(layer, x, mask)
        both = on_replicas(
            lambda x, mask=None: called(layer, x, training=True, mask=mask),
            parts,
            *([] if masks is None else [masks]),
        )
        return tf.concat(both, axis)

    monkeypatch.setattr(ONE_LAYER, "step", step_in_two_parts)
    monkeypatch.setattr(ONE_LAYER.bnm.BatchNormalization, "__call__", call_in_two_parts)
    with strategy().scope():
        yield
