"""Healthy models of many kinds, on handwritten digits: the doctor must find nothing wrong in them.

`healthy(name)` returns a model and the samples that it was trained on. Both are made once a process
and shared: clone a model before you change it.

Each model is trained until its statistics have settled: the learning rate falls to 0, so that at
the end they are of the weights that the model has. ResNet-50 and MobileNetV2 keep random weights,
and their statistics come from one pass over all samples.
"""

import functools

import keras
import numpy as np
from sklearn.datasets import load_digits

import batchnorm_mechanics as bnm

BATCH = 64
STEPS = 280
# Its start weighs 0.9**280, nothing, and its last 20 batches most.
MOMENTUM = 0.9
PICTURES = 160

layers = keras.layers


@functools.cache
def digits():
    """Return 1,797 images of 8 x 8 in [0, 1] with their labels."""
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), y.astype("int32")


def norm(**settings):
    return layers.BatchNormalization(**{"momentum": MOMENTUM, **settings})


def train(model, x, y, *, steps=STEPS, batch=BATCH, rate=0.01, callbacks=()):
    epochs = max(1, steps // (len(x) // batch))
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # An epoch in one call gives the same numbers, and takes half as long.
        steps_per_execution=max(1, steps // epochs),
    )
    full = len(x) // batch * batch
    model.fit(
        x[:full], y[:full], batch_size=batch, epochs=epochs, verbose=0, callbacks=[*callbacks]
    )
    return model, x


def plain_dense():
    x, y = digits()
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(32, use_bias=False),
            norm(),
            layers.ReLU(),
            layers.Dense(32, use_bias=False),
            norm(),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    return train(model, x, y)


def convolution(inputs, filters, **settings):
    hidden = layers.Conv2D(filters, 3, padding="same", use_bias=False, **settings)(inputs)
    return layers.ReLU()(norm()(hidden))


def classifier(inputs, hidden, **settings):
    pooled = layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(inputs, layers.Dense(10, dtype="float32")(pooled), **settings)


def plain_convolutional():
    x, y = digits()
    inputs = layers.Input((8, 8, 1))
    hidden = convolution(convolution(inputs, 12), 16, strides=2)
    return train(classifier(inputs, hidden), x, y)


def residual():
    x, y = digits()
    inputs = layers.Input((8, 8, 1))
    hidden = convolution(inputs, 12, strides=2)
    for _ in range(2):
        branch = convolution(hidden, 12)
        branch = layers.Conv2D(12, 3, padding="same", use_bias=False)(branch)
        branch = norm(gamma_initializer="zeros")(branch)
        hidden = layers.ReLU()(layers.Add()([hidden, branch]))
    return train(classifier(inputs, hidden), x, y)


def depthwise():
    x, y = digits()
    inputs = layers.Input((8, 8, 1))
    hidden = convolution(inputs, 12)
    hidden = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(hidden)
    hidden = layers.ReLU()(norm()(hidden))
    hidden = layers.SeparableConv2D(16, 3, strides=2, use_bias=False)(hidden)
    hidden = layers.ReLU()(norm()(hidden))
    return train(classifier(inputs, hidden), x, y)


def encoder():
    inputs = layers.Input((8, 8, 1))
    hidden = convolution(convolution(inputs, 12), 16, strides=2)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(hidden), name="encoder")


def nested():
    x, y = digits()
    inputs = layers.Input((8, 8, 1))
    hidden = layers.Dense(16, use_bias=False)(encoder()(inputs))
    hidden = layers.ReLU()(norm()(hidden))
    return train(keras.Model(inputs, layers.Dense(10)(hidden)), x, y)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.hidden = [layers.Dense(24, use_bias=False), layers.Dense(24, use_bias=False)]
        self.norms = [norm(), norm()]
        self.out = layers.Dense(10)

    def call(self, inputs, training=None):
        hidden = self.flatten(inputs)
        for dense, normalize in zip(self.hidden, self.norms, strict=True):
            hidden = keras.ops.relu(normalize(dense(hidden), training=training))
        return self.out(hidden)


def subclassed():
    return train(Subclassed(), *digits())


def odd_or_even():
    """Return an encoder that was trained to tell odd digits from even ones."""
    x, y = digits()
    base = encoder()
    train(keras.Sequential([layers.Input((8, 8, 1)), base, layers.Dense(2)]), x, y % 2)
    return base


def frozen_fine_tuned():
    x, y = digits()
    base = odd_or_even()
    base.trainable = False
    inputs = layers.Input((8, 8, 1))
    hidden = layers.Dense(16, use_bias=False)(base(inputs, training=False))
    hidden = layers.ReLU()(norm()(hidden))
    return train(keras.Model(inputs, layers.Dense(10)(hidden)), x, y)


def briefly_fine_tuned():
    """Return a model all of whose layers were trained on for a few steps, at momentum 0.99."""
    x, y = digits()
    base = odd_or_even()
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.99
    inputs = layers.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Dense(10)(base(inputs)))
    return train(model, x, y, steps=28, rate=1e-3)


def mixed_precision():
    x, y = digits()
    inputs = layers.Input((8, 8, 1))
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        hidden = layers.Flatten()(inputs)
        for _ in range(2):
            hidden = layers.Dense(24, use_bias=False)(hidden)
            hidden = layers.ReLU()(norm()(hidden))
        model = keras.Model(inputs, layers.Dense(10, dtype="float32")(hidden))
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    return train(model, x, y)


def long_trained():
    x, y = digits()
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(16, use_bias=False),
            norm(momentum=0.99),
            layers.Activation("tanh"),
            layers.Dense(16, use_bias=False),
            norm(momentum=0.99),
            layers.Activation("tanh"),
            layers.Dense(10),
        ]
    )
    return train(model, x, y, steps=1120)


def channels_first():
    x, y = digits()
    model = keras.Sequential(
        [
            layers.Input((1, 8, 8)),
            layers.Conv2D(12, 3, padding="same", use_bias=False, data_format="channels_first"),
            norm(axis=1),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, use_bias=False, data_format="channels_first"),
            norm(axis=1),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(data_format="channels_first"),
            layers.Dense(10),
        ]
    )
    return train(model, np.moveaxis(x, -1, 1), y)


def renormalized():
    x, y = digits()
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(24, use_bias=False),
            norm(
                renorm=True,
                renorm_momentum=MOMENTUM,
                renorm_clipping={"rmin": 1 / 3, "rmax": 3.0, "dmax": 5.0},
            ),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    return train(model, x, y)


def ours(policies, callbacks=()):
    x, y = digits()
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(24, use_bias=False),
            bnm.BatchNormalization(statistics=policies[0]),
            layers.ReLU(),
            layers.Dense(24, use_bias=False),
            bnm.BatchNormalization(statistics=policies[1]),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    return train(model, x, y, callbacks=callbacks)


def ours_moving():
    return ours([bnm.ExponentialMovingAverage(MOMENTUM), bnm.DebiasedMovingAverage(MOMENTUM)])


def ours_of_an_epoch():
    return ours([bnm.AverageOfBatches(), bnm.PooledPopulation()], [bnm.ResetStatistics()])


def with_statistics_of(model, x):
    """Set all statistics by one pass: every layer's are of its own input, exactly."""
    norms = [one for one in model._flatten_layers() if isinstance(one, layers.BatchNormalization)]
    momenta = [one.momentum for one in norms]
    for one in norms:
        one.momentum = 0.0
    model(x, training=True)
    for one, momentum in zip(norms, momenta, strict=True):
        one.momentum = momentum
    return model, x


def pictures():
    """Return digits as 32 x 32 images of three unlike colours."""
    x = np.kron(digits()[0][:PICTURES], np.ones((1, 4, 4, 1), "float32"))
    return np.concatenate([x, 1 - x, x**2], axis=-1).astype("float32")


def mobilenet_v2():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    return with_statistics_of(model, pictures())


def resnet_50():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    return with_statistics_of(model, pictures())


MAKERS = {
    maker.__name__: maker
    for maker in (
        plain_dense,
        plain_convolutional,
        residual,
        depthwise,
        nested,
        subclassed,
        frozen_fine_tuned,
        briefly_fine_tuned,
        mixed_precision,
        long_trained,
        channels_first,
        renormalized,
        ours_moving,
        ours_of_an_epoch,
        mobilenet_v2,
        resnet_50,
    )
}


@functools.cache
def healthy(name):
    """Return a healthy model and its samples: the same two objects each time in one process."""
    keras.utils.set_random_seed(0)
    return MAKERS[name]()
