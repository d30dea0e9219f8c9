"""The new model: its structure, names, settings and files; the old one stays as it is."""

import zipfile

import keras
import numpy as np
import pytest
from fold_models import (
    bn,
    dense,
    distance,
    folded,
    folds_wholly,
    graph,
    settled,
    source,
    stack,
)

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.layers import BatchNormalization

L = keras.layers


def test_a_sequential_model_stays_sequential():
    model = stack((4,), dense(name="first"), bn(), L.ReLU(name="relu", dtype="float64"))
    new = folds_wholly(model)
    assert type(new) is keras.Sequential
    assert new.name == model.name
    assert [layer.name for layer in new.layers] == ["first", "relu"]


def test_a_sequential_model_built_by_its_first_data_is_folded():
    model = keras.Sequential([dense(), bn()])
    model(np.ones((2, 3)))
    new = folds_wholly(settled(model), [np.random.default_rng(0).normal(size=(5, 3))])
    assert new.input_shape == model.input_shape


def test_several_inputs_and_outputs_keep_their_structure_and_names():
    first, second = source(name="first"), source((6,), name="second")
    h = bn()(dense(5)(first))
    model = graph(
        {"first": first, "second": second},
        {"sum": h + bn()(dense(5)(second)), "parts": [h, dense(2, name="last")(h)]},
        name="two",
    )
    new, left = folded(model)
    assert left == {}
    assert (new.name, list(new.input)) == ("two", ["first", "second"])
    rng = np.random.default_rng(0)
    data = {"first": rng.normal(size=(3, 4)), "second": rng.normal(size=(3, 6))}
    expected, found = model(data), new(data)
    np.testing.assert_allclose(found["sum"], expected["sum"], atol=1e-13)
    for ours, theirs in zip(found["parts"], expected["parts"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_operations_and_constants_in_the_graph_are_kept():
    x = source((5, 4))
    h = bn()(dense()(x))
    y = keras.ops.concatenate([h[:, 1:3] * 2.0, keras.ops.flip(h, axis=1)], axis=1)
    folds_wholly(graph(x, keras.ops.max(y, axis=1, keepdims=True)))


def test_models_within_are_folded():
    z = source()
    encoder = keras.Model(z, bn()(dense(5)(z)), name="encoder")
    head = keras.Sequential([source((5,)), dense(3), bn()], name="head")
    x = source()
    new = folds_wholly(graph(x, head(encoder(x))))
    assert [layer.name for layer in new.layers[1:]] == ["encoder", "head"]
    assert type(new.get_layer("head")) is keras.Sequential


def test_a_model_within_that_is_called_twice_is_folded_once():
    z = source()
    inner = keras.Model(z, bn()(dense()(z)))
    x, y = source(), source()
    new = folds_wholly(graph([x, y], inner(x) - inner(inner(y))))
    assert len({id(layer) for layer in new.layers if isinstance(layer, keras.Model)}) == 1


def test_a_shared_layer_stays_shared():
    shared, x, y = dense(), source(), source()
    new = folds_wholly(graph([x, y], bn()(dense()(shared(x) + shared(y)))))
    assert len(new.weights) == 4


class Built(keras.Model):
    def __init__(self):
        x = source()
        super().__init__(x, bn()(dense()(x)))


def test_a_subclass_that_only_builds_a_graph_becomes_a_functional_model():
    new = folds_wholly(settled(Built()))
    assert not isinstance(new, Built)


def test_the_old_model_is_left_as_it_is():
    model = stack((4,), dense(), bn(), dense(activation="tanh"))
    model.compile("adam", "mse")
    weights, settings = model.get_weights(), model.get_config()
    new, _ = folded(model)
    for layer in new.layers:
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    for before, now in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, now)
    assert model.get_config() == settings
    assert not {id(layer) for layer in new._flatten_layers()} & {
        id(layer) for layer in model._flatten_layers()
    }


def test_a_layer_that_takes_a_norm_in_loses_regularizers_and_constraints_and_no_other_does():
    def strict(**settings):
        return dense(
            kernel_regularizer="l2",
            bias_regularizer="l1",
            activity_regularizer="l2",
            kernel_constraint="non_neg",
            bias_constraint="non_neg",
            **settings,
        )

    model = stack((4,), strict(), bn(), strict(activation="relu"))
    new, _ = folded(model)
    names = [
        name
        for name in model.layers[0].get_config()
        if name.endswith(("regularizer", "constraint"))
    ]
    assert len(names) == 5
    assert [getattr(new.layers[0], name) for name in names] == [None] * 5
    assert all(getattr(new.layers[1], name) is not None for name in names)


def test_flags_of_frozen_layers_and_models_are_kept():
    inner = keras.Sequential([source(), dense(name="a"), bn(), dense(name="b")], name="inner")
    x = source()
    model = graph(x, dense(name="c", activation="relu")(inner(x)))
    inner.trainable = False
    inner.get_layer("b").trainable = True
    new, _ = folded(model)
    flags = {layer.name: layer.trainable for layer in new._flatten_layers(include_self=False)}
    assert {name: flags[name] for name in ("inner", "a", "b", "c")} == {
        "inner": False,
        "a": False,
        "b": True,
        "c": True,
    }


def test_a_frozen_model_stays_frozen_with_what_is_thawed_in_it():
    model = stack((4,), dense(name="a"), bn(), dense(name="b"))
    model.trainable = False
    model.get_layer("b").trainable = True
    new, _ = folded(model)
    assert (new.trainable, new.get_layer("a").trainable, new.get_layer("b").trainable) == (
        False,
        False,
        True,
    )


def test_a_model_thawed_within_a_frozen_one_stays_thawed():
    inner = keras.Sequential([source(), dense(name="a"), bn()], name="inner")
    x = source()
    model = graph(x, dense(name="c")(inner(x)))
    model.trainable = False
    inner.trainable = True
    new, _ = folded(model)
    flags = [layer.trainable for layer in (new, *map(new.get_layer, ("inner", "c")))]
    assert flags == [False, True, False]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_types_of_numbers_are_kept(policy):
    model = settled(
        keras.Sequential(
            [
                L.Input((8, 8, 3)),
                L.Conv2D(4, 3, dtype=policy),
                L.BatchNormalization(dtype=policy),
                L.Dense(5, dtype=policy),
            ]
        )
    )
    new, left = folded(model)
    assert left == {}
    assert [layer.dtype_policy.name for layer in new.layers] == [policy, policy]
    assert [weight.dtype for weight in new.weights] == [model.weights[0].dtype] * 4
    assert distance(model, new) < (0.05 if policy == "mixed_bfloat16" else 0.01)


def test_state_besides_weights_is_copied():
    words, numbers = keras.Input((1,), dtype="string"), keras.Input((3,), name="numbers")
    lookup = L.StringLookup(output_mode="one_hot")
    lookup.adapt(np.array([["a"], ["b"], ["a"]]))
    scaling = L.Normalization()
    scaling.adapt(np.array([[1.0, 20.0, -3.0], [2.0, 40.0, 9.0]]))
    h = L.Concatenate()([lookup(words), scaling(numbers)])
    model = settled(keras.Model([words, numbers], L.BatchNormalization()(L.Dense(2)(h))))
    new, left = folded(model)
    data = [
        keras.ops.convert_to_tensor([["a"], ["b"], ["c"]]),
        keras.ops.convert_to_tensor(np.arange(9, dtype="float32").reshape(3, 3)),
    ]
    assert left == {}
    np.testing.assert_allclose(new(data), model(data), atol=1e-5)


def test_a_function_in_a_layer_is_kept():
    model = stack((4,), dense(), bn(), L.Lambda(lambda x: x * 3.0, dtype="float64"))
    folds_wholly(model)


def test_masks_still_reach_the_layers_behind_a_norm():
    x = source((5, 4))
    h = bn()(dense()(L.Masking(dtype="float64")(x)))
    model = graph(x, L.LSTM(3, dtype="float64")(h))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(3, 5, 4))
    data[:, 3:] = 0.0
    new = folds_wholly(model, [data])
    longer = data.copy()
    longer[:, 3:] = 1.0
    assert np.max(np.abs(new(data) - new(longer))) > 0


class WithoutSettings(L.Layer):
    def __init__(self, units):
        super().__init__()
        self.inner = L.Dense(units)

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return super().get_config()


def test_a_layer_that_cannot_be_copied_is_named():
    model = keras.Sequential([L.Input((4,)), L.Dense(3), L.BatchNormalization()])
    model.add(WithoutSettings(2))
    with pytest.raises(InputError) as caught:
        folded(model)
    assert str(caught.value) == (
        "fold: `model` must consist of layers that Keras can copy by `get_config` and "
        f"`from_config`. Received: the layer {model.layers[-1].name!r} of class WithoutSettings, "
        "which said: Exception encountered: WithoutSettings.__init__() got an unexpected keyword "
        "argument 'name'. Give it both methods."
    )


class OtherWeights(L.Layer):
    made = 0

    def build(self, shape):
        OtherWeights.made += 1
        self.weight = self.add_weight(shape=(OtherWeights.made,))

    def call(self, inputs):
        return inputs * keras.ops.sum(self.weight)


def test_a_layer_whose_copy_has_other_weights_is_named():
    model = keras.Sequential([L.Input((4,)), OtherWeights(name="odd")])
    with pytest.raises(InputError, match="the layer 'odd' of class OtherWeights, whose copy has"):
        folded(model)


def test_single_frozen_weights_stay_frozen():
    layer = L.Dense(3)
    model = keras.Sequential([L.Input((4,)), layer])
    layer.enable_lora(2)
    new, _ = folded(model)
    assert [weight.trainable for weight in new.weights] == [
        weight.trainable for weight in model.weights
    ]
    assert not all(weight.trainable for weight in new.weights)


def test_the_file_of_a_folded_model_needs_nothing_of_ours(tmp_path):
    model = settled(
        keras.Sequential(
            [
                L.Input((8, 8, 3)),
                L.Conv2D(4, 3),
                BatchNormalization(),
                L.ReLU(),
                L.GlobalAveragePooling2D(),
                L.Dense(3),
                BatchNormalization(),
            ]
        )
    )
    new, left = folded(model)
    assert left == {}
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    new.save(tmp_path / "folded.keras")
    with zipfile.ZipFile(tmp_path / "folded.keras") as file:
        assert "batchnorm_mechanics" not in file.read("config.json").decode()
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(loaded(x), new(x))
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-4, atol=1e-5)
