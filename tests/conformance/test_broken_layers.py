"""Every broken layer is caught, and by the name of its mistake; every correct one passes."""

from dataclasses import replace
from functools import cache

import pytest
from conformance.broken_layers import BROKEN
from conformance.correct_layers import CORRECT, KerasOps, Moments, OwnGradient, TwoPass

from batchnorm_mechanics.conformance.cases import CASES
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.judge import conform, explain, judge, telling
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.subjects import as_subject

NAMES = {case.name: case for case in CASES}
# Enough for each mistake to be told from its neighbours: both widths, a spread beside which epsilon
# is large, a mask, and several batches.
SOME = (
    NAMES["dtype float64 rank 2 keep 1"],
    NAMES["scale 0.001 float32"],
    NAMES["mask over batch, some out"],
    replace(NAMES["ten steps rank 2 float64"], name="three steps", later=(5, 17)),
)
# What shows in fewer cases, or best in one: another layout, more samples, a second look, a file.
IMAGES, FAR = NAMES["dtype float32 rank 4 keep 3"], NAMES["offset 10000 float32"]
SAVING = NAMES["saving and loading rank 2 keep 1"]
SHOWN_BY = {
    "BatchAxisOnly": (IMAGES, NAMES["axes rank 4 keep 1 float32"]),
    "AllAxes": (IMAGES,),
    "UpdatedInInference": (NAMES["inference twice rank 2"],),
    "OnePass": (FAR, NAMES["scale 1e+06 float32"]),
    "HalfStatistics": (IMAGES, FAR),
    "HalfOutput": (IMAGES, FAR, NAMES["one NaN rank 4"]),
    "EpsilonNotSaved": (SAVING,),
    "MomentumNotSaved": (SAVING,),
}
# All other cases as well, a third of them each.
EVERYWHERE = ("EpsilonOutside", "VarianceStopped", "MomentumReversed")
# A layer that keeps one axis skips the others.
ONE_AXIS = tuple(case for case in CASES if len(case.kept) == 1)
# These find their axes, keep their settings and infer as the others do; what tells them apart is
# how they compute. Each is held to all the data that make it hard, and to a third of the rest.
ALIKE = (Moments, OwnGradient, KerasOps)
HARD = tuple(case for case in ONE_AXIS if case.group in ("offset", "scale", "constant", "dtype"))
REST = tuple(case for case in ONE_AXIS if case not in HARD and case.mask is None)


@cache
def conventions():
    """What all layers here share that keep the biased variance: found once for all of them."""
    return find_conventions(as_subject(TwoPass))


@cache
def report_of(broken):
    """Return what is found out about a broken one."""
    subject, name = as_subject(broken), broken.__name__
    if name in EVERYWHERE:
        return conform(broken, cases=CASES[EVERYWHERE.index(name) :: len(EVERYWHERE)] + SOME)
    cases = (*SOME, *SHOWN_BY.get(name, ()))
    found = [telling(judge(subject, case, conventions())) for case in cases]
    return Report(name, subject.description, conventions(), explain(found))


@cache
def report_of_correct(thing):
    """Return what is found out about a correct one."""
    if thing not in ALIKE:
        return conform(thing, cases=ONE_AXIS)
    return conform(thing, cases=HARD + REST[ALIKE.index(thing) :: len(ALIKE)])


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
    report = report_of(broken)
    assert not report.passed
    found = names_of(report)
    # Of two mistakes at once each may show alone as well.
    one, _, other = name.partition(", and ")
    named = [each for each in found if each is not None]
    assert [each for each in named if not each.startswith((one, other or one))] == []
    assert any(each.startswith(name) for each in named)
    assert len(named) >= 0.75 * len(found)


@pytest.mark.parametrize("correct", CORRECT, ids=[thing.__name__ for thing in CORRECT])
def test_a_correct_layer_passes_every_case(correct):
    report = report_of_correct(correct)
    assert [case.case for case in report.cases if case.status == "fail"] == []
    least = len(HARD) - 8 if correct in ALIKE else 60
    assert sum(case.status == "pass" for case in report.cases) > least


def test_only_the_moving_variance_of_the_fused_layer_is_the_unbiased_one():
    kinds = {
        thing.__name__: report_of_correct(thing).conventions.moving_variance for thing in CORRECT
    }
    unbiased = [name for name, kind in kinds.items() if kind == "unbiased"]
    assert unbiased == ["Fused"]
    assert set(kinds.values()) == {"biased", "unbiased"}


def test_a_reversed_momentum_shows_as_a_convention_too():
    reversed_one = next(thing for thing, _ in BROKEN if thing.__name__ == "MomentumReversed")
    found = report_of(reversed_one).conventions
    assert (found.momentum_weighs, found.default_momentum) == ("new", 0.99)


def test_a_layer_that_is_right_for_one_rank_is_named_where_it_is_wrong():
    pixelwise = next(thing for thing, _ in BROKEN if thing.__name__ == "BatchAxisOnly")
    report = report_of(pixelwise)
    failed = {case.case for case in report.cases if case.status == "fail"}
    assert "dtype float32 rank 4 keep 3" in failed
    assert "dtype float64 rank 2 keep 1" not in failed
    labels = set(names_of(report))
    assert "reduced over the wrong axes: (0,) instead of (0, 1, 2)" in labels
    assert "reduced over the wrong axes: (0,) instead of (0, 2, 3)" in labels
