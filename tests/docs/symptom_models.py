"""The model and the data that each page about a symptom is followed on.

Each function writes what its page calls the reader's own files, and has the page's name.
"""

from functools import cache

import keras
import numpy as np
from sklearn.datasets import load_digits

layers = keras.layers
TRAINING = 1200


@cache
def digits():
    """Return images (1797, 8, 8, 1) of digits, from 0 to 16, and their labels."""
    found = load_digits()
    return found.images[..., None].astype("float32"), found.target.astype("int32")


def write_data(folder, x, y):
    """Write the data of training and of validation."""
    np.savez(folder / "train.npz", x=x[:TRAINING], y=y[:TRAINING])
    np.savez(folder / "val.npz", x=x[TRAINING:], y=y[TRAINING:])


def convolutions(momentum=0.9, training=None, **settings):
    """Return a classifier of images with two batch norms."""
    keras.utils.set_random_seed(1)
    inputs = hidden = layers.Input((8, 8, 1))
    for end in ("", "_2"):
        hidden = layers.Conv2D(16, 3, use_bias=False, name=f"conv{end}")(hidden)
        norm = layers.BatchNormalization(momentum=momentum, name=f"bn{end}", **settings)
        hidden = layers.ReLU(name=f"relu{end}")(norm(hidden, training=training))
    hidden = layers.Flatten(name="flatten")(hidden)
    return keras.Model(inputs, layers.Dense(10, name="logits")(hidden), name="digits")


def dense(norm, dtype="float32"):
    """Return a classifier of rows of 64 numbers with one normalization."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(32, use_bias=False, dtype=dtype, name="dense"),
            norm,
            layers.ReLU(name="relu"),
            layers.Dense(10, dtype="float32", name="logits"),
        ],
        name="digits",
    )


def train(model, x, y, *, optimizer=None, batch_size=60, epochs=3):
    """Compile and fit a classifier, and return it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    return model


def good_in_training(folder):
    """Train for 60 steps on data far from zero, with a momentum of 0.99."""
    x, y = digits()
    write_data(folder, x + 1000, y)
    train(convolutions(momentum=0.99), x[:TRAINING] + 1000, y[:TRAINING]).save(
        folder / "model.keras"
    )


def fine_tuning(folder):
    """Pretrain on digits, and have them inverted as the new data."""
    x, y = digits()
    trained().save(folder / "base.keras")
    write_data(folder, (16 - x) / 16, y)


@cache
def trained():
    """Return a network that learnt images from 0 to 1: saved by many, changed by none."""
    x, y = digits()
    return train(convolutions(), x[:TRAINING] / 16, y[:TRAINING])


def folding_and_export(folder):
    """Save a network in which all batch norms can be folded."""
    x, y = digits()
    trained().save(folder / "model.keras")
    write_data(folder, x / 16, y)


def _rows():
    """Return the images as rows of 64 numbers from 0 to 1, and their labels."""
    x, y = digits()
    return x.reshape(-1, 64) / 16, y


@cache
def trained_dense():
    x, y = _rows()
    norm = layers.BatchNormalization(momentum=0.9, name="bn")
    return train(dense(norm), x[:TRAINING], y[:TRAINING], epochs=5)


def quantization(folder):
    """Save a network of dense layers, which Keras can quantize."""
    trained_dense().save(folder / "model.keras")
    write_data(folder, *_rows())


def batch_of_one(folder):
    """Train with batches of one."""
    x, y = _rows()
    norm = layers.BatchNormalization(name="bn")
    train(dense(norm), x[:300], y[:300], batch_size=1, epochs=1).save(folder / "model.keras")
    write_data(folder, x, y)


def nan_in_half_precision(folder):
    """Train in float16, its loss scaled, on data with one row that overflows."""
    x, y = _rows()
    write_data(folder, x, y)
    x = x[:TRAINING].copy()
    x[100] *= 1e6
    norm = layers.BatchNormalization(momentum=0.9, dtype="mixed_float16", name="bn")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(3e-3))
    model = dense(norm, dtype="mixed_float16")
    train(model, x, y[:TRAINING], optimizer=scaled, epochs=4).save(folder / "model.keras")


def ported_from_pytorch(folder):
    """Train with PyTorch's settings in Keras's words, and port that with PyTorch's numbers.

    Stands in for a network of PyTorch, which not every machine has: epsilon is 1e-5 there and the
    momentum of 0.1 the weight of the new value. The data are small, as reflectances are.
    """
    x, y = _rows()
    x = x * 0.01
    norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="bn")
    original = train(dense(norm), x[:TRAINING], y[:TRAINING], epochs=5)
    write_data(folder, x, y)
    np.save(folder / "torch_outputs.npy", original.predict(x[TRAINING:], verbose=0))
    ported = dense(layers.BatchNormalization(momentum=0.1, name="bn"))
    ported.set_weights(original.get_weights())
    ported.save(folder / "model.keras")


def averaged_weights(folder):
    """Train with Keras's average of the weights, which `fit` puts in place at its end."""
    x, y = _rows()
    write_data(folder, x, y)
    averaging = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.98)
    norm = layers.BatchNormalization(momentum=0.9, name="bn")
    model = train(dense(norm), x[:TRAINING], y[:TRAINING], optimizer=averaging, epochs=4)
    model.save(folder / "model.keras")


def masks(folder):
    """Write sequences of three to six steps, padded with zeros to twelve."""
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (256, 12, 3)).astype("float32")
    x[np.arange(12) >= rng.integers(3, 7, (256, 1))] = 0
    np.savez(folder / "train.npz", x=x, y=rng.integers(0, 2, 256))


def renorm_or_group_norm(folder):
    """Train with batches of two."""
    x, y = _rows()
    norm = layers.BatchNormalization(momentum=0.9, name="bn")
    train(dense(norm), x[:600], y[:600], batch_size=2, epochs=1).save(folder / "model.keras")
    write_data(folder, x, y)


def one_layer_for_two_inputs(folder):
    """Train one encoder on two kinds of input."""
    rng = np.random.default_rng(1)
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [
            layers.Input((8,)),
            layers.Dense(16, use_bias=False),
            layers.BatchNormalization(momentum=0.9, name="bn"),
            layers.ReLU(),
            layers.Dense(4),
        ],
        name="encoder",
    )
    inputs = [layers.Input((8,), name=name) for name in ("real", "generated")]
    joined = layers.Concatenate()([encoder(one) for one in inputs])
    model = keras.Model(inputs, layers.Dense(1)(joined), name="pairs")
    real, generated = (
        rng.normal(mean, spread, (512, 8)).astype("float32") for mean, spread in ((0, 1), (5, 3))
    )
    y = real[:, :1] * generated[:, :1] / 3
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit([real, generated], y, batch_size=32, epochs=8, verbose=0)
    model.save(folder / "model.keras")
    np.savez(folder / "pairs.npz", real=real, generated=generated, y=y)


def speed(folder):
    """Save a network in which batch norm can be accelerated and folded."""
    folding_and_export(folder)


def compiled_differs_from_eager(folder):
    """Train with a flag in the graph."""
    x, y = digits()
    model = convolutions(training=True)
    train(model, x[:TRAINING] / 16, y[:TRAINING]).save(folder / "model.keras")
    write_data(folder, x / 16, y)
