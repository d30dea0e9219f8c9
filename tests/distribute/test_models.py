"""Models under MirroredStrategy: what their statistics are after `fit`, saved and loaded."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data
from two_replicas import exchanges, halves, on_replicas, strategy

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

BN = keras.layers.BatchNormalization


def shards(rng, size=8):
    """Half of the batch around 0 and half around 100: no replica sees both."""
    x = data(rng, (size, 3), 0.0, "float32")
    x[size // 2 :] += 100
    return x


def local(variable):
    return [one.numpy() for one in strategy().experimental_local_results(variable.value)]


def model_of(*layers, **compiled):
    with strategy().scope():
        model = keras.Sequential([keras.Input((3,)), *(make() for make in layers)])
        model.compile(**{"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", **compiled})
    return model


def fit(model, x, y=None, **options):
    y = np.zeros((len(x), 1), "float32") if y is None else y
    return model.fit(x, y, **{"batch_size": 8, "shuffle": False, "verbose": 0, **options})


dense = functools.partial(keras.layers.Dense, 1)

# After one batch each of these is that batch's statistics; the variance may be the unbiased one.
PROMISE = {
    "moving average": lambda: bnm.BatchNormalization(momentum=0.0),
    "synchronized": lambda: bnm.BatchNormalization(momentum=0.0, synchronized=True),
    "pooled": lambda: bnm.BatchNormalization(statistics=bnm.PooledPopulation()),
    "average of batches": lambda: bnm.BatchNormalization(statistics=bnm.AverageOfBatches()),
    "debiased": lambda: bnm.BatchNormalization(statistics=bnm.DebiasedMovingAverage(0.9)),
    "virtual": lambda: bnm.BatchNormalization(
        statistics=bnm.VirtualBatches(bnm.ExponentialMovingAverage(0.0), 1)
    ),
    "accelerated": lambda: BN(momentum=0.0),
    "accelerated, synchronized": lambda: BN(momentum=0.0, synchronized=True),
}


def test_every_policy_saves_the_statistics_of_the_whole_batch(rng, tmp_path):
    x = shards(rng)
    # All in one model, which is traced once: each is fed what comes in.
    inputs = keras.Input((3,))
    with strategy().scope():
        layers = {name: make() for name, make in PROMISE.items()}
        outputs = [dense()(layer(inputs)) for layer in layers.values()]
        model = keras.Model(inputs, keras.layers.Add()(outputs))
        model.compile("sgd", "mse")
    assert bnm.accelerate(model).count == 2
    fit(model, x)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for name, layer in layers.items():
        unbiased = name == "average of batches"
        variance = x.var(0, ddof=int(unbiased), dtype="float64")
        for loaded in (layer, again.get_layer(layer.name)):
            np.testing.assert_allclose(loaded.moving_mean, x.mean(0), rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(loaded.moving_variance, variance, rtol=1e-5, err_msg=name)
        for weight in layer.non_trainable_weights:
            first, second = local(weight)
            np.testing.assert_array_equal(first, second, err_msg=name)
    assert again.get_layer(layers["synchronized"].name).synchronized


@pytest.mark.parametrize(
    ("compiled", "size"),
    [
        # 8, 8 and 3 samples: the last step divides 2 and 1.
        ({}, 19),
        # And 1: the second replica gets nothing.
        ({"steps_per_execution": 3}, 17),
    ],
    ids=["uneven", "several steps, an empty part"],
)
@pytest.mark.parametrize("synchronized", [False, True])
def test_uneven_batches_count_by_their_size(compiled, size, synchronized, rng):
    x = data(rng, (size, 3), 50.0, "float32")
    layer = functools.partial(
        bnm.BatchNormalization, statistics=bnm.PooledPopulation(), synchronized=synchronized
    )
    model = model_of(layer, dense, **compiled)
    fit(model, x)
    norm = model.layers[0]
    mean, variance, _ = reference.moments(x, 0)
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-4)
    assert norm.non_trainable_weights[2].numpy().tolist() == [size] * 3
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def deep(**options):
    return [
        functools.partial(keras.layers.Dense, 4),
        functools.partial(bnm.BatchNormalization, momentum=0.5, **options),
        functools.partial(keras.layers.Activation, "tanh"),
        functools.partial(BN, momentum=0.5),
        dense,
    ]


def test_synchronized_replicas_train_as_one_with_the_whole_batch(rng):
    x, y = data(rng, (24, 3), 5.0, "float32"), data(rng, (24, 1), 1.0, "float32")
    model = model_of(*deep())
    alone = keras.Sequential([keras.Input((3,)), *(make() for make in deep())])
    alone.compile(keras.optimizers.SGD(0.01), "mse")
    alone.set_weights(model.get_weights())
    assert bnm.synchronize(model).count == 2
    history = fit(model, x, y, epochs=4).history["loss"]
    expected = fit(alone, x, y, epochs=4).history["loss"]
    np.testing.assert_allclose(history, expected, rtol=1e-5)
    for one, other in zip(model.weights, alone.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=one.path)


@pytest.mark.parametrize("synchronized", [True, False])
def test_what_is_recomputed_on_replicas_is_exchanged_again_only_where_it_is_needed(
    synchronized, rng
):
    x = data(rng, (8, 3), 5.0, "float32")
    with strategy().scope():
        layer = bnm.BatchNormalization(momentum=0.5, synchronized=synchronized)
        layer.build((None, 3))

    def gradient(x):
        call = tf.recompute_grad(lambda x: layer(x, training=True))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(call(x) ** 3)
        return tape.gradient(loss, x)

    # Forward and backward of the step, and forward again: the sums of the statistics' gradients.
    assert exchanges(gradient, halves(x)) == (3 if synchronized else 1)
    slopes = on_replicas(gradient, halves(x), graph=True)
    parts = [x] if synchronized else halves(x)
    expected = []
    for part in parts:
        y = reference.forward(part, None, None, 0, 1e-3)[0]
        expected.append(reference.gradients(3 * y**2, part, None, 0, 1e-3)["d_x"])
    np.testing.assert_allclose(
        np.concatenate(slopes), np.concatenate(expected), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(layer.moving_mean, x.mean(0) / 2, rtol=1e-5)


def test_mixed_precision_with_a_scaled_loss_trains_on_two_replicas(rng):
    x, y = data(rng, (24, 3), 5.0, "float32"), data(rng, (24, 1), 1.0, "float32")
    layers = [
        functools.partial(keras.layers.Dense, 4, dtype="mixed_float16"),
        functools.partial(bnm.BatchNormalization, synchronized=True, dtype="mixed_float16"),
        functools.partial(keras.layers.Dense, 1, dtype="float32"),
    ]
    with strategy().scope():
        # Not so large that a gradient overflows: Keras asks the first replica alone whether any
        # did, and takes the step where only the second's is infinite.
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.05), initial_scale=64.0
        )
    model = model_of(*layers, optimizer=optimizer)
    before = model.layers[1].gamma.numpy()
    history = fit(model, x, y, epochs=3).history["loss"]
    assert history[-1] < history[0]
    assert np.any(model.layers[1].gamma.numpy() != before)
    for weight in model.layers[1].weights:
        first, second = local(weight)
        np.testing.assert_array_equal(first, second)
        assert weight.dtype == "float32"
