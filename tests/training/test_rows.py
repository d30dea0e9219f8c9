"""`RowBatches` against the dataset of the same batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import ROWS, keras_batch_norm, numbers, own_step, plain

from batchnorm_mechanics.training import RowBatches, fit_compiled
from batchnorm_mechanics.training.blocks import Batches
from batchnorm_mechanics.training.fit import evaluate_compiled
from batchnorm_mechanics.training.loop import loops_of


def in_memory(size=8, **batch):
    x, y = map(tf.constant, numbers())
    order = tf.data.Dataset.range(ROWS).shuffle(ROWS, seed=3, reshuffle_each_iteration=True)
    return RowBatches((x, y), order.batch(size, **batch))


def trained(make, data, *, jit_compile=False, **settings):
    # The order of a shuffled dataset depends on the seed at the time when it is made.
    keras.utils.set_random_seed(11)
    model = make()
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    history = fit_compiled(model, data(), epochs=3, jit_compile=jit_compile, **settings)
    return history.history, model.get_weights()


def assert_equal(found, expected):
    for values, wanted in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(values, wanted)
    assert found[0] == expected[0]


@pytest.mark.parametrize("make", [keras_batch_norm, own_step])
def test_rows_give_what_their_dataset_gives(make):
    assert_equal(trained(make, in_memory), trained(make, lambda: in_memory().as_dataset()))


def test_rows_give_what_fit_gives_under_xla():
    def whole_batches():
        return in_memory(drop_remainder=True)

    history, weights = trained(plain, whole_batches, jit_compile=True, validation_data=in_memory)
    keras.utils.set_random_seed(11)
    model = plain()
    expected = model.fit(
        whole_batches().as_dataset(),
        validation_data=in_memory().as_dataset(),
        epochs=3,
        verbose=0,
        shuffle=False,
    )
    for name, values in expected.history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)
    for found, wanted in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_steps_go_on_through_an_endless_order_of_rows():
    def endless():
        batches = in_memory(drop_remainder=True)
        return RowBatches(batches.rows, batches.numbers.repeat())

    found = trained(plain, endless, steps_per_epoch=4)
    assert_equal(found, trained(plain, lambda: endless().as_dataset(), steps_per_epoch=4))


def test_rows_are_evaluated_as_their_dataset_is():
    keras.utils.set_random_seed(0)
    model = plain()
    found = evaluate_compiled(model, in_memory(), jit_compile=False)
    expected = model.evaluate(in_memory().as_dataset(), verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_other_rows_of_the_same_shapes_compile_nothing():
    model = plain()
    fit_compiled(model, in_memory(), jit_compile=False)
    traces = loops_of(model, jit_compile=False).train.traces
    fit_compiled(model, in_memory(), jit_compile=False)
    assert loops_of(model, jit_compile=False).train.traces == traces


def test_blocks_hold_as_many_batches_as_their_rows_have_room_for():
    rows = tf.zeros((600, 1000)), tf.zeros((600, 1), tf.uint8)
    data = RowBatches(rows, tf.data.Dataset.range(600).batch(60, drop_remainder=True))
    seen = []

    def choose(batch, steps):
        seen.append((batch, steps))
        return 4

    blocks = list(Batches(data, steps=None, choose_length=choose).epoch())
    images, labels = seen[0][0]
    assert (images.shape.as_list(), images.dtype) == ([60, 1000], tf.float32)
    assert (labels.shape.as_list(), labels.dtype) == ([60, 1], tf.uint8)
    assert [seen[0][1], *(block.stop for block in blocks)] == [10, 4, 4, 2]
    assert all(block.rows is data.rows for block in blocks)


ROWS_OF_ONE = tf.zeros((3, 1))
RANGE = tf.data.Dataset.range(3)
BATCHED = RANGE.batch(2)
REFUSED = {
    "arrays": (
        np.zeros((3, 1)),
        BATCHED,
        TypeError,
        "RowBatches: `rows` must be a tensor or a structure of tensors. Received: rows=ndarray of "
        "ndarray. Make tensors of arrays by tf.constant.",
    ),
    "nothing": (
        (),
        BATCHED,
        TypeError,
        "RowBatches: `rows` must be a tensor or a structure of tensors. Received: rows=tuple of "
        "nothing. Make tensors of arrays by tf.constant.",
    ),
    "fewer targets": (
        (ROWS_OF_ONE, tf.zeros((2, 1))),
        BATCHED,
        ValueError,
        "RowBatches: `rows` must have tensors with the same number of rows, at least one. "
        "Received: rows of shapes [(3, 1), (2, 1)]. Pass as many targets as inputs.",
    ),
    "a number": (
        tf.constant(1.0),
        BATCHED,
        ValueError,
        "RowBatches: `rows` must have tensors with the same number of rows, at least one. "
        "Received: rows of shapes [()]. Pass as many targets as inputs.",
    ),
    "no dataset": (
        ROWS_OF_ONE,
        [0, 1],
        TypeError,
        "RowBatches: `numbers` must be a tf.data.Dataset of row numbers. Received: numbers=[0, 1]. "
        "Make one, as by tf.data.Dataset.range(rows).batch(32).",
    ),
    "rows again": (
        ROWS_OF_ONE,
        tf.data.Dataset.from_tensor_slices(ROWS_OF_ONE).batch(2),
        TypeError,
        "RowBatches: `numbers` must give integers, one tensor at a time. Received: "
        "numbers=<DATASET>. Leave the rows to `rows`.",
    ),
    "single numbers": (
        ROWS_OF_ONE,
        RANGE,
        ValueError,
        "RowBatches: `numbers` must be batched once. Received: numbers=<DATASET>. Add .batch(32).",
    ),
    "blocks of numbers": (
        ROWS_OF_ONE,
        BATCHED.batch(2),
        ValueError,
        "RowBatches: `numbers` must be batched once. Received: numbers=<DATASET>. Add .batch(32).",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_names_no_rows_is_refused_with_what_to_do(case):
    rows, order, kind, message = REFUSED[case]
    with pytest.raises(kind) as error:
        RowBatches(rows, order)
    assert str(error.value) == message.replace("<DATASET>", repr(order))
