"""What is wrong in a graph is found, in the right layer, and what only looks like it is not."""

import keras
import numpy as np
import pytest
from doctor.cases import case_of, found_by

import batchnorm_mechanics as bnm
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers
KINDS = [layers.BatchNormalization, bnm.BatchNormalization]


def found(model, code=None):
    findings = found_by(["BN107", "BN108", "BN109", "BN113"], case_of(model))
    return [one for one in findings if one.code == code] if code else findings


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def summary(findings):
    return [(one.code, one.layer, one.severity) for one in findings]


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


# BN107


def flagged(flag, kind=layers.BatchNormalization):
    inputs = layers.Input((4,))
    hidden = kind(name="plain")(inputs)
    hidden = kind(name="flagged")(hidden, training=flag)
    hidden = layers.Activation("relu")(hidden)
    hidden = kind(name="later")(layers.Dense(4, use_bias=False)(hidden))
    return keras.Model(inputs, layers.Dense(1)(hidden))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", [False, True])
def test_a_baked_flag_is_a_warning_in_its_layer_alone(kind, saved, tmp_path):
    model = flagged(True, kind)
    if saved:
        model = saved_and_loaded(model, tmp_path)
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.severity) == ("BN107", "flagged", "warning")
    assert finding.channels == ()
    assert finding.evidence == {
        "training": "True",
        "flag_on": "flagged",
        "norms_that_inherit_it": 1,
    }


@pytest.mark.parametrize("flag", [True, False, None])
def test_what_the_evidence_says_of_later_layers_is_what_keras_does(flag, rng):
    model = flagged(flag)
    before = [norm.mean for norm in norms_in(model)]
    model(rng.normal(3, 2, (16, 4)).astype("float32"))
    moved = [
        norm.name
        for norm, mean in zip(norms_in(model), before, strict=True)
        if not np.array_equal(norm.mean, mean)
    ]
    assert moved == (["flagged", "later"] if flag else [])


def test_a_flag_is_inherited_up_to_the_next_one():
    inputs = layers.Input((4,))
    hidden = layers.BatchNormalization(name="first")(inputs, training=True)
    hidden = layers.BatchNormalization(name="second")(hidden)
    hidden = layers.BatchNormalization(name="third")(hidden, training=False)
    hidden = layers.BatchNormalization(name="fourth")(hidden)
    findings = found(keras.Model(inputs, hidden))
    assert summary(findings) == [("BN107", "first", "warning"), ("BN107", "third", "note")]
    assert findings[0].evidence["norms_that_inherit_it"] == 1


def test_a_frozen_layer_inherits_no_flag():
    model = flagged(True)
    model.get_layer("later").trainable = False
    assert only(found(model)).evidence["norms_that_inherit_it"] == 0


def test_dropout_ends_the_inheritance_of_a_flag(rng):
    inputs = layers.Input((4,))
    hidden = layers.BatchNormalization(name="first")(inputs, training=True)
    inner = keras.Sequential([layers.Input((4,)), layers.BatchNormalization(name="bn")])
    hidden = layers.Dropout(0.5)(inner(hidden))
    hidden = layers.BatchNormalization(name="last")(hidden)
    model = keras.Model(inputs, hidden)
    assert only(found(model)).evidence["norms_that_inherit_it"] == 1
    before = [norm.variance for norm in norms_in(model)]
    model(rng.normal(3, 2, (16, 4)).astype("float32"))
    moved = [
        not np.array_equal(norm.variance, variance)
        for norm, variance in zip(norms_in(model), before, strict=True)
    ]
    assert moved == [True, True, False]


def test_a_flag_of_false_is_a_note_since_fit_overrides_it(rng):
    model = flagged(False)
    assert summary(found(model)) == [("BN107", "flagged", "note")]
    model.compile("sgd", "mse")
    x = rng.normal(3, 2, (16, 4)).astype("float32")
    model.fit(x, x[:, :1], verbose=0)
    assert model.get_layer("flagged").moving_variance.numpy().max() != 1


def test_a_frozen_layer_may_have_any_flag_but_hands_it_on():
    for flag, expected in ((False, []), (True, [("BN107", "later", "warning")])):
        model = flagged(flag)
        model.get_layer("flagged").trainable = False
        assert summary(found(model)) == expected


@pytest.mark.parametrize(("flag", "severity"), [(True, "warning"), (False, "note")])
def test_a_flag_on_a_nested_model_is_that_of_each_layer_in_it(flag, severity):
    inner = keras.Sequential(
        [layers.Input((4,)), layers.BatchNormalization(name="bn")], name="inner"
    )
    outer = keras.Sequential([layers.Input((4,)), inner], name="outer")
    inputs = layers.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(outer(inputs, training=flag)))
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.severity) == ("BN107", "outer/inner/bn", severity)
    assert finding.evidence["flag_on"] == "outer"
    outer.trainable = False
    assert found(model) == []


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def call(self, inputs, training=False):
        return self.norm(inputs, training=training)


def test_the_default_of_a_layer_that_holds_others_is_no_flag_that_someone_meant():
    inputs = layers.Input((4,))
    assert found(keras.Model(inputs, Block()(inputs))) == []
    flagged_block = Block()(inputs, training=True)
    assert summary(found(keras.Model(inputs, flagged_block)))[0][2] == "warning"


# BN108


def convolutional(axis, data_format="channels_last", between=(), kind=layers.BatchNormalization):
    shape = (8, 9, 3) if data_format == "channels_last" else (3, 8, 9)
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(
                5, 3, padding="same", use_bias=False, data_format=data_format, name="conv"
            ),
            *between,
            kind(axis=axis, name="bn"),
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data_format", "axis", "wrong", "right", "channels"),
    [
        ("channels_last", 1, 1, 3, 8),
        ("channels_last", -2, 2, 3, 9),
        ("channels_first", -1, 3, 1, 9),
        ("channels_first", 2, 2, 1, 8),
    ],
)
def test_an_axis_that_is_not_that_of_the_features_is_an_error(
    kind, data_format, axis, wrong, right, channels
):
    finding = only(found(convolutional(axis, data_format, kind=kind)))
    assert (finding.code, finding.layer, finding.severity) == ("BN108", "bn", "error")
    assert finding.evidence == {
        "axis": wrong,
        "axis_of_features": right,
        "layer_before": "conv",
        "data_format": data_format,
        "channels_of_layer": channels,
        "features": 5,
    }
    assert f"axis={1 if right == 1 else -1} " in finding.remedy


@pytest.mark.parametrize(
    ("data_format", "axis"), [("channels_last", -1), ("channels_last", 3), ("channels_first", 1)]
)
def test_the_axis_of_the_features_is_right_however_it_is_counted(data_format, axis):
    assert found(convolutional(axis, data_format)) == []


def test_the_layout_is_known_through_layers_that_keep_it():
    between = [
        layers.ReLU(),
        layers.Dropout(0.1),
        layers.BatchNormalization(name="right"),
        layers.Activation("tanh"),
    ]
    assert summary(found(convolutional(1, between=between))) == [("BN108", "bn", "error")]


def test_the_layout_is_known_through_functions_and_sums():
    inputs = layers.Input((8, 8, 3))
    left = layers.Conv2D(4, 1, use_bias=False)(inputs)
    hidden = keras.ops.relu(left) + layers.Conv2D(4, 1, use_bias=False)(inputs)
    hidden = layers.BatchNormalization(axis=1, name="bn")(keras.ops.tanh(hidden))
    assert summary(found(keras.Model(inputs, hidden))) == [("BN108", "bn", "error")]


def test_the_layout_is_known_from_within_a_nested_model():
    inner = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 1), layers.ReLU()])
    inputs = layers.Input((8, 8, 3))
    hidden = layers.BatchNormalization(axis=1, name="bn")(inner(inputs))
    assert summary(found(keras.Model(inputs, hidden))) == [("BN108", "bn", "error")]


@pytest.mark.parametrize(
    "between", [layers.Permute((3, 1, 2)), layers.Reshape((9, 8, 5))], ids=["permute", "reshape"]
)
def test_nothing_is_said_where_the_layout_is_lost(between):
    assert found(convolutional(1, between=[between])) == []


def test_flattened_features_have_no_layout():
    assert found(convolutional(1, between=[layers.Flatten()])) == []
    assert found(convolutional(1, between=[layers.GlobalAveragePooling2D()])) == []


def dense(layer, axis, shape=(7, 3)):
    return keras.Sequential(
        [layers.Input(shape), layer, layers.BatchNormalization(axis=axis, name="bn")]
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Dense(4, name="before"), (7, 3)),
        (lambda: layers.Dense(4, name="before"), (6, 7, 3)),
        (lambda: layers.EinsumDense("abc,cd->abd", (7, 4), name="before"), (7, 3)),
    ],
)
def test_a_dense_layer_has_its_features_last(layer, shape):
    finding = only(found(dense(layer(), 1, shape), "BN108"))
    assert (finding.layer, finding.severity) == ("bn", "warning")
    assert finding.evidence == {
        "axis": 1,
        "axis_of_features": len(shape),
        "layer_before": "before",
        "data_format": "channels_last",
        "channels_of_layer": shape[0],
        "features": 4,
    }
    assert found(dense(layer(), -1, shape), "BN108") == []


def test_a_dense_layer_without_other_axes_leaves_no_choice():
    assert found(dense(layers.Dense(4), 1, (3,)), "BN108") == []


def test_an_equation_that_keeps_the_last_axis_says_nothing_of_features():
    mixing_positions = layers.EinsumDense("abc,bd->adc", (5, 3))
    assert found(dense(mixing_positions, 1), "BN108") == []


# BN109


def biased(layer, between=(), **settings):
    model = keras.Sequential(
        [layers.Input((8, 8, 4)), layer, *between, layers.BatchNormalization(name="bn", **settings)]
    )
    layer.bias.assign(np.linspace(-2, 1, layer.bias.shape[0]))
    return model


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Dense(5, name="before"),
        lambda: layers.Conv2D(5, 3, name="before"),
        lambda: layers.Conv2DTranspose(5, 3, name="before"),
        lambda: layers.SeparableConv2D(5, 3, name="before"),
        lambda: layers.DepthwiseConv2D(3, name="before"),
    ],
)
def test_a_bias_that_the_mean_takes_away_again_is_a_note(layer):
    layer = layer()
    finding = only(found(biased(layer)))
    assert (finding.code, finding.layer, finding.severity) == ("BN109", "bn", "note")
    assert finding.evidence == {
        "layer_before": "before",
        "parameters": layer.bias.shape[0],
        "largest_bias": pytest.approx(2),
    }


def test_the_bias_changes_nothing_in_training(rng):
    model = biased(layers.Conv2D(5, 3))
    x = rng.normal(size=(4, 8, 8, 4)).astype("float32")
    with_bias = keras.ops.convert_to_numpy(model(x, training=True))
    model.layers[0].bias.assign(np.zeros(5))
    np.testing.assert_allclose(with_bias, model(x, training=True), atol=2e-6)


def test_a_bias_that_something_else_uses_is_not_redundant():
    inputs = layers.Input((4,))
    hidden = layers.Dense(4)(inputs)
    normalized = layers.BatchNormalization()(hidden)
    assert found(keras.Model(inputs, normalized)) != []
    assert found(keras.Model(inputs, [normalized, hidden])) == []
    assert found(keras.Model(inputs, layers.Add()([normalized, hidden]))) == []


def test_a_bias_inside_an_activation_is_not_redundant():
    assert found(biased(layers.Conv2D(5, 3, activation="relu"))) == []
    assert found(biased(layers.Conv2D(5, 3), between=[layers.ReLU()])) == []


def test_a_bias_along_another_axis_is_not_redundant():
    assert found(biased(layers.Dense(5), axis=1), "BN109") == []


def test_a_layer_without_a_bias_has_none_to_spare():
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(4, use_bias=False), layers.BatchNormalization()]
    )
    assert found(model) == []


# BN113


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_fed_from_two_places_is_a_warning(kind):
    left, right = layers.Input((4,), name="left"), layers.Input((4,), name="right")
    shared = kind(name="shared")
    joined = layers.Add()([shared(left), shared(right)])
    model = keras.Model([left, right], kind(name="own")(joined))
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.severity) == ("BN113", "shared", "warning")
    assert finding.evidence == {"inputs": 2, "fed_by": "left, right"}


def test_a_layer_that_is_fed_twice_from_one_place_is_left_alone():
    inputs = layers.Input((4,))
    shared = layers.BatchNormalization()
    assert found(keras.Model(inputs, layers.Add()([shared(inputs), shared(inputs)]))) == []


def test_a_siamese_model_is_a_note():
    encoder = keras.Sequential(
        [layers.Input((4,)), layers.BatchNormalization(name="bn")], name="encoder"
    )
    left, right = layers.Input((4,), name="left"), layers.Input((4,), name="right")
    model = keras.Model([left, right], layers.Add()([encoder(left), encoder(right)]))
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.severity) == ("BN113", "encoder/bn", "note")
    assert finding.evidence == {"inputs": 2, "fed_by": "left, right"}
    assert found(keras.Model(left, layers.Add()([encoder(left), encoder(left)]))) == []


def test_a_layer_that_another_model_uses_too_is_judged_by_the_calls_of_this_one():
    shared = layers.BatchNormalization()
    inputs, others = layers.Input((4,)), layers.Input((4,))
    model = keras.Model(inputs, shared(inputs))
    keras.Model(others, shared(others))
    assert found(model) == []


# All


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)
        self.norm = layers.BatchNormalization()

    def call(self, inputs):
        return self.norm(self.norm(self.dense(inputs), training=True))


def test_a_subclassed_model_has_no_graph_to_find_anything_in():
    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    assert len(norms_in(model)) == 1
    assert found(model) == []
