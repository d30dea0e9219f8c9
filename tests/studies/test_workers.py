"""Worker processes: how many there are, and what the parent hears of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from batchnorm_mechanics.studies import workers
from batchnorm_mechanics.studies.config import network
from batchnorm_mechanics.studies.registry import STUDIES, quick
from batchnorm_mechanics.studies.workers import EpochEnded, RunEnded, RunFailed, Task, choose


def task(folder, **settings):
    study = quick(STUDIES["reversed-100-short"])
    settings = replace(study.settings, rows=600, epochs=2, **settings)
    return Task(replace(study, settings=settings), 100, folder)


def test_the_parent_hears_of_each_epoch_of_the_end_and_of_an_error(tmp_path):
    good, bad = task(tmp_path / "good"), task(tmp_path / "bad", activation="no such thing")
    heard = list(workers.run_all([good, bad], "mnist"))
    ours = [event for event in heard if event.task == good]
    assert [type(event) for event in ours] == [EpochEnded, EpochEnded, RunEnded]
    assert [event.epoch for event in ours[:2]] == [1, 2]
    assert ours[2].run.history["loss"] == [event.logs["loss"] for event in ours[:2]]
    (failed,) = (event for event in heard if event.task == bad)
    assert isinstance(failed, RunFailed)
    assert "no such thing" in failed.error
    assert "in build" in failed.trace
    assert not failed.out_of_space


def test_nothing_to_do_starts_no_process(monkeypatch):
    monkeypatch.setattr(workers.multiprocessing, "get_context", pytest.fail)
    assert list(workers.run_all([], "mnist")) == []


@pytest.mark.parametrize(("gigabytes", "fit"), [(1, 1), (4, 2), (24, 12)])
def test_memory_limits_how_many_workers_there_are(monkeypatch, gigabytes, fit):
    sizes = {"SC_PHYS_PAGES": gigabytes * 2**18, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr(workers.os, "sysconf", sizes.__getitem__)
    assert workers._fitting_in_memory() == fit


def test_a_system_that_does_not_tell_its_memory_gets_a_worker_a_core(monkeypatch):
    def sysconf(name):
        raise ValueError(name)

    monkeypatch.setattr(workers.os, "sysconf", sysconf)
    assert workers._fitting_in_memory() == workers.cores()


def planned(*names):
    return [Task(STUDIES[name], seed, Path(name)) for name in names for seed in (100, 101)]


def networks(*names):
    return {network(STUDIES[name].settings) for name in names}


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
