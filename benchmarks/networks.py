"""The networks whose steps `worlds.py` times, each compiled and with new random weights.

Each is small enough for a step to take a second at most, and each has its batch norms elsewhere:
after separable convolutions of few channels, in residual blocks, over long sequences, over rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras

layers = keras.layers


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: as tables show it.
        make: returns it compiled, from the classes that it tells apart.
        inputs: shape of a batch.
        labels: shape of a batch's labels, which are numbers of classes.
        classes: how many classes.
    """

    name: str
    make: Callable[[int], keras.Model]
    inputs: tuple[int, ...]
    labels: tuple[int, ...]
    classes: int


def mini_xception(classes):
    """Return a network for grey faces of 64 x 64, as Arriaga et al. (2017) describe mini-XCEPTION.

    Two convolutions of 8 filters, then four blocks of 16, 32, 64 and 128 filters: two separable
    convolutions and a maximum over 3 x 3 beside a convolution of 1 x 1, both of stride 2, are
    added up. A batch norm after every convolution but the last: 2 + 4 x 3 of them.
    """
    inputs = layers.Input((64, 64, 1))
    x = inputs
    for _ in range(2):
        x = layers.Conv2D(8, 3, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters in (16, 32, 64, 128):
        # The stride apart from the convolution, which gives the same numbers: with oneDNN,
        # TensorFlow 2.21 crashes in the gradient of a 1 x 1 convolution of 8 channels and stride 2.
        short = layers.MaxPooling2D(1, 2, padding="same")(x)
        short = layers.Conv2D(filters, 1, use_bias=False)(short)
        short = layers.BatchNormalization()(short)
        x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Add()([layers.MaxPooling2D(3, 2, padding="same")(x), short])
    x = layers.Conv2D(classes, 3, padding="same")(x)
    return _compiled(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def dilated_residual(classes):
    """Return a residual network over sequences of 10,200, as Jaganathan et al. (2019) use.

    16 units of 32 channels, each twice batch norm, ReLU and a convolution, whose width and dilation
    grow every four units; what every fourth unit gives is summed up: 32 batch norms.
    """
    inputs = layers.Input((10_200, 4))
    x = layers.Conv1D(32, 1)(inputs)
    skips = [layers.Conv1D(32, 1)(x)]
    for width, dilation in ((11, 1), (11, 4), (21, 10), (41, 25)):
        for _ in range(4):
            y = x
            for _ in range(2):
                y = layers.ReLU()(layers.BatchNormalization()(y))
                y = layers.Conv1D(32, width, padding="same", dilation_rate=dilation)(y)
            x = layers.Add()([x, y])
        skips.append(layers.Conv1D(32, 1)(x))
    return _compiled(keras.Model(inputs, layers.Conv1D(classes, 1)(layers.Add()(skips))))


def dense(classes):
    """Return five dense layers of 256 units, each with batch norm and ReLU, for rows of 784."""
    model = keras.Sequential([layers.Input((784,))])
    for _ in range(5):
        model.add(layers.Dense(256, use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.Dense(classes))
    return _compiled(model)


def application(kind):
    """Return what makes one of `keras.applications` for images of 96 x 96, with random weights."""

    def make(classes):
        return _compiled(
            kind(weights=None, input_shape=(96, 96, 3), classes=classes, classifier_activation=None)
        )

    return make


def _compiled(model):
    # A plain optimizer, whose own time is short beside the network's; no XLA, as Keras chooses on
    # a CPU.
    model.compile(
        optimizer=keras.optimizers.SGD(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


NETWORKS = (
    Network("mini-XCEPTION, 32 of 64x64", mini_xception, (32, 64, 64, 1), (32,), 7),
    Network(
        "ResNet50, 32 of 96x96",
        application(keras.applications.ResNet50),
        (32, 96, 96, 3),
        (32,),
        10,
    ),
    Network(
        "MobileNetV2, 32 of 96x96",
        application(keras.applications.MobileNetV2),
        (32, 96, 96, 3),
        (32,),
        10,
    ),
    Network("dilated 1-D, 2 of 10,200", dilated_residual, (2, 10_200, 4), (2, 10_200), 3),
    Network("dense, 128 of 784", dense, (128, 784), (128,), 10),
)
