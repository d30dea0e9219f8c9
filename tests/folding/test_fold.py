"""`fold` as a whole: networks, the record, and what it refuses."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import bnm_here
from fold_models import bn, distance, folded, settled, stack

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.folding.fold import Folded, fold
from batchnorm_mechanics.models.norms import norms_in

L = keras.layers


def network(name, size=32):
    """Return a network with the statistics of random images; gamma and beta are not 1 and 0."""
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    rng = np.random.default_rng(0)
    for norm in norms_in(model):
        norm.layer.momentum = 0.0
        norm.layer.gamma.assign(rng.uniform(0.5, 1.5, norm.channels))
        norm.layer.beta.assign(rng.normal(0, 0.3, norm.channels))
    model(rng.normal(size=(8, size, size, 3)), training=True)
    return model


@pytest.mark.thorough
def test_resnet_50_is_folded_wholly_and_gives_the_same_output():
    result = fold(network("ResNet50", size=64), batch_size=2)
    assert (result.count, dict(result.left)) == (53, {})
    assert norms_in(result.model) == ()
    assert 0 < result.difference < 1e-4
    assert result.agrees
    assert result.speed > 0


@pytest.mark.thorough
def test_mobilenet_v2_folds_exactly_in_float64():
    # Here nothing hides behind the rounding that a deep network of random weights amplifies.
    keras.config.set_dtype_policy("float64")
    try:
        model = network("MobileNetV2")
        new, left = folded(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert (left, norms_in(new)) == ({}, ())
    assert distance(model, new) < 1e-11


def test_mobilenet_v2_gives_the_same_output():
    model = network("MobileNetV2")
    new, left = folded(model)
    assert left == {}
    assert 0 < distance(model, new) < 1e-4


@pytest.mark.slow
def test_a_network_that_normalizes_before_it_convolves_keeps_what_comes_after_an_addition():
    model = network("ResNet50V2")
    new, left = folded(model)
    assert distance(model, new) < 1e-4
    # One before each of 16 blocks, whose input also goes past it, and the last.
    assert list(left) == [
        *(
            f"conv{stage}_block{block}_preact_bn"
            for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3))
            for block in range(1, blocks + 1)
        ),
        "post_bn",
    ]


def small(*more):
    return stack((4,), L.Dense(5, dtype="float64"), bn(), *more)


def test_the_difference_is_the_larger_of_those_on_random_and_on_given_data(monkeypatch):
    from batchnorm_mechanics.folding import fold as module

    answers = iter([0.25, 0.5, 0.125])
    monkeypatch.setattr(module, "largest_difference", lambda *_: next(answers))
    result = module.fold(small(), np.ones((6, 4)), batch_size=3)
    assert result.difference == 0.5  # the second of three
    assert not result.agrees


def test_outputs_are_compared_on_random_and_on_all_given_data(monkeypatch):
    from batchnorm_mechanics.folding import fold as module

    seen = []

    def difference(model, new, inputs):
        seen.append(np.array(inputs))
        return 0.0

    monkeypatch.setattr(module, "largest_difference", difference)
    x = np.arange(20.0).reshape(5, 4)
    result = module.fold(small(), x, batch_size=3)
    assert seen[0].shape == (3, 4)
    assert abs(seen[0].mean()) < 1
    np.testing.assert_array_equal(np.concatenate(seen[1:]), x)
    assert (result.samples, result.batch_size) == (5, 3)


def test_the_new_model_is_held_against_the_old_one(monkeypatch):
    from batchnorm_mechanics.folding import fold as module

    right = module.rewritten

    def wrong(model, plan):
        new = right(model, plan)
        layer = new.model.layers[0]
        layer.bias.assign(layer.bias + 1e-3)
        return new

    assert 0 < module.fold(small()).difference < 1e-12
    monkeypatch.setattr(module, "rewritten", wrong)
    result = module.fold(small())
    assert 1e-4 < result.difference < 1e-2
    assert not result.agrees


def coarse(mean):
    """A model that subtracts a large mean, so that its own rounding is large."""
    model = settled(keras.Sequential([L.Input((4,)), L.Dense(5), L.BatchNormalization()]))
    dense, norm = model.layers
    dense.bias.assign(np.full(5, mean))
    norm.moving_mean.assign(np.full(5, mean))
    return model


def test_a_difference_that_the_model_s_own_rounding_explains_is_accepted():
    result = fold(coarse(3e4))
    assert 1e-4 < result.difference < result.tolerance < 0.02
    assert result.tolerance == 4 * result.rounding
    assert result.agrees
    assert (
        f"rounding explains {result.tolerance:.2g}: the original's move by {result.rounding:.2g} "
        "with a unit in the last place of its weights"
    ) in " ".join(str(result).split())
    assert result.as_json()["rounding"] == result.rounding


@pytest.mark.parametrize("wrong", ["bias", "kernel"])
def test_a_wrong_fold_of_a_model_that_rounds_coarsely_is_not_accepted(monkeypatch, wrong):
    from batchnorm_mechanics.folding import fold as module

    right = module.rewritten

    def mistaken(model, plan):
        new = right(model, plan)
        weight = getattr(new.model.layers[0], wrong)
        weight.assign(weight.numpy() + 0.1)
        return new

    monkeypatch.setattr(module, "rewritten", mistaken)
    result = module.fold(coarse(3e4))
    assert result.rounding > 1e-4
    assert not result.agrees


def test_no_rounding_explains_a_difference_beyond_a_twentieth():
    result = fold(coarse(3e6))
    assert result.rounding > 0.05
    assert result.tolerance == 0.05
    assert not result.agrees


def test_rounding_is_not_measured_where_nothing_needs_it():
    assert fold(small()).rounding is None


def test_rounding_is_measured_where_outputs_differ_most(monkeypatch):
    from batchnorm_mechanics.folding import fold as module

    answers, asked = iter([0.25, 0.125, 0.5]), []
    monkeypatch.setattr(module, "largest_difference", lambda *_: next(answers))
    monkeypatch.setattr(module, "rounding_of", lambda model, inputs: asked.append(inputs) or 1e-3)
    x = np.arange(24.0).reshape(6, 4)
    result = module.fold(small(), x, batch_size=3)
    np.testing.assert_array_equal(asked, [x[3:]])
    assert (result.rounding, result.tolerance) == (1e-3, 4e-3)


class LosesNaN(L.Layer):
    """Does in any world what oneDNN's kernels do where a ReLU is computed with the layer before."""

    def call(self, inputs):
        return keras.ops.where(keras.ops.isnan(inputs), 0.0, inputs)


def poisoned(where):
    model = small(LosesNaN(), L.Dense(2, dtype="float64"), bn())
    weights = {
        "statistics": model.layers[1].moving_mean,
        "variance": model.layers[1].moving_variance,
        "beta": model.layers[1].beta,
        "kernel": model.layers[0].kernel,
    }
    weight = weights[where]
    weight.assign(np.full(weight.shape, -1.0 if where == "variance" else np.nan))
    return model


@pytest.mark.parametrize("where", ["statistics", "variance", "beta", "kernel"])
def test_a_model_whose_weights_give_nan_agrees_with_nothing_even_if_no_output_shows_it(where):
    model = poisoned(where)
    assert np.isfinite(model.predict_on_batch(np.ones((2, 4)))).all()
    result = fold(model)
    assert result.count > 0
    assert (result.difference, result.agrees) == (np.inf, False)


def of_logarithms():
    x = keras.Input((4,), dtype="float64")
    return settled(keras.Model(x, bn()(L.Dense(3, dtype="float64")(keras.ops.log(x)))))


def test_what_only_random_data_turn_into_nan_is_compared_on_given_data():
    x = np.random.default_rng(0).uniform(1, 2, (8, 4))
    assert fold(of_logarithms()).difference == np.inf
    assert 0 < fold(of_logarithms(), x).difference < 1e-12
    x[3, 1] = -1.0
    assert fold(of_logarithms(), x).difference == np.inf


def test_data_can_be_a_dataset_with_labels():
    data = tf.data.Dataset.from_tensor_slices((np.ones((7, 4)), np.ones(7))).batch(3)
    result = fold(small(), data)
    assert (result.samples, result.batch_size) == (7, 3)


def test_of_many_batches_32_are_compared():
    assert fold(small(), np.ones((80, 4)), batch_size=2).samples == 64


def test_nothing_is_timed_where_nothing_was_merged():
    model = keras.Sequential([L.Input((4,)), L.Dense(5)])
    result = fold(model)
    assert (result.count, dict(result.left), result.speed) == (0, {}, None)
    assert str(result) == f"{model.name}: no batch norm layer"


@pytest.mark.parametrize("jit", [False, True])
def test_both_models_predict_in_the_same_way(jit):
    model = small()
    model.compile(loss="mse", jit_compile=jit)
    result = fold(model)
    assert (result.model.jit_compile, result.model.run_eagerly) == (jit, False)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("float32", 1e-4), ("mixed_float16", 2.0**-6), ("mixed_bfloat16", 2.0**-3)],
)
def test_the_tolerance_is_that_of_the_coarsest_type(policy, tolerance):
    model = settled(
        keras.Sequential([L.Input((4,)), L.Dense(5, dtype=policy), L.BatchNormalization()])
    )
    assert fold(model).tolerance == tolerance


def test_the_model_may_be_predicted_with_and_trained_on():
    result = fold(small())
    result.model.compile("sgd", "mse")
    history = result.model.fit(np.ones((4, 4)), np.ones((4, 5)), verbose=0, epochs=2)
    assert history.history["loss"][1] < history.history["loss"][0]


def record(**changes):
    return Folded(
        **{
            "model": stack((4,), L.Dense(5, dtype="float64")),
            "count": 2,
            "left": {"a/bn": "it is called 2 times"},
            "difference": 3.21e-7,
            "tolerance": 1e-4,
            "samples": 10,
            "speed": 1.256,
            "batch_size": 32,
        }
        | changes
    )


def test_the_record_in_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = record()
    assert str(result).splitlines() == [
        f"{result.model.name}: 2 of 3 batch norm layers merged",
        "Speed    1.26 times as fast, 32 samples at a time",
        "Outputs  within 3.2e-07 of the original's, relative to the largest, on 32 random",
        "         samples and 10 samples of the data; rounding explains 0.0001",
        "Left     a/bn, because it is called 2 times",
    ]
    assert "Outputs  off by 0.0002 of the original's" in str(record(difference=2e-4))
    assert repr(result) == f"<Folded: {result.model.name}: 2 of 3 batch norm layers merged>"


def test_the_record_as_json():
    result = record()
    assert json.loads(json.dumps(result.as_json(), allow_nan=False)) == {
        "model": result.model.name,
        "count": 2,
        "left": {"a/bn": "it is called 2 times"},
        "difference": 3.21e-7,
        "tolerance": 1e-4,
        "agrees": True,
        "samples": 10,
        "speed": 1.256,
        "batch_size": 32,
        "notes": [],
        "rounding": None,
        "unverified": None,
    }


def test_an_infinite_difference_is_a_word_in_json():
    found = record(difference=float("inf")).as_json()
    assert (found["difference"], found["agrees"]) == ("Infinity", False)


class Strict(keras.Model):
    """A functional model whose constructor is its own."""

    def __init__(self, units, **settings):
        x = keras.Input((4,))
        super().__init__(x, L.BatchNormalization()(L.Dense(units)(x)), **settings)


def test_what_the_new_model_could_not_take_along_is_noted():
    result = fold(Strict(3, name="strict"))
    note = "strict is a Functional model now and no Strict, whose constructor is one of its own."
    assert result.notes == (note,)
    assert f" Note {note}" in " ".join(str(result).split())
    assert result.as_json()["notes"] == [note]


def test_the_command_prints_the_notes(tmp_path, monkeypatch):
    from batchnorm_mechanics.cli.model_options import ModelOptions

    file, out = tmp_path / "strict.keras", tmp_path / "folded.keras"
    model = Strict(3, name="strict")
    small().save(file)
    monkeypatch.setattr(ModelOptions, "load", lambda *_, **settings: model)
    (note,) = fold(model).notes
    command = ("fold", str(file), "--out", str(out))
    # Labelled and wrapped like all that is printed of a fold.
    words = " ".join(bnm_here(*command, cwd=tmp_path).out.split())
    assert f" Note {note} Written: " in words
    assert json.loads(bnm_here(*command, "--json", cwd=tmp_path).out)["notes"] == [note]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = L.BatchNormalization()

    def call(self, inputs):
        return self.norm(inputs)


class SequenceWithCode(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs, training=training, mask=mask)


@pytest.mark.parametrize(
    "model",
    [Subclassed(), SequenceWithCode([L.Input((4,)), L.Dense(3), L.BatchNormalization()])],
    ids=["model", "sequence"],
)
def test_a_model_with_its_own_code_is_refused(model):
    model(np.ones((2, 4)))
    with pytest.raises(InputError) as caught:
        fold(model)
    assert str(caught.value) == (
        f"fold: `model` must be functional or sequential. Received: model={model!r}. The code of "
        f"{type(model).__name__}.call calls its layers, and no layer can be taken out of that; "
        "fold the functional models in it by themselves."
    )


def test_a_model_without_weights_is_refused():
    model = keras.Sequential([L.Dense(3), L.BatchNormalization()])
    with pytest.raises(InputError) as caught:
        fold(model)
    assert str(caught.value) == (
        f"fold: `model` must have weights. Received: model={model!r}, which is not built. "
        "Call it on data first, or begin it with keras.layers.Input."
    )


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError) as caught:
        fold(bn(name="bn"))
    assert str(caught.value).startswith("fold: `model` must be a Keras model. Received: model=<Ba")


@pytest.mark.parametrize("size", [0, 2.0, True])
def test_a_batch_size_that_is_none_is_refused(size):
    with pytest.raises(InputError) as caught:
        fold(small(), batch_size=size)
    assert str(caught.value) == (
        "fold: `batch_size` must be an integer of 1 or more. "
        f"Received: batch_size={size!r}. Leave it out for 32."
    )


def test_an_empty_dataset_is_refused():
    data = tf.data.Dataset.from_tensor_slices(np.ones((3, 4))).batch(3).take(0)
    with pytest.raises(InputError, match="`data` must hold at least one batch"):
        fold(small(), data)


def test_a_model_of_open_size_that_random_data_do_not_fit_asks_for_data():
    x = keras.Input((None, 1))
    model = keras.Model(x, L.Reshape((9, 2))(L.BatchNormalization()(L.Dense(2)(x))))
    with pytest.raises(InputError) as caught:
        fold(model)
    message = str(caught.value)
    assert message.startswith(
        "fold: `data` must be given for a model whose inputs have open sizes, [(None, None, 1)], "
        "and that fails on random data of sizes [(32, 64, 1)]. Received: data=None, and "
    )
    assert message.endswith(". Give a batch that the model predicts.")
    assert fold(model, np.ones((2, 9, 1))).agrees


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="`data` must fit the inputs of the model"):
        fold(small(), np.ones((3, 5)))


def test_a_name_that_tensorflow_cannot_compile_is_refused():
    model = keras.Sequential([L.Input((3,)), L.Dense(2), L.BatchNormalization(name="two words")])
    with pytest.raises(InputError, match="fold: `model` must have names that TensorFlow can"):
        fold(model)
