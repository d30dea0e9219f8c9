import keras
import numpy as np
from networks import disagreement, without_batch_norm


def small(last=1.0):
    network = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(5, kernel_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10, kernel_initializer=keras.initializers.Constant(last)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    return network


def test_models_that_differ_are_told_apart(rng):
    x, y = rng.normal(size=(8, 4)).astype(np.float32), np.arange(8) % 3
    assert disagreement(small(), small(), x, y) is None
    assert "predictions differ by" in disagreement(small(), small(1.2), x, y)


def test_without_batch_norm_a_model_is_its_other_layers_alone(rng):
    network = small()
    network.layers[1].gamma.assign([3.0] * 5)
    bare = without_batch_norm(network)
    x = rng.normal(size=(8, 4)).astype(np.float32)
    # Both kernels are of ones.
    expected = x.sum(axis=1, keepdims=True) * 5 * np.ones((1, 10))
    np.testing.assert_allclose(bare.predict_on_batch(x), expected, rtol=1e-5)
    before = [np.copy(weight) for weight in bare.get_weights()]
    bare.train_on_batch(x, np.arange(8) % 3)
    assert any((a != b).any() for a, b in zip(before, bare.get_weights(), strict=True))
    assert isinstance(network.layers[1], keras.layers.BatchNormalization)
