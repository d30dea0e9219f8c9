"""No legal argument of the layer, and no amount of data, breaks a command."""

import re

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError

layers = keras.layers
BATCH = 8
NAMES = ["bn", "BN 1", "ünï", "a/b", "(2)", "bn_1.gamma", "{x}", "%s", "ß∂", "[red]"]
LAYERS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([layers.BatchNormalization, bnm.BatchNormalization]),
        "momentum": st.sampled_from([0.0, 0.5, 0.99, 1.0]),
        "epsilon": st.sampled_from([1e-12, 1e-7, 1e-3, 1.0]),
        "center": st.booleans(),
        "scale": st.booleans(),
        "axis": st.sampled_from([1, 2, 3, -1]),
        "dtype": st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16", "float64"]),
        "trainable": st.booleans(),
        "name": st.sampled_from(NAMES),
    }
)


def answers(command, *arguments, **options):
    """Return what a command answers, or None where it refuses with a message of ours."""
    try:
        return command(*arguments, **options)
    except InputError:
        return None
    except ValueError as refusal:
        if "Received: " not in str(refusal):
            raise
        return None


def model_of(kind, **arguments):
    """Return a layer between two others, or None where Keras itself refuses its name."""
    try:
        norm = kind(**arguments)
    except ValueError as refusal:
        if "`name`" not in str(refusal):
            raise
        return None
    inputs = layers.Input((4, 4, 3))
    hidden = layers.Conv2D(3, 1, name="before")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="after")(norm(hidden)))


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    # A model is traced for each example: to look for a smaller one would take minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@example({"kind": layers.BatchNormalization, "momentum": 1.0, "name": "bn"}, 100)
@example({"kind": layers.BatchNormalization, "momentum": 0.0, "name": "bn"}, 1)
@given(LAYERS, st.sampled_from([0, 1, 2, BATCH, BATCH + 1]))
def test_any_layer_and_any_amount_of_data_have_an_answer(arguments, rows):
    model = model_of(**arguments)
    if model is None:
        return
    x = np.random.default_rng(0).normal(3, 2, (rows, 4, 4, 3)).astype("float32")
    diagnosis = answers(bnm.diagnose, model, x, batch_size=BATCH)
    # TensorFlow itself cannot compile a model with another name in it.
    can_be_compiled = re.fullmatch(r"[A-Za-z0-9_.\\/>-]*", model.layers[2].name)
    assert (diagnosis is None) == (rows == 0 or not can_be_compiled)
    answers(bnm.repair, model, x, batch_size=BATCH)
    answers(bnm.repair, model, x, batch_size=BATCH, only=["BN"])
    answers(bnm.fold, model, x if rows else None, batch_size=BATCH)
    answers(bnm.trace, model, x, layer=model.layers[2].name, training=True)
    assert bnm.accelerate(model) is not None
    assert model(np.ones((2, 4, 4, 3), "float32")).shape == (2, 4, 4, 2)
