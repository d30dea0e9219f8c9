"""A short soak: nothing is left in the process, and what tells of it can tell."""

from dataclasses import replace

import pytest
import soak


def held(number, **changes):
    found = soak.Held(60.0 * number, 10 * number, 10**9, files=6, threads=7, temporary=0)
    return replace(found, **changes)


def test_what_stays_as_it_is_is_well():
    growth, wrong = soak.judged([held(number) for number in range(1, 21)])
    assert (growth, wrong) == (0.0, [])


def test_growth_in_the_warm_up_is_none_and_after_it_is_told():
    warm = [held(number, memory=10**9 * min(number, 4)) for number in range(1, 21)]
    assert soak.judged(warm) == (0.0, [])
    growing = [held(number, memory=10**9 * number) for number in range(1, 21)]
    growth, (said,) = soak.judged(growing)
    assert growth > 1
    assert said.startswith("memory grew by ")


@pytest.mark.parametrize("what", ["files", "threads", "temporary"])
def test_what_is_left_is_named(what):
    found = [held(number) for number in range(1, 20)]
    _, (said,) = soak.judged([*found, replace(held(20), **{what: 9})])
    assert said.startswith(f"{what}: 9, and ")


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_a_short_soak_leaves_nothing():
    turn = len(soak.SHAPES)
    found = soak.soak(seconds=1200, rounds=2 * turn, every=0.0)
    first, last = found[0], found[-1]
    assert last.rounds == 2 * turn
    assert (last.files, last.threads, last.temporary) == (first.files, first.threads, 0)
    # Caches are still filling: an hour says more.
    assert last.memory < 1.15 * first.memory
