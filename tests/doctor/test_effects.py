"""Outputs are compared where they can be, and the model is left as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.doctor.outputs import Effects
from batchnorm_mechanics.doctor.sample import kept
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers


class Noise(layers.Layer):
    """Noise in inference too, as of a model that samples."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.seed = keras.random.SeedGenerator(3)

    def call(self, inputs):
        return inputs + self.size * keras.random.normal(keras.ops.shape(inputs), seed=self.seed)


def probe(model, x, batch_size=32):
    return measure(model, norms_in(model), Data(x, None, batch_size))


def ending_in(*parts, shape=(3,), size=None):
    keras.utils.set_random_seed(2)
    first = layers.Input(shape) if size is None else layers.Input(batch_shape=(size, *shape))
    return keras.Sequential(
        [first, layers.Dense(6), layers.BatchNormalization(name="bn"), *parts, layers.Dense(4)]
    )


def numbers(*shape):
    return np.random.default_rng(0).normal(2, 3, shape).astype("float32")


def states(model):
    return [np.array(keras.ops.convert_to_numpy(value)) for value in model.variables]


class OwnNoise(layers.Layer):
    """Noise that no seed of Keras's makes."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, inputs):
        return inputs + self.size * tf.random.normal(tf.shape(inputs))


def carried_by(model):
    return [keras.ops.convert_to_numpy(state).copy() for state in model.layers[0].states]


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_a_random_output_is_not_compared_with_itself(size):
    model = ending_in(OwnNoise(size))
    found = probe(model, numbers(100, 3))
    effects = found.effects
    assert (effects.alone, effects.relative, effects.changed) == (None, None, None)
    assert (effects.alone_if_called, effects.called_by_batch) == (None, ())
    assert found.norms["bn"].own


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_an_output_with_noise_of_keras_is_compared_with_the_same_noise(size):
    model = ending_in(Noise(size))
    before = states(model)
    effects = probe(model, numbers(100, 3)).effects
    without = probe(ending_in(Noise(0.0)), numbers(100, 3)).effects
    assert effects.alone is None
    # Noise widens the spread of the output, which the distance is measured in.
    assert effects.relative == pytest.approx(without.relative, rel=0.05 if size < 1 else 0.6)
    for value, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize(
    ("dtype", "unit"), [("float32", 2**-24), ("mixed_float16", 2**-11), ("mixed_bfloat16", 2**-8)]
)
def test_rounding_is_that_of_the_coarsest_type_in_which_a_layer_computes(dtype, unit):
    model = ending_in(layers.Dense(4, dtype=dtype))
    assert probe(model, numbers(1, 3)).effects.rounding == pytest.approx(3 * np.sqrt(unit))


def test_noise_below_rounding_is_no_obstacle():
    effects = probe(ending_in(Noise(1e-6)), numbers(100, 3)).effects
    assert effects.alone < effects.rounding
    assert effects.relative > 0.1  # the statistics are still mean 0 and variance 1


def test_an_output_that_is_nan_every_time_is_not_random():
    model = ending_in()
    model.get_layer("bn").moving_mean.assign([np.nan] * 6)
    assert probe(model, numbers(100, 3)).effects.relative == np.inf


class Strict(layers.Layer):
    """Takes batches of one size alone."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, inputs):
        tf.debugging.assert_equal(tf.shape(inputs)[0], self.size)
        return inputs


@pytest.mark.parametrize(
    ("size", "rows", "is_known"),
    [(16, 128, True), (16, 32, True), (16, 16, False), (48, 144, True)],
)
def test_a_model_of_one_size_of_batch_is_run_on_that_alone(size, rows, is_known):
    model = ending_in(Strict(size), size=size)
    effects = probe(model, numbers(rows, 3), batch_size=size).effects
    assert effects.alone is effects.alone_if_called is None
    assert (effects.relative is not None) == is_known


def test_a_batch_that_is_larger_than_the_samples_kept_is_compared_with_nothing():
    model = ending_in(size=600)
    effects = probe(model, numbers(1200, 3), batch_size=600).effects
    assert (effects.samples, effects.alone, effects.relative) == (512, None, None)


def test_a_recurrent_state_is_put_back():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            layers.Input(batch_shape=(16, 5, 3)),
            layers.LSTM(4, stateful=True),
            layers.BatchNormalization(name="bn"),
        ]
    )
    model.predict(numbers(16, 5, 3), verbose=0)
    before, carried = states(model), carried_by(model)
    assert all(np.abs(state).max() > 0 for state in carried)
    effects = probe(model, numbers(64, 5, 3), batch_size=16).effects
    assert effects.alone is None  # the state goes on
    assert effects.relative is not None  # and begins anew for each batch that is compared
    np.testing.assert_array_equal(carried_by(model), carried)
    for value, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_states_are_put_back_when_the_run_fails():
    model = keras.Sequential([layers.Input((3,)), layers.Dropout(0.5)])
    before = states(model)

    def run_and_fail():
        with kept(model):
            model(numbers(2, 3), training=True)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run_and_fail()
    np.testing.assert_array_equal(states(model)[0], before[0])


def test_frozen_weights_are_not_copied():
    model = ending_in()
    model.trainable = False
    kernel, mean = model.layers[0].kernel, model.get_layer("bn").moving_mean
    with kept(model):
        kernel.assign(np.full((3, 6), 7.0))
        mean.assign([7.0] * 6)
    # No run moves the one, which may be large; a layer of its own may move the other.
    assert (kernel.numpy().max(), mean.numpy().max()) == (7, 0)


@pytest.mark.parametrize(
    ("relative", "changed", "severity"),
    [
        (0.2, 0.04, "note"),
        (0.3, 0.0, "warning"),
        (0.6, 0.0, "error"),
        (0.0, 0.06, "warning"),
        (0.0, 0.11, "error"),
        (0.2, None, "note"),
        (None, None, "warning"),
    ],
)
def test_a_gap_is_as_bad_as_what_it_does_to_the_output(relative, changed, severity):
    assert Effects(128, 0.0, relative, changed).severity == severity
