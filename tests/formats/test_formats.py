"""Every file that we write carries its format's version, and those of all versions are known.

Beside this file lies one of each version, made by the code of its time (`written.py`).
"""

import csv
import dataclasses
import json
import re
import zipfile
from pathlib import Path

import keras
import pytest

from batchnorm_mechanics import comparison, doctor, studies, tracing
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.models.files import load_model
from batchnorm_mechanics.models.mark import estimated_in
from batchnorm_mechanics.studies.folder import OutputFolder
from batchnorm_mechanics.studies.registry import STUDIES, Settings

from . import written

KINDS = (
    *("conditions.json", "run.json", "results.json", "watch.csv", "marked.keras"),
    *("doctor.json", "repair.json", "fold.json", "compare.json", "trace.json", "conform.json"),
)
OF_EACH_VERSION = sorted(
    file for file in written.KEPT.iterdir() if re.search(r"-\d+\.(json|csv|keras)$", file.name)
)


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    return written.write_all(tmp_path_factory.mktemp("today"))


def form(value):
    """Return what a reader relies on: names, and of what type the values are."""
    if isinstance(value, dict):
        return {name: form(part) for name, part in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(form(part), sort_keys=True) for part in value})
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    is_number = isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity")
    return "number" if is_number else "text"


def form_of(file):
    if file.suffix == ".csv":
        return file.read_text().splitlines()[0].split(",")
    return form(written.content(file))


def test_there_is_one_of_each(today):
    assert sorted(today) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_has_the_form_that_its_version_had_from_the_beginning(today, kind):
    version = written.version_of(today[kind])
    kept = written.kept(kind, version)
    assert kept.exists(), "a new format: keep a file of it, by tests/formats/written.py"
    assert form_of(today[kind]) == form_of(kept), (
        f"{kind} has another form than format {version} had: raise its number where it is written"
    )


def test_each_page_carries_the_version_of_its_form():
    for part in (comparison, doctor, studies, tracing):
        (folder, *_) = part.__path__
        pages = [page.read_text() for page in Path(folder, "templates").glob("*.jinja")]
        heads = [text for text in pages if "<head>" in text]
        assert len(heads) == 1
        assert '<meta name="generator" content="BatchNorm Mechanics, page format 1">' in heads[0]


# What we read of them: a folder of runs, and marks.


def folder_with(tmp_path, conditions, run):
    """Return the arguments that open a folder with these files, and its study."""
    place = tmp_path / "out" / "runs" / written.STUDY / "seed-100"
    place.mkdir(parents=True)
    (tmp_path / "out" / "conditions.json").write_text(json.dumps(conditions))
    (place / "run.json").write_text(json.dumps(run))
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in run["settings"].items()
    }
    study = dataclasses.replace(STUDIES[written.STUDY], settings=Settings(**settings))
    return (tmp_path / "out", {**conditions}), {study.name: study}


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("file", [one for one in OF_EACH_VERSION if "run-" in one.name])
def test_runs_of_every_version_are_read(tmp_path, file, says_so):
    run = written.content(file)
    conditions = written.content(file.with_name(file.name.replace("run-", "conditions-")))
    if not says_so:
        # As the first ones were.
        if run["format"] > 1:
            pytest.skip("it must say so")
        del run["format"], conditions["format"]
    arguments, study = folder_with(tmp_path, conditions, run)
    found = OutputFolder(*arguments)
    (read,) = found.finished(study)[written.STUDY]
    assert (read.seed, read.test) == (100, run["run"]["test"])
    assert found.damaged == []


@pytest.mark.parametrize("newer", ["conditions.json", "run.json"])
def test_runs_of_a_newer_version_are_refused_by_name_and_left_alone(tmp_path, newer, today):
    contents = {kind: written.content(today[kind]) for kind in ("conditions.json", "run.json")}
    contents[newer]["format"] += 1
    arguments, study = folder_with(tmp_path, *contents.values())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    with pytest.raises(InputError) as error:
        OutputFolder(*arguments).finished(study)
    assert str(error.value) == (
        "reproduce: `out` must be a new folder, or one of this version. Received: "
        f"out={str(tmp_path / 'out')!r}, in which {newer!r} was written by a newer version of "
        "BatchNorm Mechanics, in format 2, where this one reads up to 1. Update, or name another "
        "with --out; nothing in it was changed."
    )
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.json")} == before


@pytest.mark.parametrize("version", ["1", 0, True, None])
def test_what_has_no_version_in_the_place_of_one_is_damaged(tmp_path, version, today):
    contents = {kind: written.content(today[kind]) for kind in ("conditions.json", "run.json")}
    contents["run.json"]["format"] = version
    arguments, study = folder_with(tmp_path, *contents.values())
    found = OutputFolder(*arguments)
    assert found.finished(study) == {}
    assert [file.name for file in found.damaged] == ["run.json.damaged"]


@pytest.mark.parametrize("file", [one for one in OF_EACH_VERSION if "marked-" in one.name])
def test_marks_of_every_version_are_read(file):
    assert sorted(estimated_in(load_model(file))) == ["bn", "ours"]


def marked(tmp_path, **changes):
    """Return a model's file whose mark is changed."""
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.BatchNormalization()])
    model.save(tmp_path / "model.keras")
    mark = {"format": 1, "estimated": [], "weights": ""} | changes
    with zipfile.ZipFile(tmp_path / "model.keras", "a") as archive:
        archive.writestr("batchnorm_mechanics.json", json.dumps(mark))
    return tmp_path / "model.keras"


def test_a_mark_of_a_newer_version_is_refused_by_name(tmp_path):
    assert estimated_in(load_model(marked(tmp_path))) == frozenset()
    with pytest.raises(InputError, match="was written by a newer version of BatchNorm Mechanics"):
        load_model(marked(tmp_path, format=2))


def test_a_table_of_every_version_is_one_by_its_first_line():
    for file in OF_EACH_VERSION:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
            assert rows
            assert {int(row["format"]) for row in rows} == {int(file.stem.rpartition("-")[2])}
