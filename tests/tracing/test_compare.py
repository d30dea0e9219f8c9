"""Implementations side by side, each run for real and judged by the float64 oracle."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data

import batchnorm_mechanics as bnm

ALL = ["oracle", "ours", "tf.nn", "FusedBatchNormV3", "Keras layer"]


def rows_of(found):
    return {(row.step, row.by): row for row in found.comparison.rows}


def by(found, step):
    return [row.by for row in found.comparison.rows if row.step == step]


@pytest.mark.parametrize(
    ("shape", "axes", "keras"),
    [
        ((6, 3), [0], True),
        ((3, 6), [1], True),
        ((4, 5, 5, 3), [0, 1, 2], True),
        ((4, 3, 5, 5), [0, 2, 3], True),
        ((3, 4, 5, 2), [0, 2], False),
        ((3, 4, 5, 2), [3], False),
        ((5, 3), [1, 0], False),
    ],
)
def test_all_of_them_agree_in_float32_whatever_the_axes(rng, shape, axes, keras):
    x, dy = data(rng, shape, 2.0, "float32"), rng.normal(size=shape)
    found = bnm.trace(x, axes=axes, gamma=1.5, beta=-0.5, dy=dy, compare=True)
    steps = ["mean", "variance", "x_hat", "y", "d_x", "d_gamma", "d_beta"]
    assert list(dict.fromkeys(row.step for row in found.comparison.rows)) == steps
    for step in steps:
        missing = [] if keras and step != "x_hat" else ["Keras layer"]
        assert by(found, step) == [name for name in ALL if name not in missing]
    assert max(row.difference.absolute for row in found.comparison.rows) < 2e-5
    assert any("it keeps one axis" in note for note in found.comparison.notes) != keras


def test_the_fused_op_s_corrected_variance_is_shown_biased_and_this_is_said(rng):
    x = data(rng, (7, 3), dtype="float32")
    found = bnm.trace(x, compare=True)
    value = rows_of(found)["variance", "FusedBatchNormV3"].value
    np.testing.assert_allclose(value, np.var(x, axis=0), rtol=1e-6)
    assert any("Bessel-corrected, 7/6 times the biased" in note for note in found.comparison.notes)


def test_a_single_sample_has_variance_0_in_all_of_them():
    found = bnm.trace(tf.ones((1, 3)), compare=True)
    assert {float(row.value[0]) for row in found.comparison.rows if row.step == "variance"} == {0}


def test_a_large_mean_costs_tf_nn_its_digits_and_not_ours(rng):
    x = data(rng, (64, 7, 7, 4), 1e4, "float32")
    rows = rows_of(bnm.trace(x, axes=[0, 1, 2], compare=True))
    assert rows["y", "ours"].difference.absolute < 5e-6
    for peer in ALL[2:]:
        assert rows["y", peer].difference.absolute > 1e-4


def test_inference_shows_x_hat_and_y_and_the_folded_form(rng):
    x = data(rng, (6, 3), 1e4, "float32")
    found = bnm.trace(x, training=False, statistics=(1e4, 2.0), compare=True)
    assert by(found, "y") == [*ALL, "ours, folded"]
    assert by(found, "mean") == []
    rows = rows_of(found)
    assert rows["y", "ours"].difference.absolute < 1e-6
    assert rows["y", "ours, folded"].difference.absolute > 1e-5


def test_the_fused_op_is_left_out_in_float64_and_this_is_said(rng):
    found = bnm.trace(data(rng, (6, 3)), compare=True)
    assert "FusedBatchNormV3" not in by(found, "y")
    assert "FusedBatchNormV3: it takes no float64." in found.comparison.notes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_go_through_all_of_them(rng, dtype):
    x = tf.cast(rng.normal(size=(6, 3)), dtype)
    found = bnm.trace(x, dy=tf.ones_like(x), compare=True)
    assert by(found, "y") == ALL
    assert {row.value.dtype.name for row in found.comparison.rows if row.step == "y"} == {
        "float64",
        dtype,
    }


def test_keras_takes_a_mask_and_the_others_say_that_they_do_not(rng):
    x, mask = data(rng, (4, 5, 3)), rng.random((4, 5)) < 0.7
    found = bnm.trace(x, axes=[0, 1], mask=mask, compare=True)
    assert by(found, "y") == ["oracle", "ours", "Keras layer"]
    assert rows_of(found)["mean", "Keras layer"].difference.absolute < 1e-6


def test_ulps_are_said_to_mislead_near_zero(rng):
    found = bnm.trace(data(rng, (6, 3), dtype="float32"), compare=True)
    assert "only together with the absolute error" in found.comparison.notes[0]


def test_without_asking_nothing_is_compared(rng):
    assert bnm.trace(data(rng, (6, 3))).comparison is None
