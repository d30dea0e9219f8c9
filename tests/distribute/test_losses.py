"""The loss of a batch that replicas share against Keras's loss of all of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from two_replicas import on_replicas

from batchnorm_mechanics._keras_training import losses_reduced_by
from batchnorm_mechanics.distribute.losses import loss_of_all_replicas

PARTS = {"even": 4, "uneven": 6, "empty": 8}


def loss_and_slope(loss, y, outputs, weights, mask):
    with tf.GradientTape() as tape:
        outputs = tf.convert_to_tensor(outputs)
        tape.watch(outputs)
        # What is -1 throughout is masked.
        shown = keras.layers.Masking(-1.0)(outputs) if mask else outputs
        value = loss(y, shown, weights)
    return value, tape.gradient(value, outputs)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("mask", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("parts", PARTS)
def test_replicas_have_the_loss_and_the_gradients_of_the_whole_batch(
    parts, weighted, mask, reduction, rng
):
    y, outputs = rng.normal(size=(2, 8, 3, 2)).astype("float32")
    if mask:
        outputs[1:3, 1:] = -1.0
        outputs[7] = -1.0
    weights = rng.uniform(0.2, 3.0, (8, 3)).astype("float32") if weighted else None
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    expected, slope = loss_and_slope(loss, y, outputs, weights, mask)

    def step(y, outputs, *weights):
        with losses_reduced_by(loss_of_all_replicas):
            return loss_and_slope(loss, y, outputs, *(weights or [None]), mask)

    values = [y, outputs] + ([weights] if weighted else [])
    results = on_replicas(step, *(np.split(one, [PARTS[parts]]) for one in values))
    for value, _ in results:
        # Keras multiplies by the number of replicas what it shows.
        np.testing.assert_allclose(2 * value, expected, rtol=2e-6)
    found = np.concatenate([one for _, one in results])
    np.testing.assert_allclose(found, slope, rtol=2e-6, atol=1e-8)


def test_a_loss_that_is_not_reduced_stays_as_it_is(rng):
    y, outputs = rng.normal(size=(2, 4, 1)).astype("float32")
    loss = keras.losses.MeanSquaredError(reduction=None)

    def step(y, outputs):
        with losses_reduced_by(loss_of_all_replicas):
            return loss(y, outputs)

    results = on_replicas(step, np.split(y, 2), np.split(outputs, 2))
    np.testing.assert_array_equal(np.concatenate(results), loss(y, outputs))


def test_outside_of_replicas_and_of_our_steps_keras_reduces(rng):
    y, outputs = rng.normal(size=(2, 4, 1)).astype("float32")
    loss = keras.losses.MeanSquaredError()
    expected = np.mean((y - outputs) ** 2)
    with losses_reduced_by(loss_of_all_replicas):
        np.testing.assert_allclose(loss(y, outputs), expected, rtol=1e-6)
    # Keras's own halves it for one of two.
    for value in on_replicas(loss, [y, y], [outputs, outputs]):
        np.testing.assert_allclose(value, expected / 2, rtol=1e-6)


def test_a_loss_that_is_one_number_for_a_batch_is_refused(rng):
    y = rng.normal(size=(4, 1)).astype("float32")

    class OneNumber(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(y_pred)

    def step(y):
        with losses_reduced_by(loss_of_all_replicas):
            return OneNumber()(y, y)

    with pytest.raises(ValueError, match="one number") as caught:
        on_replicas(step, np.split(y, 2))
    assert str(caught.value) == (
        "join_replicas: a loss must give one value for each sample. Received: a loss that gives "
        "one number. How many samples it stands for cannot be told, and so not what it is on all "
        "replicas; leave the mean over samples to Keras."
    )
