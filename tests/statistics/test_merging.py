"""Policies whose states can be taken together: as if one state had seen all batches."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_cases import data, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

MERGING = [bnm.PooledPopulation(), bnm.AverageOfBatches()]
OTHERS = [
    bnm.ExponentialMovingAverage(0.9),
    bnm.DebiasedMovingAverage(0.9),
    bnm.VirtualBatches(bnm.PooledPopulation(), 2),
]
merging = pytest.mark.parametrize("policy", MERGING, ids=repr)
few = settings(max_examples=15, derandomize=True, deadline=None)


def state_of(policy, batches):
    update = policy.update
    start = policy.init([2], tf.float64)
    return functools.reduce(lambda state, x: update(state, *bnm.moments(x, 0)), batches, start)


def batches_of(sizes, seed, offset=0.0):
    """Batches of these sizes that differ from one another."""
    rng = np.random.default_rng(seed)
    return [data(rng, (size, 2), offset + 3 * k) for k, size in enumerate(sizes)]


def assert_alike(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=name)


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
offsets = st.floats(-1e4, 1e4)


@merging
@few
@given(sizes=sizes, cuts=st.lists(st.integers(0, 6), max_size=4), offset=offsets)
def test_merged_states_are_that_of_all_batches(policy, sizes, cuts, offset):
    batches = batches_of(sizes, 0, offset)
    ends = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    # Some of these saw nothing.
    groups = [batches[start:end] for start, end in itertools.pairwise(ends)]
    merged = functools.reduce(policy.merge, [state_of(policy, group) for group in groups])
    assert_alike(merged, state_of(policy, batches))


@merging
@few
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=3), offset=offsets)
def test_neither_order_nor_pairs_matter(policy, sizes, offset):
    a, b, c = (state_of(policy, [batch]) for batch in batches_of(sizes, 1, offset))
    assert_alike(policy.merge(a, b), policy.merge(b, a))
    assert_alike(policy.merge(policy.merge(a, b), c), policy.merge(a, policy.merge(b, c)))


@merging
@few
@given(sizes=sizes, offset=offsets)
def test_what_saw_nothing_changes_nothing(policy, sizes, offset):
    state, nothing = state_of(policy, batches_of(sizes, 2, offset)), policy.init([2], tf.float64)
    assert_alike(policy.merge(state, nothing), state)
    assert_alike(policy.merge(nothing, state), state)
    assert_alike(policy.merge(nothing, nothing), nothing)


def test_a_policy_says_whether_it_can():
    assert [policy.can_merge for policy in (*MERGING, *OTHERS)] == [True] * 2 + [False] * 3


@pytest.mark.parametrize("policy", OTHERS, ids=repr)
def test_a_policy_for_which_the_order_counts_refuses(policy):
    message = (
        f"{type(policy).__name__}.merge: `state` must be of a policy for which the order of "
        f"batches does not count. Received: policy={policy!r}. Merge the batches' moments, and "
        "update one state by them; or use AverageOfBatches or PooledPopulation."
    )
    state = policy.init([2])
    with pytest.raises(TypeError, match=whole(message)):
        policy.merge(state, state)


@few
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any),
    offset=offsets,
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_moments_of_many_groups_are_those_of_all_samples(sizes, offset, dtype):
    groups = [group.astype(dtype) for group in batches_of(sizes, 3, offset)]
    zero = np.zeros(2, dtype)
    each = [
        bnm.moments(group, 0) if len(group) else bnm.core.Moments(zero, zero, zero)
        for group in groups
    ]
    stacked = bnm.core.Moments(*(tf.stack(values) for values in zip(*each, strict=True)))
    actual = bnm.core.merge_groups(stacked)
    mean, variance, count = reference.moments(np.concatenate(groups), 0)
    # Each group's mean is rounded, and what lies between the groups comes of their differences.
    off = np.finfo(dtype).eps * (np.abs(offset) + 30)
    np.testing.assert_allclose(actual.mean, mean, atol=8 * off)
    np.testing.assert_allclose(actual.variance, variance, rtol=1e-5, atol=100 * off)
    np.testing.assert_array_equal(actual.count, np.broadcast_to(count, 2))
