"""What the fuzzers have found stays mended, and each target holds for other inputs too."""

import time
from random import Random

import pytest
from fuzz import mutations, targets

# What each of them takes is about a millisecond, and for a trace five.
TRIES = {"trace": 100, "commands": 100}


KEPT = [
    pytest.param(name, content, id=f"{name}-{given}")
    for name in targets.TARGETS
    for given, content in targets.corpus(name)
]


@pytest.mark.parametrize(("name", "content"), KEPT)
def test_what_is_kept_is_answered_or_refused(name, content):
    targets.TARGETS[name].one(content)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_comes_of_it_by_chance_is_answered_or_refused(name):
    target = targets.TARGETS[name]
    for number in range(TRIES.get(name, 300)):
        random = Random(f"{name} {number}")
        _, content = random.choice(list(targets.corpus(name)))
        for _ in range(random.randint(1, 5)):
            content = target.mutate(content, random)[: mutations.LONGEST]
        try:
            target.one(content)
        except BaseException as error:
            error.add_note(f"fuzz: {name}, number {number}: {content.hex()}")
            raise


def test_a_target_fails_where_another_error_than_those_due_comes_up():
    def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        targets.answered(fails, ValueError)


def test_a_target_fails_where_something_warns_or_takes_memory():
    import warnings

    with pytest.raises(AssertionError):
        targets.answered(lambda: warnings.warn("strange", stacklevel=1), ValueError)
    with pytest.raises(AssertionError):
        targets.answered(lambda: bytearray(b"x" * (targets.MOST_KILOBYTES + 400_000) * 1024))


def in_one_second(compute):
    """Compute something twice before the clock's second changes: HDF5 writes it into its files."""
    while True:
        began = int(time.time())
        both = compute(), compute()
        if int(time.time()) == began:
            return both


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_mutation_is_the_same_again_and_changes_something(name):
    mutate = targets.TARGETS[name].mutate
    for _, content in targets.corpus(name):
        twice = [
            in_one_second(lambda seed=seed, of=content: mutate(of, Random(seed)))
            for seed in range(20)
        ]
        assert all(once == again for once, again in twice)
        assert any(once != content for once, _ in twice)
