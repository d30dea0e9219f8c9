"""A policy that a user wrote is diagnosed, recalibrated, traced and saved as ours are."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import batchnorm_mechanics as bnm


class Halving(NamedTuple):
    mean: tf.Tensor
    variance: tf.Tensor
    updates: tf.Tensor


@keras.saving.register_keras_serializable("tests")
@dataclass(frozen=True)
class HalvedEachTime(bnm.Policy):
    """Moves by a half at first, then by a quarter, and so on, but never by less than `least`."""

    least: float = 1 / 16

    def init(self, shape: Any, dtype: tf.DType = tf.float32) -> Halving:
        return Halving(tf.zeros(shape, dtype), tf.ones(shape, dtype), tf.zeros(shape, dtype))

    def update(self, state: Halving, mean: Any, variance: Any, count: Any) -> Halving:
        dtype = state.mean.dtype
        share = tf.maximum(tf.cast(self.least, dtype), 0.5 ** (state.updates + 1))
        mean, variance = tf.cast(mean, dtype), tf.cast(variance, dtype)
        return Halving(
            state.mean + share * (mean - state.mean),
            state.variance + share * (variance - state.variance),
            state.updates + 1,
        )


def numbers(rows=640):
    return np.random.default_rng(0).normal([2, -3, 5], [1, 2, 3], (rows, 3)).astype("float32")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    norm = bnm.BatchNormalization(statistics=HalvedEachTime(), name="bn")
    made = keras.Sequential([keras.layers.Input((3,)), norm, keras.layers.Dense(2)])
    made.compile("sgd", "mse")
    made.fit(numbers(), np.zeros((640, 2)), batch_size=32, verbose=0)
    return made


def test_it_is_well_after_training_and_its_gap_is_found_where_there_is_one(model):
    assert not bnm.diagnose(model, numbers()).is_sick
    norm = model.get_layer("bn")
    norm.moving_mean.assign(norm.moving_mean + 10.0)
    (found,) = bnm.diagnose(model, numbers()).findings
    assert (found.code, found.layer) == ("BN201", "bn")


def test_it_is_recalibrated_to_the_population_and_trains_on_from_there(model):
    x, norm = numbers(), model.get_layer("bn")
    bnm.recalibrate(model, x)
    np.testing.assert_allclose(norm.moving_mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var(0), rtol=1e-5)
    # As after one batch of all these samples.
    (updates,) = (weight for weight in norm.weights if weight.name == "updates")
    np.testing.assert_array_equal(updates, 1)
    norm(x + 8.0, training=True)
    np.testing.assert_allclose(norm.moving_mean, x.mean(0) + 2.0, rtol=1e-5)


def test_it_is_repaired(model):
    norm = model.get_layer("bn")
    norm.moving_variance.assign([np.nan, 1.0, 1.0])
    done = bnm.repair(model, numbers())
    assert not done.after.is_sick
    np.testing.assert_allclose(norm.moving_variance[0], numbers()[:, 0].var(), rtol=1e-5)


def test_it_is_traced(model):
    norm = model.get_layer("bn")
    before = norm.moving_mean.numpy()
    after = bnm.trace(norm, numbers(32), training=True)["moving_mean_after"]
    assert after.formula == "HalvedEachTime(least=0.0625)"
    expected = before + (numbers(32).mean(0) - before) / 16
    np.testing.assert_allclose(after.value, expected, rtol=1e-5)


def test_it_is_saved(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("bn").policy == HalvedEachTime()
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_watched(model):
    watch = bnm.Watch(data=numbers())
    model.fit(numbers(), np.zeros((640, 2)), batch_size=32, verbose=0, callbacks=[watch])
    (record,) = watch.records
    assert record.gap < 0.25
