"""Small networks to compare, as exports have them, and faults to plant in one batch norm."""

import keras
import numpy as np

from batchnorm_mechanics._keras import layers_in, own_variables
from batchnorm_mechanics.folding.fold import rewritten
from batchnorm_mechanics.folding.plan import plan_of
from batchnorm_mechanics.models.norms import norms_in

L = keras.layers


def settled(model, seed=0):
    """Give each batch norm statistics, gamma and beta, as training leaves them.

    Kernels are NumPy's, too: an export that is kept beside the tests belongs to its network with
    every version of Keras.
    """
    rng = np.random.default_rng(seed)
    norms = {id(norm.layer) for norm in norms_in(model)}
    for weight in [
        w for layer in layers_in(model) if id(layer) not in norms for w in own_variables(layer)
    ]:
        if "float" in weight.dtype:
            spread = 1 / np.sqrt(max(1, np.prod(weight.shape[:-1])))
            weight.assign(rng.normal(0, spread, weight.shape))
    for norm in norms_in(model):
        n = norm.channels
        norm.layer.moving_mean.assign(rng.uniform(0.1, 0.9, n))
        norm.layer.moving_variance.assign(rng.uniform(0.3, 2, n))
        norm.layer.gamma.assign(rng.uniform(0.5, 1.5, n))
        norm.layer.beta.assign(rng.normal(0.3, 0.5, n))
    return model


def data_for(model, rows=8, seed=1):
    shape = model.inputs[0].shape[1:]
    return np.random.default_rng(seed).normal(size=(rows, *shape)).astype("float32")


def mobile(size=8, blocks=2, seed=0):
    """Return a network of inverted residuals, as MobileNetV2's."""
    x = inputs = keras.Input((size, size, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = L.ReLU(6.0, name="stem_relu")(L.BatchNormalization(name="stem_bn")(x))
    for number in range(blocks):
        y = L.Conv2D(16, 1, use_bias=False, name=f"{number}_expand")(x)
        y = L.ReLU(6.0, name=f"{number}_relu")(L.BatchNormalization(name=f"{number}_expand_bn")(y))
        y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{number}_depth")(y)
        y = L.BatchNormalization(name=f"{number}_depth_bn")(y)
        y = L.ReLU(6.0, name=f"{number}_depth_relu")(y)
        y = L.Conv2D(8, 1, use_bias=False, name=f"{number}_project")(y)
        x = L.Add(name=f"{number}_add")([x, L.BatchNormalization(name=f"{number}_project_bn")(y)])
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = L.Dense(5, activation="softmax", name="top")(x)
    return settled(keras.Model(inputs, x, name="mobile"), seed)


def residual(size=8, seed=0):
    """Return a network with batch norm before its convolutions and behind them, and shortcuts."""
    x = inputs = keras.Input((size, size, 4), name="image")
    x = L.ZeroPadding2D(1, name="pad")(x)
    x = L.Conv2D(8, 3, name="stem")(x)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(name="stem_bn")(x))
    for number, strides in enumerate((1, 2)):
        y = L.Conv2D(12, 3, strides, padding="same", name=f"{number}_a")(x)
        y = L.Activation("swish", name=f"{number}_swish")(
            L.BatchNormalization(name=f"{number}_a_bn")(y)
        )
        y = L.BatchNormalization(name=f"{number}_b_bn")(
            L.Conv2D(12, 3, padding="same", name=f"{number}_b")(y)
        )
        short = L.Conv2D(12, 1, strides, name=f"{number}_short")(x)
        short = L.BatchNormalization(name=f"{number}_short_bn")(short)
        x = L.ReLU(name=f"{number}_out")(L.Add(name=f"{number}_add")([y, short]))
    x = L.Flatten(name="flat")(L.MaxPooling2D(2, name="max")(x))
    x = L.Dropout(0.5, name="drop")(L.Dense(6, activation="relu", name="hidden")(x))
    x = L.BatchNormalization(name="last_bn")(x)
    return settled(keras.Model(inputs, L.Dense(3, name="top")(x), name="residual"), seed)


def separable(seed=0):
    """Return a sequential network of separable convolutions."""
    layers = [L.Input((9, 7, 3), name="image")]
    for number, filters in enumerate((6, 8)):
        layers += [
            L.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=f"{number}_sep"),
            L.BatchNormalization(name=f"{number}_bn"),
            L.LeakyReLU(name=f"{number}_leaky"),
        ]
    layers += [L.AveragePooling2D(2, name="mean"), L.Flatten(name="flat"), L.Dense(4, name="top")]
    return settled(keras.Sequential(layers, name="separable"), seed)


def recurrent(seed=0):
    """Return a network with recurrent layers, which LiteRT runs unrolled alone."""
    x = inputs = keras.Input((6, 4), name="steps")
    x = L.Conv1D(5, 3, padding="same", name="conv")(x)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="conv_bn")(x))
    x = L.LSTM(7, return_sequences=True, unroll=True, name="lstm")(x)
    x = L.BatchNormalization(name="lstm_bn")(x)
    x = L.GRU(5, unroll=True, name="gru")(x)
    return settled(keras.Model(inputs, L.Dense(2, name="top")(x), name="recurrent"), seed)


def faulty(model, name, fault):
    """Return a copy of a model with a fault in one batch norm."""
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    (layer,) = (norm.layer for norm in norms_in(other) if norm.name == name)
    FAULTS[fault](layer)
    return other


def folded(model):
    """Return a folded copy: another graph, whose layers keep their names."""
    return rewritten(model, plan_of(model)).model


def _epsilon(layer):
    layer.epsilon = 1e-5


def _swap(one, other):
    def swap(layer):
        a, b = getattr(layer, one).numpy(), getattr(layer, other).numpy()
        getattr(layer, one).assign(b)
        getattr(layer, other).assign(a)

    return swap


def _start(layer):
    layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
    layer.moving_variance.assign(np.ones(layer.moving_variance.shape))


def _square(layer):
    layer.moving_variance.assign(np.square(layer.moving_variance.numpy()))


def _missing(layer):
    layer.epsilon = 0.0
    _start(layer)
    layer.gamma.assign(np.ones(layer.gamma.shape))
    layer.beta.assign(np.zeros(layer.beta.shape))


FAULTS = {
    "epsilon": _epsilon,
    "swapped_statistics": _swap("moving_mean", "moving_variance"),
    "swapped_affine": _swap("gamma", "beta"),
    "initial_statistics": _start,
    "squared_variance": _square,
    "missing": _missing,
}
