"""A step that is computed again in the backward pass moves the statistics once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data

import batchnorm_mechanics as bnm
from batchnorm_mechanics._tensorflow import is_recomputing


def accelerated():
    layer = keras.layers.BatchNormalization(momentum=0.5)
    layer.build((None, 3))
    assert bnm.accelerate(layer).count == 1
    return layer


def ours(**settings):
    layer = bnm.BatchNormalization(**settings)
    layer.build((None, 3))
    return layer


KINDS = {
    "ours": lambda: ours(momentum=0.5),
    "synchronized": lambda: ours(momentum=0.5, synchronized=True),
    "pooled": lambda: ours(statistics=bnm.PooledPopulation()),
    "accelerated": accelerated,
}


def stepped(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(function(x) ** 3)
    return tape.gradient(loss, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("graph", [False, True])
def test_the_statistics_move_once_and_the_gradient_is_the_same(kind, graph, rng):
    plain, again = KINDS[kind](), KINDS[kind]()
    x = tf.constant(data(rng, (8, 3), 5.0, "float32"))
    recomputed = keras.remat(lambda x: again(x, training=True))

    def step(x):
        return stepped(recomputed, x)

    expected = stepped(lambda x: plain(x, training=True), x)
    found = (tf.function(step) if graph else step)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(plain.weights, again.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    if kind == "pooled":
        assert again.non_trainable_weights[2].numpy().tolist() == [8.0] * 3


@pytest.mark.parametrize("mode", ["full", "list_of_layers"])
def test_a_layer_that_keras_rematerializes_trains_in_a_graph(mode, rng):
    x = data(rng, (8, 3), 5.0, "float32")
    with keras.RematScope(mode=mode, layer_names=["bn"]):
        layer = bnm.BatchNormalization(momentum=0.5, name="bn")
    # Keras's own layers fail here: its rematerialization hands on `training` as a keyword.
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((8, 1)), batch_size=8, verbose=0)
    np.testing.assert_allclose(layer.moving_mean, x.mean(0) / 2, rtol=1e-5)


def test_whether_something_is_recomputed_is_known():
    seen = []

    def look(x):
        seen.append(is_recomputing())
        return x * x

    stepped(tf.recompute_grad(look), tf.constant([1.0]))
    stepped(look, tf.constant([1.0]))
    assert seen == [False, True, False]
