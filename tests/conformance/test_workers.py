"""Subjects in worker processes: nothing that one of them does stops the run."""

import contextlib
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from numpy_subjects import Vanished
from oracle_cases import whole

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._workers import Call, LostError
from batchnorm_mechanics.conformance import workers
from batchnorm_mechanics.conformance.cases import select
from batchnorm_mechanics.conformance.workers import Begun, CaseJudged, Ended, conform_all

RESOLVE = "numpy_subjects:resolve"
# The subjects that are odd are so with 61 samples; something is left to do before and after.
CASES = (*select("batch of 60 rank 2"), *select("batch of 61 rank 2"), *select("one step rank 2"))


def run(*specs, cases=CASES, limit=30.0):
    return list(conform_all(specs, cases=cases, limit=limit, resolve=RESOLVE))


def reports(events):
    return {event.spec: event.report for event in events if isinstance(event, Ended)}


def children():
    path = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    if not path.exists():
        pytest.skip("needs Linux's list of child processes")
    pids = path.read_text().split()
    return [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def events():
    """What is heard of five subjects, judged side by side."""
    return run("right", "epsilon_outside", "raises", "exits", "crashes")


def test_the_parent_hears_of_each_case_and_of_the_end(events):
    ours = [event for event in events if event.spec == "right"]
    assert [type(event) for event in ours] == [Begun, CaseJudged, CaseJudged, CaseJudged, Ended]
    assert ours[0].total == 3
    report = ours[-1].report
    assert report.passed
    assert report.cases == tuple(event.result for event in ours[1:4])
    assert report.conventions.moving_variance == "biased"
    assert (report.name, report.description) == ("right", "NumPy, two passes")


def test_failures_come_with_what_explains_them(events):
    found = reports(events)["epsilon_outside"]
    wrong = [c for case in found.cases for c in case.checks if c.what == "training output"]
    assert {check.diagnosis for check in wrong} == {"epsilon outside the root"}


def test_a_subject_that_raises_fails_one_case(events):
    found = reports(events)["raises"]
    assert [case.status for case in found.cases] == ["pass", "fail", "pass"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("exits", "its process ended with exit code 3"),
        ("crashes", "its process was ended by signal 11, SIGSEGV"),
    ],
)
def test_a_subject_that_ends_its_process_fails_one_case_and_the_run_goes_on(events, spec, reason):
    found = reports(events)[spec]
    assert [case.status for case in found.cases] == ["pass", "fail", "pass"]
    assert found.cases[1].checks[0].reason == reason
    assert found.conventions.moving_variance == "biased"


def test_a_subject_that_hangs_fails_one_case_in_time():
    found = reports(run("hangs", limit=3.0))["hangs"]
    assert [case.status for case in found.cases] == ["pass", "fail", "pass"]
    assert found.cases[1].checks[0].reason == "no answer within 3 s"
    assert found.cases[1].seconds == 3.0


def without_processes(courses, *, count):
    """Follow courses as `side_by_side` does; what vanishes stands for a process that is lost."""
    for course in courses:
        host, resume = None, partial(next, course.steps)
        with contextlib.suppress(StopIteration):
            while True:
                item = resume()
                resume = partial(next, course.steps)
                if not isinstance(item, Call):
                    yield item
                    continue
                try:
                    host = host or course.host()
                    resume = partial(course.steps.send, item.function(host, *item.args))
                except Vanished:
                    host = None
                    resume = partial(course.steps.throw, LostError("it vanished"))


@pytest.fixture
def here(monkeypatch):
    """Run workers in this process, whose environment stays as it is."""
    monkeypatch.setattr(workers, "side_by_side", without_processes)
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_a_subject_that_is_lost_in_its_conventions_is_judged_without_them(here):
    found = reports(run("vanishes when set up"))["vanishes when set up"]
    assert found.cases[0].case == "conventions"
    assert found.cases[0].checks[0].reason == "it vanished"
    assert found.conventions.moving_variance is None
    assert [case.status for case in found.cases[1:]] == ["pass"] * 3


def test_after_three_cases_without_an_answer_no_more_are_asked(here):
    cases = (*CASES, *select("one step rank 4"), *select("ten steps rank 4"))
    found = reports(run("always vanishes", cases=cases))["always vanishes"]
    statuses = {case.case: case.status for case in found.cases if case.group != "conventions"}
    assert list(statuses.values()) == ["fail", "fail", "fail", "skipped", "skipped"]
    assert found.cases[-1].reason == "not asked: 3 cases in a row gave no answer"
    assert not found.passed


def test_answers_in_between_keep_the_run_going(here):
    cases = select("batch")[2:] + select("axes rank 2")
    spec = "vanishes in rank 2 of a batch"
    found = reports(run(spec, cases=cases))[spec]
    assert [case.status for case in found.cases] == ["fail", "pass"] * 3 + ["pass"] * 3


def test_a_module_that_raises_fails_without_any_case_asked(here):
    found = reports(run("unimportable"))["unimportable"]
    assert found.cases[0].checks[0].reason == "raised ImportError: no module named rubbish"
    assert {case.status for case in found.cases[1:]} == {"skipped"}
    assert not found.passed


def test_what_is_no_subject_is_refused_and_no_process_is_left():
    message = "conform: `subject` must be known. Received: subject='unknown'. Choose."
    with pytest.raises(InputError, match=whole(message)):
        run("unknown")
    assert children() == []


def test_closing_the_run_ends_its_processes():
    events = conform_all(["hangs", "right"], cases=CASES, resolve=RESOLVE)
    next(event for event in events if isinstance(event, CaseJudged))
    assert children()
    begun = time.monotonic()
    events.close()
    assert children() == []
    assert time.monotonic() - begun < 12


def test_what_a_subject_prints_does_not_reach_standard_output(capfd):
    run("prints", cases=CASES[:1])
    out, err = capfd.readouterr()
    assert out == ""
    assert "this must not be taken for a result" in err
