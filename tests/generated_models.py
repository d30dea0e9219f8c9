"""Models that are drawn at random, with statistics that are right or wrong in one known layer.

What they are like is measured by Keras alone; `judged` holds what the doctor says against it.
"""

import dataclasses

import keras
import numpy as np

import batchnorm_mechanics as bnm

layers = keras.layers

ROWS, BATCH, WIDTH, STEPS = 1000, 50, 6, 3
KINDS = ("chain", "twice", "nested", "siamese", "steps", "steps of a model")
# Of the outputs' spread: what is to be told, and what chance alone does to a thousand samples.
LARGE, NOTHING = 0.25, 0.05
# The doctor looks at 512 samples, which tell a distance to about a tenth of it.
ERROR = 1.2


@dataclasses.dataclass
class Made:
    """A model with data.

    Attributes:
        model: a functional one.
        x: its data, an array or a list of arrays.
        spoilt: name of the layer whose statistics are wrong; "" for none.
        unlike: whether the calls of a layer get inputs that are unlike.
        drops: whether dropout stands before a batch norm.
        flagged: whether dropout is on in inference, which hands its flag on.
    """

    model: keras.Model
    x: object
    spoilt: str
    unlike: bool
    drops: bool
    flagged: bool


def made(kind, seed, *, spoil=False, unlike=False, drop="", flagged=False):
    """Make a model of 2 to 8 layers with batch norm.

    Args:
        kind: one of `KINDS`.
        seed: of all that is random in it.
        spoil: whether the statistics of one layer are wrong.
        unlike: whether the calls of a layer that is called several times get unlike inputs.
        drop: "before" or "behind" batch norm, or "" for no dropout.
        flagged: whether the first dropout is on in inference.
    """
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    numbers = iter(range(100))
    blocks = int(rng.integers(1, 4))

    def block(x):
        x = layers.Dense(int(rng.integers(4, 12)))(x)
        return close(x)

    def close(x, norm=None):
        number = next(numbers)
        if drop == "before":
            x = layers.Dropout(0.4)(x, **({"training": True} if flagged else {}))
        norm = norm or layers.BatchNormalization(name=f"bn{number}")
        x = rng.choice([layers.ReLU(), layers.Activation("tanh")])(norm(x))
        return layers.Dropout(0.3)(x) if drop == "behind" else x

    def encoder(shape):
        inputs = x = layers.Input(shape)
        for _ in range(blocks):
            x = block(x)
        return keras.Model(inputs, x, name="encoder")

    inputs, x = data(kind, rng, unlike=unlike)
    if kind == "twice":
        dense, norm = layers.Dense(8), layers.BatchNormalization(name="shared")
        outputs = layers.Concatenate()([close(dense(one), norm) for one in inputs])
    elif kind == "siamese":
        shared = encoder((WIDTH,))
        outputs = layers.Concatenate()([shared(one) for one in inputs])
    elif kind == "steps":
        norm = layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="td")
        outputs = layers.Flatten()(norm(inputs[0]))
    elif kind == "steps of a model":
        outputs = layers.Flatten()(layers.TimeDistributed(encoder((WIDTH,)))(inputs[0]))
    else:
        outputs = inputs[0]
        if kind == "nested":
            outputs = encoder((WIDTH,))(outputs)
        for _ in range(blocks if kind == "chain" else 1):
            outputs = block(outputs)
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], layers.Dense(3)(outputs))
    settle(model, x)
    name = spoilt(model, rng) if spoil else ""
    several = kind not in ("chain", "nested")
    return Made(model, x, name, unlike and several, drop == "before", flagged and drop == "before")


def data(kind, rng, *, unlike):
    """Return inputs of a graph, and data for them."""
    shape = (ROWS, WIDTH)
    x = rng.normal(size=shape) * rng.uniform(0.5, 2, WIDTH) + rng.normal(size=WIDTH)
    x = x.astype("float32")
    if kind in ("twice", "siamese"):
        inputs = [layers.Input((WIDTH,), name=name) for name in "ab"]
        return inputs, [x, 4 * x + 8 if unlike else rng.permutation(x)]
    if kind.startswith("steps"):
        by_step = np.arange(STEPS, dtype="float32")[:, None] if unlike else 0.0
        x = np.stack([rng.permutation(x) for _ in range(STEPS)], 1)
        return [layers.Input((STEPS, WIDTH), name="a")], (x + 4 * by_step) * (1 + by_step)
    return [layers.Input((WIDTH,), name="a")], x


def norms(model):
    """Return the batch norm layers of a model."""
    flat = model._flatten_layers()
    return [one for one in flat if isinstance(one, layers.BatchNormalization)]


def of_rows(x, rows):
    """Return some rows of the data."""
    return [part[rows] for part in x] if isinstance(x, list) else x[rows]


def settle(model, x):
    """Have Keras average the statistics of all batches, with equal weights."""
    for number, rows in enumerate(np.split(np.arange(ROWS), ROWS // BATCH)):
        for norm in norms(model):
            norm.momentum = number / (number + 1)
        model(of_rows(x, rows), training=True)
    for norm in norms(model):
        norm.momentum = 0.99
        # As if nothing had been there before the first batch.
        norm.moving_variance.assign(np.maximum(norm.moving_variance.numpy(), 1e-6))


def spoilt(model, rng):
    """Make the statistics of one layer wrong, and return its name."""
    norm = rng.choice(norms(model))
    size = rng.uniform(1.5, 3)
    if rng.random() < 0.5:
        deviation = np.sqrt(norm.moving_variance.numpy())
        signs = rng.choice([-1, 1], deviation.shape)
        norm.moving_mean.assign(norm.moving_mean.numpy() + signs * size * deviation)
    else:
        norm.moving_variance.assign(norm.moving_variance.numpy() * (3 * size) ** 2)
    return norm.name


def distance(model, x):
    """Return how far the outputs of training mode and inference are apart, beyond chance.

    RMS differences over the RMS spread among samples, by Keras alone, dropout off in both. Two
    batchings of the same samples tell what chance does.
    """
    rates = [one for one in model._flatten_layers() if isinstance(one, layers.Dropout)]
    before = [(one, one.rate) for one in rates]
    for one in rates:
        one.rate = 0.0
    weights = model.get_weights()
    inference = model.predict(x, verbose=0, batch_size=BATCH)
    runs = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(ROWS)
        parts = np.split(order, ROWS // BATCH)
        run = np.concatenate([model(of_rows(x, rows), training=True).numpy() for rows in parts])
        model.set_weights(weights)
        runs.append(run[np.argsort(order)])
    for one, rate in before:
        one.rate = rate
    spread = np.sqrt(((inference - inference.mean(0)) ** 2).mean())
    of = [np.sqrt(((one - inference) ** 2).mean()) / spread for one in runs]
    chance = np.sqrt(((runs[0] - runs[1]) ** 2).mean() / 2) / spread
    return float(np.sqrt(max(0.0, np.mean(np.square(of)) - chance**2))), float(chance)


@dataclasses.dataclass
class Judged:
    """What came of one model.

    Attributes:
        wrong: by name, whether the doctor was.
        right_first: whether the spoilt layer is the first that is found; None where none is, or
            other things part the modes, too.
        about: what a reader wants to know of it.
    """

    wrong: dict[str, bool]
    right_first: bool | None
    about: dict[str, object]


def judged(made, *, repairs):
    """Hold what the doctor says of a model against what Keras computes.

    Args:
        made: `Made`.
        repairs: whether to repair it, too, and look at what that gives.
    """
    apart, chance = distance(made.model, made.x)
    diagnosis = bnm.diagnose(made.model, made.x, batch_size=BATCH)
    found = loud(diagnosis)
    # A flag that wanders parts modes otherwise than by statistics.
    parting = [one for one in found if one.code not in ("BN107", "BN202")]
    wrong = {
        "missed": apart > ERROR * LARGE and not found,
        "false alarm": apart < NOTHING and bool(parting),
    }
    about = {"apart": apart, "by chance": chance, "found": ", ".join(one.key for one in found)}
    first = None
    if made.spoilt and apart > LARGE and not made.unlike and not made.drops:
        first = bool(parting) and parting[0].layer.rpartition("/")[2] == made.spoilt
    if repairs:
        done = bnm.repair(made.model, made.x, batch_size=BATCH)
        after, _ = distance(done.model, made.x)
        wrong["made worse"] = after > 1.02 * apart + 0.02
        wrong["hidden"] = after > ERROR * LARGE and not loud(done.after)
        about["after"] = after
    return Judged(wrong, first, {**about, **diagnosis.measures, "spoilt": made.spoilt})


def loud(diagnosis):
    """Return what is found that is no mere note."""
    return [one for one in diagnosis.findings if one.severity != "note"]


def drawn(seed):
    """Return a model that is drawn by a number, and what it was drawn with."""
    rng = np.random.default_rng(seed)
    settings = {
        "kind": str(rng.choice(KINDS)),
        "spoil": bool(rng.random() < 0.5),
        "unlike": bool(rng.random() < 0.5),
        "drop": str(rng.choice(["", "before", "behind"], p=[0.5, 0.2, 0.3])),
        "flagged": bool(rng.random() < 0.3),
    }
    return made(seed=seed, **settings), settings
