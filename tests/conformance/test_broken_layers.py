"""Every broken layer is caught, and by the name of its mistake; every correct one passes."""

import pytest
from conformance.broken_layers import BROKEN
from conformance.correct_layers import CORRECT

from batchnorm_mechanics.conformance.cases import CASES
from batchnorm_mechanics.conformance.judge import conform

# Enough for each mistake to show, and to be told from its neighbours.
SOME = {
    "axes rank 4 keep 1 float32",
    "dtype float64 rank 2 keep 1",
    "dtype float32 rank 4 keep 3",
    "offset 10000 float32",
    "scale 0.001 float32",
    "ten steps rank 2 float64",
    "mask over batch and time, some out",
    "inference twice rank 2",
}
SAVING = {"saving and loading rank 2 keep 1"}
ON_ALL_CASES = ("EpsilonOutside", "VarianceStopped", "MomentumReversed")
LOST_DIGITS = ("variance computed as E[x^2] - E[x]^2", "statistics computed in half precision")

cases_of = {True: CASES, False: tuple(case for case in CASES if case.name in SOME)}
saving_cases = tuple(case for case in CASES if case.name in SOME | SAVING)


def names_of(report):
    """The diagnoses of all failed checks that compared numbers."""
    return [
        check.diagnosis
        for case in report.cases
        for check in case.checks
        if not check.passed and check.absolute is not None
    ]


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=[thing.__name__ for thing, _ in BROKEN])
def test_a_broken_layer_fails_by_the_name_of_its_mistake(broken, name):
    everywhere = broken.__name__ in ON_ALL_CASES
    cases = saving_cases if "saving" in name else cases_of[everywhere]
    report = conform(broken, cases=cases)
    assert not report.passed
    found = names_of(report)
    # Of two mistakes at once each may show alone as well.
    one, _, other = name.partition(", and ")
    named = [each for each in found if each is not None]
    assert [each for each in named if not each.startswith((one, other or one))] == []
    assert any(each.startswith(name) for each in named)
    # Lost digits are not the same in any two orders of a sum: fewer of them can be explained.
    least = 0.25 if name in LOST_DIGITS else 0.75
    assert len(named) >= least * len(found)


@pytest.mark.parametrize("correct", CORRECT, ids=[thing.__name__ for thing in CORRECT])
def test_a_correct_layer_passes_every_case(correct):
    report = conform(correct)
    assert [case.case for case in report.cases if case.status == "fail"] == []
    assert sum(case.status == "pass" for case in report.cases) > 60


def test_only_the_moving_variance_of_the_fused_layer_is_the_unbiased_one():
    kinds = {
        thing.__name__: conform(thing, cases=()).conventions.moving_variance for thing in CORRECT
    }
    unbiased = [name for name, kind in kinds.items() if kind == "unbiased"]
    assert unbiased == ["Fused"]
    assert set(kinds.values()) == {"biased", "unbiased"}


def test_a_reversed_momentum_shows_as_a_convention_too():
    reversed_one = next(thing for thing, _ in BROKEN if thing.__name__ == "MomentumReversed")
    conventions = conform(reversed_one, cases=()).conventions
    assert (conventions.momentum_weighs, conventions.default_momentum) == ("new", 0.99)


def test_a_layer_that_is_right_for_one_rank_is_named_where_it_is_wrong():
    pixelwise = next(thing for thing, _ in BROKEN if thing.__name__ == "BatchAxisOnly")
    report = conform(pixelwise, cases=cases_of[False])
    failed = {case.case for case in report.cases if case.status == "fail"}
    assert "dtype float32 rank 4 keep 3" in failed
    assert "dtype float64 rank 2 keep 1" not in failed
    labels = set(names_of(report))
    assert "reduced over the wrong axes: (0,) instead of (0, 1, 2)" in labels
    assert "reduced over the wrong axes: (0,) instead of (0, 2, 3)" in labels
