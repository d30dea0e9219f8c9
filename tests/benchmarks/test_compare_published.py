"""The table of published pairs on the page about comparing is what was measured."""

import json
import subprocess
import sys

import compare_published
import numpy as np

RECORD = json.loads(compare_published.RECORD.read_text(encoding="utf-8"))
ROWS = {row["network"]: row for row in RECORD["rows"]}


def test_the_page_shows_the_record():
    whole = compare_published.PAGE.read_text(encoding="utf-8")
    assert compare_published.page(RECORD, whole) == whole


def test_of_pairs_that_agree_each_stage_has_its_counterpart():
    agree = [name for name, row in ROWS.items() if row["agrees"]]
    assert agree == [name for name in ROWS if name != "hey_rhasspy_v0.1"]
    for name in agree:
        row = ROWS[name]
        assert row["without_counterpart"] == []
        assert {stage["matched_by"] for stage in row["stages"]} <= {"value", "output"}
        rounded = row["outputs"][0]["is_rounding"]
        far = [stage for stage in row["stages"] if stage["inherited"] < 100]
        assert len(far) <= (2 if rounded else 0)


def test_its_names_say_that_counterparts_are_the_true_ones():
    stages = ROWS["embedding_model"]["stages"]
    assert len(stages) == 63
    # The last has the name of the output.
    for stage in stages[:-1]:
        layer = stage["layers"][-1].split("/")[1]
        number = layer.rpartition("_")[2] if layer.rpartition("_")[2].isdecimal() else ""
        # Where it merged the batch norm, LiteRT calls the convolution by it.
        names = {layer, f"batch_normalization_{number}".rstrip("_")}
        assert stage["counterpart"].split("/")[1].split(";")[0] in names


def test_samples_overlap_as_the_published_program_takes_them():
    parts = compare_published.windows(np.arange(7), 3, 2)
    np.testing.assert_array_equal(parts, [[0, 1, 2], [2, 3, 4], [4, 5, 6]])


def test_without_a_folder_it_says_so():
    command = [sys.executable, compare_published.__file__]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "name the folder, or give --page" in ended.stderr
