"""Data are matched with a model's inputs as Keras matches them."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.fitting import Fitting
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers
A, B = np.ones((6, 2), "float32"), np.ones((6, 3), "float32")


def two_inputs(kind):
    """Return a model of a list or dict of inputs; as a list they are not in order of names."""
    b, a = layers.Input((3,), name="b"), layers.Input((2,), name="a")
    inputs = [b, a] if kind is list else {"b": b, "a": a}
    hidden = layers.BatchNormalization(name="bn")(layers.Concatenate()([b, a]))
    return keras.Model(inputs, hidden)


def samples(model, data):
    return measure(model, norms_in(model), Data(data)).samples


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (list, {"a": A, "b": B}),
        (list, {"b": B, "a": A}),
        (list, [B, A]),
        (list, {"a": A, "b": B, "id": A}),
        (dict, {"b": B, "a": A}),
    ],
)
def test_a_dict_goes_by_names_whatever_their_order(kind, data):
    model = two_inputs(kind)
    model.predict(data, verbose=0)
    assert samples(model, data) == 6


def test_a_dict_for_one_input_goes_by_its_name():
    model = keras.Sequential([layers.Input((2,), name="a"), layers.BatchNormalization()])
    fitting = Fitting(model)
    assert fitting.checked({"a": A})["a"].shape == (6, 2)
    with pytest.raises(InputError, match=r"names of the model's inputs, 'a'\. Received: 'b'"):
        fitting.checked({"b": A})


def test_names_that_are_not_the_inputs_are_refused():
    message = (
        "repair: `data` must have the names of the model's inputs, 'b', 'a'. "
        "Received: 'a', 'c'. Pass what `model.predict` takes."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Fitting(two_inputs(list), "repair").checked({"a": A, "c": B})


def test_shapes_are_named_in_the_order_of_the_inputs():
    message = r"input, \[\(n, 3\), \(n, 2\)\]\. Received: batches of shape \[\(n, 3\), \(n, 3\)\]"
    with pytest.raises(InputError, match=message):
        Fitting(two_inputs(list)).checked({"a": B, "b": B})


def one_input():
    return keras.Sequential([layers.Input((2,)), layers.Dense(2), layers.BatchNormalization()])


def test_text_for_a_model_of_numbers_is_refused():
    with pytest.raises(
        InputError, match=r"on which it fails: Cast string to float is not supported\. Pass"
    ):
        samples(one_input(), A.astype(str))


def test_sparse_batches_are_refused_where_they_are_kept():
    data = tf.data.Dataset.from_tensor_slices(tf.sparse.from_dense(A)).batch(3)
    with pytest.raises(InputError, match=r"`data` must be dense\. Received: batches with a Sparse"):
        samples(one_input(), data)


def test_batches_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match=r"`data` must be numbers\. .* a part of type ndarray"):
        Fitting(one_input()).checked(A.astype(object))


@pytest.mark.parametrize("name", ["two words", "ünï", "100%"])
def test_a_name_that_tensorflow_cannot_compile_is_refused_before_keras_stumbles(name):
    layers = keras.layers
    inputs = layers.Input((3,), name="input of any name")
    model = keras.Model(inputs, layers.BatchNormalization(name=name)(inputs))
    with pytest.raises(InputError) as refused:
        Fitting(model)
    assert str(refused.value) == (
        "diagnose: `model` must have names that TensorFlow can compile. Received: the name "
        f"{name!r}. Use letters, digits and the signs _ . - / alone, or compile the model with "
        "run_eagerly=True."
    )
    model.compile(run_eagerly=True)
    Fitting(model)
