"""`synchronize` turns it on for a whole model and loses nothing; `unsynchronize` turns it off."""

import keras
import numpy as np
import pytest
from oracle_cases import data, whole
from two_replicas import on_replicas, strategy

import batchnorm_mechanics as bnm
from batchnorm_mechanics.layers import Synchronized

BN = keras.layers.BatchNormalization


def model_of(*, compiled=True):
    inner = keras.Sequential([keras.Input((4,)), BN(momentum=0.5), keras.layers.ReLU()])
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="tanh"),
            bnm.BatchNormalization(momentum=0.5, name="ours"),
            inner,
            BN(epsilon=0.0, name="without"),
            keras.layers.Dense(1),
        ]
    )
    if compiled:
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


def test_everything_but_the_setting_stays(rng, tmp_path):
    x, y = data(rng, (8, 3), dtype="float32"), np.zeros((8, 1), "float32")
    model = model_of()
    model.fit(x, y, verbose=0)
    weights = [weight.numpy() for weight in (*model.weights, *model.optimizer.variables)]
    config = model.get_config()
    layers = list(model._flatten_layers())
    assert bnm.synchronize(model) == Synchronized(2, {"without": "its epsilon is 0.0"})
    for layer, before in zip(model._flatten_layers(), layers, strict=True):
        assert layer is before
    after = [weight.numpy() for weight in (*model.weights, *model.optimizer.variables)]
    for one, other in zip(weights, after, strict=True):
        np.testing.assert_array_equal(one, other)
    changed = str(model.get_config()).replace("'synchronized': True", "'synchronized': False")
    assert changed == str(config)
    # It is part of the model.
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.get_layer("ours").synchronized
    assert bnm.unsynchronize(again) == 2
    assert bnm.unsynchronize(model) == 2
    assert str(model.get_config()) == str(config)
    assert bnm.unsynchronize(model) == 0


def test_keras_layers_compute_it_by_our_kernels(rng):
    with strategy().scope():
        layer = BN(momentum=0.0)
        layer.build((None, 3))
    assert bnm.synchronize(layer) == Synchronized(1, {})
    x = data(rng, (8, 3), 1e4, "float32")
    masks = np.array([[True, True, False, True], [False, True, True, True]])
    y = np.concatenate(
        on_replicas(lambda x, mask: layer(x, training=True, mask=mask), [x[:4], x[4:]], masks)
    )
    counted = x[masks.reshape(-1)].astype("float64")
    std = np.sqrt(counted.var(0) + 1e-3)
    # Keras's own has variance 0 here, and without a word normalizes by each replica's part.
    np.testing.assert_allclose(y, (x - counted.mean(0)) / std, atol=1e-4)


@pytest.mark.parametrize("name", ["synchronize", "unsynchronize"])
def test_what_is_no_model_is_refused(name):
    message = (
        f"{name}: `model` must be a Keras model or layer. Received: model=3. "
        "Pass a keras.Model; what tf_keras or another library makes is none."
    )
    with pytest.raises(TypeError, match=whole(message)):
        getattr(bnm, name)(3)


def test_a_compiled_model_takes_the_change_with_its_next_step(rng):
    x = data(rng, (8, 3), dtype="float32")
    x[4:] += 100
    with strategy().scope():
        model = keras.Sequential([keras.Input((3,)), bnm.BatchNormalization()])
        model.compile(keras.optimizers.SGD(0.0), "mse")

    def loss():
        # The outputs are -1 and 1 where both parts are normalized as one, and so are the labels.
        y = np.repeat([[-1.0], [1.0]], 4, 0).repeat(3, 1).astype("float32")
        return model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history["loss"][0]

    assert loss() > 0.5
    bnm.synchronize(model)
    assert loss() < 0.01
    bnm.unsynchronize(model)
    assert loss() > 0.5
