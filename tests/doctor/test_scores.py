"""The accuracy is Keras's own, of classes of every form, and not claimed of anything else."""

import keras
import numpy as np
import pytest

from batchnorm_mechanics.doctor.scores import Scores

layers = keras.layers


def scored(outputs, labels, loss=None, *, batch=7):
    """Return the scores of outputs that a model gives, and the model."""
    outputs = np.asarray(outputs, "float32")
    model = keras.Sequential([layers.Input(outputs.shape[1:]), layers.Identity()])
    if loss is not None:
        model.compile("sgd", loss)
    scores = Scores(model)
    for start in range(0, len(outputs), batch):
        scores.add(labels[start : start + batch], outputs[start : start + batch])
    return scores.results()


def random(shape, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=shape), rng.integers(0, classes, shape[:-1])


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("shape", [(30, 1), (20, 5, 6, 1)])
def test_one_probability_is_judged_by_its_half(shape, column):
    outputs, labels = random(shape)
    given = labels[..., None] if column else labels
    metric = keras.metrics.BinaryAccuracy()
    metric.update_state(labels[..., None], outputs)
    assert scored(outputs, given)["accuracy"] == pytest.approx(float(metric.result()))


def test_logits_are_judged_by_their_sign_if_the_loss_says_so():
    outputs, labels = random((40, 1))
    outputs = outputs * 6 - 2
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    found = scored(outputs, labels, loss)
    assert found["accuracy"] == np.mean((outputs[:, 0] > 0) == labels)
    assert found["loss"] == pytest.approx(float(loss(labels[:, None], outputs)), rel=1e-5)
    assert "accuracy" not in scored(outputs, labels)


def test_a_regression_to_one_number_has_no_accuracy():
    outputs, labels = random((30, 1))
    assert "accuracy" not in scored(outputs, labels * 0.5)
    assert "accuracy" not in scored(outputs + 0.5, labels)
    assert "accuracy" not in scored(outputs, labels + 1)


@pytest.mark.parametrize("form", ["numbers", "column", "one-hot"])
@pytest.mark.parametrize("shape", [(25, 4), (20, 3, 5, 4), (20, 6, 4)])
def test_dense_predictions_are_each_judged(shape, form):
    outputs, labels = random(shape, classes=4)
    given = {"numbers": labels, "column": labels[..., None], "one-hot": np.eye(4)[labels]}[form]
    for loss in (None, "sparse_categorical_crossentropy", "categorical_crossentropy"):
        normal = outputs / outputs.sum(-1, keepdims=True)
        found = scored(normal, given, loss)
        assert found["accuracy"] == pytest.approx(np.mean(outputs.argmax(-1) == labels))
        if loss:
            chosen = np.take_along_axis(normal, labels[..., None], -1)
            assert found["loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)


def test_classes_that_are_left_out_make_no_accuracy():
    outputs, labels = random((20, 6, 4), classes=4)
    labels[3, 2] = 255
    assert scored(outputs, labels) == {}


def test_labels_of_another_shape_make_no_accuracy():
    outputs, labels = random((20, 6, 4), classes=4)
    assert scored(outputs, labels[:, :5]) == {}
    assert scored(outputs, labels[:, 0]) == {}


def test_labels_that_are_true_and_false_are_classes():
    outputs, labels = random((30, 1))
    found = scored(outputs, labels.astype(bool))
    assert found["accuracy"] == np.mean((outputs[:, 0] > 0.5) == labels)
