"""What a subject is not made for is told from what it gets wrong."""

from dataclasses import replace

import pytest
from oracle_cases import whole

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.cases import CASES, select
from batchnorm_mechanics.conformance.judge import result_of
from batchnorm_mechanics.conformance.limits import find_limits, required, settled
from batchnorm_mechanics.conformance.record import INFERENCE_OUTPUT, TRAINING_OUTPUT, Check

GOOD = Check(TRAINING_OUTPUT, True, 1e-7, 2e-7, 3.0, 4e-7, 1e-7)
FLOAT32 = tuple(case for case in CASES if case.dtype == "float32" and not case.undefined)


def raised(error="ValueError", message="no", what=TRAINING_OUTPUT):
    return Check(what, False, reason=f"raised {error}: {message}", raised=error)


def results(raises, cases=CASES, otherwise=(GOOD,)):
    """What comes of cases by a subject that gives a check where `raises` returns one."""
    found = []
    for case in cases:
        check = raises(case)
        checks = otherwise if check is None else (check,)
        found.append(result_of(case, "pass" if check is None else "fail", checks))
    return settled(found)


def words(found):
    return [limit.words for limit in find_limits(found)]


def failed(found):
    return [result.case for result in found if result.status == "fail"]


def is_last(case):
    return case.kept == (len(case.shape) - 1,)


def test_what_is_not_implemented_is_a_limit_and_no_failure():
    found = results(lambda case: None if is_last(case) else raised("NotImplementedError", "axis"))
    assert failed(found) == []
    assert words(found) == ["takes the last axis"]
    skipped = [result for result in found if result.status == "skipped"]
    assert {result.reason for result in skipped} == {"raised NotImplementedError: axis"}
    assert [limit.cases for limit in find_limits(found)] == [len(skipped)]


def test_not_implemented_in_one_case_of_many_is_a_limit_too():
    odd = "one step rank 4"
    found = results(lambda case: raised("NotImplementedError") if case.name == odd else None)
    assert failed(found) == []


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        (lambda case: not is_last(case), "takes the last axis"),
        (lambda case: case.kept != (1,), "takes axis 1"),
        (lambda case: len(case.kept) != 1, "takes one axis"),
        (lambda case: len(case.shape) == 5, "takes rank 2, 3 and 4"),
        (lambda case: case.dtype == "float16", "no float16"),
        (lambda case: case.dtype == "float16" and len(case.shape) == 4, "no float16 in rank 4"),
    ],
)
def test_the_same_exception_for_a_whole_kind_is_a_limit(holds, said):
    found = results(lambda case: raised() if holds(case) else None)
    assert failed(found) == []
    assert words(found) == [said]


def test_numbers_in_a_message_make_no_other_exception_of_it():
    found = results(
        lambda case: raised(message=f"no shape {case.shape}") if case.dtype == "float16" else None
    )
    assert words(found) == ["no float16"]


def test_an_exception_in_some_cases_of_a_kind_is_a_failure():
    halves = [case.name for case in CASES if case.dtype == "float16"]
    found = results(lambda case: raised() if case.name in halves[:-1] else None)
    assert failed(found) == halves[:-1]
    assert words(found) == []


def test_the_same_exception_outside_of_a_kind_makes_failures_of_all():
    odd = "one step rank 2"
    found = results(lambda case: raised() if case.dtype == "float16" or case.name == odd else None)
    assert set(failed(found)) == {odd, *(case.name for case in CASES if case.dtype == "float16")}
    other = results(
        lambda case: (
            raised()
            if case.dtype == "float16"
            else raised("KeyError", "x")
            if case.name == odd
            else None
        )
    )
    assert failed(other) == [odd]


def test_a_kind_of_one_case_is_none():
    few = (*select("one step"), select("dtype float16 rank 2")[0])
    found = results(lambda case: raised() if case.dtype == "float16" else None, few)
    assert failed(found) == [few[-1].name]


def test_a_mode_that_raises_in_every_case_is_a_limit_and_the_rest_is_judged():
    cases = [
        result_of(case, "fail", (GOOD, raised("AttributeError", what=INFERENCE_OUTPUT)))
        for case in FLOAT32
    ]
    found = settled(cases)
    assert {result.status for result in found} == {"pass"}
    assert words(found) == ["no inference"]
    assert found[0].checks[1].limit == "inference"


def test_a_batch_that_is_refused_for_its_size_says_nothing_of_its_kind():
    refused = Check(TRAINING_OUTPUT, True, reason="refused: ValueError: few", raised="ValueError")
    cases = [
        result_of(case, "pass", (refused,))
        if case.samples == 1
        else result_of(case, "fail", (raised(),))
        if len(case.shape) == 4
        else result_of(case, "pass", (GOOD,))
        for case in FLOAT32
    ]
    assert failed(settled(cases)) == []


def test_an_exception_in_every_case_is_no_limit():
    found = results(lambda case: raised("NotImplementedError"))
    assert len(failed(found)) == len(CASES)


NARROW = Check(
    "dtype of the output",
    False,
    reason="dtype float32, the input's is float64",
    limit="float64",
)


def narrower(case):
    return (GOOD, NARROW) if case.dtype == "float64" else (GOOD,)


def test_a_dtype_that_always_comes_back_narrower_is_a_limit():
    cases = [
        result_of(case, "fail" if case.dtype == "float64" else "pass", narrower(case))
        for case in CASES
    ]
    found = settled(cases)
    assert failed(found) == []
    assert words(found) == ["float64 comes back as float32"]


def test_a_dtype_that_sometimes_comes_back_narrower_is_a_failure():
    cases = [
        result_of(case, "fail" if case.dtype == "float64" else "pass", narrower(case))
        for case in CASES
    ]
    first = next(place for place, case in enumerate(CASES) if case.dtype == "float64")
    cases[first] = replace(cases[first], status="pass", checks=(GOOD,))
    found = settled(cases)
    assert len(failed(found)) > 10
    assert words(found) == []
    assert {check.limit for result in found for check in result.checks} == {None}


def test_what_a_subject_says_it_lacks_is_a_limit():
    cases = [
        result_of(case, "skipped", reason="it has no masks")
        if case.mask
        else result_of(case, "pass", (GOOD,))
        for case in CASES
        if not case.undefined
    ]
    [masks, gradients] = reversed(
        find_limits(
            cases, ["training mode", "saving and loading", "inference mode", "moving statistics"]
        )
    )
    assert (masks.what, masks.words, masks.reason) == ("masks", "no masks", "it has no masks")
    assert (gradients.what, gradients.words, gradients.cases) == ("gradients", "no gradients", 0)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("flaot64", "Did you mean 'float64'?"),
        (
            "speed",
            "There are: axes, ranks, float64, float32, bfloat16, float16, training, inference, "
            "statistics, gradients, masks, saving.",
        ),
    ],
)
def test_a_word_that_is_none_is_refused_with_those_that_are(wanted, hint):
    message = (
        "conform: `require` must be words for what a subject must take. "
        f"Received: require={wanted!r}. {hint}"
    )
    with pytest.raises(InputError, match=whole(message)):
        required(f"axes,{wanted}")


def test_an_ability_that_is_missing_is_one_limit_whoever_says_it():
    [case] = select("inference twice rank 2")
    skipped = result_of(case, "skipped", reason="it has no inference mode")
    abilities = ["training mode", "moving statistics", "gradients", "masks", "saving and loading"]
    [limit] = find_limits((skipped,), abilities)
    assert (limit.what, limit.words) == ("inference", "no inference")
