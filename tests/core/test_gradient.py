"""The six gradients of sec. 3 against the oracle, automatic differentiation and differences."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import (
    DTYPES,
    IDS,
    LAYOUTS,
    assert_within,
    count_of,
    data,
    float64,
    kept,
    largest,
    oracle_slip,
    random_mask,
    rounding,
    spread,
    whole,
    wide,
)

import batchnorm_mechanics as bnm
from batchnorm_mechanics import core, reference

layouts = pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)
EPSILON = 1e-3


def bounds(dtype, dy, x, gamma, axes, mask):
    """The error that each gradient may have, channel by channel.

    The terms that are added up in it are rounded, not the sum, so their sizes count.
    """
    axes = tuple(np.atleast_1d(axes) % x.ndim)
    _, _, variance, x_hat = reference.forward(x, None, None, axes, EPSILON, mask)
    std = np.sqrt(spread(variance, x.shape, axes) + EPSILON)
    slip = oracle_slip(x, variance, EPSILON, axes)
    gamma = np.abs(spread(1.0 if gamma is None else gamma, x.shape, axes))
    count = np.maximum(spread(reference.moments(x, axes, mask)[2], x.shape, axes), 1)
    dy, x_hat = np.abs(dy), 1 + np.abs(x_hat)

    def total(value):
        return np.sum(value, axis=axes, keepdims=True)

    d_variance = gamma * total(dy * x_hat) / std**2
    d_mean = gamma * total(dy) / std + d_variance * 2 * std * largest(x_hat, axes)
    through = (d_variance * 2 * std * largest(x_hat, axes) + d_mean) / count
    terms = {
        "d_x_hat": gamma * largest(dy, axes),
        "d_variance": d_variance,
        "d_mean": d_mean,
        "d_x": gamma * largest(dy, axes) / std + through,
        "d_gamma": total(dy * x_hat),
        "d_beta": total(dy),
    }
    # The variance behind them comes from one sum of m' terms, they from up to three more.
    operations = 4 * count_of(x.shape, axes) + 24
    return {
        name: rounding(wide(dtype), operations, size) + 4 * slip * size
        for name, size in terms.items()
    }


def judge(actual, dy, x, gamma, axes, dtype, mask=None, case=""):
    """Compare gradients, given by name, with the oracle's."""
    dy, x = float64(dy), float64(x)
    expected = reference.gradients(dy, x, gamma, axes, EPSILON, mask)
    allowed = bounds(dtype, dy, x, gamma, axes, mask)
    for name, value in actual.items():
        bound = allowed[name]
        if expected[name].shape != x.shape:
            bound = bound.reshape(expected[name].shape)
        if value.dtype != wide(dtype):
            bound = bound + rounding(dtype, 1, expected[name])
        assert_within(value, expected[name], bound, f"{case} {name}")


def case_of(rng, shape, axes, offset, dtype):
    kind = np.float64 if dtype == "float64" else np.float32
    x, dy = data(rng, shape, offset, dtype), data(rng, shape, 0.5, dtype)
    gamma = (1 + 0.5 * rng.normal(size=kept(shape, axes))).astype(kind)
    return x, dy, gamma, rng.normal(size=kept(shape, axes)).astype(kind)


# The six


@layouts
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_six_gradients_are_the_oracles_at_any_offset(shape, axes, dtype, rng):
    for offset in (0.0, 1e2, 1e4):
        x, dy, gamma, beta = case_of(rng, shape, axes, offset, dtype)
        for mask in (None, random_mask(rng, shape)):
            _, cache = bnm.forward(x, gamma, beta, axes=axes, epsilon=EPSILON, mask=mask)
            actual = bnm.gradients(dy, cache)._asdict()
            assert {value.dtype.name for value in actual.values()} == {wide(dtype)}
            case = f"offset {offset:g},{'' if mask is None else ' masked,'}"
            judge(actual, dy, x, gamma, axes, dtype, mask, case)


@layouts
@pytest.mark.parametrize("dtype", DTYPES)
def test_automatic_differentiation_of_forward_gives_backwards_gradients(shape, axes, dtype, rng):
    for offset in (0.0, 1e4):
        x, dy, gamma, beta = map(tf.constant, case_of(rng, shape, axes, offset, dtype))
        for mask in (None, random_mask(rng, shape)):
            with tf.GradientTape() as tape:
                tape.watch([x, gamma, beta])
                y, cache = bnm.forward(x, gamma, beta, axes=axes, epsilon=EPSILON, mask=mask)
            automatic = tape.gradient(y, [x, gamma, beta], output_gradients=dy)
            case = f"offset {offset:g},{'' if mask is None else ' masked,'}"
            for source, values in (
                ("tape", automatic),
                ("backward", bnm.backward(dy, cache)),
            ):
                named = dict(zip(("d_x", "d_gamma", "d_beta"), values, strict=True))
                assert named["d_x"].dtype == x.dtype
                judge(named, dy, x, gamma, axes, dtype, mask, f"{source}, {case}")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_gradients_with_unknown_sizes_are_the_oracles(jit_compile, rng):
    shape, axes = (4, 3, 5), [0, 2]
    unknown = tf.TensorSpec([None, 3, None], tf.float32)

    @tf.function(
        input_signature=[unknown, unknown, tf.TensorSpec([None, 3], tf.bool)],
        jit_compile=jit_compile,
        autograph=False,
    )
    def compiled(x, dy, mask):
        found = []
        for counted in (None, mask):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y, cache = bnm.forward(x, [1.0, 2.0, 0.5], axes=axes, epsilon=EPSILON, mask=counted)
            found.append(tape.gradient(y, x, output_gradients=dy))
            found.append(bnm.gradients(dy, cache))
        return found

    x, dy = data(rng, shape, 1e4, "float32"), data(rng, shape, 0.5, "float32")
    mask = random_mask(rng, shape)
    plain, plain_six, masked, masked_six = compiled(x, dy, mask)
    gamma = [1.0, 2.0, 0.5]
    judge({"d_x": plain}, dy, x, gamma, axes, "float32", case="tape,")
    judge(plain_six._asdict(), dy, x, gamma, axes, "float32", case="six,")
    judge({"d_x": masked}, dy, x, gamma, axes, "float32", mask, case="tape, masked,")
    judge(masked_six._asdict(), dy, x, gamma, axes, "float32", mask, case="six, masked,")


def test_a_cache_that_left_a_compiled_function_still_serves_backward(rng):
    x, dy = data(rng, (4, 3, 5), 1e4, "float32"), data(rng, (4, 3, 5), 0.5, "float32")
    compiled = tf.function(lambda x: bnm.forward(x, axes=[0, 2]), autograph=False)
    _, cache = compiled(x)
    judge({"d_x": bnm.backward(dy, cache)[0]}, dy, x, None, [0, 2], "float32")


def test_backward_gives_float64_gradients_to_float64_precision(rng):
    x, dy, gamma, beta = case_of(rng, (9, 3), [0], 1e2, "float64")
    _, cache = bnm.forward(x, gamma.tolist(), beta.tolist(), axes=[0], epsilon=1.1e-3)
    expected = reference.gradients(dy, x, gamma, [0], 1.1e-3)
    for actual, name in zip(bnm.backward(dy, cache), ("d_x", "d_gamma", "d_beta"), strict=True):
        assert np.max(np.abs(actual - expected[name])) < 1e-12, name


def test_the_paper_order_of_the_gradients():
    names = ("d_x_hat", "d_variance", "d_mean", "d_x", "d_gamma", "d_beta")
    assert core.Gradients._fields == names


# Properties


@pytest.mark.parametrize("masked", [False, True])
def test_moving_or_stretching_the_input_does_not_pay(masked, rng):
    x, dy, gamma, beta = case_of(rng, (9, 3), [0], 1e2, "float64")
    mask = random_mask(rng, x.shape) if masked else None
    _, cache = bnm.forward(x, gamma, beta, axes=[0], epsilon=1e-30, mask=mask)
    d_x = bnm.gradients(dy, cache).d_x.numpy()
    assert np.max(np.abs(d_x)) > 0.1
    np.testing.assert_allclose(np.sum(d_x, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.sum(d_x * cache.x_hat, axis=0), 0, atol=1e-12)


def test_one_sample_has_no_gradient_with_respect_to_itself(rng):
    x, dy = data(rng, (1, 3), 1e4, "float32"), data(rng, (1, 3), 0.5, "float32")
    _, cache = bnm.forward(x, 2.0, 1.0, axes=0)
    d_x, d_gamma, d_beta = bnm.backward(dy, cache)
    # The direct part, dy * gamma / sqrt(epsilon), is taken away again by the mean's.
    assert_within(d_x, np.zeros((1, 3)), rounding("float32", 4, 2 * 32 * dy))
    assert d_gamma.numpy().tolist() == [0, 0, 0]
    np.testing.assert_array_equal(d_beta, dy[0])


def test_a_channel_without_samples_has_the_oracles_gradient(rng):
    x, dy = data(rng, (4, 3)), data(rng, (4, 3), 0.5)
    mask = np.ones((4, 3), bool)
    mask[:, 1] = False
    with tf.GradientTape() as tape:
        x = tf.constant(x)
        tape.watch(x)
        y, cache = bnm.forward(x, axes=0, epsilon=EPSILON, mask=mask)
    automatic = tape.gradient(y, x, output_gradients=dy)
    expected = reference.gradients(dy, x, None, 0, EPSILON, mask)["d_x"]
    np.testing.assert_allclose(automatic, expected, rtol=1e-12)
    np.testing.assert_allclose(bnm.backward(dy, cache)[0], expected, rtol=1e-12)


def test_a_nan_in_one_channel_leaves_the_gradients_of_the_others(rng):
    x, dy = data(rng, (6, 3)), data(rng, (6, 3), 0.5)
    expected = reference.gradients(dy, x, None, 0, EPSILON)["d_x"]
    x[2, 1] = np.nan
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, cache = bnm.forward(x, axes=0, epsilon=EPSILON)
    for actual in (tape.gradient(y, x, output_gradients=dy), bnm.backward(dy, cache)[0]):
        np.testing.assert_allclose(actual.numpy()[:, [0, 2]], expected[:, [0, 2]], rtol=1e-11)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("how", ["tape", "backward"])
def test_a_masked_out_nan_leaves_the_gradients_of_what_counts(how, garbage, rng):
    x, dy = data(rng, (6, 3)), data(rng, (6, 3), 0.5)
    mask = np.array([True, True, False, True, False, True])
    # As a masked loss does: what is masked out asks for nothing.
    dy = np.where(mask[:, None], dy, 0.0)
    expected = reference.gradients(dy, x, None, 0, EPSILON, mask)
    x[2, 1] = garbage
    x, gamma = tf.constant(x), tf.ones(3, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, gamma])
        y, cache = bnm.forward(x, gamma, axes=0, epsilon=EPSILON, mask=mask)
    if how == "tape":
        d_x, d_gamma = tape.gradient(y, [x, gamma], output_gradients=dy)
    else:
        d_x, d_gamma, _ = bnm.backward(dy, cache)
    np.testing.assert_allclose(d_x.numpy()[mask], expected["d_x"][mask], rtol=1e-11)
    np.testing.assert_allclose(d_gamma, expected["d_gamma"], rtol=1e-11)


@pytest.mark.parametrize("gamma", [None, 2.0])
def test_gamma_and_beta_have_a_gradient_per_channel_also_where_scalar_or_left_out(gamma, rng):
    x, dy = data(rng, (6, 3)), data(rng, (6, 3), 0.5)
    _, cache = bnm.forward(x, gamma, axes=0, epsilon=EPSILON)
    named = dict(zip(("d_x", "d_gamma", "d_beta"), bnm.backward(dy, cache), strict=True))
    judge(named, dy, x, gamma, [0], "float64")


def test_the_tapes_gradient_of_a_scalar_gamma_is_the_sum_over_channels(rng):
    x, dy = data(rng, (6, 3)), data(rng, (6, 3), 0.5)
    gamma = tf.constant(2.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(gamma)
        y, cache = bnm.forward(x, gamma, axes=0)
    automatic = tape.gradient(y, gamma, output_gradients=dy)
    np.testing.assert_allclose(automatic, np.sum(bnm.backward(dy, cache)[1]), rtol=1e-12)


# Second order, which gradient penalties need


def penalty_by_the_oracle(x, w, gamma, beta, axes, mask):
    """The squared gradient of sum(w * sin(y)) with respect to x."""
    y = reference.forward(x, gamma, beta, axes, EPSILON, mask)[0]
    return np.sum(reference.gradients(w * np.cos(y), x, gamma, axes, EPSILON, mask)["d_x"] ** 2)


def slope(function, at, step=1e-5):
    result = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("how", ["tape", "backward"])
def test_the_gradient_of_a_gradient_is_that_of_finite_differences(how, masked, rng):
    shape, axes = (4, 3, 2), [0, 1]
    x, w, gamma, beta = case_of(rng, shape, axes, 10.0, "float64")
    mask = random_mask(rng, shape) if masked else None
    point = tf.constant(x), tf.constant(gamma)
    with tf.GradientTape() as outer:
        outer.watch(point)
        with tf.GradientTape() as inner:
            inner.watch(point[0])
            y, cache = bnm.forward(point[0], point[1], beta, axes=axes, epsilon=EPSILON, mask=mask)
            loss = tf.reduce_sum(w * tf.sin(y))
        if how == "tape":
            d_x = inner.gradient(loss, point[0])
        else:
            d_x = bnm.backward(w * tf.cos(y), cache)[0]
        penalty = tf.reduce_sum(d_x**2)
    by_x, by_gamma = outer.gradient(penalty, point)
    expected = penalty_by_the_oracle(x, w, gamma, beta, axes, mask)
    np.testing.assert_allclose(penalty, expected, rtol=1e-11)
    # Central differences: an error of step**2 and of rounding / step, both about 1e-10.
    tolerance = {"rtol": 1e-7, "atol": 1e-7 * float(penalty)}
    expected = slope(lambda x: penalty_by_the_oracle(x, w, gamma, beta, axes, mask), x)
    np.testing.assert_allclose(by_x, expected, **tolerance)
    expected = slope(lambda gamma: penalty_by_the_oracle(x, w, gamma, beta, axes, mask), gamma)
    np.testing.assert_allclose(by_gamma, expected, **tolerance)


# What comes in


def test_plain_numbers_for_dy_are_not_rounded_through_float32(rng):
    x, dy = data(rng, (6, 3)), data(rng, (6, 3), 0.1)
    _, cache = bnm.forward(x, axes=0)
    for actual, expected in zip(
        bnm.backward(dy.tolist(), cache), bnm.backward(dy, cache), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


def test_whole_numbers_for_dy_are_not_truncated():
    _, cache = bnm.forward([[1.0], [2.0], [6.0]], axes=0)
    expected = bnm.backward([[1.0], [0.0], [0.0]], cache)[0]
    try:
        actual = bnm.backward([[1], [0], [0]], cache)[0]
    except TypeError as error:
        # To refuse them with a message is as good.
        assert str(error).startswith("backward: `dy` must ")  # noqa: PT017
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("function", [bnm.gradients, bnm.backward])
@pytest.mark.parametrize("shape", [(2, 3), (4,), (4, 1), (), (4, 3, 1)], ids=str)
def test_a_dy_of_another_shape_is_refused(function, shape):
    _, cache = bnm.forward(np.ones((4, 3), np.float32), axes=0)
    message = (
        f"{function.__name__}: `dy` must have the shape of the input, (4, 3). "
        f"Received: dy.shape={shape}. Pass the gradient with respect to y."
    )
    with pytest.raises(ValueError, match=whole(message)):
        function(np.ones(shape, np.float32), cache)
