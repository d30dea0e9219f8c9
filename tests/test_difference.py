"""Absolute error, relative error and ULPs, against counting by hand and NumPy's spacing."""

import math

import ml_dtypes
import numpy as np
import pytest
from oracle_cases import DTYPES, whole

from batchnorm_mechanics._difference import (
    Difference,
    difference,
    elementwise_error,
    unit_in_the_last_place,
)


def test_equal_arrays_do_not_differ():
    assert difference([1.0, -2.0], [1.0, -2.0], "float32") == (0.0, 0.0, 0.0)


def test_each_figure_is_the_largest_over_all_elements_by_itself():
    # The largest absolute error is the first element's, the largest relative one the second's.
    found = difference([1001.0, 0.002], [1000.0, 0.001], "float64")
    assert found.absolute == 1.0
    assert found.relative == pytest.approx(1.0)
    assert found.ulps == pytest.approx(0.001 / np.spacing(0.001))


def test_an_element_expected_to_be_zero_has_no_relative_error():
    assert difference([1e-9], [0.0], "float32").relative == 0.0
    assert difference([1e-9], [0.0], "float32").absolute == 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_next_number_is_one_ulp_away(dtype):
    kind = DTYPES[dtype]
    for value in (1.0, 1.5, 2.0, 3.75, 96.0):
        there = np.nextafter(kind(value), kind(np.inf))
        assert difference([float(there)], [value], dtype).ulps == 1.0


def test_units_are_numpys_spacing_in_float32():
    values = np.array([1e-30, 0.1, 1.0, 7.0, 1e30])
    expected = np.spacing(values.astype(np.float32)).astype(np.float64)
    assert unit_in_the_last_place(values, "float32") == pytest.approx(expected)


def test_the_unit_at_zero_is_that_of_the_smallest_normal_number():
    limits = ml_dtypes.finfo("float16")
    assert unit_in_the_last_place(np.array([0.0]), "float16") == pytest.approx(
        float(limits.smallest_normal) * float(limits.eps)
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_same_nan_or_infinity_is_no_difference(value):
    assert difference([value, 1.0], [value, 1.0], "float32") == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf), (math.inf, -math.inf)],
)
def test_any_other_nan_or_infinity_is_infinitely_far(actual, expected):
    found = difference([actual], [expected], "float32")
    assert found.absolute == math.inf
    assert found.ulps == math.inf
    assert elementwise_error(np.array([actual]), np.array([expected])) == math.inf


def test_an_array_without_elements_does_not_differ():
    assert difference(np.zeros((0, 3)), np.zeros((0, 3)), "float32") == Difference(0, 0, 0)


def test_half_types_are_compared_as_the_numbers_they_hold():
    x = np.array([1.0, 2.0]).astype(ml_dtypes.bfloat16)
    assert difference(x, [1.0, 2.0078125], "bfloat16").absolute == 0.0078125


def test_arrays_of_different_shapes_are_refused():
    message = (
        "difference: `actual` must have the shape of `expected`, (2,). "
        "Received: actual.shape=(3,). Compare arrays of one shape."
    )
    with pytest.raises(ValueError, match=whole(message)):
        difference([1.0, 2.0, 3.0], [1.0, 2.0], "float32")
