"""What every statistics policy does, whatever it computes: judged by the float64 oracle."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_cases import assert_within, data, resolution, rounding

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference
from batchnorm_mechanics.statistics import Statistics


class Judged(NamedTuple):
    """A policy and the oracle's function of (batches, axes, masks) for it."""

    policy: bnm.Policy
    oracle: Callable


def judged(policy, function, *settings, **options):
    return Judged(
        policy,
        lambda batches, axes, masks=None: function(
            batches, axes, *settings, masks=masks, **options
        ),
    )


def _of_deviations(batches, axes, masks=None):
    """The oracle's averages of mean and deviation, and the variance that inference has of them."""
    mean, sigma = reference.moving_deviation(batches, axes, 0.9, 0.5, masks=masks)
    # Before the first sample it is 1, as for all; in the first deviation there is no epsilon.
    return mean, np.where(sigma == 1, 1, np.maximum(sigma**2 - 0.5, 0))


POLICIES = {
    "moving": judged(bnm.ExponentialMovingAverage(0.9), reference.exponential_moving_average, 0.9),
    "moving-unbiased": judged(
        bnm.ExponentialMovingAverage(0.9, unbiased=True),
        reference.exponential_moving_average,
        0.9,
        unbiased=True,
    ),
    "debiased": judged(bnm.DebiasedMovingAverage(0.9), reference.debiased_moving_average, 0.9),
    "debiased-unbiased": judged(
        bnm.DebiasedMovingAverage(0.9, unbiased=True),
        reference.debiased_moving_average,
        0.9,
        unbiased=True,
    ),
    "average-of-batches": judged(bnm.AverageOfBatches(), reference.average_of_batches),
    "pooled": judged(bnm.PooledPopulation(), reference.pooled),
    "renormalization": Judged(bnm.Renormalization(0.9, epsilon=0.5), _of_deviations),
}
policies = pytest.mark.parametrize("name", POLICIES)
few = settings(max_examples=8, derandomize=True, deadline=None)


def run(policy, batches, axes, masks=None, dtype=tf.float64):
    """Feed the batches' moments to the policy; return its state."""
    masks = [None] * len(batches) if masks is None else masks
    state = None
    for x, mask in zip(batches, masks, strict=True):
        moments = bnm.moments(x, axes, mask=mask)
        if state is None:
            state = policy.init(moments.mean.shape, dtype)
        state = policy.update(state, *moments)
    return state


def judge(name, batches, axes, masks=None, dtype="float64", case=""):
    policy, oracle = POLICIES[name]
    actual = policy.read(run(policy, batches, axes, masks, tf.as_dtype(dtype)))
    expected = oracle(batches, axes, masks=masks)
    # Each update rounds the statistics a few times; their inputs are rounded once at their size.
    operations = 8 * len(batches) + max(np.size(x) for x in batches)
    size = max(np.max(np.abs(x), initial=1.0) for x in batches)
    mean_bound = rounding(dtype, operations, size)
    # A pooled variance holds squared differences of means, each known as well as the means.
    variance_bound = rounding(dtype, operations, 2 * expected[1]) + mean_bound * np.sqrt(
        np.max(expected[1])
    )
    assert_within(actual.mean, expected[0], mean_bound, f"{case} mean")
    assert_within(actual.variance, expected[1], variance_bound, f"{case} variance")
    assert {value.dtype.name for value in actual} == {dtype}


# Against the oracle


@policies
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batches_of_any_size_give_the_oracles_statistics(name, dtype, rng):
    for sizes in ((12,), (12, 12, 12), (12, 12, 5), (12, 1), (1, 12), (1, 1, 1), (2, 40, 3, 1)):
        for offset in (0.0, 10.0, 1e4):
            batches = [data(rng, (size, 3), offset + k, dtype) for k, size in enumerate(sizes)]
            judge(name, batches, [0], dtype=dtype, case=f"sizes {sizes}, offset {offset:g},")


@policies
def test_statistics_over_several_axes_are_the_oracles(name, rng):
    for axes, sizes in (([0, 2], (4, 4, 1)), ([0, 1], (4, 2, 4)), ([1], (3, 3, 3))):
        judge(name, [data(rng, (size, 3, 5), 10.0) for size in sizes], axes, case=f"axes {axes},")


@policies
def test_each_channel_counts_its_own_samples(name, rng):
    batches = [data(rng, (6, 4), 10.0 + k) for k in range(5)]
    masks = [rng.random((6, 4)) < 0.5 for _ in batches]
    # Counts 0 and 1, at the start, between other batches and at the end.
    for batch, channel, count in ((0, 0, 0), (0, 1, 1), (2, 2, 0), (2, 3, 1), (4, 0, 1), (4, 1, 0)):
        masks[batch][:, channel] = np.arange(6) < count
    judge(name, batches, [0], masks)


@policies
def test_a_channel_never_seen_reads_mean_0_and_variance_1(name, rng):
    batches = [data(rng, (6, 2), 10.0) for _ in range(3)]
    masks = [np.array([[True, False]] * 6)] * 3
    judge(name, batches, [0], masks)
    policy = POLICIES[name].policy
    mean, variance = policy.read(run(policy, batches, [0], masks))
    assert (mean[1].numpy(), variance[1].numpy()) == (0, 1)


# Before, without, and with one batch


@policies
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_before_any_update_the_reading_is_mean_0_and_variance_1(name, dtype, shape):
    policy = POLICIES[name].policy
    reading = policy.read(policy.init(shape, tf.as_dtype(dtype)))
    for actual, expected in zip(reading, (0, 1), strict=True):
        np.testing.assert_array_equal(actual, np.full(shape, expected))
        assert actual.dtype == dtype


@policies
def test_statistics_are_float32_by_default(name):
    reading = POLICIES[name].policy.read(POLICIES[name].policy.init([3]))
    assert {value.dtype for value in reading} == {tf.float32}


@policies
@pytest.mark.parametrize("moments", [(7.0, 5.0), (np.nan, np.nan), (np.inf, np.inf)], ids=str)
@pytest.mark.parametrize("batches", [0, 2])
def test_a_batch_of_no_samples_changes_nothing_whatever_its_moments(name, moments, batches, rng):
    policy = POLICIES[name].policy
    state = policy.init([3], tf.float64)
    for _ in range(batches):
        state = policy.update(state, *bnm.moments(data(rng, (5, 3), 10.0), 0))
    after = policy.update(state, [moments[0]] * 3, [moments[1]] * 3, 0)
    for field, before in state._asdict().items():
        np.testing.assert_array_equal(getattr(after, field), before, err_msg=field)


@policies
def test_a_nan_stays_in_its_channel(name, rng):
    policy = POLICIES[name].policy
    batches = [data(rng, (5, 3), 10.0) for _ in range(3)]
    clean = policy.read(run(policy, batches, 0))
    batches[1][2, 1] = np.nan
    for before, after in zip(clean, policy.read(run(policy, batches, 0)), strict=True):
        np.testing.assert_array_equal(after.numpy()[[0, 2]], before.numpy()[[0, 2]])
        assert np.isnan(after[1].numpy())


# The contract


@policies
def test_update_leaves_the_old_state_and_gives_one_of_the_same_kind(name, rng):
    policy = POLICIES[name].policy
    for dtype in (tf.float32, tf.float64):
        state = policy.init([3], dtype)
        copy = [value.numpy().copy() for value in state]
        after = policy.update(state, *bnm.moments(data(rng, (5, 3), 10.0, dtype.name), 0))
        assert type(after) is type(state)
        assert [v.dtype for v in after] == [v.dtype for v in state]
        assert [v.shape for v in after] == [v.shape for v in state]
        for value, old in zip(state, copy, strict=True):
            np.testing.assert_array_equal(value, old)


@policies
def test_the_state_begins_with_what_read_returns(name, rng):
    policy = POLICIES[name].policy
    state = run(policy, [data(rng, (5, 3), 10.0)] * 2, 0)
    assert state._fields[:2] == ("mean", "variance")
    for field, reading in zip(state[:2], policy.read(state), strict=True):
        np.testing.assert_array_equal(field, reading)


@policies
def test_plain_numbers_will_do_and_keep_their_digits(name):
    policy = POLICIES[name].policy
    moments = [0.1, 1 / 3, 1e4 + 0.1], [0.7, 1e-3, 2.3]
    state = policy.init([3], tf.float64)
    plain = policy.update(state, *moments, 7)
    arrays = policy.update(state, *map(np.array, moments), np.full(3, 7.0))
    for one, other in zip(plain, arrays, strict=True):
        np.testing.assert_array_equal(one, other)


@policies
def test_a_policy_goes_into_a_config_and_back(name):
    policy = POLICIES[name].policy
    assert type(policy).from_config(policy.get_config()) == policy
    assert policy.get_config() == dataclasses.asdict(policy)


@policies
def test_keras_serializes_a_policy(name):
    policy = POLICIES[name].policy
    config = keras.saving.serialize_keras_object(policy)
    assert keras.saving.deserialize_keras_object(config) == policy


@policies
def test_a_policy_cannot_be_changed(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        POLICIES[name].policy.decay = 0.5


def test_a_policy_without_init_and_update_cannot_be_made():
    class Nothing(bnm.Policy):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_policies_of_unknown_batch_size_are_the_oracles(jit_compile, rng):
    @tf.function(
        input_signature=[tf.TensorSpec([None, 3], tf.float64)] * 2,
        jit_compile=jit_compile,
        autograph=False,
    )
    def compiled(first, second):
        return [policy.read(run(policy, [first, second], [0])) for policy, _ in POLICIES.values()]

    batches = [data(rng, (12, 3), 10.0), data(rng, (5, 3), 20.0)]
    for actual, (name, (_, oracle)) in zip(compiled(*batches), POLICIES.items(), strict=True):
        for value, expected in zip(actual, oracle(batches, [0]), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-12, err_msg=name)


# Properties


@policies
@few
@given(value=st.floats(-1e4, 1e4), size=st.integers(2, 9), steps=st.integers(1, 6))
def test_a_constant_input_is_a_fixed_point(name, value, size, steps):
    policy = POLICIES[name].policy
    moments = bnm.moments(np.full((size, 1), value), 0)
    # A state that holds the constant already, with a batch behind it where that counts.
    state = policy.settled(Statistics(moments.mean, moments.variance), moments.count)
    for _ in range(steps):
        state = policy.update(state, *moments)
    mean, variance = policy.read(state)
    # Numbers below 1e-308 are taken for zero.
    bound = rounding("float64", 8 * steps, max(abs(value), 1e-280))
    assert_within(mean, [value], bound)
    # A variance that is of a deviation has the rounding of epsilon, which is in that.
    epsilon = rounding("float64", 8 * steps, policy.epsilon) if policy.renormalizes else 0
    assert_within(variance, [0.0], bound**2 + resolution("float64") ** 2 * value**2 + epsilon)


EVERY_POLICY = [
    bnm.ExponentialMovingAverage(0.9),
    bnm.ExponentialMovingAverage(0.0, unbiased=True),
    bnm.DebiasedMovingAverage(0.9),
    bnm.DebiasedMovingAverage(0.5, unbiased=True),
    bnm.AverageOfBatches(),
    bnm.PooledPopulation(),
    bnm.Renormalization(0.9),
]


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=repr)
@pytest.mark.parametrize("updates", [0, 1, 4])
def test_the_weight_of_the_start_is_what_is_left_of_it(policy, updates):
    state = policy.init([1], tf.float64)._replace(mean=tf.ones([1], tf.float64))
    for _ in range(updates):
        state = policy.update(state, [0.0], [1.0], count=8)
    np.testing.assert_allclose(policy.read(state).mean[0], policy.weight_of_start(updates))


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=repr)
def test_the_variance_that_is_kept_is_the_one_that_the_policy_names(policy):
    state = policy.init([1], tf.float64)
    for _ in range(500):
        state = policy.update(state, [0.0], [1.0], count=5)
    # The pooled variance of batches of one mean is their own.
    factor = 5 / 4 if policy.keeps_unbiased_variance else 1.0
    np.testing.assert_allclose(policy.read(state).variance[0], factor, rtol=1e-6)


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=repr)
def test_a_settled_state_reads_what_it_was_given(policy):
    given = Statistics(tf.constant([3.0, -1.0]), tf.constant([4.0, 0.25]))
    reading = policy.read(policy.settled(given, count=100.0))
    np.testing.assert_array_equal(reading.mean, given.mean)
    np.testing.assert_array_equal(reading.variance, given.variance)


def test_a_settled_average_of_batches_goes_on_as_if_it_had_seen_them():
    policy, state = bnm.AverageOfBatches(), bnm.AverageOfBatches().init([1], tf.float64)
    for mean, variance in ((2.0, 3.0), (4.0, 5.0)):
        state = policy.update(state, [mean], [variance], count=10)
    settled = policy.settled(policy.read(state), count=20.0, batches=2)
    for one, other in zip(settled, state, strict=True):
        np.testing.assert_allclose(one, other)


def test_a_settled_debiased_average_is_not_pushed_out_by_the_next_batch():
    policy = bnm.DebiasedMovingAverage(0.9)
    state = policy.settled(Statistics(tf.constant([3.0]), tf.constant([4.0])), count=100.0)
    moved = policy.update(state, [5.0], [4.0], count=10)
    np.testing.assert_allclose(policy.read(moved).mean, [0.9 * 3 + 0.1 * 5], rtol=1e-6)
