"""Courses in worker processes: what comes back, and what a lost process does."""

import os
import signal
import time
from pathlib import Path

import pytest
from odd_jobs import BrokenHost, Host

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._workers import Call, CallError, Course, LostError, side_by_side


def children():
    """Return the worker processes of this one."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    if not tasks.exists():
        pytest.skip("needs Linux's list of child processes")
    pids = [pid for task in tasks.glob("*/children") for pid in task.read_text().split()]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def follow(*courses, host=Host, count=2):
    return list(side_by_side([Course(host, steps) for steps in courses], count=count))


def attempt(call):
    """Make a call, and return the error instead of its result."""
    try:
        return (yield call)
    except (LostError, CallError) as error:
        return error


def test_results_come_back_from_the_yield_and_other_things_are_events():
    def steps():
        yield "before"
        yield ("result", (yield Call(Host.count)))

    assert follow(steps()) == ["before", ("result", 1)]


def test_what_is_told_during_a_call_comes_before_its_result():
    def steps():
        yield (yield Call(Host.tell_twice))

    assert follow(steps()) == ["first", "second", "third"]


def test_a_course_keeps_its_process_and_what_the_host_holds():
    def steps():
        for _ in range(3):
            yield (yield Call(Host.count))

    assert follow(steps()) == [1, 2, 3]


def test_courses_have_processes_of_their_own_at_the_same_time():
    def steps():
        yield (yield Call(Host.pid))
        yield (yield Call(Host.count))

    events = follow(steps(), steps())
    assert len({event for event in events if event > 2}) == 2


def test_no_more_processes_run_than_asked_for():
    def steps():
        yield (yield Call(Host.count))
        yield len(children())

    assert set(follow(steps(), steps(), steps(), count=1)) == {1}


def test_what_a_call_raises_is_raised_at_the_yield_with_its_traceback():
    def steps():
        yield (yield from attempt(Call(Host.raise_something)))
        yield (yield Call(Host.count))

    error, count = follow(steps())
    assert str(error) == "LookupError: no such thing"
    assert "in raise_something" in error.trace
    assert count == 1


def test_an_input_error_of_a_call_is_raised_as_it_is_and_ends_all():
    def refused():
        yield Call(Host.refuse)

    def hanging():
        yield Call(Host.hang)

    with pytest.raises(InputError, match=r"^It cannot be used\.$"):
        follow(refused(), hanging())
    assert children() == []


@pytest.mark.parametrize(
    ("call", "reason", "code"),
    [
        (Call(Host.exit, (3,)), "its process ended with exit code 3", 3),
        (Call(Host.exit, (0,)), "its process ended with exit code 0", 0),
        (Call(Host.kill, (signal.SIGSEGV,)), "its process was ended by signal 11, SIGSEGV", -11),
    ],
)
def test_a_process_that_ends_is_replaced_for_the_next_call(call, reason, code):
    def steps():
        yield (yield Call(Host.count))
        yield (yield from attempt(call))
        yield (yield Call(Host.count))

    first, error, after = follow(steps())
    assert (str(error), error.exit_code) == (reason, code)
    assert (first, after) == (1, 1)


def test_a_process_without_an_answer_in_time_is_replaced():
    def steps():
        yield (yield Call(Host.count))
        began = time.monotonic()
        yield (yield from attempt(Call(Host.hang, limit=0.5)))
        yield time.monotonic() - began
        yield (yield Call(Host.count))

    _, error, seconds, after = follow(steps())
    assert (str(error), error.exit_code) == ("no answer within 0.5 s", None)
    assert 0.5 <= seconds < 10
    assert after == 1


def test_a_limit_of_one_course_leaves_another_alone():
    def hanging():
        yield (yield from attempt(Call(Host.hang, limit=1)))

    def patient():
        yield (yield Call(Host.count))
        time.sleep(1.5)
        yield (yield Call(Host.count))

    events = follow(hanging(), patient())
    assert [event for event in events if isinstance(event, int)] == [1, 2]
    assert sum(isinstance(event, LostError) for event in events) == 1


def test_a_host_that_cannot_be_made_is_told_of_at_the_first_call():
    def steps():
        yield (yield from attempt(Call(Host.count)))

    (error,) = follow(steps(), host=BrokenHost)
    assert str(error) == "OSError: nothing to load"


def test_closing_ends_the_processes():
    def steps():
        yield (yield Call(Host.count))
        yield Call(Host.hang)

    events = side_by_side([Course(Host, steps())], count=1)
    next(events)
    assert len(children()) == 1
    events.close()
    assert children() == []


def test_no_course_starts_no_process():
    assert follow() == []
    assert children() == []


def test_what_a_process_prints_does_not_reach_standard_output(capfd):
    def steps():
        yield Call(Host.print)

    follow(steps())
    out, err = capfd.readouterr()
    assert out == ""
    assert "this must not be taken for a result" in err
