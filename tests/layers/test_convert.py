"""from_keras and to_keras."""

import keras
import numpy as np
import pytest
from oracle_cases import data, whole

import batchnorm_mechanics as bnm

SETTINGS = {
    "axis": 1,
    "epsilon": 1e-4,
    "gamma_initializer": keras.initializers.Constant(2.0),
    "beta_regularizer": keras.regularizers.L1(0.1),
    "gamma_constraint": keras.constraints.NonNeg(),
    "name": "converted",
}


def filled(layer, rng, shape=(6, 3, 5)):
    layer(data(rng, shape, 2.0, "float32"), training=True)
    for weight in layer.weights[:4]:
        weight.assign(rng.uniform(1, 2, weight.shape))
    return layer


def assert_same(one, other, rng):
    x = data(rng, (6, 3, 5), 2.0, "float32")
    for training in (False, True):
        np.testing.assert_allclose(
            one(x, training=training), other(x, training=training), rtol=1e-5, atol=1e-5
        )
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        if getattr(one, name) is not None:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=str)
def test_settings_and_weights_go_from_kerass_layer_to_ours(options, rng):
    theirs = filled(keras.layers.BatchNormalization(momentum=0.8, **SETTINGS, **options), rng)
    ours = bnm.from_keras(theirs)
    for key, value in ours.get_config().items():
        assert value == (None if key == "statistics" else theirs.get_config()[key]), key
    assert_same(ours, theirs, rng)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=str)
def test_settings_and_weights_go_from_our_layer_to_kerass(options, rng):
    ours = filled(bnm.BatchNormalization(momentum=0.8, **SETTINGS, **options), rng)
    theirs = bnm.to_keras(ours)
    assert type(theirs) is keras.layers.BatchNormalization
    for key, value in ours.get_config().items():
        assert key == "statistics" or value == theirs.get_config()[key], key
    assert_same(ours, theirs, rng)


def test_converted_weights_are_copies(rng):
    theirs = filled(keras.layers.BatchNormalization(axis=1), rng)
    ours = bnm.from_keras(theirs)
    again = bnm.to_keras(ours)
    ours.moving_mean.assign([7.0, 8.0, 9.0])
    assert not np.array_equal(theirs.moving_mean, ours.moving_mean)
    np.testing.assert_array_equal(again.moving_mean, theirs.moving_mean)


def test_an_unbuilt_layer_converts_to_an_unbuilt_one():
    assert not bnm.from_keras(keras.layers.BatchNormalization()).built
    assert not bnm.to_keras(bnm.BatchNormalization()).built


@pytest.mark.parametrize("before", [True, False])
def test_a_frozen_layer_stays_frozen(before, rng):
    theirs = keras.layers.BatchNormalization(axis=1, trainable=not before)
    theirs.build((None, 3, 5))
    theirs.trainable = False
    ours = bnm.from_keras(theirs)
    assert not ours.trainable
    assert not bnm.to_keras(ours).trainable


@pytest.mark.parametrize("dtype", ["float64", "mixed_float16"])
def test_a_converted_layer_keeps_its_dtype_policy(dtype):
    theirs = keras.layers.BatchNormalization(dtype=dtype)
    theirs.build((None, 3))
    ours = bnm.from_keras(theirs)
    assert ours.dtype_policy.name == dtype
    assert bnm.to_keras(ours).dtype_policy.name == dtype


def test_a_policy_may_take_the_place_of_the_momentum(rng):
    theirs = filled(keras.layers.BatchNormalization(axis=1, momentum=0.8), rng)
    policy = bnm.PooledPopulation()
    ours = bnm.from_keras(theirs, statistics=policy)
    assert ours.policy == policy
    np.testing.assert_array_equal(ours.moving_mean, theirs.moving_mean)
    np.testing.assert_array_equal(ours.weights[4], [0, 0, 0])


@pytest.mark.parametrize(
    ("policy", "momentum"),
    [
        (bnm.ExponentialMovingAverage(0.7), 0.7),
        (bnm.DebiasedMovingAverage(0.6), 0.6),
        (bnm.PooledPopulation(), 0.99),
        (None, 0.99),
    ],
    ids=str,
)
def test_the_decay_of_the_policy_becomes_kerass_momentum(policy, momentum):
    assert bnm.to_keras(bnm.BatchNormalization(statistics=policy)).momentum == momentum


def test_a_model_is_converted_by_cloning(rng):
    model = keras.Sequential(
        [
            keras.layers.Input((3, 5)),
            filled(keras.layers.BatchNormalization(axis=1), rng),
            keras.layers.Dense(2),
        ]
    )

    def convert(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return bnm.from_keras(layer)
        return layer.from_config(layer.get_config())

    clone = keras.models.clone_model(model, clone_function=convert)
    clone.set_weights(model.get_weights())
    x = data(rng, (6, 3, 5), 2.0, "float32")
    np.testing.assert_allclose(clone(x), model(x), rtol=1e-5, atol=1e-5)


class Subclass(keras.layers.BatchNormalization):
    """Something else than Keras's layer, for all we know."""


@pytest.mark.parametrize(
    "make",
    [Subclass, bnm.BatchNormalization, lambda: keras.layers.Dense(1)],
    ids=["subclass", "ours", "dense"],
)
def test_from_keras_refuses_other_layers(make):
    layer = make()
    message = (
        "from_keras: `layer` must be a keras.layers.BatchNormalization itself. Received: "
        f"layer={layer!r}. A subclass may compute something else; convert it by hand."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.from_keras(layer)


def test_a_synchronized_layer_is_synchronized_on_the_other_side():
    ours = bnm.from_keras(keras.layers.BatchNormalization(synchronized=True))
    assert ours.synchronized
    assert bnm.to_keras(ours).synchronized
    assert not bnm.to_keras(bnm.BatchNormalization()).synchronized


def test_to_keras_refuses_other_layers():
    layer = keras.layers.BatchNormalization()
    message = (
        "to_keras: `layer` must be a batchnorm_mechanics.BatchNormalization. Received: "
        f"layer={layer!r}. Pass one of the model's layers of that type."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.to_keras(layer)
