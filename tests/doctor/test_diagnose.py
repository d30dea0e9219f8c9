"""`diagnose` looks at weights, graph and data, and says what it found."""

import functools
import json
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.findings import Diagnosis
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.doctor.rules import RULES
from batchnorm_mechanics.models.mark import estimated_in

layers = keras.layers


def classifier(*, compiled=True, loss="sparse_categorical_crossentropy"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(6),
            layers.BatchNormalization(name="bn"),
            layers.Dense(3, activation="softmax", kernel_regularizer="l2"),
        ],
        name="small",
    )
    if compiled:
        model.compile("sgd", loss, metrics=["accuracy"])
    return model


def samples(rows=70):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 4)).astype("float32"), rng.integers(0, 3, rows)


def test_a_sick_model_is_diagnosed_from_weights_and_data():
    x, _ = samples()
    model = classifier(compiled=False)
    model.get_layer("bn").moving_mean.assign([np.nan, 0, 0, 0, 0, 0])
    diagnosis = diagnose(model, x)
    assert diagnosis.model == "small"
    assert diagnosis.norms == ("bn",)
    assert diagnosis.samples == 70
    assert diagnosis.is_sick
    first, *_ = diagnosis.findings
    assert (first.code, first.layer, first.channels) == ("BN101", "bn", (0,))
    assert [one.root for one in diagnosis.of("BN205")] == ["BN101 bn"]


def test_a_diagnosis_with_nan_in_it_is_json():
    x, y = samples()
    model = classifier()
    model.get_layer("bn").moving_mean.assign([np.nan, 0, 0, 0, 0, 0])
    found = diagnose(model, x, labels=y).as_json()["findings"]
    json.dumps(found, allow_nan=False)


def test_without_data_only_weights_and_graph_speak():
    diagnosis = diagnose(classifier())
    assert diagnosis.samples == 0
    assert dict(diagnosis.measures) == {}
    assert not [one for one in diagnosis.findings if one.code.startswith("BN2")]


def test_the_largest_gap_is_measured():
    model, (x, _) = classifier(compiled=False), samples(700)
    recalibrate(model, x)
    assert diagnose(model, x).measures["gap"] < 0.1
    norm = model.get_layer("bn")
    norm.moving_mean.assign(norm.moving_mean + 5 * np.sqrt(norm.moving_variance))
    diagnosis = diagnose(model, x)
    assert diagnosis.measures["gap"] == pytest.approx(5, rel=0.1)
    assert {one.layer for one in diagnosis.of("BN201")} >= {norm.name}


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_loss_and_accuracy_are_those_of_evaluate_whatever_form_labels_have(one_hot, loss):
    x, y = samples()
    model = classifier(loss=loss)
    rows = np.eye(3, dtype="float32")[y]
    wanted = model.evaluate(
        x, y if loss.startswith("sparse") else rows, return_dict=True, verbose=0
    )
    measures = diagnose(model, x, labels=rows if one_hot else y).measures
    assert measures["accuracy"] == pytest.approx(wanted["accuracy"])
    regularization = float(sum(model.losses))
    assert measures["loss"] == pytest.approx(wanted["loss"] - regularization, rel=1e-5)


def test_a_loss_object_and_labels_in_a_column_are_understood():
    x, y = samples()
    model = classifier(loss=keras.losses.CategoricalCrossentropy())
    plain = diagnose(model, x, labels=y).measures
    column = diagnose(model, x, labels=y[:, None].astype("float32")).measures
    assert column == plain
    both = {"loss", "accuracy", "loss_by_batch", "accuracy_by_batch"}
    assert set(plain) == {"gap", "output_change", "predictions_changed"} | both


def test_labels_of_a_dataset_count_and_an_uncompiled_model_has_accuracy_alone():
    x, y = samples()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    model = classifier(compiled=False)
    measures = diagnose(model, data).measures
    assert {name for name in measures if "loss" in name or "accuracy" in name} == {
        "accuracy",
        "accuracy_by_batch",
    }
    assert measures["accuracy"] == np.mean(model.predict(x, verbose=0).argmax(-1) == y)


def test_a_regression_has_a_loss_and_no_accuracy():
    x, _ = samples()
    y = np.random.default_rng(1).normal(size=(70, 3)).astype("float32")
    measures = diagnose(classifier(loss="mse"), x, labels=y).measures
    assert {name for name in measures if "loss" in name or "accuracy" in name} == {
        "loss",
        "loss_by_batch",
    }


def test_labels_of_several_outputs_give_the_loss_of_evaluate():
    x, y = samples()
    inputs = layers.Input((4,))
    hidden = layers.BatchNormalization()(inputs)
    heads = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
        "size": layers.Dense(2, name="size")(hidden),
    }
    model = keras.Model(inputs, heads)
    model.compile("sgd", {"kind": "sparse_categorical_crossentropy", "size": "mse"})
    labels = {"kind": y, "size": x[:, :2]}
    wanted = model.evaluate(x, labels, verbose=0, return_dict=True)["loss"]
    for found in (diagnose(model, (x, labels)), diagnose(model, x, labels=labels)):
        assert found.measures["loss"] == pytest.approx(wanted, rel=1e-5)
        assert "accuracy" not in found.measures


def test_a_binary_classifier_has_the_accuracy_of_evaluate():
    x, _ = samples()
    y = (x[:, 0] > 0).astype(int)
    model = keras.Sequential(
        [layers.Input((4,)), layers.BatchNormalization(), layers.Dense(1, activation="sigmoid")]
    )
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    wanted = model.evaluate(x, y, verbose=0, return_dict=True)
    measures = diagnose(model, x, labels=y.tolist()).measures
    assert measures["accuracy"] == pytest.approx(wanted["accuracy"])
    assert measures["loss"] == pytest.approx(wanted["loss"], rel=1e-5)


def test_a_model_made_under_a_strategy_is_diagnosed():
    x, y = samples()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = classifier()
    model.fit(x, y, verbose=0)
    assert diagnose(model, x, labels=y).samples == 70


def test_class_numbers_beyond_the_classes_are_no_accuracy():
    x, y = samples()
    y[-1] = 3  # in the last batch alone
    assert "accuracy" not in diagnose(classifier(compiled=False), x, labels=y).measures


def test_labels_that_the_loss_does_not_take_are_refused():
    x, _ = samples()
    with pytest.raises(InputError, match=r"`labels` must be what the model's loss takes\. Rec"):
        diagnose(classifier(), x, labels=np.ones((70, 5), "float32"))


def test_select_and_ignore_choose_codes():
    x, _ = samples()
    model = classifier(compiled=False)
    model.get_layer("bn").moving_mean.assign([np.nan, 0, 0, 0, 0, 0])
    assert {one.code for one in diagnose(model, x, select=("BN2",)).findings} == {"BN205"}
    assert "BN101" not in {one.code for one in diagnose(model, x, ignore=("BN101",)).findings}
    with pytest.raises(InputError, match=r"`select` must name rules"):
        diagnose(model, x, select=("BN9",))


def test_the_cause_stays_named_where_only_the_effect_is_asked_for():
    x, _ = samples()
    model = classifier(compiled=False)
    model.get_layer("bn").moving_mean.assign([np.nan, 0, 0, 0, 0, 0])
    (effect,) = diagnose(model, x, select=("BN205",)).findings
    assert effect.root == "BN101 bn"


def test_a_model_without_batch_norm_has_nothing():
    model = keras.Sequential([layers.Input((4,)), layers.Dense(2)])
    diagnosis = diagnose(model, samples()[0])
    assert (diagnosis.norms, diagnosis.findings) == ((), ())


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"^diagnose: `model` must be a Keras model\. Received"):
        diagnose("model.keras")


def test_a_model_without_weights_is_refused_and_data_give_it_some():
    def unbuilt():
        return keras.Sequential([layers.Dense(6), layers.BatchNormalization(name="bn")], name="raw")

    message = (
        "diagnose: `model` must have weights. Received: model='raw', which is not built. "
        "Call it on data once, or pass `data`."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        diagnose(unbuilt())
    assert diagnose(unbuilt(), samples()[0]).norms == ("bn",)


def test_empty_data_are_refused():
    with pytest.raises(InputError, match=r"`data` must hold at least one sample"):
        diagnose(classifier(), np.zeros((0, 4), "float32"))


def test_a_list_of_inputs_and_a_dict_of_them_are_taken():
    a, b = layers.Input((2,), name="a"), layers.Input((3,), name="b")
    hidden = layers.Concatenate()([a, b])
    arrays = {"a": np.ones((9, 2), "float32"), "b": np.ones((9, 3), "float32")}
    for inputs, data in (([a, b], list(arrays.values())), ({"a": a, "b": b}, arrays)):
        model = keras.Model(inputs, layers.BatchNormalization()(hidden))
        assert diagnose(model, data).samples == 9


def test_several_outputs_and_integers_are_no_trouble():
    inputs = layers.Input((5,), dtype="int32")
    hidden = layers.BatchNormalization()(layers.Embedding(7, 3)(inputs))
    model = keras.Model(inputs, {"one": hidden, "two": layers.Flatten()(hidden)})
    assert diagnose(model, np.ones((40, 5), "int32")).samples == 40


@pytest.mark.parametrize("code", [rule.code for rule in RULES.values() if rule.needs_data])
def test_the_example_of_a_story_is_found_by_its_rule(code):
    story = RULES[code].story
    assert story.startswith(f"# {code} {RULES[code].name}\n")
    sections = ["Symptom", "Cause", "Threshold", "Remedy", "Example"]
    assert re.findall(r"(?m)^## (.*)$", story) == sections
    assert max(map(len, story.splitlines())) <= 110
    (example,) = re.findall(r"```python\n(.*?)```", story, flags=re.DOTALL)
    names = {}
    exec(example, names)
    (finding,) = [one for one in diagnose(names["model"], names["x"]).of(code) if one.layer == "bn"]
    said = re.search(r"finds (?:all (\d+) channels|channel (\d+)) of `bn`", story)
    if said:
        every, one = said.groups()
        assert finding.channels == (tuple(range(int(every))) if every else (int(one),))
    root = re.search(r"(BN\d+)(?: at `(\w+)`)? (?:is )?the root", story.split("## Example")[1])
    if root:
        assert finding.root == f"{root[1]} {root[2] or 'bn'}"


def test_the_gap_is_unknown_where_statistics_are_not_numbers():
    layers = [keras.layers.BatchNormalization(name=name) for name in ("spoilt", "whole")]
    model = keras.Sequential([keras.layers.Input((2,)), *layers])
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    assert 0 < diagnose(model, x).measures["gap"] < 1
    layers[0].moving_mean.assign([np.nan, 0.0])
    assert np.isnan(diagnose(model, x).measures["gap"])


def small_with_averages():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(momentum=0.5, name="bn"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.99), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@functools.cache
def trained_with_averages():
    model = small_with_averages()
    x = np.random.default_rng(0).normal(2, 3, size=(512, 4)).astype("float32")
    model.fit(x, x[:, :1] ** 2, epochs=6, verbose=0)
    return model, x


def averaged():
    """Return a model whose weights are averages (`use_ema`) and whose statistics are not."""
    trained, x = trained_with_averages()
    model = small_with_averages()
    model.set_weights(trained.get_weights())
    for new, old in zip(model.optimizer.variables, trained.optimizer.variables, strict=True):
        new.assign(old)
    return model, x


def severities(model, data=None):
    return [found.severity for found in diagnose(model, data, select=("BN110",)).findings]


def test_statistics_that_suit_the_data_make_a_note_of_what_training_tells(tmp_path):
    model, x = averaged()
    assert severities(model, x) == ["warning"]
    recalibrate(model, x)
    # As another tool would leave them: the file does not tell that they are new.
    model.save(tmp_path / "model.keras")
    renewed = keras.models.load_model(tmp_path / "model.keras")
    (found,) = diagnose(renewed, x, select=("BN110",)).findings
    assert found.severity == "note"
    assert found.evidence["gap"] < 0.25
    assert severities(renewed) == ["warning"]


def test_statistics_that_were_estimated_anew_are_known_to_be_until_a_weight_changes():
    model, x = averaged()
    change = recalibrate(model, x)
    assert (severities(model), severities(model, x)) == ([], [])
    kernel = model.layers[0].kernel.numpy()
    model.layers[0].kernel.assign_add(kernel)
    assert estimated_in(model) == set()
    model.layers[0].kernel.assign(kernel)
    assert estimated_in(model) == {"bn"}
    assert severities(model) == []
    change.undo()
    assert severities(model) == ["warning"]


@pytest.mark.parametrize(
    ("settings", "expected"), [({"blend": 0.5}, ["warning"]), ({"blend": 1.0}, [])]
)
def test_statistics_that_are_partly_old_are_not_taken_for_new(settings, expected):
    model, x = averaged()
    recalibrate(model, x, **settings)
    assert severities(model) == expected


def test_one_layer_more_that_is_estimated_anew_leaves_the_others_known():
    model, x = averaged()
    outer = keras.Sequential([model, layers.BatchNormalization(name="last")])
    outer.compile(model.optimizer, "mse")
    outer.build((None, 4))
    recalibrate(outer, x, only=[f"{model.name}/bn"])
    recalibrate(outer, x, only=["last"])
    assert estimated_in(outer) == {f"{model.name}/bn", "last"}


def test_a_diagnosis_that_is_not_all_numbers_is_json():
    found = Diagnosis("net", ("bn",), (), measures={"gap": math.nan, "accuracy": 0.5})
    text = json.dumps(found.as_json(), allow_nan=False)
    assert json.loads(text)["measures"] == {"gap": "NaN", "accuracy": 0.5}


@pytest.mark.parametrize(("rows", "batches"), [(32, "one batch is"), (64, "2 batches are")])
def test_where_too_few_batches_came_to_tell_it_is_said_with_what_it_does(rows, batches):
    layer = layers.BatchNormalization(name="bn")
    model = keras.Sequential([layers.Input((3,)), layer])
    layer.moving_mean.assign([1.0, 0.0, 0.0])
    layer.moving_variance.assign([2.0, 1.0, 1.0])
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype("float32")
    diagnosis = diagnose(model, x)
    assert [one.key for one in diagnosis.findings] == ["BN200 bn"]
    assert dict(diagnosis.unseen) == {
        "bn": f"its statistics may be off, and {batches} too few to tell"
    }
    assert diagnose(model, np.tile(x, (8, 1))).of("BN201")
