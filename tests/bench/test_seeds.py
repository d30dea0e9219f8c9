"""Runs side by side: real processes, in a small study, and how they end."""

import dataclasses
import os
import signal
import sys
import tempfile
import threading
import time

import pytest
from processes import group_is_alive, start

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics.bench import seeds
from batchnorm_mechanics.studies.config import Run
from batchnorm_mechanics.studies.registry import STUDIES
from batchnorm_mechanics.studies.workers import RunEnded, RunFailed

SMALL = dataclasses.replace(
    STUDIES["keras-916"],
    settings=dataclasses.replace(STUDIES["keras-916"].settings, rows=240, epochs=1),
)
INTERRUPTED = """
from batchnorm_mechanics.bench.seeds import seconds
from batchnorm_mechanics.studies import workers
from batchnorm_mechanics.studies.registry import STUDIES

real = workers.run_all

def announced(*arguments, **options):
    for event in real(*arguments, **options):
        print(type(event).__name__, flush=True)
        yield event

workers.run_all = announced
seconds(STUDIES["keras-916"], 2, "compiled")
"""


def test_the_runs_of_each_number_of_seeds_take_turns_by_engine(monkeypatch):
    asked = []

    def seconds(study, count, engine):
        asked.append((study.name, count, engine))
        return float(len(asked))

    monkeypatch.setattr(seeds, "seconds", seconds)
    said = []
    one, three = seeds.compare_seeds(SMALL, (1, 3), repeats=2, report=said.append)
    turns = ["compiled", "fit", "fit", "compiled"]
    assert asked == [("keras-916", count, engine) for count in (1, 3) for engine in turns]
    assert (one.case, one.samples) == ("1 seed", {"compiled": [1.0, 4.0], "fit": [2.0, 3.0]})
    assert (three.case, three.ours, three.measure) == ("3 seeds", "compiled", "runs")
    assert said[0] == "study, 1 seed: compiled, 1 of 2"


def test_each_seed_has_a_folder_and_none_is_left(monkeypatch, tmp_path):
    seen = []

    def run_all(tasks, source, *, engine):
        seen.append((tasks, source, engine))
        assert all(task.folder.parent.is_dir() for task in tasks)
        yield RunEnded(tasks[0], Run(100, 1.0, 1.0, 1.0, 1.0, {}))

    monkeypatch.setattr(seeds.workers, "run_all", run_all)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert seeds.seconds(SMALL, 3, "fit") > 0
    ((tasks, source, engine),) = seen
    assert [task.seed for task in tasks] == [100, 101, 102]
    assert len({task.folder for task in tasks}) == 3
    assert {task.study for task in tasks} == {SMALL}
    assert (source, engine) == ("mnist", "fit")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_ends_the_others_and_is_named(monkeypatch):
    closed = []

    def run_all(tasks, source, *, engine):
        try:
            yield RunFailed(tasks[1], "ValueError: no", "the trace", out_of_space=False)
            yield RunEnded(tasks[0], Run(100, 1.0, 1.0, 1.0, 1.0, {}))
        finally:
            closed.append(True)

    monkeypatch.setattr(seeds.workers, "run_all", run_all)
    message = (
        "bench: the run with seed 101 failed with ValueError: no. Repair that and run "
        "`bnm bench study` again.\nthe trace"
    )
    with pytest.raises(FailureError) as caught:
        seeds.seconds(SMALL, 2, "compiled")
    assert str(caught.value) == message
    assert closed == [True]


def test_ctrl_c_ends_the_processes_and_leaves_no_folder(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = start([sys.executable, "-c", INTERRUPTED], env=environment)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    # Both processes train when the first epoch has ended.
    assert process.stdout.readline() == "EpochEnded\n"
    assert [path for path in tmp_path.iterdir() if path.is_dir()]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    watchdog.cancel()
    assert "KeyboardInterrupt" in errors
    deadline = time.monotonic() + 20
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.1)
    # TensorFlow leaves files of its own there, where a process of it is ended.
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
