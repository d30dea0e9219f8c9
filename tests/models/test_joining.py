"""`join_replicas`: what it refuses, and how data come to `fit` on several machines."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from two_replicas import strategy

import batchnorm_mechanics as bnm
from batchnorm_mechanics.models import joining


def made_under(scope):
    with scope:
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def test_a_model_must_be_one_of_keras():
    with pytest.raises(TypeError, match="must be a Keras model") as caught:
        bnm.join_replicas("model.keras")
    assert str(caught.value) == (
        "join_replicas: `model` must be a Keras model. Received: model='model.keras'."
    )


def test_a_model_must_be_made_within_the_scope_of_a_strategy():
    model = made_under(tf.distribute.get_strategy().scope())
    with pytest.raises(ValueError, match="within the scope") as caught:
        bnm.join_replicas(model)
    assert str(caught.value) == (
        "join_replicas: `model` must be made within the scope of a MirroredStrategy or a "
        "MultiWorkerMirroredStrategy. Received: a model of _DefaultDistributionStrategy. Make and "
        "compile it under `with strategy.scope():`."
    )


def test_on_one_device_a_model_stays_as_it_is():
    model = made_under(tf.distribute.MirroredStrategy(["CPU:0"]).scope())
    held = dict(vars(model))
    assert bnm.join_replicas(model) == joining.Joined(workers=1, replicas=1, chief=True)
    assert vars(model) == held


def test_uneven_parts_with_weights_are_learnt_as_one_batch(rng):
    x, y = rng.normal(size=(11, 3)).astype("float32"), rng.normal(size=(11, 1)).astype("float32")
    weights = rng.uniform(0.2, 3.0, 11).astype("float32")
    learnt = {}
    for name, scope in {"one": tf.distribute.get_strategy(), "two": strategy()}.items():
        model = made_under(scope.scope())
        model.set_weights([np.full((3, 1), 0.5, "float32"), np.zeros(1, "float32")])
        with scope.scope():
            model.compile(keras.optimizers.SGD(0.1, clipnorm=0.3), "mse")
        if name == "two":
            assert bnm.join_replicas(model) == joining.Joined(1, 2, True)
        # The last of two batches of 8 and 3 is divided in 2 and 1.
        options = {"batch_size": 8, "shuffle": False, "verbose": 0, "sample_weight": weights}
        losses = model.fit(x, y, epochs=2, **options).history["loss"]
        learnt[name] = [*model.get_weights(), losses]
    for one, two in zip(*learnt.values(), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5)


def test_on_several_machines_data_of_a_generator_are_refused(rng):
    given = {"x": (rng.normal(size=(8, 3)) for _ in range(2))}
    with pytest.raises(ValueError, match="Which part of it is whose could not be told"):
        joining._shared_data(strategy(), given)


def test_a_dataset_is_taken_as_it_is():
    given = {"x": tf.data.Dataset.range(3).batch(2), "shuffle": True}
    assert joining._shared_data(strategy(), given) is given


def test_what_is_held_back_for_validation_is_what_fit_holds_back(rng):
    x, y = np.arange(10.0), np.arange(10.0) * 2
    given = joining._split({"x": x, "y": y, "validation_split": 0.25, "epochs": 2})
    np.testing.assert_array_equal(given["x"], x[:7])
    np.testing.assert_array_equal(given["y"], y[:7])
    for held, due in zip(given["validation_data"], (x[7:], y[7:]), strict=True):
        np.testing.assert_array_equal(held, due)
    assert given["epochs"] == 2
    assert "validation_split" not in given


def test_one_seed_gives_one_order_and_another_in_each_epoch():
    x, y = {"a": np.arange(20.0), "b": np.arange(20)}, [np.arange(20) * 3]
    orders = []
    for _ in range(2):
        given = joining._shuffled({"x": x, "y": y, "batch_size": 8, "epochs": 3}, 5)
        assert given["epochs"] == 3
        for _ in range(2):
            batches = list(given["x"].as_numpy_iterator())
            assert [len(batch[0]["a"]) for batch in batches] == [8, 8, 4]
            assert {batch[0]["a"].dtype for batch in batches} == {np.dtype("float32")}
            orders.append(np.concatenate([batch[0]["b"] for batch in batches]))
            (labels,) = zip(*(batch[1] for batch in batches), strict=True)
            np.testing.assert_array_equal(np.concatenate(labels), orders[-1] * 3)
    np.testing.assert_array_equal(orders[:2], orders[2:])
    np.testing.assert_array_equal(np.sort(orders), [np.arange(20)] * 4)
    assert not np.array_equal(*orders[:2])
