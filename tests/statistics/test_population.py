"""Statistics of the population: Algorithm 2's average of batches, and exact pooling."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_cases import data

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

few = settings(max_examples=15, derandomize=True, deadline=None)
# Batch means, biased variances and counts of the source's three batches of 12 integers.
TWELVES = [(20.0, 214.5, 12), (21.5, 2335 / 12, 12), (305 / 12, 21683 / 144, 12)]


def fed(policy, batches, axes=0):
    state = None
    for x in batches:
        moments = bnm.moments(x, axes)
        if state is None:
            state = policy.init(moments.mean.shape, tf.float64)
        state = policy.update(state, *moments)
    return state


def after(policy, batches):
    state = policy.init([1], tf.float64)
    for mean, variance, count in batches:
        state = policy.update(state, [mean], [variance], count)
    return tuple(value.numpy().item() for value in policy.read(state))


# Algorithm 2


def test_the_average_of_three_known_batches():
    mean, variance = after(bnm.AverageOfBatches(), TWELVES)
    assert mean == pytest.approx(803 / 36, rel=1e-12)
    assert variance == pytest.approx(203.5126, abs=5e-5)


def test_equal_batches_get_the_papers_factor_of_m_over_m_minus_1(rng):
    batches = [data(rng, (60, 3), 10.0 * k) for k in range(4)]
    mean, variance = bnm.AverageOfBatches().read(fed(bnm.AverageOfBatches(), batches))
    np.testing.assert_allclose(mean, np.mean([x.mean(axis=0) for x in batches], axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        variance, 60 / 59 * np.mean([x.var(axis=0) for x in batches], axis=0), rtol=1e-13
    )


def test_the_variance_between_the_batches_is_not_in_the_average(rng):
    apart = [data(rng, (60, 1), 100.0 * k) for k in range(3)]
    together = [x - x.mean(axis=0) for x in apart]
    policy = bnm.AverageOfBatches()
    np.testing.assert_allclose(
        fed(policy, apart).variance, fed(policy, together).variance, rtol=1e-12
    )


def test_a_smaller_last_batch_weighs_by_what_it_knows():
    mean, variance = after(bnm.AverageOfBatches(), [(1.0, 2.0, 12), (7.0, 5.0, 4)])
    assert mean == pytest.approx((12 * 1 + 4 * 7) / 16, rel=1e-15)
    assert variance == pytest.approx((12 * 2 + 4 * 5) / (11 + 3), rel=1e-15)


def test_a_batch_of_one_sample_changes_only_the_mean_of_the_average():
    mean, variance = after(bnm.AverageOfBatches(), [(1.0, 2.0, 12), (14.0, 0.0, 1)])
    assert mean == pytest.approx(2.0, rel=1e-15)
    assert variance == pytest.approx(2.0 * 12 / 11, rel=1e-15)


def test_until_a_batch_has_two_samples_the_average_has_variance_1():
    assert after(bnm.AverageOfBatches(), [(4.0, 0.0, 1), (6.0, 0.0, 1)]) == (5.0, 1.0)


# Pooling


def test_the_pooled_statistics_of_three_known_batches():
    mean, variance = after(bnm.PooledPopulation(), TWELVES)
    assert mean == pytest.approx(803 / 36, rel=1e-12)
    assert variance == pytest.approx(191.7677, abs=5e-5)


@few
@given(
    cuts=st.lists(st.integers(1, 39), max_size=6),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 99),
)
def test_the_same_data_split_into_other_batches_gives_the_same_pooled_statistics(
    cuts, offset, seed
):
    # Sorted, so that the batches differ as much as they can.
    x = np.sort(data(np.random.default_rng(seed), (40, 2), offset), axis=0)
    batches = [part for part in np.split(x, sorted(cuts)) if len(part)]
    policy = bnm.PooledPopulation()
    mean, variance = policy.read(fed(policy, batches))
    expected_mean, expected_variance, _ = reference.moments(x, 0)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-10)


def test_the_order_of_the_batches_does_not_matter(rng):
    batches = [data(rng, (size, 3), 10.0 * size) for size in (12, 1, 5, 30)]
    policy = bnm.PooledPopulation()
    forth, back = fed(policy, batches), fed(policy, batches[::-1])
    for one, other in zip(forth, back, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_groups_merge_to_the_statistics_of_all_samples(rng):
    batches = [data(rng, (size, 3), 10.0 * size) for size in (12, 1, 5, 30)]
    policy = bnm.PooledPopulation()
    whole = fed(policy, batches)
    merged = policy.merge(fed(policy, batches[:1]), fed(policy, batches[1:]))
    for one, other in zip(merged, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    expected = reference.pooled(batches, 0)
    np.testing.assert_allclose(merged.mean, expected[0], rtol=1e-13)
    np.testing.assert_allclose(merged.variance, expected[1], rtol=1e-12)


def test_a_group_that_saw_nothing_changes_nothing(rng):
    policy = bnm.PooledPopulation()
    some = fed(policy, [data(rng, (5, 3), 1e4)])
    none = policy.init([3], tf.float64)
    for merged in (policy.merge(some, none), policy.merge(none, some)):
        for one, other in zip(merged, some, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-15)
    for one, other in zip(policy.merge(none, none), none, strict=True):
        np.testing.assert_array_equal(one, other)


def test_merged_groups_keep_the_dtype_of_the_first(rng):
    policy = bnm.PooledPopulation()
    group = policy.update(policy.init([3]), *bnm.moments(data(rng, (5, 3), 1e4, "float32"), 0))
    merged = policy.merge(group, group)
    assert [value.dtype for value in merged] == [tf.float32, tf.float32, tf.float64]
    np.testing.assert_array_equal(merged.count, [10, 10, 10])


# Long runs


@pytest.mark.parametrize("policy", [bnm.AverageOfBatches(), bnm.PooledPopulation()], ids=repr)
def test_samples_are_still_counted_after_a_billion(policy):
    # In float32, 1e9 + 1 is 1e9.
    state = policy.update(policy.init([1]), [0.0], [1.0], 1e9)
    for _ in range(3):
        state = policy.update(state, [0.0], [1.0], 1)
    assert state.count.numpy().tolist() == [1e9 + 3]


@pytest.mark.parametrize("policy", [bnm.AverageOfBatches(), bnm.PooledPopulation()], ids=repr)
def test_an_epoch_of_float32_batches_keeps_its_digits(policy, rng):
    batches = [data(rng, (10, 2), 100.0, "float32") for _ in range(200)]
    state = policy.init([2])
    for x in batches:
        state = policy.update(state, *bnm.moments(x, 0))
    oracle = reference.pooled if policy == bnm.PooledPopulation() else reference.average_of_batches
    mean, variance = oracle(batches, 0)
    # 200 roundings of a mean of 100 to float32, at worst all in one direction.
    bound = 200 * 100 * 2**-24
    np.testing.assert_allclose(state.mean, mean, atol=bound)
    np.testing.assert_allclose(state.variance, variance, atol=2 * bound * np.sqrt(variance.max()))
