"""Steps of whole networks: with Keras's batch norm, after `accelerate`, and without batch norm.

Each network is compiled and has new random weights. Each is small enough for a step to take a
second at most, and each has its batch norms elsewhere: after separable convolutions of few
channels, in residual blocks, over long sequences, over rows.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from turns import Job, Plan, timed
from worlds_record import ACCELERATED, KERAS, PREDICT, TRAIN, WITHOUT, microseconds

import batchnorm_mechanics as bnm

layers = keras.layers

PLAN = Plan(least=9, most=21, seconds=30.0)
QUICK_PLAN = Plan(least=2, most=2, seconds=0.5)
# A sample is as many steps as take about so long; a single short one would show the clock and the
# scheduler more than the network.
_SAMPLE = 0.1
_MOST_STEPS = 50
# Of the largest logit, or of the loss: rounding errors grow through fifty layers.
_TOLERANCE = 1e-2


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


def named(wanted):
    """Return the networks whose names have one of the texts in them."""
    return [one for one in NETWORKS if any(text in one.name for text in wanted)]


def measure(networks, plan, report):
    """Yield for each network what a record's part "networks" has of it.

    Args:
        networks: some of `NETWORKS`.
        plan: how long to measure each.
        report: told what is being done.
    """
    for number, network in enumerate(networks, 1):
        where = f"network {number}/{len(networks)} {network.name}"
        yield measure_network(network, plan, lambda text, where=where: report(f"{where}: {text}"))
        keras.backend.clear_session()
        gc.collect()


def measure_network(network, plan, report):
    """Check that acceleration changes no result, else refuse it, and time all in turns.

    The first two networks begin with the same weights. The third, whose batch norms pass their
    input on, computes something else: no batch norm can be faster than none.
    """
    report("compiling and checking")
    keras.utils.set_random_seed(0)
    theirs, ours = network.make(network.classes), network.make(network.classes)
    ours.set_weights(theirs.get_weights())
    accelerated = bnm.accelerate(ours)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(network.inputs, np.float32)
    y = rng.integers(0, network.classes, network.labels)
    wrong = disagreement(theirs, ours, x, y)
    refused = {} if wrong is None else {ACCELERATED: wrong}
    models = {KERAS: theirs, ACCELERATED: ours, WITHOUT: without_batch_norm(theirs)}
    calls = {
        name: {
            TRAIN: lambda model=model: model.train_on_batch(x, y),
            PREDICT: lambda model=model: model.predict_on_batch(x),
        }
        for name, model in models.items()
        if name not in refused
    }
    steps = {kind: _steps(call) for kind, call in calls[KERAS].items()}
    report(f"timing, {' and '.join(map(str, steps.values()))} steps a sample")
    jobs = {
        name: {kind: Job(_repeated(call, steps[kind]), steps[kind]) for kind, call in kinds.items()}
        for name, kinds in calls.items()
    }
    samples = timed(jobs, plan, ((KERAS, ACCELERATED),))
    return {
        "network": network.name,
        "batch_norms": accelerated.count + len(accelerated.left),
        "accelerated": accelerated.count,
        "parameters": theirs.count_params(),
        "steps": steps,
        "refused": refused,
        "microseconds": microseconds(samples),
    }


def _steps(call):
    call()
    start = time.perf_counter()
    call()
    return max(1, min(_MOST_STEPS, math.ceil(_SAMPLE / (time.perf_counter() - start))))


def _repeated(call, steps):
    def run():
        for _ in range(steps):
            call()

    return run


def disagreement(first, second, x, y):
    """Say how two models of the same weights differ in a prediction and a training step.

    Args:
        first: what is right.
        second: what is compared with it.
        x: a batch of inputs.
        y: its labels.

    Returns:
        What differs, in words; None if nothing does. Both models have taken a training step.
    """
    for what, results in (
        ("predictions", [model.predict_on_batch(x) for model in (first, second)]),
        (
            "the first training loss",
            [_loss(model.train_on_batch(x, y)) for model in (first, second)],
        ),
        ("predictions after it", [model.predict_on_batch(x) for model in (first, second)]),
    ):
        right, found = (np.asarray(result, np.float64) for result in results)
        error, size = float(np.max(np.abs(found - right))), float(np.max(np.abs(right)))
        if not error <= _TOLERANCE * size:
            return f"{what} differ by {error:.2g}, where the largest is {size:.2g}"
    return None


def _loss(logs):
    return logs[0] if isinstance(logs, list) else logs


class PassOn(layers.Layer):
    """Return the input unchanged; takes the arguments that a batch norm layer takes."""

    def call(self, inputs, training=None, mask=None):
        """Return the input."""
        return inputs


def without_batch_norm(model):
    """Return a model's copy whose batch norm layers pass their input on.

    Args:
        model: functional or sequential, compiled, with Keras's batch norm layers.

    Returns:
        A model of the same layers otherwise, with new random weights, compiled like `model`.
    """
    return keras.models.clone_model(model, clone_function=_copy)


def _copy(layer):
    if isinstance(layer, layers.BatchNormalization):
        return PassOn(name=layer.name)
    return type(layer).from_config(layer.get_config())
