"""The oracle against the paper's definitions, hand computations and finite differences."""

import ast
import re
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm_mechanics import reference

A = np.array([[1, 2, 3], [4, 5, 6]])
B = np.arange(24).reshape(2, 2, 3, 2)
# Three batches of 12 integers whose sums and sums of squares are those behind the known figures.
TWELVES = [
    [2, 3, 7, 11, 13, 15, 17, 19, 24, 39, 45, 45],
    [1, 6, 8, 12, 14, 17, 18, 27, 31, 39, 41, 44],
    [2, 6, 20, 21, 21, 27, 28, 29, 31, 35, 36, 49],
]
LAYOUTS = [
    ((7,), [0]),
    ((6, 3), [0]),
    ((3, 5), [1]),
    ((4, 3, 2), [0, 1]),
    ((4, 3, 2), [0, 2]),
    ((2, 3, 2, 3), [0, 1, 2]),
    ((2, 3, 2, 3), [0, 2, 3]),
    ((2, 3, 2), [0, 1, 2]),
]
IDS = [f"{shape}-{axes}" for shape, axes in LAYOUTS]
layouts = pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)


def data(shape, seed=0, offset=0.0):
    return offset + np.random.default_rng(seed).normal(size=shape)


def kept_shape(shape, axes):
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def slope(function, at, step=1e-5):
    """The gradient of a scalar function by central differences."""
    at = np.array(at, dtype=np.float64)
    result = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def close(actual, expected, rtol=1e-12, atol=1e-12):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# Moments


def test_moments_over_axis_0_of_the_two_by_three_input():
    mean, variance, count = reference.moments(A, [0])
    close(mean, [2.5, 3.5, 4.5])
    close(variance, [2.25, 2.25, 2.25])
    close(count, [2.0, 2.0, 2.0])


def test_moments_over_axis_1_of_the_two_by_three_input():
    mean, variance, count = reference.moments(A, 1)
    close(mean, [2.0, 5.0])
    close(variance, [2 / 3, 2 / 3])
    close(count, [3.0, 3.0])


def test_reducing_every_axis_gives_statistics_of_shape_zero():
    for value, expected in zip(reference.moments(A, [0, 1]), [3.5, 35 / 12, 6.0], strict=True):
        close(value, expected)


@pytest.mark.parametrize("axes", [[0], [1], [2], [3], [0, 2], [0, 1, 2]])
def test_moments_keep_the_other_axes_in_their_order(axes):
    mean, variance, count = reference.moments(B, axes)
    close(mean, B.mean(axis=tuple(axes)))
    close(variance, B.var(axis=tuple(axes)))
    close(count, np.full(mean.shape, B.size / mean.size))


def test_negative_axes_count_from_the_end_and_their_order_does_not_matter():
    for expected, actual in zip(
        reference.moments(B, [0, 2]), reference.moments(B, [-2, -4]), strict=True
    ):
        close(actual, expected)


@pytest.mark.parametrize("offset", [0, 1e2, 1e4])
def test_moments_agree_with_exact_rational_arithmetic(offset):
    x = data((40,), offset=offset).astype(np.float32)
    exact = [Fraction(float(value)) for value in x]
    exact_mean = sum(exact) / len(exact)
    exact_variance = sum((value - exact_mean) ** 2 for value in exact) / len(exact)
    mean, variance, _ = reference.moments(x, 0)
    close(mean, float(exact_mean), rtol=1e-15)
    close(variance, float(exact_variance), rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int32])
def test_narrow_types_become_float64_before_anything_else(dtype):
    x = (100 * data((50, 3))).astype(dtype)
    exact = x.astype(np.float64)
    for actual, expected in zip(
        reference.forward(x, 2, 1, 0, 1e-3), reference.forward(exact, 2, 1, 0, 1e-3), strict=True
    ):
        close(actual, expected, rtol=0, atol=0)


def test_float16_sums_do_not_overflow():
    close(reference.moments(np.full((10, 1), 60000, np.float16), 0)[0], [60000.0])


def test_masked_out_elements_do_not_count():
    x = np.array([[1.0, 2.0], [3.0, 8.0], [1e6, -1e6]])
    mean, variance, count = reference.moments(x, 0, mask=[True, True, False])
    close(mean, [2.0, 5.0])
    close(variance, [1.0, 9.0])
    close(count, [2.0, 2.0])


def test_a_mask_of_lower_rank_is_spread_over_the_trailing_axes():
    x = data((3, 4, 2))
    mask = np.random.default_rng(1).random((3, 4)) < 0.6
    mean, variance, count = reference.moments(x, [0, 1], mask)
    close(mean, x[mask].mean(axis=0))
    close(variance, x[mask].var(axis=0))
    close(count, np.full(2, float(mask.sum())))


def test_a_mask_of_full_rank_counts_each_statistic_on_its_own():
    mask = [[True, False, False], [True, True, False]]
    mean, variance, count = reference.moments(A, 0, mask)
    close(mean, [2.5, 5.0, 0.0])
    close(variance, [2.25, 0.0, 0.0])
    close(count, [2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("x", "mask"), [(np.zeros((0, 2)), None), (np.ones((3, 2)), [False, False, False])]
)
def test_no_sample_gives_zero_mean_and_variance_with_count_zero(x, mask):
    for value in reference.moments(x, 0, mask):
        close(value, [0.0, 0.0])


def test_unbiased_variance_divides_by_one_sample_less():
    x = data((5, 3))
    _, biased_variance, count = reference.moments(x, 0)
    close(reference.unbiased_variance(biased_variance, count), x.var(axis=0, ddof=1))


def test_unbiased_variance_of_one_sample_or_none_is_nan_without_a_warning():
    close(reference.unbiased_variance([4.0, 4.0, 4.0], [0, 1, 2]), [np.nan, np.nan, 8.0])


@given(st.integers(0, 6), st.integers(0, 6), st.floats(-1e4, 1e4), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_merged_moments_are_those_of_the_concatenation(m_a, m_b, offset, seed):
    a, b = data((m_a, 2), seed), data((m_b, 2), seed + 100, offset)
    merged = reference.merge_moments(reference.moments(a, 0), reference.moments(b, 0))
    for actual, expected in zip(merged, reference.moments(np.concatenate([a, b]), 0), strict=True):
        close(actual, expected, rtol=1e-9, atol=1e-9)


def test_one_axis_at_a_time_over_axes_0_and_2_adds_36_and_2_667():
    (first, _, variance, _, _), (second, mean, total, within, between) = (
        reference.moments_one_axis_at_a_time(B, [0, 2])
    )
    assert (first, second) == (0, 2)
    close(variance, np.full((2, 3, 2), 36.0))
    close(mean, [[8.0, 9.0], [14.0, 15.0]])
    close(within, np.full((2, 2), 36.0))
    close(between, np.full((2, 2), 8 / 3))
    close(total, np.full((2, 2), 36 + 8 / 3))


def test_one_axis_at_a_time_over_axes_0_1_and_2_adds_36_9_and_2_667():
    steps = reference.moments_one_axis_at_a_time(B, [0, 1, 2])
    for (_, _, _, _, between), part in zip(steps, [36, 9, 8 / 3], strict=True):
        close(between, np.full(between.shape, part))
    close(steps[-1][2], np.full(2, 36 + 9 + 8 / 3))


@layouts
def test_one_axis_at_a_time_in_any_order_ends_at_the_direct_moments(shape, axes):
    x = data(shape, offset=1e2)
    mean, variance, _ = reference.moments(x, axes)
    for order in (axes, axes[::-1], [axis - len(shape) for axis in axes]):
        steps = reference.moments_one_axis_at_a_time(x, order)
        assert [step[0] for step in steps] == [axis % len(shape) for axis in order]
        close(steps[-1][1], mean)
        close(steps[-1][2], variance, rtol=1e-10)


# Forward and inference


def test_forward_over_axis_0_of_the_two_by_three_input():
    y, _, _, x_hat = reference.forward(A, 2, 1, [0], 0.001)
    close(y, [[-0.9995557] * 3, [2.9995557] * 3], rtol=0, atol=1e-7)
    close(x_hat, (y - 1) / 2)


def test_forward_over_axis_1_of_the_two_by_three_input():
    y, mean, variance, _ = reference.forward(A, 2, 1, [1], 0.001)
    close(y, [[-1.4476547, 1, 3.4476547]] * 2, rtol=0, atol=1e-7)
    close(mean, [2.0, 5.0])
    close(variance, [2 / 3, 2 / 3])


def test_forward_on_tiny_data_is_what_the_hand_computes():
    # Column 1: mean 3, variance 4, so sqrt(4 + 5) = 3. Column 2: mean 10, variance 4, likewise.
    y, mean, variance, x_hat = reference.forward([[1, 8], [5, 12]], [3, 6], [0, 1], 0, 5)
    close(mean, [3.0, 10.0])
    close(variance, [4.0, 4.0])
    close(x_hat, [[-2 / 3, -2 / 3], [2 / 3, 2 / 3]])
    close(y, [[-2.0, -3.0], [2.0, 5.0]])


def test_gamma_and_beta_default_to_one_and_zero():
    y, _, _, x_hat = reference.forward(A, None, None, 0, 0.1)
    close(y, x_hat)
    close(reference.scale_and_shift(A, None, 2, 0), A + 2.0)
    close(reference.scale_and_shift(A, 2, None, 0), A * 2.0)


def test_statistics_and_parameters_run_along_the_kept_axes():
    x = data((2, 3, 4, 5))
    mean, variance, gamma, beta = (data((3, 4), seed) ** 2 for seed in range(1, 5))
    y = reference.infer(x, mean, variance, gamma, beta, [0, 3], 0.1)
    assert y.shape == x.shape
    for i, j in np.ndindex(3, 4):
        x_hat = (x[:, i, j, :] - mean[i, j]) / np.sqrt(variance[i, j] + 0.1)
        close(y[:, i, j, :], gamma[i, j] * x_hat + beta[i, j])


def test_keras_at_its_initial_statistics_shifts_and_scales_only():
    y = reference.infer(A, 0, 1, 2, 1, [0], 0.001)
    published = [[2.9990008, 4.9980016, 6.9970026], [8.996003, 10.995004, 12.994005]]
    close(y, published, rtol=0, atol=1e-6)


def test_epsilon_is_added_to_the_variance_inside_the_root():
    close(reference.normalize([7.0], 1, 4, 0, 5), [2.0])


def test_masked_out_elements_are_still_normalized():
    y, mean, _, _ = reference.forward([1.0, 3.0, 8.0], None, None, 0, 3, [True, True, False])
    close(mean, 2.0)
    close(y, [-0.5, 0.5, 3.0])


def test_one_sample_gives_beta_whatever_it_is():
    y, _, variance, x_hat = reference.forward([[5.0, -1e4]], 3, [1, 2], 0, 1e-3)
    close(variance, [0.0, 0.0])
    close(x_hat, [[0.0, 0.0]])
    close(y, [[1.0, 2.0]])


def test_fold_is_the_scale_and_offset_of_the_hand():
    scale, offset = reference.fold([6, 1], [4, 11], [3, 8], [1, 0], 5)
    close(scale, [1.0, 2.0])
    close(offset, [-5.0, -2.0])


def test_fold_without_gamma_and_beta_normalizes_only():
    scale, offset = reference.fold([6.0], [4.0], None, None, 5)
    close(scale, [1 / 3])
    close(offset, [-2.0])


@layouts
def test_the_folded_map_is_inference(shape, axes):
    x = data(shape, offset=10)
    kept = kept_shape(shape, axes)
    mean, gamma, beta = (data(kept, seed) for seed in range(1, 4))
    variance = data(kept, 4) ** 2
    scale, offset = (
        np.expand_dims(value, tuple(axes))
        for value in reference.fold(mean, variance, gamma, beta, 1e-3)
    )
    y = reference.infer(x, mean, variance, gamma, beta, axes, 1e-3)
    close(y, scale * x + offset, rtol=1e-9, atol=1e-9)


@layouts
def test_inference_with_the_batch_statistics_is_the_forward_pass(shape, axes):
    x, kept = data(shape, offset=1e4), kept_shape(shape, axes)
    gamma, beta = data(kept, 1), data(kept, 2)
    y, mean, variance, _ = reference.forward(x, gamma, beta, axes, 1e-3)
    close(reference.infer(x, mean, variance, gamma, beta, axes, 1e-3), y)


@layouts
def test_x_hat_has_mean_0_and_variance_just_below_1(shape, axes):
    _, _, biased_variance, x_hat = reference.forward(data(shape), 7, 8, axes, 0.5)
    mean, variance, _ = reference.moments(x_hat, axes)
    close(mean, np.zeros(mean.shape))
    close(variance, biased_variance / (biased_variance + 0.5))


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e2), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_shifting_and_scaling_the_input_leaves_the_output(shift, scale, seed):
    x = data((9, 2), seed)
    y, mean, variance, _ = reference.forward(x, 2, 1, 0, 1e-3)
    moved, moved_mean, moved_variance, _ = reference.forward(
        shift + scale * x, 2, 1, 0, 1e-3 * scale**2
    )
    close(moved, y, rtol=0, atol=1e-8)
    close(moved_mean, shift + scale * mean, rtol=1e-9, atol=1e-9)
    close(moved_variance, scale**2 * variance, rtol=1e-6)


# Gradients


def random_mask(shape, rank):
    mask = np.random.default_rng(5).random(shape[:rank]) < 0.6
    mask.flat[0], mask.flat[-1] = True, False
    return mask


def masks_for(shape):
    return [None, random_mask(shape, 1), random_mask(shape, len(shape))]


@layouts
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["no mask", "mask of rank 1", "full mask"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_gradients_of_input_gamma_and_beta_are_the_finite_differences(shape, axes, kind, offset):
    mask, kept = masks_for(shape)[kind], kept_shape(shape, axes)
    x, dy = data(shape, 1, offset), data(shape, 2)
    gamma, beta = data(kept, 3), data(kept, 4)

    def loss(x, gamma, beta):
        return np.sum(dy * reference.forward(x, gamma, beta, axes, 0.1, mask)[0])

    actual = reference.gradients(dy, x, gamma, axes, 0.1, mask)
    step = 1e-3 if offset else 1e-4
    tolerance = {"rtol": 1e-5, "atol": 2e-5}
    close(actual["d_x"], slope(lambda value: loss(value, gamma, beta), x, step), **tolerance)
    close(actual["d_gamma"], slope(lambda value: loss(x, value, beta), gamma), **tolerance)
    close(actual["d_beta"], slope(lambda value: loss(x, gamma, value), beta), **tolerance)


@layouts
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["no mask", "mask of rank 1", "full mask"])
def test_gradients_of_x_hat_and_the_moments_are_the_finite_differences(shape, axes, kind):
    mask, kept = masks_for(shape)[kind], kept_shape(shape, axes)
    x, dy, gamma = data(shape, 1), data(shape, 2), data(kept, 3)
    _, mean, variance, x_hat = reference.forward(x, gamma, None, axes, 0.1, mask)

    def loss_from_x_hat(x_hat):
        return np.sum(dy * reference.scale_and_shift(x_hat, gamma, None, axes))

    def loss(mean, variance):
        return loss_from_x_hat(reference.normalize(x, mean, variance, axes, 0.1))

    def loss_through_variance(mean):
        # The variance depends on the mean, which is why the paper's 3rd gradient has two terms.
        squares = (x - np.expand_dims(mean, tuple(axes))) ** 2
        around_mean, _, _ = reference.moments(squares, axes, mask)
        empty = reference.moments(x, axes, mask)[2] == 0
        return loss(mean, np.where(empty, variance, around_mean))

    actual = reference.gradients(dy, x, gamma, axes, 0.1, mask)
    close(actual["d_x_hat"], slope(loss_from_x_hat, x_hat), rtol=1e-6, atol=1e-6)
    close(actual["d_variance"], slope(lambda v: loss(mean, v), variance), rtol=1e-6, atol=1e-6)
    close(actual["d_mean"], slope(loss_through_variance, mean), rtol=1e-6, atol=1e-6)


@layouts
def test_the_gradient_of_the_input_sums_to_0_and_is_orthogonal_to_it_up_to_epsilon(shape, axes):
    x, dy = data(shape, 1), data(shape, 2)
    _, _, _, x_hat = reference.forward(x, None, None, axes, 0.0)
    d_x = reference.gradients(dy, x, 3.0, axes, 0.0)["d_x"]
    zeros = np.zeros(kept_shape(shape, axes))
    close(d_x.sum(axis=tuple(axes)), zeros, atol=1e-10)
    close((d_x * x_hat).sum(axis=tuple(axes)), zeros, atol=1e-10)


def test_gradients_come_in_the_order_of_the_paper():
    names = ["d_x_hat", "d_variance", "d_mean", "d_x", "d_gamma", "d_beta"]
    assert list(reference.gradients(A, A, None, 0, 0.1)) == names


def test_gradients_on_tiny_data_are_what_the_hand_computes():
    # Mean 2, variance 1, sqrt(1 + 3) = 2, x_hat -0.5 and 0.5.
    actual = reference.gradients([1, 0], [1, 3], 8, 0, 3)
    close(actual["d_x_hat"], [8.0, 0.0])
    close(actual["d_variance"], 8 * -1 * -0.5 / 8)
    close(actual["d_mean"], -8 / 2)
    close(actual["d_x"], [8 / 2 + 0.5 * 2 * -1 / 2 - 4 / 2, 0.5 * 2 * 1 / 2 - 4 / 2])
    close(actual["d_gamma"], -0.5)
    close(actual["d_beta"], 1.0)


def test_one_sample_sends_no_gradient_to_the_input():
    close(reference.gradients([[3.0, 4.0]], [[5.0, 6.0]], 2, 0, 1e-3)["d_x"], [[0.0, 0.0]])


def test_without_a_counted_sample_the_gradient_passes_the_constant_moments():
    d_x = reference.gradients([1.0, 2.0], [5.0, 6.0], 3, 0, 4, [False, False])["d_x"]
    close(d_x, [1.5, 3.0])


# Policies

BATCHES = [np.array([[1.0], [3.0]]), np.array([[4.0], [8.0]]), np.array([[9.0], [9.0], [15.0]])]
# Means 2, 6, 11; biased variances 1, 4, 8; unbiased variances 2, 8, 12.
UNEVEN = [*BATCHES, np.array([[7.0]])]


def test_the_moving_average_weighs_the_old_value_by_decay():
    mean, variance = reference.exponential_moving_average(BATCHES, 0, 0.5)
    close(mean, [0.125 * 0 + 0.125 * 2 + 0.25 * 6 + 0.5 * 11])
    close(variance, [0.125 * 1 + 0.125 * 1 + 0.25 * 4 + 0.5 * 8])


def test_the_moving_average_gives_the_new_value_one_minus_decay():
    mean, variance = reference.exponential_moving_average(BATCHES[:1], 0, 0.9)
    close(mean, [0.1 * 2])
    close(variance, [0.9 * 1 + 0.1 * 1])


def test_the_moving_average_can_start_elsewhere_and_take_unbiased_variances():
    mean, variance = reference.exponential_moving_average(
        BATCHES[:2], 0, 0.5, unbiased=True, initial_mean=[16.0], initial_variance=0.0
    )
    close(mean, [0.25 * 16 + 0.25 * 2 + 0.5 * 6])
    close(variance, [0.25 * 2 + 0.5 * 8])


def test_one_sample_moves_the_mean_but_not_an_unbiased_variance():
    mean, variance = reference.exponential_moving_average([[[4.0]]], 0, 0.5, unbiased=True)
    close(mean, [2.0])
    close(variance, [1.0])
    close(reference.exponential_moving_average([[[4.0]]], 0, 0.5)[1], [0.5])


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_masked_out_batch_leaves_the_moving_averages_as_they_were(unbiased):
    more, masks = [*BATCHES, np.ones((2, 1))], [None, None, None, [False, False]]
    for policy in (reference.exponential_moving_average, reference.debiased_moving_average):
        before = policy(BATCHES, 0, 0.5, unbiased=unbiased)
        after = policy(more, 0, 0.5, unbiased=unbiased, masks=masks)
        for actual, expected in zip(after, before, strict=True):
            close(actual, expected)


def test_the_debiased_average_of_one_batch_is_that_batch():
    mean, variance = reference.debiased_moving_average(BATCHES[1:2], 0, 0.99)
    close(mean, [6.0])
    close(variance, [4.0])


def test_the_debiased_average_weighs_by_decay_to_the_age():
    mean, variance = reference.debiased_moving_average(BATCHES, 0, 0.5)
    close(mean, [(0.25 * 2 + 0.5 * 6 + 11) / 1.75])
    close(variance, [(0.25 * 1 + 0.5 * 4 + 8) / 1.75])


def test_the_debiased_average_is_the_moving_average_freed_of_its_start():
    mean, variance = reference.exponential_moving_average(BATCHES, 0, 0.9, initial_variance=0.0)
    for actual, biased in zip(
        reference.debiased_moving_average(BATCHES, 0, 0.9), (mean, variance), strict=True
    ):
        close(actual, biased / (1 - 0.9**3))


def test_the_debiased_unbiased_variance_keeps_weights_of_its_own():
    # The second batch has one sample: the mean takes it in, the variance passes over it.
    mean, variance = reference.debiased_moving_average(
        [BATCHES[0], [[5.0]], BATCHES[2]], 0, 0.5, unbiased=True
    )
    close(mean, [(0.25 * 2 + 0.5 * 5 + 11) / 1.75])
    close(variance, [(0.5 * 2 + 12) / 1.5])


def test_each_statistic_passes_over_the_batches_that_its_mask_empties():
    batches = [[[2.0, 2.0]], [[6.0, 6.0]]]
    masks = [None, [[True, False]]]
    close(reference.exponential_moving_average(batches, 0, 0.5, masks=masks)[0], [3.5, 1.0])
    close(reference.debiased_moving_average(batches, 0, 0.5, masks=masks)[0], [7 / 1.5, 2.0])
    close(reference.average_of_batches(batches, 0, masks=masks)[0], [4.0, 2.0])
    mean, variance = reference.pooled(batches, 0, masks=masks)
    close(mean, [4.0, 2.0])
    close(variance, [4.0, 0.0])


def test_three_batches_of_twelve_have_the_known_moments():
    moments = [reference.moments(batch, 0) for batch in TWELVES]
    close([float(mean) for mean, _, _ in moments], [20, 21.5, 25.4167], rtol=0, atol=5e-5)
    variances = [float(variance) for _, variance, _ in moments]
    close(variances, [214.5, 194.5833, 150.5764], rtol=0, atol=5e-5)
    close(np.mean(variances), 186.5532, rtol=0, atol=5e-5)


def test_algorithm_2_of_three_batches_of_twelve_is_203_5126():
    mean, variance = reference.average_of_batches(TWELVES, 0)
    close(mean, (20 + 21.5 + 305 / 12) / 3)
    close(variance, 203.5126, rtol=0, atol=5e-5)
    variances = [reference.moments(batch, 0)[1] for batch in TWELVES]
    close(variance, 12 / 11 * np.mean(variances))


def test_the_pooled_variance_of_three_batches_of_twelve_is_191_7677():
    mean, variance = reference.pooled(TWELVES, 0)
    close(mean, 803 / 36)
    close(variance, 191.7677, rtol=0, atol=5e-5)
    close(reference.pooled(TWELVES, 0, unbiased=True)[1], variance * 36 / 35)


def test_the_average_of_batches_weighs_a_smaller_last_batch_by_its_samples():
    mean, variance = reference.average_of_batches(UNEVEN, 0)
    close(mean, [(2 * 2 + 2 * 6 + 3 * 11 + 7) / 8])
    close(variance, [(2 * 1 + 2 * 4 + 3 * 8) / (1 + 1 + 2 + 0)])


def test_an_empty_batch_takes_no_degree_of_freedom_from_the_average_of_batches():
    expected = reference.average_of_batches(UNEVEN, 0)
    for actual, value in zip(
        reference.average_of_batches([*UNEVEN, np.zeros((0, 1))], 0), expected, strict=True
    ):
        close(actual, value)


def test_the_average_of_batches_has_variance_1_without_degrees_of_freedom():
    mean, variance = reference.average_of_batches([[[4.0]], [[8.0]]], 0)
    close(mean, [6.0])
    close(variance, [1.0])


def test_pooled_statistics_of_uneven_batches_are_those_of_all_samples():
    samples = np.array([1, 3, 4, 8, 9, 9, 15, 7.0])
    mean, variance = reference.pooled(UNEVEN, 0)
    close(mean, [7.0])
    close(variance, [np.sum((samples - 7) ** 2) / 8])
    close(reference.pooled(UNEVEN, 0, unbiased=True)[1], [np.sum((samples - 7) ** 2) / 7])


def test_pooled_unbiased_variance_of_one_sample_is_1():
    mean, variance = reference.pooled([[[4.0]]], 0, unbiased=True)
    close(mean, [4.0])
    close(variance, [1.0])
    close(reference.pooled([[[4.0]]], 0)[1], [0.0])


@layouts
def test_pooling_one_batch_gives_its_moments_with_and_without_a_mask(shape, axes):
    x = data(shape, offset=1e2)
    for mask in masks_for(shape):
        mean, variance, count = reference.moments(x, axes, mask)
        pooled_mean, pooled_variance = reference.pooled([x], axes, masks=[mask])
        close(pooled_mean, mean)
        close(pooled_variance, np.where(count > 0, variance, 1.0), rtol=1e-9)


@given(st.lists(st.integers(0, 12), max_size=4), st.floats(-1e4, 1e4), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_pooled_statistics_do_not_depend_on_the_split(cuts, offset, seed):
    x = data((12, 2), seed, offset)
    batches = np.split(x, sorted(cuts))
    for unbiased in (False, True):
        whole = reference.pooled([x], 0, unbiased=unbiased)
        split = reference.pooled(batches, 0, unbiased=unbiased)
        for actual, expected in zip(split, whole, strict=True):
            close(actual, expected, rtol=1e-9)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_pooled_statistics_are_the_merged_moments_of_the_batches(sizes, seed):
    batches = [data((size, 2), seed + k, 10 * k) for k, size in enumerate(sizes)]
    merged = reference.moments(batches[0], 0)
    for batch in batches[1:]:
        merged = reference.merge_moments(merged, reference.moments(batch, 0))
    mean, variance = reference.pooled(batches, 0)
    close(mean, merged[0], rtol=1e-9, atol=1e-9)
    close(variance, merged[1], rtol=1e-9, atol=1e-9)


def policies(unbiased):
    return [
        lambda batches, **rest: reference.exponential_moving_average(
            batches, 0, 0.9, unbiased=unbiased, **rest
        ),
        lambda batches, **rest: reference.debiased_moving_average(
            batches, 0, 0.9, unbiased=unbiased, **rest
        ),
        lambda batches, **rest: reference.average_of_batches(batches, 0, **rest),
        lambda batches, **rest: reference.pooled(batches, 0, unbiased=unbiased, **rest),
    ]


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("index", range(4))
def test_before_any_sample_every_policy_reads_mean_0_and_variance_1(index, unbiased):
    policy = policies(unbiased)[index]
    for batches, masks, shape in [
        ([], None, ()),
        ([np.zeros((0, 2))], None, (2,)),
        ([np.full((3, 2), 7.0)], [[False] * 3], (2,)),
    ]:
        mean, variance = policy(batches, masks=masks)
        close(mean, np.zeros(shape))
        close(variance, np.ones(shape))


@pytest.mark.parametrize("index", range(4))
@given(value=st.floats(-1e4, 1e4), steps=st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_a_constant_input_is_a_fixed_point_of_every_policy(index, value, steps):
    rest = {"initial_mean": value, "initial_variance": 0.0} if index == 0 else {}
    mean, variance = policies(False)[index]([np.full((3, 2), value)] * steps, **rest)
    close(mean, [value, value], rtol=1e-12)
    close(variance, [0.0, 0.0], atol=1e-15 * (1 + value**2))


# Errors and imports

CALLS = {
    "moments": lambda axes: reference.moments(A, axes),
    "moments_one_axis_at_a_time": lambda axes: reference.moments_one_axis_at_a_time(A, axes),
    "normalize": lambda axes: reference.normalize(A, 0, 1, axes, 0.1),
    "scale_and_shift": lambda axes: reference.scale_and_shift(A, 1, 0, axes),
    "forward": lambda axes: reference.forward(A, 1, 0, axes, 0.1),
    "infer": lambda axes: reference.infer(A, 0, 1, 1, 0, axes, 0.1),
    "gradients": lambda axes: reference.gradients(A, A, 1, axes, 0.1),
    "exponential_moving_average": lambda axes: reference.exponential_moving_average([A], axes, 0.9),
    "debiased_moving_average": lambda axes: reference.debiased_moving_average([A], axes, 0.9),
    "average_of_batches": lambda axes: reference.average_of_batches([A], axes),
    "pooled": lambda axes: reference.pooled([A], axes),
}


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("axes", [2, -3, [0, 2], [], (), [0, 0], [0, -2]])
def test_axes_out_of_range_doubled_or_missing_are_refused(function, axes):
    message = (
        f"{function}: `axes` must be one or more axes in [-2, 2), each once. "
        f"Received: axes={axes!r}. Pass axes of the input, whose shape is (2, 3)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CALLS[function](axes)


@pytest.mark.parametrize("mask", [[True] * 3, [1, 1], [[[True]]]])
def test_a_mask_of_another_type_or_shape_is_refused(mask):
    found = np.asarray(mask)
    message = (
        "moments: `mask` must be boolean, of the shape of the input's first dimensions, (2, 3). "
        f"Received: mask.dtype={found.dtype}, mask.shape={found.shape}. Cast or reshape it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        reference.moments(A, 0, mask)


def test_parameters_that_do_not_have_the_kept_shape_are_refused():
    for gamma in ([1], [1, 2], np.ones((2, 3)), np.ones((1, 3))):
        message = (
            "reference: parameters must be scalars or have the shape of the axes kept, (3,). "
            f"Received: shape={np.shape(gamma)}. Reshape it, or change `axes`."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            reference.forward(A, gamma, None, 0, 0.1)


def test_a_missing_mask_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        reference.pooled([A, A], 0, masks=[None])


def test_the_oracle_imports_numpy_and_the_standard_library_only():
    sources = sorted(Path(reference.__file__).parent.glob("*.py"))
    nodes = [
        node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name for name in names if not name.startswith(f"{reference.__name__}.")}
    assert {name.split(".")[0] for name in others} == {"collections", "numpy"}


def test_renormalized_without_bounds_a_batch_is_what_inference_makes_of_it():
    x = data((5, 3), offset=4.0)
    mean, sigma = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 2.0])
    batch_mean, variance, _ = reference.moments(x, 0)
    correction = reference.corrections(batch_mean, np.sqrt(variance + 1e-3), mean, sigma)
    y, *_ = reference.renormalize(x, 2.0, 1.0, 0, 1e-3, correction)
    np.testing.assert_allclose(y, 2 * (x - mean) / sigma + 1, rtol=1e-12)


def test_corrections_keep_to_their_bounds_and_without_room_change_nothing():
    batch, moving = ([9.0, -9.0, 0.5], [8.0, 0.1, 1.0]), ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    r, d = reference.corrections(*batch, *moving, r_max=4.0, d_max=2.0)
    np.testing.assert_array_equal(r, [4.0, 0.25, 1.0])
    np.testing.assert_array_equal(d, [2.0, -2.0, 0.5])
    r, d = reference.corrections(*batch, *moving, r_max=4.0, r_min=0.0)
    np.testing.assert_array_equal(r, [4.0, 0.1, 1.0])
    r, d = reference.corrections(*batch, *moving, r_max=1.0, d_max=0.0)
    np.testing.assert_array_equal([r, d], [[1.0] * 3, [0.0] * 3])


@pytest.mark.parametrize("masked", [False, True])
def test_renormalized_gradients_are_those_of_finite_differences(masked):
    x, dy, gamma = data((4, 3, 2)), data((4, 3, 2), 1), np.array([2.0, -0.5])
    mask = np.arange(12).reshape(4, 3) % 3 > 0 if masked else None
    # Constants to the gradient, whatever they were made of.
    correction = np.array([2.0, 0.5]), np.array([0.3, -1.0])

    def loss(x, gamma, beta=0.0):
        y, *_ = reference.renormalize(x, gamma, beta, [0, 1], 1e-3, correction, mask)
        return np.sum(dy * y)

    found = reference.renormalized_gradients(dy, x, gamma, [0, 1], 1e-3, correction, mask)
    step = 1e-6
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        slope = (loss(x + moved, gamma) - loss(x - moved, gamma)) / (2 * step)
        np.testing.assert_allclose(found["d_x"][index], slope, atol=1e-7)
    for channel in range(2):
        moved = step * np.eye(2)[channel]
        slope = (loss(x, gamma + moved) - loss(x, gamma - moved)) / (2 * step)
        np.testing.assert_allclose(found["d_gamma"][channel], slope, atol=1e-7)
        slope = (loss(x, gamma, moved) - loss(x, gamma, -moved)) / (2 * step)
        np.testing.assert_allclose(found["d_beta"][channel], slope, atol=1e-7)


def test_moving_deviation_averages_deviations_and_leaves_what_has_no_sample():
    mean, sigma = reference.moving_deviation(
        [[[1.0], [5.0]], [[9.0]]], 0, 0.5, 0.0, masks=[None, [False]], initial_sigma=4.0
    )
    np.testing.assert_array_equal([mean, sigma], [[1.5], [3.0]])
