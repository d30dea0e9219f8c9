"""ResetStatistics resets what it should, when it should."""

import keras
import numpy as np
import pytest

import batchnorm_mechanics as bnm

POLICIES = [None, bnm.AverageOfBatches(), bnm.PooledPopulation(), bnm.DebiasedMovingAverage()]


def fit(model, x, **options):
    model.compile("sgd", "mse")
    return model.fit(x, np.zeros((len(x), 1), "float32"), verbose=0, shuffle=False, **options)


class Watch(keras.callbacks.Callback):
    """Keep the layers' moving means as they are at the start and the end of each epoch."""

    def __init__(self, layers):
        super().__init__()
        self.layers, self.starts, self.ends = layers, [], []

    def seen(self):
        return [layer.moving_mean.numpy().tolist() for layer in self.layers]

    def on_epoch_begin(self, epoch, logs=None):
        self.starts.append(self.seen())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.seen())


def test_statistics_are_reset_at_the_start_of_each_epoch(rng):
    layers = [bnm.BatchNormalization(statistics=policy) for policy in POLICIES]
    inner = keras.Sequential([keras.layers.Input((3,)), layers[0], layers[1]])
    model = keras.Sequential([keras.layers.Input((3,)), inner, *layers[2:], keras.layers.Dense(1)])
    watch = Watch(layers)
    # Of two samples, normalized ones have a mean of exactly 0.
    x = (5 + rng.normal(size=(16, 3))).astype("float32")
    fit(model, x, epochs=3, batch_size=8, callbacks=[bnm.ResetStatistics(), watch])
    assert watch.starts == [[[0.0] * 3] * 4] * 3
    assert all(any(mean) for epoch in watch.ends for mean in epoch)
    # The average of batches says how many samples there were: one epoch's.
    assert layers[1].weights[4].numpy().tolist() == [16, 16, 16]


def test_without_the_callback_statistics_go_on(rng):
    layer = bnm.BatchNormalization(statistics=bnm.PooledPopulation())
    model = keras.Sequential([keras.layers.Input((3,)), layer, keras.layers.Dense(1)])
    fit(model, np.ones((8, 3), "float32"), epochs=3, batch_size=4)
    assert layer.weights[4].numpy().tolist() == [24, 24, 24]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_the_callback_leaves_gamma_and_beta(policy):
    layer = bnm.BatchNormalization(statistics=policy)
    model = keras.Sequential([keras.layers.Input((3,)), layer])
    layer.gamma.assign([2.0, 3.0, 4.0])
    layer.beta.assign([5.0, 6.0, 7.0])
    layer.moving_variance.assign([8.0, 9.0, 10.0])
    callback = bnm.ResetStatistics()
    callback.set_model(model)
    callback.on_epoch_begin(0)
    assert layer.gamma.numpy().tolist() == [2, 3, 4]
    assert layer.beta.numpy().tolist() == [5, 6, 7]
    assert layer.moving_variance.numpy().tolist() == [1, 1, 1]


def test_the_callback_leaves_kerass_layers():
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.layers.Input((3,)), layer])
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    callback = bnm.ResetStatistics()
    callback.set_model(model)
    callback.on_epoch_begin(0)
    assert layer.moving_mean.numpy().tolist() == [1, 2, 3]


def test_the_callback_passes_over_a_model_without_weights():
    callback = bnm.ResetStatistics()
    callback.set_model(keras.Sequential([bnm.BatchNormalization()]))
    callback.on_epoch_begin(0)
