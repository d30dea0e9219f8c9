import re

import pytest
from turns import Job, interleave


class Machine:
    """A clock that only what runs moves forward, and a record of what ran."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def job(self, name, seconds, steps=1):
        def run():
            self.calls.append(name)
            self.now += seconds

        return Job(run, steps)

    def interleave(self, contestants, repeats):
        return interleave(
            contestants,
            repeats=repeats,
            clock=lambda: self.now,
            pause=lambda seconds: self.calls.append("pause"),
        )


def test_every_repeat_runs_each_contestant_once_and_begins_with_the_next():
    machine = Machine()
    names = "abc"
    machine.interleave({name: {"run": machine.job(name, 1.0)} for name in names}, 4)
    ran = "".join(call for call in machine.calls if call != "pause")
    assert ran == "abc" + "abc" + "bca" + "cab" + "abc"


def test_the_first_run_of_each_job_is_not_timed():
    machine = Machine()
    costs = iter([100.0, 1.0, 2.0])

    def run():
        machine.now += next(costs)

    assert machine.interleave({"a": {"run": Job(run)}}, 2) == {("a", "run"): [1.0, 2.0]}


def test_a_sample_is_the_time_of_one_step():
    machine = Machine()
    contestants = {"a": {"f": machine.job("f", 8.0, 4), "b": machine.job("b", 6.0, 2)}}
    assert machine.interleave(contestants, 1) == {("a", "f"): [2.0], ("a", "b"): [3.0]}


def test_there_is_a_pause_before_each_contestant_and_it_is_not_timed():
    machine = Machine()
    machine.interleave({name: {"run": machine.job(name, 1.0)} for name in "ab"}, 1)
    assert machine.calls == ["a", "b", "pause", "a", "pause", "b"]


def test_no_repeats_are_refused():
    message = (
        "interleave: `repeats` must be 1 or more. Received: repeats=0. "
        "A median needs a sample; 9 give a spread too."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        interleave({}, repeats=0)
