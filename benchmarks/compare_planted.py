"""Faults planted in five networks that were not used to set anything, and what `compare` says.

Run as: python benchmarks/compare_planted.py [--record FILE] [--networks NAME ...]

In each of ten places of each network one batch norm has another epsilon, its mean and variance
swapped, its channels on another axis, or was dropped without going into the layer beside it. The
other model is in turn a folded Keras file, a LiteRT, an ONNX and an OpenVINO export of the faulty
one. Counted: how often the place is named first, and the cause; and alarms on the same exports
without a fault, and on one that LiteRT computes in integers.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import batchnorm_mechanics as bnm
from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics._io.json import text
from batchnorm_mechanics.comparison.compare import compare
from batchnorm_mechanics.folding.fold import rewritten
from batchnorm_mechanics.folding.plan import plan_of
from batchnorm_mechanics.models.norms import norms_in

L = keras.layers
PLACES, ROWS = 10, 64
# Of ten places, so many in each form.
FORMS = {"folded": 4, "litert": 2, "onnx": 2, "openvino": 2}
# It hides a small fault in its rounding, and is looked at without one.
INTEGERS = "int8"


# The networks. Places and channels are as many, so that a wrong axis has no other shape.


def branches():
    """Branches of several kernels that are concatenated."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same")(x)
    x = L.ReLU()(L.BatchNormalization()(x))
    for _ in range(3):
        parts = []
        for size in (1, 3, 5):
            part = L.Conv2D(8, size, padding="same", use_bias=False)(x)
            parts.append(L.ReLU()(L.BatchNormalization()(part)))
        x = L.Conv2D(8, 1)(L.Concatenate()(parts))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def grown():
    """Concatenation of all before, batch norm ahead of each convolution."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False)(x)
    for _ in range(5):
        y = L.Activation("relu")(L.BatchNormalization()(x))
        y = L.Conv2D(8, 3, padding="same", use_bias=False)(y)
        y = L.Activation("relu")(L.BatchNormalization()(y))
        y = L.Conv2D(8, 3, padding="same")(y)
        x = L.Conv2D(8, 1)(L.Concatenate()([x, y]))
    return keras.Model(inputs, L.Dense(4, activation="softmax")(L.Flatten()(x)))


def sequence():
    """One-dimensional convolutions, plain and separable, with a smooth activation."""
    x = inputs = keras.Input((12, 5))
    for number in range(10):
        kind = L.SeparableConv1D if number % 3 == 2 else L.Conv1D
        x = kind(12, 3, padding="same", dilation_rate=1 + number % 2)(x)
        x = L.Activation("elu")(L.BatchNormalization()(x))
    return keras.Model(inputs, L.Dense(3)(L.GlobalMaxPooling1D()(x)))


def hourglass():
    """Down by strides and up by transposed convolutions, with connections across."""
    x = inputs = keras.Input((16, 16, 2))
    kept = []
    for size in (16, 8):
        for strides in (1, 1, 2):
            places = size // strides
            x = L.Conv2D(places, 3, strides, padding="same", use_bias=False)(x)
            x = L.ReLU(negative_slope=0.1)(L.BatchNormalization()(x))
            if strides == 1:
                last = x
        kept.append(last)
    for size, across in zip((8, 16), reversed(kept), strict=True):
        x = L.Conv2DTranspose(size, 3, 2, padding="same")(x)
        x = L.ReLU(negative_slope=0.1)(L.BatchNormalization()(x))
        x = L.Conv2D(size, 3, padding="same")(L.Concatenate()([x, across]))
        x = L.ReLU(negative_slope=0.1)(L.BatchNormalization()(x))
    return keras.Model(inputs, L.Conv2D(2, 1, activation="sigmoid")(x))


def squeezed():
    """Depthwise convolutions with gates by channel, and a smooth activation."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = L.Activation("swish")(L.BatchNormalization()(x))
    for _ in range(5):
        y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        y = L.Activation("swish")(L.BatchNormalization()(y))
        gate = L.GlobalAveragePooling2D(keepdims=True)(y)
        gate = L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="swish")(gate))
        y = L.Conv2D(8, 1, use_bias=False)(L.Multiply()([y, gate]))
        x = L.Add()([x, L.BatchNormalization()(y)])
    return keras.Model(inputs, L.Dense(6)(L.GlobalAveragePooling2D()(x)))


NETWORKS = (branches, grown, sequence, hourglass, squeezed)


def ready(make, seed):
    """Return a network with gamma and beta as training leaves them, and fresh data for it."""
    keras.utils.set_random_seed(seed)
    model = make()
    rng = np.random.default_rng(seed)
    data = rng.normal(0.2, 1, (ROWS, *model.inputs[0].shape[1:])).astype("float32")
    for norm in norms_in(model):
        norm.layer.gamma.assign(rng.uniform(0.5, 1.5, norm.channels))
        norm.layer.beta.assign(rng.normal(0, 0.3, norm.channels))
    bnm.recalibrate(model, data)
    # Other samples than those that the statistics are of.
    fresh = rng.normal(0.2, 1, (8, *data.shape[1:])).astype("float32")
    return model, fresh


def with_fault(model, name, fault):
    """Return a copy of a model with a fault in one batch norm."""

    def copy(layer):
        config = layer.get_config()
        if layer.name == name and fault == "wrong_axis":
            config["axis"] = 1
        if layer.name == name and fault == "epsilon":
            config["epsilon"] = 1e-5
        return type(layer).from_config(config)

    other = keras.models.clone_model(model, clone_function=copy)
    other.set_weights(model.get_weights())
    layer = other.get_layer(name)
    if fault == "swapped_statistics":
        mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        layer.moving_mean.assign(variance)
        layer.moving_variance.assign(mean)
    if fault == "missing":
        layer.epsilon = 0.0
        for weight, value in (
            ("gamma", 1),
            ("beta", 0),
            ("moving_mean", 0),
            ("moving_variance", 1),
        ):
            variable = getattr(layer, weight)
            variable.assign(np.full(variable.shape, value))
    return other


FAULTS = ("epsilon", "swapped_statistics", "wrong_axis", "missing")


def exported(model, data, form, folder):
    """Return a model, or the path of its export."""
    if form == "folded":
        return rewritten(model, plan_of(model)).model
    ends = {"litert": "tflite", "onnx": "onnx", "openvino": "xml", INTEGERS: "tflite"}
    path = Path(folder) / f"model.{ends[form]}"
    model.predict(data, verbose=0)
    if form == INTEGERS:
        path.write_bytes(in_integers(model, data))
    else:
        model.export(str(path), format=form, verbose=False)
    return path


def in_integers(model, data):
    """Return a LiteRT file that computes in 8 bits."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in data)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def judged(model, other, data, place, fault):
    """Return what came of one comparison."""
    began = time.process_time()
    found = compare(model, other, data)
    start = found.start
    return {
        "named": start is not None and start.name == place,
        "in_stage": start is not None and place in start.layers,
        "cause": start is not None and start.cause.code == fault,
        "says": None if start is None else f"{start.name}: {start.cause.code}",
        "more": sum(bool(row.differs) for row in found.rows) - (start is not None),
        "lost": len(found.lost),
        "cpu_seconds": round(time.process_time() - began, 3),
    }


def planted(make, seed, forms):
    """Yield what came of each fault in each place of a network, and of none."""
    model, data = ready(make, seed)
    places = [norm.name for norm in norms_in(model)]
    chosen = [places[at] for at in np.linspace(0, len(places) - 1, PLACES).round().astype(int)]
    turns = [form for form, count in FORMS.items() for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        for form in (*forms, INTEGERS):
            found = compare(model, exported(model, data, form, folder), data)
            yield {
                "network": make.__name__,
                "form": form,
                "fault": None,
                "alarms": sum(bool(row.differs) for row in found.rows),
                "lost": len(found.lost),
                "stages": len(found.rows),
                "agrees": found.agrees,
            }
        for (at, place), fault in itertools.product(enumerate(chosen), FAULTS):
            form = turns[(3 * at + FAULTS.index(fault)) % PLACES]
            if form not in forms:
                continue
            other = exported(with_fault(model, place, fault), data, form, folder)
            about = {"network": make.__name__, "form": form, "fault": fault, "place": place}
            yield {**about, **judged(model, other, data, place, fault)}


def counted(rows):
    """Return how many of all, of each fault and in each form, and how many alarms there were."""
    faults = [row for row in rows if row["fault"]]
    counts = Counter()
    for row in faults:
        for key in ("all", row["fault"], row["form"]):
            counts[key, "planted"] += 1
            counts[key, "named"] += row["named"]
            counts[key, "in_stage"] += row["in_stage"]
            counts[key, "cause"] += row["named"] and row["cause"]
            counts[key, "alone"] += row["named"] and not row["more"]
    clean = [row for row in rows if not row["fault"]]
    kinds = ("planted", "named", "in_stage", "cause", "alone")
    keys = sorted({key for key, _ in counts})
    return {
        "planted": {key: {what: counts[key, what] for what in kinds} for key in keys},
        "clean": {
            "exports": len(clean),
            "with_alarms": sum(row["alarms"] > 0 for row in clean),
            "with_stages_lost": sum(row["lost"] > 0 for row in clean),
        },
        "cpu_seconds_each": round(float(np.mean([row["cpu_seconds"] for row in faults])), 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="rows of other forms and networks in it stay")
    parser.add_argument("--networks", nargs="+", default=[make.__name__ for make in NETWORKS])
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--seed", type=int, default=0, help="other weights and data")
    given = parser.parse_args()
    rows = []
    if given.record is not None and given.record.exists():
        rows = [
            row
            for row in json.loads(given.record.read_text())["rows"]
            if row["network"] not in given.networks or row["form"] not in (*given.forms, INTEGERS)
        ]
    for seed, make in enumerate(NETWORKS, start=given.seed):
        if make.__name__ not in given.networks:
            continue
        for row in planted(make, seed, given.forms):
            rows.append(row)
            is_told = row["fault"] is None or (row["named"] and row["cause"])
            if not is_told or row.get("alarms"):
                print(row, flush=True)
        if given.record is not None:
            document = {"totals": counted(rows), "rows": rows}
            write_atomically(given.record, text(document) + "\n")
    print(text(counted(rows)))


if __name__ == "__main__":
    main()
