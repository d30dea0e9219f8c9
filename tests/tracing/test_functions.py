"""Traces of the functions: the source's numbers, the oracle's, and what is said beside them."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import IDS, LAYOUTS, assert_within, data, float64, random_mask, rounding, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

A = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
B = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)


def test_the_source_s_example_over_axis_0_has_its_numbers():
    found = bnm.trace(A, gamma=2.0, beta=1.0)
    assert found["mean"].value.tolist() == [2.5, 3.5, 4.5]
    assert found["variance"].value.tolist() == [2.25, 2.25, 2.25]
    np.testing.assert_allclose(found["y"].value, [[-0.9995557] * 3, [2.9995557] * 3], rtol=1e-7)


def test_the_source_s_example_over_axis_1_has_its_numbers():
    found = bnm.trace(A, axes=1, gamma=2.0, beta=1.0)
    assert found["mean"].value.tolist() == [2, 5]
    np.testing.assert_allclose(found["variance"].value, 0.6666667, rtol=1e-7)
    np.testing.assert_allclose(found["y"].value, [[-1.4476547, 1, 3.4476547]] * 2, rtol=2e-7)


@pytest.mark.parametrize(
    ("axes", "mean", "variance"),
    [
        ([0], B.mean(0), 36),
        ([1], B.mean(1), 9),
        ([2], B.mean(2), 2.6666667),
        ([3], B.mean(3), 0.25),
        ([0, 2], B.mean((0, 2)), 38.666668),
        ([0, 1, 2], [11, 12], 47.666668),
    ],
)
def test_each_set_of_axes_of_the_source_s_second_example_has_its_figures(axes, mean, variance):
    found = bnm.trace(B, axes=axes)
    np.testing.assert_allclose(found["mean"].value, mean, rtol=1e-6)
    np.testing.assert_allclose(found["variance"].value, variance, rtol=1e-6)


def test_two_axes_are_taken_one_after_another():
    found = bnm.trace(B, axes=[0, 2])
    np.testing.assert_allclose(found["mean of variances along axis 2"].value, 36)
    np.testing.assert_allclose(found["variance of means along axis 2"].value, 2.6666667, rtol=1e-6)
    np.testing.assert_allclose(found["variance over axes 0, 2"].value, 38.666668, rtol=1e-6)
    np.testing.assert_array_equal(found["mean over axis 0"].value, B.mean(0))


def test_three_axes_add_36_and_9_and_2_6666667():
    found = bnm.trace(B, axes=[0, 1, 2])
    parts = ("mean of variances along axis 1", "variance of means along axis 1")
    assert [float(found[name].value.flat[0]) for name in parts] == [36, 9]
    last = ("mean of variances along axis 2", "variance of means along axis 2")
    np.testing.assert_allclose([found[name].value[0] for name in last], [45, 2.6666667], rtol=1e-6)
    np.testing.assert_allclose(found["variance over axes 0, 1, 2"].value, 47.666668, rtol=1e-6)


@pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)
def test_training_steps_are_the_oracle_s(rng, shape, axes):
    x, dy = data(rng, shape, 1e4), rng.normal(size=shape)
    found = bnm.trace(x, axes=axes, gamma=1.5, beta=-0.5, dy=dy)
    y, mean, variance, x_hat = reference.forward(x, 1.5, -0.5, axes, 1e-3)
    six = reference.gradients(dy, x, 1.5, axes, 1e-3)
    expected = {"mean": mean, "variance": variance, "x_hat": x_hat, "y": y, **six}
    for name, value in expected.items():
        assert_within(found[name].value, value, 1e-7 * (1 + np.abs(value)), name)


@pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)
def test_inference_steps_are_the_oracle_s_and_the_folded_form_agrees(rng, shape, axes):
    x = data(rng, shape, 3.0)
    mean, variance = reference.moments(x, axes)[:2]
    found = bnm.trace(x, axes=axes, training=False, statistics=(mean, variance), gamma=2.0)
    y = reference.infer(x, mean, variance, 2.0, None, axes, 1e-3)
    scale, offset = reference.fold(mean, variance, 2.0, None, 1e-3)
    bound = rounding("float64", 200, 1 + np.abs(y))
    assert_within(found["y"].value, y, bound)
    assert_within(found["y_folded"].value, y, bound * 20)
    assert_within(found["scale"].value, scale, rounding("float64", 50, scale))
    assert_within(found["offset"].value, offset, 1e-12 * (1 + np.abs(offset)))
    assert found.mode == "inference"


def test_unbiased_variance_and_count_are_shown():
    found = bnm.trace(A)
    assert found["unbiased_variance"].value.tolist() == [4.5, 4.5, 4.5]
    assert found["count"].value.tolist() == [2, 2, 2]


def test_a_mask_leaves_samples_out_of_the_statistics(rng):
    x = data(rng, (4, 5, 3))
    mask = random_mask(rng, x.shape)
    found = bnm.trace(x, axes=[0, 1], mask=mask, dy=rng.normal(size=x.shape), compare=True)
    mean, variance, count = reference.moments(x, [0, 1], mask)
    np.testing.assert_allclose(found["mean"].value, mean)
    np.testing.assert_allclose(found["variance"].value, variance)
    assert found["count"].value.tolist() == count.tolist()
    assert all(check.passed for check in found.backward.checks)
    assert "tf.nn: it takes no mask." in found.comparison.notes


def test_without_statistics_inference_says_that_it_used_the_initial_ones():
    found = bnm.trace(A, training=False)
    assert found["mean"].value == 0
    assert found["variance"].value == 1
    assert "the initial moving statistics, mean 0 and variance 1, were used" in found.why[1]


def test_statistics_of_unequal_shapes_are_folded(rng):
    found = bnm.trace(data(rng, (4, 3)), training=False, statistics=(0.0, [1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found["y_folded"].value, found["y"].value)


def test_a_policy_shows_the_running_statistics_before_and_after():
    found = bnm.trace(A, statistics=bnm.ExponentialMovingAverage(decay=0.9))
    assert found["moving_mean_before"].value.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found["moving_mean_after"].value, [0.25, 0.35, 0.45])
    np.testing.assert_allclose(found["moving_variance_after"].value, [1.125] * 3)


def test_a_pair_starts_a_moving_average_of_0_99():
    found = bnm.trace(A, statistics=([1.0, 2.0, 3.0], 4.0))
    assert found["moving_variance_before"].value.tolist() == [4, 4, 4]
    np.testing.assert_allclose(found["moving_mean_after"].value, [1.015, 2.015, 3.015])


def test_another_policy_shows_all_of_its_state():
    found = bnm.trace(A, statistics=bnm.PooledPopulation())
    assert found["count_after"].value.tolist() == [2, 2, 2]
    assert found["moving_variance_after"].value.tolist() == [2.25] * 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_inputs_have_float32_statistics_and_a_half_output(rng, dtype):
    x = tf.cast(rng.normal(size=(6, 3)), dtype)
    found = bnm.trace(x, dy=tf.ones_like(x), compare=True)
    assert found["mean"].dtype == found["x_hat"].dtype == "float32"
    assert found["y"].dtype == dtype
    assert any(f"only y is rounded to {dtype}" in note for note in found.notes)
    expected = reference.forward(float64(x), None, None, 0, 1e-3)[0]
    np.testing.assert_allclose(float64(found["y"].value), expected, rtol=1e-2, atol=1e-2)


def test_integers_become_float32_and_this_is_said():
    found = bnm.trace([[1, 2], [3, 4]])
    assert found["x"].dtype == "float32"
    assert bnm.trace(A)["x"].note == ""
    assert found["x"].note == "It came as int32 and was converted to float32."
    large = bnm.trace(np.array([[2**24 + 1, 2], [3, 4]]))
    assert "Some integers were rounded" in large["x"].note


def test_float64_stays():
    assert bnm.trace(np.array(A))["y"].dtype == "float64"


@pytest.mark.parametrize(
    ("x", "options", "said"),
    [
        ([[1.0, np.nan], [2.0, 3.0]], {}, "They are in the statistics of 1 of 2 channels"),
        ([[1.0, np.inf], [2.0, 3.0]], {"training": False}, "they stay where they are"),
        ([[1.0, 5.0]], {}, "one sample behind each statistic (m′ = 1)"),
        ([[2.0, 5.0], [2.0, 6.0]], {}, "The variance is 0 in 1 of 2 channels"),
        ([[1e4, 1.0], [1e4 + 1, 6.0]], {}, "The mean is up to 2e+04 standard deviations from 0"),
        (np.zeros((0, 2), "float32"), {"training": False}, "The input holds no samples"),
        (A, {"training": False, "statistics": (0.0, -1.0)}, "The variance given is negative"),
    ],
    ids=["nan", "inf", "one sample", "constant", "large mean", "empty", "negative variance"],
)
def test_what_is_special_is_said(x, options, said):
    assert said in " ".join(bnm.trace(x, **options).notes)


def test_a_constant_channel_becomes_beta():
    found = bnm.trace([[2.0, 5.0], [2.0, 6.0]], gamma=3.0, beta=7.0)
    assert found["y"].value[:, 0].tolist() == [7, 7]


def test_the_oracle_s_output_stands_beside_a_small_one():
    assert "y is [[-0.9995557, -0.9995557, -0.9995557], [2.9995557" in " ".join(
        bnm.trace(A, gamma=2.0, beta=1.0).notes
    )


SYMBOLIC = "A trace shows numbers: call it on data"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: bnm.trace("abc"),
            TypeError,
            "trace: `x` must hold real numbers. Received: x.dtype='string'. Convert it to float32 "
            "first.",
        ),
        (
            lambda: bnm.trace(np.array([[1j]])),
            TypeError,
            "trace: `x` must hold real numbers. Received: x.dtype='complex128'. Convert it to "
            "float32 first.",
        ),
        (
            lambda: bnm.trace([[1.0], [2.0, 3.0]]),
            TypeError,
            "trace: `x` must be an array of numbers. Received: a list that TensorFlow cannot "
            "convert (Can't convert non-rectangular Python sequence to Tensor.). Pass a NumPy "
            "array or a dense tensor.",
        ),
        (
            lambda: bnm.trace([1.0, 2.0]),
            ValueError,
            "trace: `x` must have rank 2 or more (samples and channels). Received: rank=1. Add an "
            "axis, for instance x[:, None].",
        ),
        (
            lambda: bnm.trace(A, axes=2),
            ValueError,
            "trace: `axes` must lie in [-2, 2) for an input of rank 2. Received: axes=2. Name axes "
            "that the input has.",
        ),
        (
            lambda: bnm.trace(A, gamma=[1.0, 2.0]),
            ValueError,
            "trace: `gamma` must be a scalar or have the shape of the axes that are kept, (3,). "
            "Received: gamma.shape=(2,). The input has shape (2, 3) and is reduced over axes (0,).",
        ),
        (
            lambda: bnm.trace(A, epsilon=0),
            ValueError,
            "trace: `epsilon` must be a positive number. Received: epsilon=0. It keeps a channel "
            "of zero variance finite; Keras uses 1e-3, PyTorch 1e-5.",
        ),
        (
            lambda: bnm.trace(A, dy=[[1.0]]),
            ValueError,
            "trace: `dy` must have the shape of the input, (2, 3). Received: dy.shape=(1, 1). Pass "
            "the gradient of the loss with respect to y.",
        ),
        (
            lambda: bnm.trace(A, training=False, dy=A),
            ValueError,
            "trace: `dy` must be left out in inference mode. Received: dy of shape (2, 3). The six "
            "gradients are those of training, where mean and variance depend on x; in inference "
            "they are constants and dx = dy · scale.",
        ),
        (
            lambda: bnm.trace(A, training=False, mask=[True, False]),
            ValueError,
            "trace: `mask` must be left out in inference mode. Received: a mask with "
            "training=False. A mask says which samples count in a batch's statistics.",
        ),
        (
            lambda: bnm.trace(A, training=False, statistics=3),
            TypeError,
            "trace: `statistics` must be a pair (mean, variance) in inference mode. Received: "
            "statistics=3. What a policy holds is policy.read(state).",
        ),
        (
            lambda: bnm.trace(A, statistics=3),
            TypeError,
            "trace: `statistics` must be a policy or a pair (mean, variance). Received: "
            "statistics=3. Pass for instance ExponentialMovingAverage(decay=0.99).",
        ),
        (
            lambda: bnm.trace(A, axis=0),
            TypeError,
            "trace: `axis` must be one of its options. Received: axis=0. They are training, mask, "
            "dy, compare, layer, axes, gamma, beta, epsilon, statistics.",
        ),
        (
            lambda: bnm.trace(A, 3),
            TypeError,
            "trace: `x` must go with a layer or a model. Received: x=3 beside data of type list. "
            "Pass the layer first: trace(layer, x).",
        ),
        (
            lambda: bnm.trace(np.zeros((0, 2))),
            ValueError,
            "forward: `x` must hold at least one sample for each statistic. Received: "
            "x.shape=(0, 2), axes=(0,). An empty batch has no mean; leave it out.",
        ),
    ],
)
def test_what_cannot_be_traced_is_refused(call, error, message):
    with pytest.raises(error, match=whole(message)):
        call()


def test_symbolic_tensors_are_refused():
    import keras

    with pytest.raises(TypeError, match=SYMBOLIC):
        bnm.trace(keras.Input((3,)))
    with pytest.raises(TypeError, match=SYMBOLIC):
        tf.function(bnm.trace, autograph=False)(tf.ones((2, 2)))
