"""Configs, clones, files and weights, and their way to and from Keras's layer."""

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data

import batchnorm_mechanics as bnm
from batchnorm_mechanics import core

KINDS = {"ours": bnm.BatchNormalization, "keras": keras.layers.BatchNormalization}
POLICIES = [
    None,
    bnm.ExponentialMovingAverage(0.7, unbiased=True),
    bnm.DebiasedMovingAverage(0.8),
    bnm.AverageOfBatches(),
    bnm.PooledPopulation(),
    bnm.Renormalization(0.9, 0.8, steps=(1, 3, 5)),
]


class LastState(NamedTuple):
    mean: tf.Tensor
    variance: tf.Tensor
    batches: tf.Tensor


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class LastBatch(bnm.Policy):
    """A user's own policy: the last batch, stretched."""

    stretch: float = 1.0

    def init(self, shape, dtype=tf.float32):
        return LastState(tf.zeros(shape, dtype), tf.ones(shape, dtype), tf.zeros(shape, tf.int32))

    def update(self, state, mean: Any, variance: Any, count: Any):
        return LastState(mean, self.stretch * variance, state.batches + 1)


def model_of(kind="ours", **settings):
    return keras.Sequential(
        [
            keras.layers.Input((4, 5)),
            KINDS[kind](axis=1, **settings),
            keras.layers.Flatten(),
            KINDS[kind](center=False, **settings),
        ]
    )


def trained(model, rng):
    """Leave something in every weight."""
    for _ in range(3):
        model(data(rng, (8, 4, 5), 5.0, "float32"), training=True)
    for weight in model.trainable_weights:
        weight.assign(rng.uniform(1, 2, weight.shape))
    return model


def assert_same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    for index, (a, b) in enumerate(pairs):
        np.testing.assert_array_equal(a, b, err_msg=f"weight {index}")


def assert_same_outputs(one, other, rng, **tolerance):
    x = data(rng, (6, 4, 5), 5.0, "float32")
    for training in (False, True):
        np.testing.assert_allclose(
            one(x, training=training), other(x, training=training), **tolerance
        )


ALL_SETTINGS = {
    "axis": 1,
    "momentum": 0.7,
    "epsilon": 1e-5,
    "center": False,
    "scale": False,
    "beta_initializer": keras.initializers.Constant(1.0),
    "gamma_initializer": keras.initializers.Constant(2.0),
    "moving_mean_initializer": keras.initializers.Constant(3.0),
    "moving_variance_initializer": keras.initializers.Constant(4.0),
    "beta_regularizer": keras.regularizers.L1(0.1),
    "gamma_regularizer": keras.regularizers.L2(0.2),
    "beta_constraint": keras.constraints.NonNeg(),
    "gamma_constraint": keras.constraints.MaxNorm(3.0),
    "synchronized": True,
    "trainable": False,
    "name": "named",
    "dtype": "mixed_bfloat16",
}


def test_every_setting_goes_into_the_config_and_back():
    layer = bnm.BatchNormalization(**ALL_SETTINGS)
    config = layer.get_config()
    again = bnm.BatchNormalization.from_config(config)
    assert again.get_config() == config
    theirs = keras.layers.BatchNormalization(**ALL_SETTINGS).get_config()
    assert {key: config[key] for key in config if key != "statistics"} == {
        key: theirs[key] for key in config if key != "statistics"
    }
    for name, value in ALL_SETTINGS.items():
        if not name.endswith(("initializer", "regularizer", "constraint", "dtype")):
            assert getattr(again, name) == value, name
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert again.gamma_constraint.max_value == 3.0


@pytest.mark.parametrize("policy", [*POLICIES, LastBatch(2.0)], ids=repr)
def test_the_policy_goes_into_the_config_and_back(policy):
    config = bnm.BatchNormalization(statistics=policy).get_config()
    assert bnm.BatchNormalization.from_config(config).statistics == policy


@pytest.mark.parametrize("policy", [*POLICIES, LastBatch(2.0)], ids=repr)
def test_a_saved_model_comes_back_whole(policy, rng, tmp_path):
    model = trained(model_of(statistics=policy), rng)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.statistics for layer in again.layers if hasattr(layer, "statistics")] == [
        policy
    ] * 2
    assert_same_weights(again, model)
    # Trained on, it goes on where it stopped.
    assert_same_outputs(again, model, rng, rtol=0)
    assert_same_weights(again, model)


def test_a_saved_model_that_was_compiled_fits_on(rng, tmp_path):
    model = trained(model_of(statistics=bnm.AverageOfBatches()), rng)
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    again.fit(np.ones((8, 4, 5)), np.ones((8, 20)), verbose=0)
    # 3 batches before, one now, of 8 samples by 5 features each.
    np.testing.assert_array_equal(again.layers[0].weights[4], [4 * 8 * 5] * 4)


def test_a_model_of_a_nested_model_saves_and_comes_back(rng, tmp_path):
    inner = trained(model_of(statistics=bnm.PooledPopulation()), rng)
    model = keras.Sequential([keras.layers.Input((4, 5)), inner, keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_weights(again, model)
    assert_same_outputs(again, model, rng, rtol=0)


def test_a_clone_has_the_settings_and_weights_of_its_own(rng):
    model = trained(model_of(statistics=bnm.PooledPopulation()), rng)
    clone = keras.models.clone_model(model)
    assert clone.layers[0].statistics == bnm.PooledPopulation()
    assert clone.layers[0].moving_mean.numpy().tolist() == [0] * 4
    clone.set_weights(model.get_weights())
    assert_same_weights(clone, model)
    clone(data(rng, (8, 4, 5), 9.0, "float32"), training=True)
    assert not np.array_equal(clone.get_weights()[2], model.get_weights()[2])


@pytest.mark.parametrize(("source", "target"), [("ours", "keras"), ("keras", "ours")])
def test_set_weights_goes_from_one_layer_to_the_other(source, target, rng):
    model, other = trained(model_of(source), rng), model_of(target)
    other.set_weights(model.get_weights())
    assert_same_weights(other, model)
    # Keras's layer rounds in other places.
    assert_same_outputs(model, other, rng, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize(("source", "target"), [("ours", "keras"), ("keras", "ours")])
def test_saved_weights_go_from_one_layer_to_the_other(source, target, suffix, rng, tmp_path):
    model, other = trained(model_of(source), rng), model_of(target)
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
    other.load_weights(path)
    assert_same_weights(other, model)


@pytest.mark.parametrize("policy", POLICIES[2:-1], ids=repr)
def test_kerass_saved_statistics_are_taken_and_what_a_policy_counts_starts_anew(
    policy, rng, tmp_path
):
    theirs = trained(model_of("keras"), rng)
    theirs.save_weights(tmp_path / "model.weights.h5")
    ours = trained(model_of(statistics=policy), rng)
    fresh = model_of(statistics=policy)
    for model in (ours, fresh):
        model.load_weights(tmp_path / "model.weights.h5")
    assert_same_weights(ours, fresh)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        if isinstance(mine, bnm.BatchNormalization):
            for name in ("gamma", "moving_mean", "moving_variance"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(other, name), name)
            for weight in mine.weights[4 if mine.center else 3 :]:
                np.testing.assert_array_equal(weight, np.zeros(weight.shape), weight.name)


def test_a_file_of_too_few_weights_is_refused(rng, tmp_path):
    model = keras.Sequential([keras.layers.Input((3,)), bnm.BatchNormalization(scale=False)])
    model.save_weights(tmp_path / "three.weights.h5")
    other = keras.Sequential([keras.layers.Input((3,)), bnm.BatchNormalization()])
    with pytest.raises(ValueError, match="expected 4 variables, but received 3"):
        other.load_weights(tmp_path / "three.weights.h5")


def test_a_users_policy_works_in_the_layer(rng):
    layer = bnm.BatchNormalization(statistics=LastBatch(2.0))
    x = data(rng, (8, 3), 5.0, "float32")
    for _ in range(2):
        layer(x, training=True)
    # By the layer's own kernel: another may round the last digit otherwise.
    _, (mean, variance, _) = core.normalize_batch(x, axes=[0])
    np.testing.assert_array_equal(layer.moving_mean, mean)
    np.testing.assert_array_equal(layer.moving_variance, 2 * variance)
    assert layer.weights[4].numpy().tolist() == [2, 2, 2]
