"""The main job as a whole: what is planned, kept, resumed and refused."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics.studies import dataset, reproduce
from batchnorm_mechanics.studies.registry import STUDIES, Run
from batchnorm_mechanics.studies.reproduce import Request, plan
from batchnorm_mechanics.studies.runs import RunEnded


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch):
    """Checking and unpacking the data takes half a second, and has tests of its own."""
    monkeypatch.setattr(reproduce, "load", load_once)


load_once = functools.cache(dataset.load)


def request(tmp_path, **changes):
    return Request(**{"out": tmp_path / "out", "quick": True, "seeds": 1, **changes})


def finish(found, *tasks):
    for task in tasks:
        task.folder.mkdir(parents=True)
        found.folder.finish(task.study, Run(task.seed, 90.0, 89.0, 88.0, 1.0, {"loss": [0.1]}))


def test_all_studies_are_planned_with_each_seed_the_long_ones_first(tmp_path):
    found = plan(request(tmp_path, seeds=2, quick=False))
    assert {(task.study.name, task.seed) for task in found.tasks} == {
        (name, seed) for name in STUDIES for seed in (100, 101)
    }
    first, last = found.tasks[0].study, found.tasks[-1].study
    assert first.settings.steps_per_epoch is None
    assert last.name.startswith("paper")


def test_named_studies_alone_are_planned(tmp_path):
    found = plan(request(tmp_path, studies=("keras-100",), seeds=3))
    assert [(task.study.name, task.seed) for task in found.tasks] == [
        ("keras-100", 100),
        ("keras-100", 101),
        ("keras-100", 102),
    ]


def test_finished_runs_are_kept_and_the_missing_ones_planned(tmp_path):
    asked = request(tmp_path, studies=("keras-100",), seeds=3)
    before = plan(asked)
    finish(before, before.tasks[1])
    assert [task.seed for task in plan(asked).tasks] == [100, 102]


def test_results_of_a_part_say_so(tmp_path):
    found = plan(request(tmp_path, studies=("keras-100",), seeds=3))
    finish(found, found.tasks[0])
    results = reproduce.collect(found)
    assert (results["finished"], results["planned_runs"]) == (False, 3)
    assert [len(study["runs"]) for study in results["studies"]] == [1]


def test_results_are_strict_json_even_when_a_loss_is_not_a_number(tmp_path):
    found = plan(request(tmp_path, studies=("keras-100",)))
    (task,) = found.tasks
    task.folder.mkdir(parents=True)
    run = Run(task.seed, 10.0, 10.0, 10.0, 1.0, {"loss": [float("nan"), float("inf")]})
    found.folder.finish(task.study, run)
    reproduce.collect(found)

    def read(file):
        return json.loads(
            file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
        )

    loss = ["NaN", "Infinity"]
    assert read(task.folder / "run.json")["run"]["history"]["loss"] == loss
    results = read(tmp_path / "out" / "results.json")
    assert results["studies"][0]["runs"][0]["history"]["loss"] == loss
    (again,) = found.folder.finished(found.studies)["keras-100"]
    np.testing.assert_equal(dataclasses.asdict(again), dataclasses.asdict(run))


def test_results_hold_all_that_a_reader_of_the_file_needs(tmp_path):
    found = plan(request(tmp_path, studies=("keras-916", "average-916"), seeds=2))
    finish(found, *found.tasks)
    results = reproduce.collect(found)
    assert {"environment", "data", "studies", "effects", "conclusion"} <= set(results)
    assert {"name", "source", "settings", "published", "runs", "summary"} <= set(
        results["studies"][0]
    )
    assert set(results["studies"][0]["runs"][0]) == {
        "seed",
        "train",
        "val",
        "test",
        "seconds",
        "history",
    }
    (effect,) = results["effects"]
    assert {"factor", "from", "to", "on", "difference", "low", "high", "seeds"} <= set(effect)
    assert results["data"]["name"] == "MNIST"
    assert results["environment"]["tensorflow"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"studies": ("keras-961",)},
            "reproduce: `study` must be one of the known studies. Received: study='keras-961'. "
            "Did you mean 'keras-916'? `bnm reproduce --list` shows them all.",
        ),
        (
            {"seeds": 0},
            "reproduce: `seeds` must be 1 or more. Received: seeds=0. "
            "Leave it out for the default.",
        ),
        (
            {"paper_steps": -5},
            "reproduce: `paper_steps` must be 1 or more. Received: paper_steps=-5. "
            "Leave it out for the default.",
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path, changes, message
):
    with pytest.raises(InputError) as error:
        plan(request(tmp_path, **changes))
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_a_folder_with_results_of_other_settings_is_refused_and_left_alone(tmp_path):
    asked = request(tmp_path, studies=("keras-100",))
    found = plan(asked)
    finish(found, *found.tasks)
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    with pytest.raises(InputError) as error:
        plan(dataclasses.replace(asked, quick=False, paper_steps=7))
    assert str(error.value) == (
        "reproduce: `out` must be a new folder, or hold results of the same settings. Received: "
        f"out={str(tmp_path / 'out')!r}, made with quick=True and not False, paper_steps=5000 "
        "and not 7. Name another with --out, or delete it; nothing in it was changed."
    )
    after = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert after == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"reproduce: `out` must be a folder that can be written"):
        plan(request(tmp_path, out=tmp_path / "file" / "out"))


@pytest.mark.parametrize(
    "text", ["{", "", "{}", "[]", '{"settings": {}, "run": {"seed": 1}}', "\udc80", "null"]
)
def test_a_damaged_result_is_set_aside_and_its_run_done_again(tmp_path, text):
    asked = request(tmp_path, studies=("keras-100",), seeds=2)
    found = plan(asked)
    finish(found, *found.tasks)
    damaged = found.tasks[0].folder / "run.json"
    damaged.write_bytes(text.encode(errors="surrogateescape"))
    again = plan(asked)
    kept = damaged.with_name("run.json.damaged")
    assert again.folder.damaged == [kept]
    assert kept.read_bytes() == text.encode(errors="surrogateescape")
    assert [task.seed for task in again.tasks] == [found.tasks[0].seed]
    damaged.write_text("{")
    assert plan(asked).folder.damaged == [damaged.with_name("run.json.damaged-2")]


def test_a_run_that_raises_ends_the_job_and_keeps_the_others(tmp_path, monkeypatch):
    found = plan(request(tmp_path, studies=("keras-100",), seeds=2))
    first, _ = found.tasks
    run = Run(first.seed, 90.0, 89.0, 88.0, 1.0, {})

    def events(tasks, source, executor):
        first.folder.mkdir(parents=True)
        yield RunEnded(first, run)
        raise FailureError("no")

    monkeypatch.setattr(reproduce, "run_all", events)
    with pytest.raises(FailureError, match="no"):
        reproduce.carry_out(found)
    assert found.folder.finished(found.studies) == {"keras-100": [run]}


def test_out_is_results_in_the_current_folder_by_default():
    assert Request().out == Path("results")


def test_a_run_of_a_study_that_has_changed_since_is_refused_and_left_alone(tmp_path, monkeypatch):
    asked = request(tmp_path, studies=("keras-100",))
    found = plan(asked)
    finish(found, *found.tasks)
    kept = found.tasks[0].folder / "run.json"
    before = kept.read_bytes()
    study = STUDIES["keras-100"]
    changed = dataclasses.replace(study.settings, learning_rate=0.5)
    monkeypatch.setitem(STUDIES, "keras-100", dataclasses.replace(study, settings=changed))
    with pytest.raises(InputError, match=r"same settings.*learning_rate=0\.001 and not 0\.5"):
        plan(asked)
    assert kept.read_bytes() == before


def test_runs_whose_conditions_are_damaged_are_set_aside_with_them(tmp_path):
    asked = request(tmp_path, studies=("keras-100",))
    found = plan(asked)
    finish(found, *found.tasks)
    out = tmp_path / "out"
    (out / "conditions.json").write_text("[]")
    again = plan(asked)
    assert again.folder.damaged == [out / "conditions.json.damaged", out / "runs.damaged"]
    assert (out / "runs.damaged" / "keras-100" / "seed-100" / "run.json").exists()
    assert len(again.tasks) == 1


def test_a_folder_from_before_formats_were_named_is_read(tmp_path):
    asked = request(tmp_path, studies=("keras-100",))
    found = plan(asked)
    finish(found, *found.tasks)
    file = tmp_path / "out" / "conditions.json"
    conditions = json.loads(file.read_text())
    assert conditions.pop("format") == 1
    file.write_text(json.dumps(conditions))
    assert plan(asked).tasks == ()


def test_a_folder_of_a_newer_format_is_refused_and_left_alone(tmp_path):
    plan(request(tmp_path))
    file = tmp_path / "out" / "conditions.json"
    newer = json.dumps({**json.loads(file.read_text()), "format": 2})
    file.write_text(newer)
    with pytest.raises(InputError, match="was written by a newer version"):
        plan(request(tmp_path))
    assert file.read_text() == newer


def test_two_runs_do_not_work_in_one_folder(tmp_path):
    folder = plan(request(tmp_path)).folder
    with folder.alone():
        with pytest.raises(InputError) as error, plan(request(tmp_path)).folder.alone():
            pytest.fail("two at once")
        assert f"in which a run is under way (process {os.getpid()} on " in str(error.value)
    with plan(request(tmp_path)).folder.alone():
        pass
