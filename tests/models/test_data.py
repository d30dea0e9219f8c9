"""Data are taken in every form that Keras has for them, and what is none is named."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.models.data import as_data

X = np.arange(20.0).reshape(10, 2).astype("float32")
Y = np.arange(10)


class Batches(keras.utils.PyDataset):
    def __init__(self, kind=tuple, number=3):
        super().__init__()
        self.kind, self.number = kind, number

    @property
    def num_batches(self):
        return self.number

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return X[rows] if self.kind is None else self.kind((X[rows], Y[rows], Y[rows]))


def batches(data, **settings):
    return list(as_data(data, **settings, caller="diagnose"))


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X, Y.tolist()),
        (X, Y, np.ones(10)),
        (X, Y, [1.0] * 10),
        (X, Y, None),
        Batches(tuple),
        Batches(list),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
        tf.data.Dataset.from_tensor_slices((X, Y, Y)).batch(4),
    ],
)
def test_inputs_and_labels_come_batch_by_batch_and_twice(data):
    data = as_data(data, batch_size=4, caller="diagnose")
    for _ in range(2):
        inputs, labels = zip(*data, strict=True)
        assert [len(part) for part in inputs] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(inputs), X)
        np.testing.assert_array_equal(np.concatenate(labels), Y)


def test_a_dataset_without_labels_has_none():
    assert [labels for _, labels in batches(Batches(None))] == [None] * 3


def test_labels_of_several_outputs_are_cut_alike():
    labels = {"one": Y, "two": [X, 2 * X]}
    found = batches(X, labels=labels, batch_size=6)
    assert [len(part["one"]) for _, part in found] == [6, 4]
    np.testing.assert_array_equal(found[1][1]["two"][1], 2 * X[6:])


def test_one_hot_labels_in_lists_are_one_array():
    ((_, labels),) = batches(X, labels=np.eye(10, dtype=int).tolist())
    np.testing.assert_array_equal(labels, np.eye(10))


def test_text_is_taken_for_a_model_that_takes_it():
    for text in (np.array(["a", "b"]), tf.constant(["a", "b"])):
        assert len(batches(text)) == 1


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (tf.data.Dataset.from_tensor_slices(X).batch(4).repeat(), r"Add \.take\(n\)"),
        (Batches(number=None), "Give it a `num_batches`"),
    ],
)
def test_data_that_never_end_are_refused(data, remedy):
    with pytest.raises(InputError, match=f"`data` must have an end.*for ever. {remedy}"):
        as_data(data, caller="diagnose")


class NoNumpy:
    """As a tensor of another library that needs a gradient."""

    shape = (3, 2)

    def __getitem__(self, rows):
        return self

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Detach it.")


def csr():
    from scipy import sparse

    return sparse.csr_matrix(X)


REFUSED = {
    "generator": ((part for part in [X]), "data of type generator. Make arrays of its batches"),
    "iterator": (iter([X]), "data of type list_iterator. Make arrays"),
    "object": (X.astype(object), "type numpy.ndarray and dtype object. Make it one of numbers"),
    "complex": (X.astype(complex), "dtype complex128. Make it one of numbers"),
    "sparse": (tf.sparse.from_dense(X), "SparseTensor. Make it dense with tf.sparse.to_dense."),
    "scipy": (csr(), "csr_matrix. Make it dense with .toarray()."),
    "ragged": (tf.ragged.constant([[1.0], [1, 2]]), "RaggedTensor. Its rows are of several"),
    "none": (None, "data of type NoneType. Pass samples."),
    "path": ("data.npz", "data of type str. np.load reads a file"),
    "number": (5, "data of type int with numbers in it"),
    "nested": (X.tolist(), "data of type list with numbers in it. Make an array of it"),
    "grad": (NoNumpy(), "NoNumpy, of which NumPy says: Can't call numpy() on Tensor that"),
    "in a list": ([X, None], "data of type NoneType. Pass samples."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_named_with_what_to_pass(name):
    data, said = REFUSED[name]
    beginning = (
        "recalibrate: `data` must be an array, a tuple (inputs, labels), a list or dict of arrays "
        "for several inputs, a tf.data.Dataset or a keras.utils.PyDataset. Received: data of type "
    )
    with pytest.raises(InputError, match=f"^{re.escape(beginning)}") as caught:
        as_data(data, caller="recalibrate")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (Y.astype(str), "labels of type numpy.ndarray and dtype <U"),
        (tf.constant(["a"] * 10), "and dtype object"),
        ([[1], [2, 3]], "labels of type list with numbers in it"),
        (iter(Y), "labels of type "),
    ],
)
def test_labels_that_are_no_numbers_are_refused(labels, said):
    message = "diagnose: `labels` must be numbers, in an array or in a list or dict of arrays for"
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as caught:
        as_data(X, labels=labels, caller="diagnose")
    assert said in str(caught.value)


def test_of_many_shapes_four_are_named():
    parts = [np.ones((2, 1))] * 9 + [np.ones((3, 1))]
    with pytest.raises(
        InputError, match=r"\(2, 1\), \(2, 1\)\] and 6 more\. The first axis"
    ) as got:
        as_data(parts, caller="diagnose")
    assert str(got.value).count("(2, 1)") == 4


@pytest.mark.parametrize("weights", [np.ones(9), np.ones((0,))])
def test_weights_are_as_many_as_the_samples(weights):
    with pytest.raises(InputError, match="as many labels as samples"):
        as_data((X, Y, weights), caller="diagnose")
