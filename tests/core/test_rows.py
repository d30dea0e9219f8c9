"""The view of narrow rows as wide ones: exact at every size, and never felt from outside."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import DTYPES, assert_within, data, float64, resolution, wide

from batchnorm_mechanics import core, reference

# Groups of 170, 64, 8 and 2 rows, none for a prime number of samples or a single channel.
SHAPES = [
    (64, 28, 28, 3),
    (8, 32, 16, 8),
    (2, 1024, 64),
    (3, 2, 40, 256),
    (40_009, 3),
    (5, 9, 9, 1),
    (60, 100),
    # Sums of 3,200 numbers, which round in one direction where all are about a million.
    (400_000, 4),
]


def step(x, gamma, beta, dy, **options):
    inputs = [tf.convert_to_tensor(value) for value in (x, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y, moments = core.normalize_batch(*inputs, kernel="rows", **options)
    return y, moments, tape.gradient(y, inputs, tf.convert_to_tensor(dy))


def check(x, gamma, beta, dy, found, dtype):
    """Against the oracle; a sum of n numbers may be off by sqrt(n) roundings of their size."""
    axes = list(range(np.ndim(x) - 1))
    y, moments, (dx, dgamma, dbeta) = found
    want_y, mean, variance, _ = reference.forward(float64(x), gamma, beta, axes, 1e-3)
    want = reference.gradients(float64(dy), float64(x), gamma, axes, 1e-3)
    count = np.size(x) // np.shape(x)[-1]
    own, sums = resolution(dtype), resolution(wide(dtype)) * (8 + np.sqrt(count) / 4)
    if dtype == "float64":
        sums *= 4  # what NumPy adds up one after the other rounds more
    assert_within(y, want_y, (sums + own) * (1 + np.max(np.abs(want_y))), "y")
    assert_within(moments.variance, variance, 2 * sums * (1 + variance), "variance")
    last_digit = resolution(wide(dtype)) * (1 + np.abs(mean))
    assert_within(moments.mean, mean, last_digit + sums * np.sqrt(variance), "mean")
    np.testing.assert_array_equal(moments.count, np.full(np.shape(mean), count))
    largest = np.max(np.abs(float64(dy)))
    assert_within(dx, want["d_x"], 2 * (sums + own) * (1 + np.max(np.abs(want["d_x"]))), "dx")
    assert_within(dgamma, want["d_gamma"], 2 * sums * np.sqrt(count) * largest * 4, "dgamma")
    assert_within(dbeta, want["d_beta"], 2 * sums * np.sqrt(count) * largest * 4, "dbeta")


def problem(rng, shape, offset, dtype):
    x, dy = data(rng, shape, offset, dtype), rng.normal(size=shape).astype(DTYPES[dtype])
    gamma, beta = rng.normal(1.0, 0.5, shape[-1]), rng.normal(size=shape[-1])
    return x, gamma.astype(wide(dtype)), beta.astype(wide(dtype)), dy


# One for all tests: the offsets of a shape share a trace.
traced = tf.function(step)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 3.0, 1e4, 1e6])
@pytest.mark.parametrize("graph", [False, True])
def test_the_digits_do_not_depend_on_the_view_or_the_mean(rng, shape, offset, graph):
    inputs = problem(rng, shape, offset, "float32")
    axes = list(range(len(shape) - 1))
    found = (traced if graph else step)(*inputs, axes=axes)
    check(*inputs, found, "float32")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[6:7], ids=str)
def test_every_type_is_taken(rng, shape, dtype):
    inputs = problem(rng, shape, 2.0, dtype)
    found = step(*inputs, axes=list(range(len(shape) - 1)))
    check(*inputs, found, dtype)
    assert found[0].dtype == found[2][0].dtype == dtype


def test_a_first_sample_far_from_all_others_costs_no_digits(rng):
    x, *rest = problem(rng, (64, 28, 28, 3), 5.0, "float32")
    x[0, 0, 0, 0] = 1e6
    check(x, *rest, step(x, *rest, axes=[0, 1, 2]), "float32")


@pytest.mark.parametrize(
    ("known", "sizes"),
    [
        ([None, 28, 28, 3], [(4, 28, 28, 3), (7, 28, 28, 3)]),
        ([None, None, None, 8], [(4, 32, 20, 8), (3, 7, 9, 8), (1, 1, 1, 8)]),
        ([None, None, 16], [(2, 512, 16), (3, 5, 16)]),
        ([None, 3], [(1000, 3), (7, 3)]),
    ],
    ids=str,
)
def test_sizes_that_are_not_known_yet(rng, known, sizes):
    axes = list(range(len(known) - 1))
    x_spec, channels = tf.TensorSpec(known), tf.TensorSpec([known[-1]])

    @tf.function(input_signature=[x_spec, channels, channels, x_spec])
    def graph(x, gamma, beta, dy):
        found = step(x, gamma, beta, dy, axes=axes)
        assert found[0].shape.as_list() == found[2][0].shape.as_list() == known
        return found

    for shape in sizes:
        inputs = problem(rng, shape, 3.0, "float32")
        check(*inputs, graph(*inputs), "float32")


def test_an_empty_batch_of_a_size_not_known_before_has_a_count_of_0_and_no_mean():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 8])])
    def graph(x):
        return core.normalize_batch(x, axes=[0, 1, 2], kernel="rows")

    y, (mean, _, count) = graph(np.zeros((0, 4, 4, 8), np.float32))
    assert y.shape == (0, 4, 4, 8)
    assert count.numpy().tolist() == [0] * 8
    assert np.isnan(mean).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_constant_channel_has_no_variance_below_zero(shape):
    for value in (0.1, 1 / 3, 1e6 + 1 / 16):
        x = np.full(shape, value, np.float32)
        y, moments = core.normalize_batch(x, axes=list(range(len(shape) - 1)), kernel="rows")
        assert np.min(moments.variance) >= 0
        assert np.max(moments.variance) <= 1e-12 * value**2
        assert_within(y, np.zeros(shape), 1e-5 * max(1, value))


@pytest.mark.parametrize("shape", [(64, 28, 28, 3), (60, 100)], ids=str)
def test_a_nan_shows_in_its_channel_alone(rng, shape):
    x = data(rng, shape, 1.0, "float32")
    x[0, ..., 1] = np.nan
    y, moments = core.normalize_batch(x, axes=list(range(len(shape) - 1)), kernel="rows")
    nan = np.arange(shape[-1]) == 1
    np.testing.assert_array_equal(np.isnan(moments.mean), nan)
    np.testing.assert_array_equal(np.isnan(moments.variance), nan)
    np.testing.assert_array_equal(np.isnan(y).all(axis=tuple(range(len(shape) - 1))), nan)
    np.testing.assert_array_equal(np.isnan(y).any(axis=tuple(range(len(shape) - 1))), nan)


@pytest.mark.parametrize("shape", [(12, 28, 28, 3), (20, 4)], ids=str)
def test_the_slope_of_a_slope_is_finite_where_a_channel_is_constant(rng, shape):
    x = data(rng, shape, 1.0, "float32")
    x[..., 0] = 0
    x = tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y, _ = core.normalize_batch(x, axes=list(range(len(shape) - 1)), kernel="rows")
            loss = tf.reduce_sum(y**3)
        penalty = tf.reduce_sum(inner.gradient(loss, x) ** 2)
    assert np.isfinite(outer.gradient(penalty, x)).all()


# On both sides of every size at which another way is taken, fused kernel included.
GIVEN = [(3, 4), (2000, 3), (64, 28, 28, 3), (300, 256), (16, 16, 16, 64), (9, 512, 64), (3, 9, 1)]


@pytest.mark.parametrize("shape", GIVEN, ids=str)
@pytest.mark.parametrize("graph", [False, True])
def test_given_statistics_have_all_their_gradients_at_every_size(rng, shape, graph):
    x, gamma, beta, dy = problem(rng, shape, 2.0, "float32")
    mean = rng.normal(2.0, 1.0, shape[-1]).astype(np.float32)
    variance = rng.uniform(0.5, 2.0, shape[-1]).astype(np.float32)
    axes = list(range(len(shape) - 1))

    def slopes(x, mean, variance, gamma, beta, dy):
        inputs = [tf.convert_to_tensor(value) for value in (x, mean, variance, gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = core.normalize_with(*inputs, axes=axes)
        return tape.gradient(y, inputs, tf.convert_to_tensor(dy))

    found = (tf.function(slopes) if graph else slopes)(x, mean, variance, gamma, beta, dy)
    x, dy, scale = float64(x), float64(dy), 1 / np.sqrt(float64(variance) + 1e-3)
    along = np.sum(dy * (x - mean), axis=tuple(axes))
    total = np.sum(dy, axis=tuple(axes))
    expected = {
        "dx": dy * scale * gamma,
        "d_mean": -total * scale * gamma,
        "d_variance": -0.5 * along * gamma * scale**3,
        "d_gamma": along * scale,
        "d_beta": total,
    }
    for slope, (name, want) in zip(found, expected.items(), strict=True):
        assert np.max(np.abs(want)) > 0.01
        assert_within(slope, want, 2e-5 * (1 + np.max(np.abs(want))), name)
