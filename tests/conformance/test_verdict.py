"""The verdict says first what the cases come to."""

from dataclasses import replace

from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.verdict import ONE_PASS, OTHER_VARIANCE, reach

GOOD = Check("training output", True, 1e-7, 2e-7, 3.0, 4e-7, 1e-7)


def bad(diagnosis=None, what="training output", **changes):
    return replace(Check(what, False, 0.5, 0.25, 1e6, 1e-6, 0.5, None, diagnosis), **changes)


def case(name, *checks, shape=(16, 3), **about):
    status = "pass" if all(check.passed for check in checks) else "fail"
    return CaseResult(
        name, "steps", status, checks, shape=shape, kept=(1,), dtype="float32", **about
    )


def verdict(*cases, **options):
    return reach(cases, Conventions(), **options)


def test_nothing_wrong_is_right():
    found = verdict(case("a", GOOD))
    assert (found.right, found.sentence, found.causes) == (True, "Right.", ())


def test_causes_come_in_the_order_of_how_much_they_explain_and_the_nameless_last():
    found = verdict(
        case("a", bad("gamma ignored"), bad(None), bad(None), bad(None)),
        case("b", bad("epsilon missing"), bad("epsilon missing", "dx")),
    )
    assert [(cause.name, cause.failures) for cause in found.causes] == [
        ("epsilon missing", 2),
        ("gamma ignored", 1),
        (None, 3),
    ]
    assert (found.right, found.failures, found.unexplained) == (False, 6, 3)
    assert found.sentence == (
        "Wrong: epsilon missing (2 of 6 failed checks) and gamma ignored (1 of 6 failed checks); "
        "3 without a name."
    )


def test_one_mistake_is_one_cause_whatever_its_axes_are_in_a_case():
    label = "reduced over the wrong axes: {} instead of {}"
    found = verdict(
        case("a", bad(label.format("(0,)", "(0, 1, 2)"))),
        case("b", bad(label.format("(0,)", "(0, 2, 3)"))),
    )
    [cause] = found.causes
    assert (cause.name, cause.failures) == ("reduced over the wrong axes", 2)


def test_two_mistakes_at_once_count_for_the_one_that_is_not_found_alone():
    both = "epsilon missing, and gradient through the mean missing"
    found = verdict(case("a", bad("epsilon missing"), bad(both, "dx")))
    assert [cause.name for cause in found.causes] == [
        "epsilon missing",
        "gradient through the mean missing",
    ]
    [alone] = verdict(case("a", bad(both, "dx"))).causes
    assert alone.name == both


def test_the_smallest_case_of_a_cause_is_shown():
    found = verdict(
        case("large", bad("gamma ignored"), shape=(60, 3)),
        case("small", bad("gamma ignored", error=0.25), shape=(5, 3)),
    )
    assert (found.causes[0].case, found.causes[0].check.error) == ("small", 0.25)


def test_lost_digits_alone_are_said_with_the_mean_from_which_they_are_lost():
    found = verdict(
        case("a", bad(ONE_PASS), deviations=1e4),
        case("b", bad(ONE_PASS), deviations=100.0),
        case("c", GOOD, deviations=1.0),
    )
    assert not found.right
    assert found.sentence == (
        "Right, but its variance is E[x²] − E[x]²: from means of 100 deviations on it loses two "
        "digits for each."
    )


def test_failures_that_nothing_explains_are_said_to_be_so():
    found = verdict(case("a", bad()), case("b", bad()))
    assert found.sentence == "Wrong: 2 checks failed, and no mistake that is known explains them."


RAISED = Check(
    "training output",
    False,
    reason="raised KeyError: 'x'",
    raised="KeyError",
    where="my.py, line 3",
)


def test_an_exception_in_every_case_is_a_fault_and_all_that_is_said():
    found = verdict(case("a", RAISED), case("b", RAISED))
    assert found.fault is RAISED
    assert (found.right, found.causes, found.limits) == (False, (), ())
    assert found.sentence == "It raises KeyError in every case: nothing could be judged."


def test_an_exception_beside_an_answer_is_a_failure_by_its_type():
    found = verdict(case("a", RAISED), case("b", RAISED), case("c", GOOD))
    assert found.fault is None
    [cause] = found.causes
    assert (cause.name, cause.words, cause.failures) == (None, "raises KeyError", 2)


def test_what_is_required_and_lacking_is_wrong():
    abilities = ["training mode", "inference mode", "moving statistics", "saving and loading"]
    found = verdict(case("a", GOOD), abilities=abilities, required=("gradients",))
    assert not found.right
    assert found.sentence == "Right, but not what is required: no gradients."
    assert verdict(case("a", GOOD), abilities=abilities, required=("saving",)).right


def test_where_alone_it_fails_is_said_if_the_same_is_right_elsewhere():
    right = case("a", Check("moving variance", True, 0.0, 0.0, 0.0, 1e-6, 0.0))
    wrong = case("b", bad("gamma ignored", "moving variance"), shape=(2, 3, 4, 3))
    assert verdict(right, wrong).causes[0].words == "gamma ignored, in rank 4 alone"
    of_another = case("a", GOOD)
    assert verdict(of_another, wrong).causes[0].words == "gamma ignored"
    both = case("c", bad("gamma ignored", "moving variance"))
    assert verdict(right, wrong, both).causes[0].words == "gamma ignored"


def test_of_a_variance_of_two_kinds_it_is_said_which_is_where():
    of_one = case("a", bad(OTHER_VARIANCE, "moving variance"))
    for usual, other in (("biased", "unbiased"), ("unbiased", "biased")):
        [cause] = reach((of_one,), Conventions(moving_variance=usual)).causes
        assert cause.name == (
            f"moving variance takes in the {other} variance, and elsewhere the {usual} one"
        )


def test_the_names_that_the_verdict_knows_are_those_of_the_mistakes():
    from batchnorm_mechanics.conformance.mistakes.catalogue import CATALOGUE
    from batchnorm_mechanics.conformance.precision import IMPRECISIONS

    assert {ONE_PASS, OTHER_VARIANCE} <= {one.name for one in (*CATALOGUE, *IMPRECISIONS)}
