"""Reports in a terminal of 80 columns, and as JSON."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.report import Report, document
from batchnorm_mechanics.conformance.show import print_report, print_summary

GOOD = Check("training output", True, 1e-7, 2e-7, 3.0, 4e-7, 1e-7)
BAD = Check("dx", False, 0.5, 0.25, 1e6, 1e-6, 0.5, None, "gradient through the mean missing")
RAISED = Check(
    "training output",
    False,
    reason="raised ValueError: no",
    raised="ValueError",
    where="my.py, line 3: no()",
)
CONVENTIONS = Conventions("unbiased", "new", 0.1, default_epsilon=1e-5, large_mean="proportional")


def report(*cases, name="mine", seconds=12.0, **about):
    return Report(name, "a layer", CONVENTIONS, cases, seconds, **about)


def case(name, status="pass", checks=(GOOD,), group="axes", reason=None):
    about = {"shape": (16, 3), "kept": (1,), "dtype": "float32"}
    return CaseResult(name, group, status, checks, reason, **about)


def printed(report, **options):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        print_report(report, console, **options)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def summary(*reports):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        print_summary(reports, console)
    return capture.get()


def line(text, start):
    [found] = [line for line in text.splitlines() if line.split()[:1] == [start]]
    return found.split()


def test_a_group_has_its_counts_and_its_worst_numbers():
    worse = Check("dx", True, 1e-5, 2e-6, 30.0, 2e-5, 1e-5)
    cases = (case("a"), case("b", checks=(GOOD, worse)), case("c", "skipped", ()))
    text = printed(report(*cases), verbose=True)
    assert line(text, "axes") == ["axes", "2", "·", "·", "1", "1e-05", "2e-06", "30", "50", "%"]


def test_what_is_only_measured_does_not_count_among_the_worst():
    wild = Check("dx", True, 5.0, 5.0, 5.0, 1.0, 5.0)
    text = printed(report(case("a"), case("b", "measured", (wild,))), verbose=True)
    assert line(text, "axes")[4:] == ["·", "1e-07", "2e-07", "3", "25", "%"]


def test_every_case_has_its_line_if_asked_for():
    cases = [case("first"), case("second", "fail", (BAD,)), case("third", "measured", (GOOD,))]
    text = printed(report(*cases), verbose=True)
    assert line(text, "first")[1:] == ["pass", "1e-07", "2e-07", "3", "25", "%"]
    assert line(text, "second")[1:] == ["FAIL", "0.5", "0.25", "1e+06", "5e+05", "x"]
    assert line(text, "third")[1:2] == ["meas"]


def test_skipped_cases_are_counted_by_their_reason():
    skipped = [
        CaseResult(f"case {number}", "axes", "skipped", reason=reason)
        for number, reason in enumerate(["one axis only", "one axis only", "no masks"])
    ]
    text = printed(report(case("first"), *skipped), verbose=True)
    assert "2 cases skipped: one axis only" in text
    assert "1 cases skipped: no masks" in text
    assert "case 0" not in text


def test_the_verdict_comes_first_and_fills_no_more_than_eight_lines():
    long = "a mistake with a name that goes on " * 4
    checks = tuple(replace(BAD, diagnosis=f"{long}{number}") for number in range(3))
    limits = [
        CaseResult(f"c{n}", "axes", "skipped", reason=f"{n} " + "no such thing " * 9, shape=(5, 3))
        for n in range(3)
    ]
    told = Conventions("biased", "old", 0.99, "inside", 1e-3, 0.5, 2.0, -1, "inference", True)
    found = Report(
        "mine",
        "a layer " * 20,
        told,
        (case("a", "fail", checks), *limits),
        taken_as="a function of a course " * 9,
        abilities=(),
    )
    lines = printed(found).splitlines()
    end = lines.index("What failed, by cause")
    assert end <= 9
    first = lines[: end - 1]
    assert [line.split()[0] for line in first[1:4]] == ["a", "taken", "Wrong:"]
    assert any(line.startswith("limits: no training; no inference") for line in first)
    assert any(line.startswith("conventions: biased moving variance") for line in first)
    assert max(map(len, lines)) <= 80


def test_what_failed_is_told_by_cause_with_the_smallest_case_and_how_to_run_it():
    named = report(case("a", "fail", (BAD, RAISED)), case("b"), spec="my file.py:mine")
    text = printed(named)
    assert "What failed, by cause\n  gradient through the mean missing: 1 of 2 failed" in text
    assert "    a: dx: off by 0.5, 1e-06 allowed\n" in text
    assert "    bnm conform 'my file.py:mine' --cases \"a\"\n" in text
    assert "  raises ValueError: 1 of 2 failed checks\n" in text
    assert "    a: training output: raised ValueError: no\n    at my.py, line 3: no()\n" in text
    assert '    print(bnm.conform(mine, cases="a"))\n' in printed(replace(named, spec=None))


def test_a_command_is_one_line_however_long_it_is():
    spec = "a/folder/" * 12 + "mine.py:mine"
    text = printed(report(case("a", "fail", (BAD,)), spec=spec))
    assert f'    bnm conform {spec} --cases "a"\n' in text


def test_many_failures_fit_a_screen_unless_all_are_asked_for():
    checks = [replace(BAD, diagnosis=f"mistake {number}") for number in range(30)]
    edge = [
        case(f"edge {number}", "measured", (replace(BAD, reason=f"odd {number}", diagnosis=None),))
        for number in range(30)
    ]
    many = report(*(case(f"case {n}", "fail", (check,)) for n, check in enumerate(checks)), *edge)
    short, long = printed(many), printed(many, verbose=True)
    assert len(short.splitlines()) <= 60
    assert short.count("failed checks\n") == 4
    assert "and 26 more ways to fail; --verbose shows every case" in short
    assert "FAIL case" not in short
    assert long.count("  FAIL case") == 30


def test_an_exception_in_every_case_is_all_that_is_shown():
    fault = report(case("first", "fail", (RAISED,)), case("second", "fail", (RAISED,)))
    lines = printed(replace(fault, spec="my.py:mine")).splitlines()
    assert lines[1:] == [
        "a layer",
        "It raises ValueError in every case: nothing could be judged.",
        "  my.py, line 3: no()",
        "  ValueError: no",
        "Mend that first: it may be the wrapper. One case alone:",
        '    bnm conform my.py:mine --cases "first"',
    ]


def test_nothing_is_said_of_failures_where_there_are_none():
    text = printed(report(case("a")), verbose=True)
    assert "FAIL" not in text
    assert "fail" not in text.lower().replace("pass  fail", "")


def test_the_summary_has_one_line_for_each_subject_and_fits_80_columns():
    reports = [
        report(case("a"), case("b", "fail", (BAD,)), name="bnm.functions-autodiff", seconds=123),
        report(*[case(str(n)) for n in range(134)], name="keras"),
    ]
    text = summary(*reports)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    name = "bnm.functions-autodiff"
    assert line(text, name) == [
        name,
        "1",
        "1",
        "·",
        "·",
        "unbiased",
        "new",
        "1e-05",
        "–",
        "linear",
        "123",
    ]
    assert line(text, "keras")[1:5] == ["134", "·", "·", "·"]


def test_the_summary_explains_only_what_is_there():
    assert "no digit left" not in summary(report(case("a")))
    assert "no digit left" in summary(report(case("a", "measured")))
    assert "not made for it" in summary(report(case("a", "skipped", ())))


@pytest.mark.parametrize("finished", [True, False])
def test_the_document_says_whether_all_passed_and_the_run_was_finished(finished):
    good, bad = report(case("a")), report(case("b", "fail", (BAD,)))
    assert document([good], finished=finished)["passed"] is True
    found = document([good, bad], finished=finished)
    assert (found["passed"], found["finished"]) == (False, finished)
    assert [subject["passed"] for subject in found["subjects"]] == [True, False]


def test_infinite_numbers_are_words_in_json():
    far = Check("dx", False, float("inf"), float("inf"), float("inf"), 1e-6, float("inf"))
    text = json.dumps(document([report(case("a", "fail", (far,)))]), allow_nan=False)
    check = json.loads(text)["subjects"][0]["cases"][0]["checks"][0]
    assert check["absolute"] == check["error"] == "Infinity"
    assert check["tolerance"] == 1e-6
