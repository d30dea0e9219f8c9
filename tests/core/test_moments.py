"""Batch moments against the float64 oracle, and merging them."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_cases import (
    DTYPES,
    IDS,
    LAYOUTS,
    assert_within,
    count_of,
    data,
    float64,
    kept,
    random_mask,
    resolution,
    rounding,
    whole,
    wide,
)

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
B = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
layouts = pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)
few = settings(max_examples=15, derandomize=True, deadline=None)


def assert_moments(actual, x, axes, dtype, mask=None, case=""):
    """Judge moments by the oracle's on the very same numbers."""
    mean, variance, count = reference.moments(x, axes, mask)
    # A sum of m' terms and a division; the deviations behind the variance err by as little.
    operations = count_of(x.shape, axes) + 8
    size = np.max(np.abs(float64(x)), where=np.isfinite(float64(x)), initial=1.0)
    # The mean may be rounded twice at its own size; the rest of its error is of the deviations'.
    mean_bound = (
        rounding(wide(dtype), 2, size)
        + rounding(wide(dtype), operations, 4 * np.sqrt(variance))
        + rounding("float64", operations, size)  # of the oracle, which adds up x as it comes
    )
    assert_within(actual.mean, mean, mean_bound, f"{case} mean")
    assert_within(
        actual.variance, variance, rounding(wide(dtype), operations, variance), f"{case} variance"
    )
    assert_within(actual.count, count, 0, f"{case} count")
    assert {value.dtype.name for value in actual} == {wide(dtype)}


# Against the oracle


@layouts
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_are_the_oracles_at_any_offset(shape, axes, dtype, rng):
    for offset in (0.0, 1e2, 1e4):
        x = data(rng, shape, offset, dtype)
        assert_moments(bnm.moments(x, axes), x, axes, dtype, case=f"offset {offset:g},")


@layouts
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_moments_are_the_oracles_at_any_offset(shape, axes, dtype, rng):
    for offset in (0.0, 1e2, 1e4):
        x = data(rng, shape, offset, dtype)
        mask = random_mask(rng, shape)
        actual = bnm.moments(x, axes, mask=mask)
        assert_moments(actual, x, axes, dtype, mask, case=f"offset {offset:g},")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_moments_with_unknown_sizes_are_the_oracles(jit_compile, rng):
    cases = [((5, 3), [0]), ((4, 3, 5), [0, 2]), ((3, 4, 5, 2), [1])]

    @tf.function(
        input_signature=[
            *(tf.TensorSpec([None] * len(shape), tf.float32) for shape, _ in cases),
            tf.TensorSpec([None, None], tf.bool),
        ],
        jit_compile=jit_compile,
        autograph=False,
    )
    def compiled(first, second, third, mask):
        inputs = (first, second, third)
        plain = [bnm.moments(x, axes) for x, (_, axes) in zip(inputs, cases, strict=True)]
        return [*plain, bnm.moments(second, [0, 2], mask=mask)]

    inputs = [data(rng, shape, 1e4, "float32") for shape, _ in cases]
    mask = random_mask(rng, (4, 3, 5))
    results = compiled(*inputs, mask)
    for actual, x, (_, axes) in zip(results, inputs, cases, strict=False):
        assert_moments(actual, x, axes, "float32", case=f"axes {axes},")
    assert_moments(results[-1], inputs[1], [0, 2], "float32", mask, case="mask,")


def test_moments_of_the_two_by_three_input_are_the_known_ones():
    mean, variance, count = bnm.moments(A, [0])
    assert mean.numpy().tolist() == [2.5, 3.5, 4.5]
    assert variance.numpy().tolist() == [2.25, 2.25, 2.25]
    assert count.numpy().tolist() == [2, 2, 2]
    mean, variance, count = bnm.moments(A, [1])
    assert mean.numpy().tolist() == [2, 5]
    np.testing.assert_allclose(variance, [2 / 3, 2 / 3], rtol=1e-7)
    assert count.numpy().tolist() == [3, 3]


@pytest.mark.parametrize(("axes", "expected"), [([0, 2], 38.666668), ([0, 1, 2], 47.666668)])
def test_the_variance_of_the_rank_4_input_is_the_known_one(axes, expected):
    np.testing.assert_allclose(
        bnm.moments(B, axes).variance, np.full(kept(B.shape, axes), expected), rtol=1e-7
    )


def test_the_variance_is_the_biased_one(rng):
    x = data(rng, (4, 3))
    np.testing.assert_allclose(bnm.moments(x, 0).variance, x.var(axis=0, ddof=0), rtol=1e-14)


# Precision


def test_float64_moments_are_computed_in_float64(rng):
    x = data(rng, (50, 3), 1e4)
    mean, variance, _ = bnm.moments(x, 0)
    expected_mean, expected_variance, _ = reference.moments(x, 0)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-14)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-12)


def test_float16_values_whose_squares_overflow_have_a_finite_variance():
    x = np.array([[60000.0, 300.0], [-60000.0, -300.0], [60000.0, 0.0]], np.float16)
    assert_moments(bnm.moments(x, 0), x, 0, "float16")


def test_float32_variance_at_mean_1e6_still_holds(rng):
    # E[x^2] - E[x]^2 has nothing left of it: 1e12 is known to 65536 only.
    x = data(rng, (200, 2), 1e6, "float32")
    assert_moments(bnm.moments(x, 0), x, 0, "float32")


def test_a_long_float32_sum_keeps_its_digits(rng):
    x = data(rng, (100_000, 1), 1e4, "float32")
    _, variance, _ = bnm.moments(x, 0)
    # A pairwise or blocked sum of n terms, not the worst case of a running one.
    np.testing.assert_allclose(
        variance, reference.moments(x, 0)[1], rtol=resolution("float32") * 2 * np.log2(x.size)
    )


# Masks, constants, one sample, none


def test_what_is_masked_out_does_not_reach_the_moments(rng):
    x = data(rng, (6, 3), 1e2, "float32")
    mask = np.array([True, True, False, True, False, True])
    clean = bnm.moments(x[mask], 0)
    for garbage in (np.nan, np.inf, -np.inf, 3e38):
        dirty = np.where(mask[:, None], x, np.float32(garbage))
        for expected, actual in zip(clean, bnm.moments(dirty, 0, mask=mask), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, err_msg=str(garbage))


def test_a_nan_stays_in_its_channel(rng):
    x = data(rng, (6, 3), 0.0, "float32")
    clean = bnm.moments(x, 0)
    x[2, 1] = np.nan
    dirty = bnm.moments(x, 0)
    for value in (dirty.mean, dirty.variance):
        assert np.isnan(value.numpy()).tolist() == [False, True, False]
    for before, after in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(after.numpy()[[0, 2]], before.numpy()[[0, 2]])


def test_a_mask_may_have_any_number_of_the_leading_axes(rng):
    x = data(rng, (4, 5, 3, 2), 1e2)
    for rank in range(1, 5):
        mask = rng.random(x.shape[:rank]) < 0.6
        mask.flat[0] = True
        for axes in ([0], [0, 1], [0, 1, 2], [3], [1, 2]):
            actual = bnm.moments(x, axes, mask=mask)
            assert_moments(actual, x, axes, "float64", mask, f"mask of rank {rank}, axes {axes},")


def test_a_mask_counts_each_statistic_on_its_own():
    mask = [[True, False, False], [True, True, False]]
    mean, variance, count = bnm.moments(A, 0, mask=mask)
    assert mean.numpy().tolist() == [2.5, 5.0, 0.0]
    assert variance.numpy().tolist() == [2.25, 0.0, 0.0]
    assert count.numpy().tolist() == [2, 1, 0]


@pytest.mark.parametrize("mask", [[1, 0], [1.0, 0.0], np.array([True, False])], ids=repr)
def test_a_mask_of_zeros_and_ones_counts_as_booleans(mask):
    assert bnm.moments(A, 0, mask=mask).mean.numpy().tolist() == [1, 2, 3]


def test_a_full_mask_changes_nothing(rng):
    x = data(rng, (7, 3), 1e4, "float32")
    for plain, masked in zip(
        bnm.moments(x, 0), bnm.moments(x, 0, mask=np.ones(7, bool)), strict=True
    ):
        # The mean at 1e4 is rounded once in each.
        np.testing.assert_allclose(masked, plain, rtol=4 * resolution("float32"))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e4 + 0.1, 3e7])
def test_a_constant_channel_has_no_variance(value):
    mean, variance, _ = bnm.moments(np.full((13, 2), value, np.float32), 0)
    np.testing.assert_allclose(mean, [np.float32(value)] * 2, rtol=resolution("float32"))
    # What is left of the deviation is at most the rounding of the mean.
    assert np.all(variance.numpy() <= (resolution("float32") * value) ** 2)


def test_one_sample_has_variance_zero():
    mean, variance, count = bnm.moments([[0.1, 1e4]], 0)
    np.testing.assert_array_equal(mean, np.float32([0.1, 1e4]))
    assert variance.numpy().tolist() == [0, 0]
    assert count.numpy().tolist() == [1, 1]


@pytest.mark.parametrize(("shape", "axes"), [((0, 3), (0,)), ((3, 0), (1,)), ((4, 0, 2), (0, 1))])
def test_an_empty_batch_is_refused(shape, axes):
    message = (
        f"moments: `x` must hold at least one sample for each statistic. Received: "
        f"x.shape={shape}, axes={axes}. An empty batch has no mean; leave it out."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.moments(np.ones(shape, np.float32), axes)


def test_no_channels_give_no_statistics():
    assert [value.shape.as_list() for value in bnm.moments(np.ones((3, 0)), 0)] == [[0]] * 3


def test_an_empty_batch_of_unknown_size_counts_zero():
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)], autograph=False)
    def count(x):
        return bnm.moments(x, 0).count

    assert count(np.ones((0, 3), np.float32)).numpy().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "mask",
    [[True] * 3, [[True, False]] * 2, np.ones((2, 3, 1), bool), np.zeros((0,), bool)],
    ids=["too-long", "too-narrow", "too-deep", "empty"],
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    shape = np.shape(mask)
    message = (
        "moments: `mask` must have the leading axes of the input, of shape (2, 3). "
        f"Received: mask.shape={shape}. Pass one boolean for each sample, for instance of "
        "shape (2,)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.moments(A, 0, mask=mask)


# Unbiased variance


def test_the_unbiased_variance_divides_by_one_sample_less(rng):
    for size in (2, 3, 60):
        x = data(rng, (size, 4), 1e2)
        _, variance, count = bnm.moments(x, 0)
        np.testing.assert_allclose(
            bnm.unbiased_variance(variance, count), x.var(axis=0, ddof=1), rtol=1e-12
        )


def test_fewer_than_two_samples_have_no_unbiased_variance():
    actual = bnm.unbiased_variance(tf.constant([4.0, 4.0, 4.0]), [0, 1, 2])
    np.testing.assert_array_equal(actual, [np.nan, np.nan, 8.0])


def test_the_missing_unbiased_variance_of_one_channel_leaves_anothers_gradient_finite():
    variance = tf.constant([4.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch(variance)
        unbiased = bnm.unbiased_variance(variance, [1.0, 3.0])
        total = tf.reduce_sum(tf.where(tf.math.is_nan(unbiased), 0.0, unbiased))
    assert tape.gradient(total, variance).numpy().tolist() == [0.0, 1.5]


# Merging


def moments_of(rng, size, offset, channels=3):
    return bnm.moments(data(rng, (size, channels), offset), 0)


def test_merged_moments_are_those_of_all_samples(rng):
    for sizes in ((4, 4), (12, 5), (1, 7), (1, 1), (300, 2)):
        for offset in (0.0, 10.0, 1e4):
            a, b = data(rng, (sizes[0], 3)), data(rng, (sizes[1], 3), offset)
            merged = bnm.merge_moments(bnm.moments(a, 0), bnm.moments(b, 0))
            expected = reference.moments(np.concatenate([a, b]), 0)
            for actual, value in zip(merged, expected, strict=True):
                np.testing.assert_allclose(
                    actual, value, rtol=1e-12, atol=1e-12, err_msg=f"{sizes} at {offset:g}"
                )


def test_float32_groups_with_large_means_merge_exactly(rng):
    x = data(rng, (40, 3), 1e4, "float32")
    merged = bnm.merge_moments(bnm.moments(x[:25], 0), bnm.moments(x[25:], 0))
    mean, variance, _ = reference.moments(x, 0)
    # Each group's mean is rounded at 1e4, and so is the difference of the two.
    slip = 2 * resolution("float32") * 1e4
    assert_within(merged.mean, mean, slip)
    assert_within(merged.variance, variance, 2 * slip * np.sqrt(variance))


def test_merging_counts_each_channel_on_its_own(rng):
    x = data(rng, (8, 3), 1e2)
    mask = rng.random((8, 3)) < 0.5
    mask[:4, 0], mask[4:, 1] = False, False
    merged = bnm.merge_moments(
        bnm.moments(x[:4], 0, mask=mask[:4]), bnm.moments(x[4:], 0, mask=mask[4:])
    )
    for actual, expected in zip(merged, reference.moments(x, 0, mask), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_a_group_without_samples_changes_nothing(rng):
    some = moments_of(rng, 5, 1e4)
    none = bnm.moments(np.ones((2, 3)), 0, mask=[False, False])
    for merged in (bnm.merge_moments(some, none), bnm.merge_moments(none, some)):
        for actual, expected in zip(merged, some, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-15)
    for value in bnm.merge_moments(none, none):
        assert value.numpy().tolist() == [0, 0, 0]


@few
@given(st.integers(1, 9), st.integers(1, 9), st.floats(-1e4, 1e4), st.integers(0, 99))
def test_merging_is_commutative(size_a, size_b, offset, seed):
    rng = np.random.default_rng(seed)
    a, b = moments_of(rng, size_a, 0.0), moments_of(rng, size_b, offset)
    for one, other in zip(bnm.merge_moments(a, b), bnm.merge_moments(b, a), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-11)


@few
@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.floats(-1e4, 1e4))
def test_merging_is_associative(sizes, offset):
    rng = np.random.default_rng(0)
    a, b, c = (moments_of(rng, size, k * offset) for k, size in enumerate(sizes))
    left = bnm.merge_moments(bnm.merge_moments(a, b), c)
    right = bnm.merge_moments(a, bnm.merge_moments(b, c))
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-11)


# One axis after another


@layouts
def test_one_axis_after_another_gives_what_all_at_once_give(shape, axes, rng):
    x = data(rng, shape, 1e4)
    last = bnm.moments_one_axis_at_a_time(x, axes)[-1]
    mean, variance, _ = reference.moments(x, axes)
    np.testing.assert_allclose(last.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(last.variance, variance, rtol=1e-11)


@pytest.mark.parametrize("order", list(itertools.permutations([0, 1, 2])), ids=str)
def test_every_step_along_the_axes_is_the_oracles(order, rng):
    x = data(rng, (3, 4, 5, 2), 1e2)
    steps = bnm.moments_one_axis_at_a_time(x, order)
    for actual, expected in zip(steps, reference.moments_one_axis_at_a_time(x, order), strict=True):
        assert actual.axis == expected[0]
        for value, other in zip(actual[1:], expected[1:], strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-11, atol=1e-13)


def test_the_variance_is_the_mean_of_variances_plus_the_variance_of_means():
    first, second, third = bnm.moments_one_axis_at_a_time(B, [0, 1, 2])
    np.testing.assert_allclose(first.variance, np.full((2, 3, 2), 36.0))
    np.testing.assert_allclose(second.variance_of_means, np.full((3, 2), 9.0))
    np.testing.assert_allclose(third.mean_of_variances, [45.0, 45.0])
    np.testing.assert_allclose(third.variance_of_means, [2.6666667] * 2, rtol=1e-7)
    np.testing.assert_allclose(third.variance, [47.666668] * 2, rtol=1e-7)


def test_one_axis_after_another_works_on_float16_in_a_compiled_function(rng):
    x = data(rng, (3, 4, 2), 1e2, "float16")

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 2], tf.float16)], autograph=False)
    def compiled(x):
        return bnm.moments_one_axis_at_a_time(x, [0, 1])[-1].variance

    expected = reference.moments(x, [0, 1])[1]
    assert_within(compiled(x), expected, rounding("float32", 24, expected))


def test_an_empty_batch_taken_one_axis_after_another_is_refused():
    message = (
        "moments_one_axis_at_a_time: `x` must hold at least one sample for each statistic. "
        "Received: x.shape=(0, 2, 3), axes=(0,). An empty batch has no mean; leave it out."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.moments_one_axis_at_a_time(np.ones((0, 2, 3), np.float32), [0, 1])


def test_the_unbiased_variance_of_integers_is_refused():
    message = (
        "unbiased_variance: `variance` must be a floating tensor (float64, float32, bfloat16 or "
        "float16). Received: variance.dtype='int32'. Convert it first: "
        "tf.cast(variance, tf.float32)."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.unbiased_variance([2, 3], [2, 3])
