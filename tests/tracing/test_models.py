"""One batch-norm layer inside a running model, and where its `training` came from."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import whole

import batchnorm_mechanics as bnm

BN = keras.layers.BatchNormalization


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, 3)).astype("float32")


@pytest.fixture
def model():
    """A graph with a flag baked in at its second batch norm, as in the source's first study."""
    inputs = keras.Input((3,))
    h = BN(name="a")(keras.layers.Dense(4)(inputs))
    h = keras.layers.Dropout(0.5, seed=1)(BN(name="b")(h, training=True))
    return keras.Model(inputs, BN(name="c")(keras.layers.Dense(2)(h)), name="m")


def after_dropout():
    inputs = keras.Input((3,))
    h = bnm.BatchNormalization(name="after")(keras.layers.Dropout(0.5)(inputs))
    return keras.Model(inputs, h)


def why(found):
    return " ".join(found.why)


def test_the_step_values_are_those_of_the_call_inside_the_model(model, x):
    found = bnm.trace(model, x, layer="a", training=True)
    inside = model.layers[1](x)
    np.testing.assert_allclose(found["x"].value, inside, rtol=1e-6)
    np.testing.assert_allclose(found["mean"].value, np.mean(inside, 0), rtol=1e-5, atol=1e-6)
    assert all(check.passed for check in found.checks)
    assert "Why: the model was called with training=True." in found.why


def test_a_baked_flag_is_found_and_explained(model, x):
    found = bnm.trace(model, x, layer="b")
    assert found.mode == "training"
    assert "training=True was given to this layer when the model's graph was built" in why(found)
    np.testing.assert_array_equal(
        found["layer_output"].value, keras.Model(model.input, model.get_layer("b").output)(x)
    )


def test_the_argument_of_the_model_overrides_the_flag_and_this_is_said(model, x):
    found = bnm.trace(model, x, layer="b", training=False)
    assert found.mode == "inference"
    assert "The graph has training=True baked in at this layer. The argument" in why(found)


def test_a_layer_before_the_flag_does_not_get_it(model, x):
    found = bnm.trace(model, x, layer="a")
    assert found.mode == "inference"
    assert "nothing else set it, so Keras takes inference mode" in why(found)


def test_a_flag_that_keras_hands_on_to_a_later_layer_is_named_with_its_giver(x):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, BN(name="later")(BN(name="first")(inputs, training=True)))
    found = bnm.trace(model, x, layer="later")
    assert found.mode == "training"
    assert "training=True is baked into the graph at 'first'" in why(found)


def test_a_dropout_before_the_layer_hands_on_its_default(x):
    model = after_dropout()
    found = bnm.trace(model, x, layer="after")
    assert f"got training=False from {model.layers[1].name!r}" in why(found)


def test_a_nested_model_called_with_a_flag_gives_it_to_what_is_inside(model, x):
    inputs = keras.Input((3,))
    outer = keras.Model(inputs, model(inputs, training=True))
    found = bnm.trace(outer, x, layer="a")
    assert found.mode == "training"
    assert "is baked into the graph at 'm'" in why(found)


def test_everything_in_the_model_is_put_back_the_seeds_too(model, x):
    before = [variable.numpy().copy() for variable in model.variables]
    bnm.trace(model, x, layer="a", training=True)
    for was, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, variable.numpy(), err_msg=variable.path)
    assert len(before) == 17  # weights, moving statistics and the seed of the dropout


def test_a_sequential_model_with_one_batch_norm_needs_no_name(x):
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4), BN(name="only")])
    found = bnm.trace(model, x.tolist(), training=True)
    assert "'only' in the model" in found.title
    assert all(check.passed for check in found.checks)


class Twice(keras.Model):
    """Calls one layer twice, always in training mode, and has another that it never calls."""

    def __init__(self):
        super().__init__(name="twice")
        self.inner, self.never = BN(name="inner"), BN(name="never")

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.never.build(input_shape)

    def call(self, inputs, training=None):
        return self.inner(self.inner(inputs, training=True), training=True)


def test_in_a_subclassed_model_its_code_is_named_as_the_giver(x):
    model = Twice()
    model(x)
    found = bnm.trace(model, x, layer="inner")
    assert "the code of the model called the layer with training=True" in why(found)
    assert any("called this layer 2 times" in note for note in found.notes)
    other = bnm.trace(model, x, layer="inner", training=False)
    assert "But training=True is what arrived at the layer" in why(other)


def test_layers_that_cannot_be_found_are_refused_with_the_names_there_are(x):
    model = Twice()
    model(x)
    has = "It has 'inner', 'never'."
    for name, count in (("nope", 0), (None, 2)):
        message = (
            "trace: `layer` must name one batch-norm layer of the model 'twice'. Received: "
            f"layer={name!r}, which fits {count}. {has}"
        )
        with pytest.raises(ValueError, match=whole(message)):
            bnm.trace(model, x, layer=name)
    message = (
        "trace: the model must call the layer 'never'. Received: a call of the model in which the "
        "layer's Python code did not run. Check that the model's `call` reaches it, and not inside "
        "a tf.function, where values cannot be seen."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.trace(model, x, layer="never")


def test_a_layer_of_another_kind_is_refused(model, x):
    dense = model.layers[1].name
    message = (
        f"trace: `layer` must name a batch-norm layer. Received: layer={dense!r}, a Dense. It has "
        "'a', 'b', 'c'."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.trace(model, x, layer=dense)


def test_a_model_without_weights_is_refused(x):
    message = (
        "trace: the model 's' must have weights. Received: built=False. Call it on data once, "
        "model(x), or begin it with an Input."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.trace(keras.Sequential([BN()], name="s"), x)


def test_a_layer_inside_a_tf_function_is_refused_with_the_way_out(x):
    class Compiled(Twice):
        @tf.function
        def inside(self, inputs):
            return self.inner(inputs)

        def call(self, inputs, training=None):
            return self.inside(inputs)

    model = Compiled()
    model(x)
    with pytest.raises(ValueError, match=r"tf\.config\.run_functions_eagerly"):
        bnm.trace(model, x[:4], layer="inner")
    assert "call" not in vars(model.inner)


def test_symbolic_inputs_of_a_model_are_refused(model):
    message = "trace: `x` must hold values. Received: a symbolic tensor. Call it on data."
    with pytest.raises(TypeError, match=whole(message)):
        bnm.trace(model, keras.Input((3,)), layer="a")
