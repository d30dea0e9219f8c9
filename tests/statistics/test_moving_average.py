"""Exponential moving averages, plain and debiased."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data, whole

import batchnorm_mechanics as bnm

AVERAGES = [bnm.ExponentialMovingAverage, bnm.DebiasedMovingAverage]
averages = pytest.mark.parametrize("average", AVERAGES)


def after(policy, batches):
    """Read the policy after batches of (mean, variance, count) of one channel."""
    state = policy.init([1], tf.float64)
    for mean, variance, count in batches:
        state = policy.update(state, [mean], [variance], count)
    return tuple(value.numpy().item() for value in policy.read(state))


def test_decay_is_the_weight_of_the_old_value():
    mean, variance = after(bnm.ExponentialMovingAverage(0.9), [(10.0, 4.0, 60)])
    assert mean == pytest.approx(0.9 * 0 + 0.1 * 10, rel=1e-15)
    assert variance == pytest.approx(0.9 * 1 + 0.1 * 4, rel=1e-15)


def test_the_start_weighs_decay_to_the_power_of_the_number_of_batches():
    mean, variance = after(bnm.ExponentialMovingAverage(0.99), [(10.0, 4.0, 60)] * 50)
    assert 1 - mean / 10 == pytest.approx(0.99**50, rel=1e-12)
    assert (4 - variance) / 3 == pytest.approx(0.99**50, rel=1e-12)


def test_the_default_decay_is_keras_momentum():
    assert bnm.ExponentialMovingAverage().decay == bnm.DebiasedMovingAverage().decay == 0.99
    assert not bnm.ExponentialMovingAverage().unbiased
    assert not bnm.DebiasedMovingAverage().unbiased


def test_the_moving_average_is_kerass_own(rng):
    import keras

    layer = keras.layers.BatchNormalization(momentum=0.8, dtype="float64")
    policy = bnm.ExponentialMovingAverage(0.8)
    state = policy.init([3], tf.float64)
    for size in (6, 6, 2):
        x = data(rng, (size, 3), 1.0)
        layer(x, training=True)
        state = policy.update(state, *bnm.moments(x, 0))
    np.testing.assert_allclose(state.mean, layer.moving_mean, rtol=1e-12)
    np.testing.assert_allclose(state.variance, layer.moving_variance, rtol=1e-12)


@averages
def test_decay_0_remembers_the_last_batch_only(average):
    assert after(average(0.0), [(10.0, 4.0, 60), (3.0, 2.0, 60)]) == (3.0, 2.0)


def test_decay_1_never_moves():
    policy = bnm.ExponentialMovingAverage(1.0)
    assert after(policy, [(10.0, 4.0, 60), (3.0, 2.0, 60)]) == (0.0, 1.0)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 0.9999])
def test_after_one_step_the_debiased_reading_is_that_steps_mean_and_variance(decay):
    # (1 - decay) / (1 - decay) is exactly 1.
    assert after(bnm.DebiasedMovingAverage(decay), [(10.0, 4.0, 60)]) == (10.0, 4.0)


def test_after_one_step_the_debiased_float32_reading_is_that_steps():
    policy = bnm.DebiasedMovingAverage(0.999)
    state = policy.update(policy.init([2]), [1e4 + 0.1, 3.0], [0.1, 7.0], 60)
    np.testing.assert_array_equal(state.mean, np.float32([1e4 + 0.1, 3.0]))
    np.testing.assert_array_equal(state.variance, np.float32([0.1, 7.0]))


def test_the_debiased_weights_are_powers_of_decay_that_add_to_one():
    batches = [(10.0, 4.0, 60), (3.0, 2.0, 60), (-5.0, 9.0, 7)]
    weights = np.array([0.9**2, 0.9, 1.0]) / (0.9**2 + 0.9 + 1)
    mean, variance = after(bnm.DebiasedMovingAverage(0.9), batches)
    assert mean == pytest.approx(weights @ [10, 3, -5], rel=1e-14)
    assert variance == pytest.approx(weights @ [4, 2, 9], rel=1e-14)


def test_after_many_batches_the_debiased_average_is_the_plain_one(rng):
    batches = [(*rng.uniform(1, 5, 2), 60) for _ in range(400)]
    np.testing.assert_allclose(
        after(bnm.DebiasedMovingAverage(0.9), batches),
        after(bnm.ExponentialMovingAverage(0.9), batches),
        rtol=1e-15 + 0.9**400 * 10,
    )


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("count", [2, 3, 60])
def test_unbiased_averages_take_m_over_m_minus_1(average, count):
    _, biased = after(average(0.5), [(10.0, 4.0, count)])
    _, unbiased = after(average(0.5, unbiased=True), [(10.0, 4.0, count)])
    _, by_hand = after(average(0.5), [(10.0, 4.0 * count / (count - 1), count)])
    assert unbiased == pytest.approx(by_hand, rel=1e-15)
    assert unbiased > biased


@averages
def test_a_batch_of_one_sample_leaves_the_unbiased_variance(average):
    policy = average(0.5, unbiased=True)
    first = (10.0, 4.0, 12)
    mean, variance = after(policy, [first, (20.0, 0.0, 1)])
    assert variance == after(policy, [first])[1]
    assert mean > after(policy, [first])[0]


@averages
def test_a_batch_of_one_sample_shrinks_the_biased_variance(average):
    # What Keras's layer does; the debiased average as well, since 0 is that batch's variance.
    policy = average(0.5)
    first = (10.0, 4.0, 12)
    assert after(policy, [first, (20.0, 0.0, 1)])[1] < after(policy, [first])[1]


@pytest.mark.parametrize("decay", [-0.01, 1.01, 60, float("nan"), None, "0.9", [0.9]], ids=repr)
@pytest.mark.parametrize(
    ("average", "range_"),
    [(bnm.ExponentialMovingAverage, "[0, 1]"), (bnm.DebiasedMovingAverage, "[0, 1)")],
    ids=["plain", "debiased"],
)
def test_a_decay_out_of_range_is_refused(average, range_, decay):
    message = (
        f"{average.__name__}: `decay` must lie in {range_}. Received: decay={decay!r}. It is the "
        "weight of the old value: Keras's momentum, and 1 minus PyTorch's."
    )
    with pytest.raises(ValueError, match=whole(message)):
        average(decay)


def test_a_debiased_average_that_never_moves_is_refused():
    message = (
        "DebiasedMovingAverage: `decay` must lie in [0, 1). Received: decay=1.0. It is the weight "
        "of the old value: Keras's momentum, and 1 minus PyTorch's."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.DebiasedMovingAverage(1.0)
