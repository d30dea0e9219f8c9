"""Which axes are reduced, and what is said where they or the input do not fit."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import whole

import batchnorm_mechanics as bnm

ONES = np.ones((2, 3), np.float32)
# Every public function that takes axes, as a function of the input and the axes.
CALLS = {
    "moments": bnm.moments,
    "moments_one_axis_at_a_time": bnm.moments_one_axis_at_a_time,
    "normalize": lambda x, axes: bnm.normalize(x, 0.0, 1.0, axes=axes),
    "scale_and_shift": lambda x, axes: bnm.scale_and_shift(x, 1.0, 0.0, axes=axes),
    "forward": lambda x, axes: bnm.forward(x, axes=axes),
    "infer": lambda x, axes: bnm.infer(x, 0.0, 1.0, axes=axes),
    "multiply_and_add": lambda x, axes: bnm.multiply_and_add(x, 1.0, 0.0, axes=axes),
}
functions = pytest.mark.parametrize("function", CALLS)


def call(function, axes):
    return CALLS[function](ONES, axes)


@functions
@pytest.mark.parametrize("axes", [2, -3, [0, 2], (5,)], ids=str)
def test_axes_out_of_range_are_refused(function, axes):
    message = (
        f"{function}: `axes` must lie in [-2, 2) for an input of rank 2. Received: axes={axes!r}. "
        "Name axes that the input has."
    )
    with pytest.raises(ValueError, match=whole(message)):
        call(function, axes)


@functions
@pytest.mark.parametrize("axes", [[0, 0], (0, -2), [1, 0, -1]], ids=str)
def test_an_axis_named_twice_is_refused(function, axes):
    message = (
        f"{function}: `axes` must not name an axis twice. Received: axes={axes!r} for an input of "
        "rank 2. Name each axis once; a negative axis counts from the end."
    )
    with pytest.raises(ValueError, match=whole(message)):
        call(function, axes)


@functions
@pytest.mark.parametrize("axes", [[], ()], ids=str)
def test_axes_that_cover_no_axis_are_refused(function, axes):
    message = (
        f"{function}: `axes` must name at least one axis to reduce over. Received: axes={axes!r}. "
        "Batch statistics need the samples' axis, for instance axes=[0]."
    )
    with pytest.raises(ValueError, match=whole(message)):
        call(function, axes)


@pytest.mark.parametrize("axes", [True, [0, False], [0.5], 0.5, None, "01"], ids=repr)
def test_axes_that_are_not_integers_are_refused(axes):
    message = (
        f"moments: `axes` must be an integer or integers. Received: axes={axes!r}. "
        "Name the axes to reduce over, for instance axes=[0, 1, 2]."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.moments(ONES, axes)


@pytest.mark.parametrize(
    "axes",
    [(0, 1), range(2), [np.int64(0), np.int32(1)], np.array([0, 1])],
    ids=["tuple", "range", "numpy-integers", "array"],
)
def test_any_sequence_of_integers_will_do_for_axes(axes, rng):
    x = rng.normal(size=(4, 5, 3))
    np.testing.assert_array_equal(bnm.moments(x, axes).mean, bnm.moments(x, [0, 1]).mean)


@functions
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_below_two_is_refused(function, rank):
    message = (
        f"{function}: `x` must have rank 2 or more (samples and channels). Received: rank={rank}. "
        "Add an axis, for instance x[:, None]."
    )
    with pytest.raises(ValueError, match=whole(message)):
        CALLS[function](np.ones((3,) * rank, np.float32), 0)


@functions
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_an_input_that_is_not_floating_is_refused(function, dtype):
    message = (
        f"{function}: `x` must be a floating tensor (float64, float32, bfloat16 or float16). "
        f"Received: x.dtype={dtype!r}. Convert it first: tf.cast(x, tf.float32)."
    )
    with pytest.raises(TypeError, match=whole(message)):
        CALLS[function](np.ones((2, 3), dtype), 0)


@functions
def test_an_input_of_unknown_rank_is_refused(function):
    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)], autograph=False)
    def traced(x):
        return CALLS[function](x, 0)

    message = (
        f"{function}: `x` must have a known rank. Received: x.shape=<unknown>. "
        "Give it one inside the function: x = tf.ensure_shape(x, [None, channels])."
    )
    with pytest.raises(ValueError, match=whole(message)):
        traced(ONES)
