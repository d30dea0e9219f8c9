"""False alarms of the doctor on healthy models, and what it finds in sick ones, by rule.

Run as: python benchmarks/doctor_models.py [--markdown FILE]

Each architecture is trained for a second or two on data of its own, which no two share, until its
statistics have settled. Healthy are these, on data they did not see, recalibrated, and fine-tuned.
Sick is each with one thing done to it, four things in turn of nine.
"""

import argparse
import os
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import batchnorm_mechanics as bnm
from batchnorm_mechanics._io.files import write_atomically

layers = keras.layers
ROWS, BATCH, STEPS = 768, 32, 96
MOMENTUM = 0.9


# Data of several kinds: inputs, and what is to be learnt of them.


def gaussian(rng, shape=(12,)):
    """Correlated numbers whose scales differ by a hundred."""
    mixed = rng.normal(size=(2 * ROWS, *shape)) @ rng.normal(size=(shape[-1], shape[-1]))
    return mixed * np.geomspace(0.1, 10, shape[-1]) + rng.normal(0, 3, shape[-1])


def counts(rng, shape=(12,)):
    """Numbers of events, most of them 0: their kurtosis is large."""
    return rng.poisson(np.geomspace(0.05, 20, shape[-1]), (2 * ROWS, *shape))


def heavy(rng, shape=(12,)):
    """Incomes, say: exponentials of normal numbers."""
    return np.exp(rng.normal(0, 0.8, (2 * ROWS, *shape)))


def waves(rng, shape=(32, 3)):
    """Sines of a random frequency and phase, with noise."""
    time_ = np.linspace(0, 1, shape[0])[:, None]
    frequency, phase = rng.uniform(1, 9, (2, 2 * ROWS, 1, shape[-1]))
    return np.sin(2 * np.pi * frequency * time_ + phase) + rng.normal(0, 0.1, (2 * ROWS, *shape))


def walks(rng, shape=(32, 3)):
    """Random walks, as of prices: neighbours are nearly alike."""
    return np.cumsum(rng.normal(0, 0.3, (2 * ROWS, *shape)), axis=1)


def textures(rng, shape=(12, 12, 3)):
    """Smooth colour fields from 0 to 1, each picture of a brightness of its own."""
    small = rng.uniform(0, 1, (2 * ROWS, 3, 3, shape[-1]))
    return np.kron(small, np.ones((1, shape[0] // 3, shape[1] // 3, 1)))


def blobs(rng, shape=(12, 12, 1)):
    """One light spot on black, as of a star: most pixels are 0."""
    places = np.stack(np.meshgrid(*map(np.arange, shape[:2]), indexing="ij"), -1)
    centre = rng.uniform(2, shape[0] - 2, (2 * ROWS, 1, 1, 2))
    size = rng.uniform(1, 8, (2 * ROWS, 1, 1))
    return np.exp(-((places - centre) ** 2).sum(-1) / size)[..., None] * np.ones(shape[-1])


def volumes(rng, shape=(6, 6, 6, 1)):
    """Slabs of two densities with noise."""
    edge = rng.integers(1, shape[0], (2 * ROWS, 1, 1, 1, 1))
    slab = np.arange(shape[0]).reshape(1, -1, 1, 1, 1) < edge
    return slab + rng.normal(0, 0.3, (2 * ROWS, *shape))


# Architectures. Each takes the shape of a sample and returns a model with a head of 4 numbers.


def norm(**settings):
    """Return a batch norm whose average settles within the training."""
    return layers.BatchNormalization(**{"momentum": MOMENTUM, **settings})


def dense(shape, activation="relu", widths=(24, 24), **settings):
    """Dense layers."""
    model = keras.Sequential([layers.Input(shape), layers.Flatten()])
    for width in widths:
        model.add(layers.Dense(width, use_bias=False))
        model.add(norm(**settings))
        model.add(layers.Activation(activation))
    model.add(layers.Dense(4))
    return model


def norm_first(shape):
    """Batch norm on the data themselves."""
    model = keras.Sequential([layers.Input(shape), norm(), layers.Flatten()])
    model.add(layers.Dense(16, activation="relu"))
    model.add(norm())
    model.add(layers.Dense(4))
    return model


def after_activation(shape):
    """Batch norm behind the activation, where means are far above 0."""
    model = keras.Sequential([layers.Input(shape), layers.Flatten()])
    for _ in range(3):
        model.add(layers.Dense(20, activation="softplus"))
        model.add(norm())
    model.add(layers.Dense(4))
    return model


def with_dropout(shape):
    """Dropout behind the last batch norm, where it is harmless."""
    model = dense(shape)
    body, head = model.layers[:-1], layers.Dense(4)
    return keras.Sequential([layers.Input(shape), *body, layers.Dropout(0.3), head])


def convolutional(shape, filters=(8, 12), **settings):
    """Convolutions of as many dimensions as the data have."""
    rank = len(shape) - 1
    convolution = getattr(layers, f"Conv{rank}D")
    pool = getattr(layers, f"GlobalAveragePooling{rank}D")
    model = keras.Sequential([layers.Input(shape)])
    for many in filters:
        model.add(convolution(many, 3, padding="same", use_bias=False))
        model.add(norm(**settings))
        model.add(layers.ReLU())
    model.add(pool())
    model.add(layers.Dense(4))
    return model


def residual(shape):
    """Residual branches, whose last gamma begins at 0."""
    inputs = layers.Input(shape)
    hidden = layers.ReLU()(norm()(layers.Conv2D(8, 3, padding="same")(inputs)))
    for _ in range(2):
        branch = layers.Conv2D(8, 3, padding="same", use_bias=False)(hidden)
        branch = layers.ReLU()(norm()(branch))
        branch = layers.Conv2D(8, 3, padding="same", use_bias=False)(branch)
        branch = norm(gamma_initializer="zeros")(branch)
        hidden = layers.ReLU()(layers.Add()([hidden, branch]))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(hidden)))


def mobile(shape):
    """Inverted bottlenecks of depthwise convolutions."""
    inputs = layers.Input(shape)
    hidden = layers.Conv2D(8, 3, strides=2, use_bias=False)(inputs)
    hidden = layers.ReLU(6.0)(norm()(hidden))
    for _ in range(2):
        wide = layers.ReLU(6.0)(norm()(layers.Conv2D(24, 1, use_bias=False)(hidden)))
        wide = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(wide)
        wide = layers.ReLU(6.0)(norm()(wide))
        hidden = layers.Add()([hidden, norm()(layers.Conv2D(8, 1, use_bias=False)(wide))])
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(hidden)))


def recurrent(shape):
    """A recurrent layer between two batch norms."""
    inputs = layers.Input(shape)
    hidden = layers.GRU(12)(norm()(inputs))
    return keras.Model(inputs, layers.Dense(4)(norm()(hidden)))


def bottleneck(shape):
    """An autoencoder's shape, with a head."""
    inputs = layers.Input(shape)
    hidden = layers.Flatten()(inputs)
    for width in (24, 6, 24):
        hidden = layers.ReLU()(norm()(layers.Dense(width, use_bias=False)(hidden)))
    return keras.Model(inputs, layers.Dense(4)(hidden))


def upsampling(shape):
    """Down by a stride and up again by a transposed convolution."""
    inputs = layers.Input(shape)
    hidden = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    hidden = layers.ReLU()(norm()(hidden))
    hidden = layers.Conv2DTranspose(8, 3, strides=2, padding="same", use_bias=False)(hidden)
    hidden = layers.ReLU()(norm()(hidden))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(hidden)))


def two_models(shape):
    """A generator before a critic, each a model with batch norms of its own."""
    width = int(np.prod(shape))
    generator = keras.Sequential([layers.Input(shape), layers.Flatten()], name="generator")
    generator.add(layers.Dense(16, use_bias=False))
    generator.add(norm())
    generator.add(layers.ReLU())
    generator.add(layers.Dense(width))
    critic = dense((width,), activation="leaky_relu")
    inputs = layers.Input(shape)
    return keras.Model(inputs, critic(generator(inputs)))


def two_branches(shape):
    """Two ways through the model, joined."""
    inputs = layers.Input(shape)
    flat = layers.Flatten()(inputs)
    one = layers.ReLU()(norm()(layers.Dense(16, use_bias=False)(flat)))
    other = layers.Activation("tanh")(norm()(layers.Dense(16, use_bias=False)(flat)))
    joined = norm()(layers.Dense(16)(layers.Concatenate()([one, other])))
    return keras.Model(inputs, layers.Dense(4)(layers.ReLU()(joined)))


class Subclassed(keras.Model):
    """A model whose own code calls its layers."""

    def __init__(self):
        super().__init__()
        self.flatten, self.out = layers.Flatten(), layers.Dense(4)
        self.hidden = [layers.Dense(20, use_bias=False) for _ in range(2)]
        self.norms = [norm() for _ in range(2)]

    def call(self, inputs, training=None):
        hidden = self.flatten(inputs)
        for layer, one in zip(self.hidden, self.norms, strict=True):
            hidden = keras.ops.relu(one(layer(hidden), training=training))
        return self.out(hidden)


def subclassed(_shape):
    """A model whose own code calls its layers."""
    return Subclassed()


def ours(shape):
    """Our layer with a start that weighs nothing."""
    model = keras.Sequential([layers.Input(shape), layers.Flatten()])
    for _ in range(2):
        model.add(layers.Dense(20, use_bias=False))
        model.add(bnm.BatchNormalization(statistics=bnm.DebiasedMovingAverage(MOMENTUM)))
        model.add(layers.ReLU())
    model.add(layers.Dense(4))
    return model


ARCHITECTURES = {
    "dense, normal numbers": (dense, gaussian),
    "dense, counts": (dense, counts),
    "dense, heavy tails": (dense, heavy),
    "deep dense": (lambda shape: dense(shape, "tanh", (24,) * 5), gaussian),
    "narrow dense": (lambda shape: dense(shape, "relu", (3, 3)), heavy),
    "norm on the data": (norm_first, gaussian),
    "norm on counts": (norm_first, counts),
    "norm behind activations": (after_activation, heavy),
    "dropout at the end": (with_dropout, gaussian),
    "no gamma and beta": (lambda shape: dense(shape, scale=False, center=False), gaussian),
    "1-D, waves": (convolutional, waves),
    "1-D, walks": (convolutional, walks),
    "2-D, textures": (convolutional, textures),
    "2-D, blobs": (convolutional, blobs),
    "3-D": (lambda shape: convolutional(shape, (4, 6)), volumes),
    "residual": (residual, textures),
    "mobile": (mobile, blobs),
    "recurrent": (recurrent, waves),
    "recurrent, walks": (recurrent, walks),
    "bottleneck": (bottleneck, textures),
    "up and down": (upsampling, blobs),
    "two models": (two_models, gaussian),
    "two branches": (two_branches, counts),
    "subclassed": (subclassed, heavy),
    "our layer": (ours, gaussian),
}


def trained(make, data, seed):
    """Return a model that has been trained, the data it saw, and as many of the same kind."""
    keras.utils.set_random_seed(seed)
    x = np.asarray(data(np.random.default_rng(seed)), "float32")
    seen, fresh = x[:ROWS], x[ROWS:]
    flat = x.reshape(len(x), -1)
    goal = np.tanh(flat @ np.random.default_rng(1).normal(0, 1 / flat.std(), (flat.shape[1], 4)))
    model = make(x.shape[1:])
    rate = keras.optimizers.schedules.CosineDecay(0.01, STEPS)
    model.compile(keras.optimizers.Adam(rate), "mse")
    epochs = STEPS * BATCH // ROWS
    model.fit(seen, goal[:ROWS], batch_size=BATCH, epochs=epochs, verbose=0)
    return model, seen, fresh


def norms_of(model):
    """Return the batch norm layers of a model, in order."""
    kinds = (layers.BatchNormalization, bnm.BatchNormalization)
    return [one for one in model._flatten_layers() if isinstance(one, kinds)]


# What is right, and must be found so.


def as_trained(_model, _x):
    """Change nothing."""


def recalibrated(model, x):
    """Estimate the statistics anew."""
    bnm.recalibrate(model, x, batch_size=BATCH)


def finely_tuned(model, x):
    """Train on for a few steps at a small rate."""
    model.compile(keras.optimizers.Adam(1e-4), "mse")
    goal = model.predict(x, verbose=0)
    model.fit(x, goal, batch_size=BATCH, epochs=1, verbose=0)


HEALTHY = {
    "as trained, fresh data": (as_trained, "fresh"),
    "recalibrated": (recalibrated, "seen"),
    "fine-tuned": (finely_tuned, "seen"),
}
# Sicknesses that each model gets, in turns.
EACH = 4


# What is wrong: the code that must be found, and how it comes about.


def start(layer):
    """Put the statistics of a layer back to 0 and 1."""
    layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
    layer.moving_variance.assign(np.ones(layer.moving_variance.shape))


def never_updated(model, _x):
    """Leave all statistics out, as a port does."""
    for layer in norms_of(model):
        start(layer)


def poisoned(model, _x):
    """Leave NaN in one channel of the first layer."""
    mean = np.copy(norms_of(model)[0].moving_mean.numpy())
    mean[0] = np.nan
    norms_of(model)[0].moving_mean.assign(mean)


def negative(model, _x):
    """Leave a variance below 0 in the last layer."""
    variance = np.copy(norms_of(model)[-1].moving_variance.numpy())
    variance[-1] = -0.1 * variance[-1] - 1e-3
    norms_of(model)[-1].moving_variance.assign(variance)


def stale(model, x):
    """Leave the last layer with the statistics of other weights."""
    rng = np.random.default_rng(0)
    layer = norms_of(model)[-1]
    deviation = np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    sign = rng.choice([-1, 1], deviation.shape)
    layer.moving_mean.assign(layer.moving_mean.numpy() + 2.0 * sign * deviation)


def shrunken(model, _x):
    """Leave all variances of the last layer 9 times too small, as dropout before it does."""
    layer = norms_of(model)[-1]
    layer.moving_variance.assign(layer.moving_variance.numpy() / 9)


def reversed_momentum(model, _x):
    """Take PyTorch's momentum over."""
    for layer in norms_of(model):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.1
        else:
            layer.statistics = bnm.DebiasedMovingAverage(0.1)


def first_alone(model, _x):
    """Leave the first layer with statistics that are off by factors of their own."""
    rng = np.random.default_rng(0)
    layer = norms_of(model)[0]
    many = layer.moving_mean.shape[0]
    layer.moving_variance.assign(layer.moving_variance.numpy() * np.exp(rng.normal(0, 2, many)))
    deviation = np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    layer.moving_mean.assign(layer.moving_mean.numpy() + rng.normal(0, 3, many) * deviation)


def brightened(_model, x):
    """Give the model data in another range."""
    return 4 * x + 5 * x.std()


def noise(_model, x):
    """Give the model noise of the data's mean and deviation in their place."""
    return np.random.default_rng(0).normal(x.mean(), x.std(), x.shape).astype("float32")


SICK = {
    "never updated": ("BN103", never_updated),
    "NaN in a channel": ("BN101", poisoned),
    "a negative variance": ("BN102", negative),
    "statistics of other weights": ("BN201", stale),
    "variances 9 times too small": ("BN201", shrunken),
    "the first layer's statistics alone": ("BN201", first_alone),
    "PyTorch's momentum": ("BN105", reversed_momentum),
    "data in another range": ("BN203", brightened),
    "noise in the place of data": ("BN203", noise),
}


def examined(model, x):
    """Return the codes found at warning or above, without those that others explain."""
    found = bnm.diagnose(model, x, batch_size=BATCH).findings
    return {one.code for one in found if one.severity != "note" and one.root is None}


def measure():
    """Return what was found: alarms by (state, code), and by sickness how many were found."""
    alarms, wrong, found, many = Counter(), Counter(), Counter(), Counter()
    for number, (name, (make, data)) in enumerate(ARCHITECTURES.items()):
        begun = time.perf_counter()
        model, seen, fresh = trained(make, data, number)
        weights = model.get_weights()
        momenta = [layer.momentum for layer in norms_of(model)]
        iterations = int(model.optimizer.iterations)

        def restored(model=model, weights=weights, momenta=momenta, iterations=iterations):
            model.set_weights(weights)
            model.optimizer.iterations.assign(iterations)
            for layer, momentum in zip(norms_of(model), momenta, strict=True):
                if isinstance(layer, layers.BatchNormalization):
                    layer.momentum = momentum
                else:
                    layer.statistics = bnm.DebiasedMovingAverage(MOMENTUM)

        for state, (do, which) in HEALTHY.items():
            restored()
            do(model, seen)
            many[state] += 1
            for code in examined(model, {"seen": seen, "fresh": fresh}[which]):
                alarms[state, code] += 1
                print(f"false alarm: {code} in {name}, {state}", flush=True)
        whats = list(SICK)
        for what in (whats[(number * EACH + turn) % len(whats)] for turn in range(EACH)):
            code, do = SICK[what]
            restored()
            x = do(model, seen)
            many[what] += 1
            codes = examined(model, seen if x is None else x)
            found[what] += code in codes
            if code not in codes:
                wrong[what] += bool(codes)
                print(f"missed: {what} in {name}, found {sorted(codes)}", flush=True)
        print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
    return alarms, wrong, found, many


def tables(alarms, wrong, found, many):
    """Return what was found as Markdown."""
    lines = ["| healthy models | models | with a false alarm, by rule |", "| --- | --- | --- |"]
    for state in HEALTHY:
        codes = [f"{code} in {n}" for (of, code), n in sorted(alarms.items()) if of == state]
        lines.append(f"| {state} | {many[state]} | {', '.join(codes) or 'none'} |")
    lines += ["", "| sick models | rule | models | found | something else found |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for what, (code, _) in SICK.items():
        lines.append(f"| {what} | {code} | {many[what]} | {found[what]} | {wrong[what]} |")
    return "\n".join(lines)


def main():
    """Print the tables, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    options = parser.parse_args()
    begun = time.perf_counter()
    text = tables(*measure())
    print(f"\n{text}\n\nIt took {time.perf_counter() - begun:.0f} s.")
    if options.markdown is not None:
        write_atomically(options.markdown, f"{text}\n")


if __name__ == "__main__":
    main()
