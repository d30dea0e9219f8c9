"""The record of a trace: frozen, found by name, and complete in JSON."""

import dataclasses
import json

import numpy as np
import pytest

import batchnorm_mechanics as bnm
from batchnorm_mechanics.tracing.record import Check

A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def test_nothing_in_it_can_be_changed():
    x = A.copy()
    found = bnm.trace(x, dy=x, compare=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.title = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        found["mean"].name = "other"
    for value in (found["mean"].value, found.comparison.rows[0].value, found["d_x"].value):
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 9
    x[:] = 0
    np.testing.assert_array_equal(found["x"].value, A)


def test_steps_are_found_by_name_and_an_unknown_name_lists_them():
    found = bnm.trace([[1.0], [2.0]])
    assert found["variance"].source == "Alg. 1, mini-batch variance"
    assert "x_hat" in found
    assert "nope" not in found
    message = (
        "Trace: `name` must be that of a step. Received: name='nope'. This trace has x, count, "
        "mean, variance, unbiased_variance, deviation, inverse_std, x_hat, y."
    )
    with pytest.raises(KeyError) as error:
        found["nope"]
    assert error.value.args == (message,)


def test_json_holds_everything_in_full_precision():
    x = np.array([[0.1], [1 / 3]], np.float32)
    found = bnm.trace(x, dy=x, compare=True, statistics=bnm.ExponentialMovingAverage(), gamma=1.5)
    read = json.loads(found.to_json())
    assert list(read) == [
        "format",
        "title",
        "mode",
        "why",
        "steps",
        "statistics",
        "notes",
        "checks",
        "backward",
        "comparison",
    ]
    for step in read["steps"]:
        back = np.array(step["value"], step["dtype"])
        np.testing.assert_array_equal(back, found[step["name"]].value)
        assert tuple(step["shape"]) == found[step["name"]].shape
    assert {row["by"] for row in read["comparison"]["rows"]} >= {"oracle", "ours", "tf.nn"}
    assert read["backward"]["checks"][0]["passed"] is True
    assert read["statistics"][0]["name"] == "moving_mean_before"


def test_nan_and_infinity_survive_json_as_strings():
    text = bnm.trace([[1.0, np.nan], [np.inf, -np.inf]], dy=[[1.0, 1.0], [1.0, 1.0]]).to_json()

    def refuse(word):
        raise AssertionError(word)

    read = json.loads(text, parse_constant=refuse)
    assert read["steps"][0]["value"] == [[1.0, "NaN"], ["Infinity", "-Infinity"]]
    np.testing.assert_equal(float("NaN"), float(read["steps"][0]["value"][0][1]))


def test_bfloat16_survives_json():
    import tensorflow as tf

    read = json.loads(bnm.trace(tf.constant([[1.5], [2.0]], tf.bfloat16)).to_json())
    assert read["steps"][0]["value"] == [[1.5], [2.0]]


def test_notes_are_added_before_the_others():
    found = bnm.trace(A)
    assert found.with_notes("first").notes == ("first", *found.notes)


@pytest.mark.parametrize(("error", "passed"), [(1.0, True), (2.1, False), (float("nan"), False)])
def test_a_check_passes_within_its_bound_and_never_with_nan(error, passed):
    assert Check("what", error, 2.0).passed is passed


def test_repr_is_one_line():
    assert repr(bnm.trace(A)) == (
        "<Trace: Batch norm of float32 (2, 3), reduced over axes (0), training mode, 9 steps>"
    )
