"""Runs side by side: how many there are at a time, which is next, and what is heard of them."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics.studies import dataset, runs, train
from batchnorm_mechanics.studies.registry import STUDIES, network_settings, quick
from batchnorm_mechanics.studies.runs import EpochEnded, RunEnded, Task, choose, run_all


def task(folder, **settings):
    study = quick(STUDIES["reversed-100-short"])
    # XLA takes seconds for each layer.
    small = {"rows": 600, "epochs": 2, "hidden_units": (20,), "baked_training": (False,)}
    settings = replace(study.settings, **small, **settings)
    return Task(replace(study, settings=settings), 100, folder)


def test_each_epoch_and_the_end_are_heard_of_and_an_error_ends_all(tmp_path, monkeypatch):
    # One after another, so that the bad one comes when the good one is done.
    monkeypatch.setattr(runs, "cores", lambda: 1)
    good, bad = task(tmp_path / "good"), task(tmp_path / "bad", activation="no such thing")
    events = run_all([good, bad], "mnist")
    heard = [next(events) for _ in range(3)]
    assert [type(event) for event in heard] == [EpochEnded, EpochEnded, RunEnded]
    assert {event.task for event in heard} == {good}
    assert [event.epoch for event in heard[:2]] == [1, 2]
    assert heard[2].run.history["loss"] == [event.logs["loss"] for event in heard[:2]]
    with pytest.raises(FailureError) as error:
        next(events)
    first, *trace = str(error.value).splitlines()
    assert first.startswith("reproduce: reversed-100-short with seed 100 failed with ValueError: ")
    assert "no such thing" in str(error.value)
    assert "Finished runs are kept." in str(error.value)
    assert any("in build" in line for line in trace)


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("cannot save") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(train, "train", full)
    trainer = object.__new__(runs._Trainer)
    trainer._digits = dataset.load(minimum_rows=600)
    trainer._prepared, trainer._networks = {}, {}
    folder = tmp_path / "out" / "runs" / "reversed-100-short" / "seed-100"
    folder.parent.mkdir(parents=True)
    with pytest.raises(InputError) as error:
        trainer.train(task(folder))
    assert str(error.value) == (
        "reproduce: `out` must be on a disk with room. Received: "
        f"out={str(tmp_path / 'out')!r}, which is full. Finished runs are kept: make room and run "
        "the same command again, or name another folder with --out."
    )


def test_nothing_to_do_starts_no_process(monkeypatch):
    monkeypatch.setattr(runs, "Course", pytest.fail)
    assert list(run_all([], "mnist")) == []


@pytest.mark.parametrize(("gigabytes", "fit"), [(1, 1), (4, 2), (24, 12)])
def test_memory_limits_how_many_workers_there_are(monkeypatch, gigabytes, fit):
    sizes = {"SC_PHYS_PAGES": gigabytes * 2**18, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr(runs.os, "sysconf", sizes.__getitem__)
    assert runs._fitting_in_memory() == fit


def test_a_system_that_does_not_tell_its_memory_gets_a_worker_a_core(monkeypatch):
    def sysconf(name):
        raise ValueError(name)

    monkeypatch.setattr(runs.os, "sysconf", sysconf)
    assert runs._fitting_in_memory() == runs.cores()


def planned(*names):
    return [Task(STUDIES[name], seed, Path(name)) for name in names for seed in (100, 101)]


def networks(*names):
    return {network_settings(STUDIES[name].settings) for name in names}


def test_a_worker_goes_on_with_the_network_that_it_has_compiled():
    tasks = planned("average-916", "keras-916")
    mine = networks("keras-100")
    assert choose(tasks, mine, mine) is tasks[2]


def test_a_worker_begins_a_network_that_nobody_has_before_it_shares_one():
    tasks = planned("average-916", "keras-916", "algorithm2-916")
    assert choose(tasks, set(), networks("average-916")) is tasks[2]


def test_a_worker_without_another_choice_shares_the_network_with_the_most_left():
    tasks = planned("average-916", "keras-916", "keras-100")
    assert choose(tasks, set(), networks("average-916", "keras-916")) is tasks[2]
