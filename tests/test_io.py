"""What all parts read, write and show in one way."""

import io
import json as standard
import os
import subprocess
import sys
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from batchnorm_mechanics._io import json
from batchnorm_mechanics._io.arrays import piece_of, pieces_in
from batchnorm_mechanics._io.files import HeldError, alone_in, write_atomically, written_whole
from batchnorm_mechanics._io.progress import Display


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_what_json_has_no_literal_for_is_a_word_whatever_its_type(kind):
    values = [kind("nan"), kind("inf"), kind("-inf"), kind(1.5)]
    assert json.plain(values) == ["NaN", "Infinity", "-Infinity", 1.5]
    assert json.plain(np.array(values[-2:])) == ["-Infinity", 1.5]


def test_integers_booleans_and_keys_become_those_of_json():
    found = json.plain({1: np.int64(3), "b": np.bool_(True), "c": (None, np.array(2))})
    assert found == {"1": 3, "b": True, "c": [None, 2]}
    assert [type(value) for value in (found["1"], found["b"])] == [int, bool]


def test_floats_are_rounded_where_digits_are_named_and_integers_are_not():
    assert json.plain([0.123456789, 123456789], digits=6) == [0.123457, 123456789]


def test_a_record_is_its_fields_and_those_of_the_records_in_it():
    @dataclass
    class Part(json.Record):
        value: float

    @dataclass
    class Whole(json.Record):
        name: str
        parts: tuple[Part, ...]

    found = Whole("a", (Part(0.5), Part(float("nan"))))
    assert found.to_dict() == {"name": "a", "parts": [{"value": 0.5}, {"value": "NaN"}]}
    assert json.plain([found]) == [found.to_dict()]


def test_anything_else_is_what_python_says_of_it():
    @dataclass
    class Policy:
        decay: float = 0.5

    assert json.plain(Policy()).endswith("Policy(decay=0.5)")


def test_json_text_holds_nothing_that_json_lacks():
    def refuse(word):
        raise AssertionError(word)

    text = json.text({"gap": float("nan")})
    assert standard.loads(text, parse_constant=refuse) == {"gap": "NaN"}


def progress_of(*, terminal):
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=terminal, width=60), "All of it", 2) as display:
        display.part("a", "  the first", total=3)
        display.part("a", "  the first", done=2)
        display.say("half is done")
        display.end("a")
        display.end("never begun")
        display.advance()
    return out.getvalue()


def test_where_there_is_no_terminal_only_what_is_said_is_printed():
    assert progress_of(terminal=False) == "half is done\n"


def test_a_terminal_has_a_bar_for_the_whole_and_each_part():
    shown = progress_of(terminal=True)
    assert all(part in shown for part in ("All of it", "  the first", "half is done"))


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_being_done_is_named_in_a_terminal_and_a_file(terminal):
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=terminal, width=60), "starting") as display:
        display.now("measuring [1/2]")
    assert "measuring [1/2]" in out.getvalue()
    assert ("starting" in out.getvalue()) == terminal


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.float64(3), np.asfortranarray(np.eye(2))])
def test_an_array_is_read_whole_whatever_its_shape_and_order(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    found = piece_of(tmp_path / "a.npy")
    assert found.size == np.size(values)
    np.testing.assert_array_equal(found.read(), values)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "values", [np.arange(3), np.asfortranarray(np.eye(2, 3)), np.zeros((0, 2))]
)
def test_an_archive_is_known_before_it_is_read(tmp_path, save, values):
    save(tmp_path / "a.npz", a=values)
    found = pieces_in(tmp_path / "a.npz")["a"]
    assert (found.shape, found.dtype, found.size) == (values.shape, values.dtype, values.size)
    np.testing.assert_array_equal(found.read(), values)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def interrupted():
        with written_whole(path) as part:
            part.write_text("half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    with written_whole(path) as part:
        assert part.suffix == ".txt"
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_what_a_killed_process_has_left_goes_with_the_next_writing_and_nothing_else(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from batchnorm_mechanics._io.files import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", code, path], check=False)
    (left,) = tmp_path.iterdir()
    elsewhere = left.with_name(left.name.replace(f".{left.name.split('.')[-3]}.", ".elsewhere."))
    alive = left.with_name(f"{'.'.join(left.name.split('.')[:-2])}.{os.getppid()}.part")
    for folder in (elsewhere, alive):
        folder.mkdir()
    write_atomically(path, "whole")
    assert {*tmp_path.iterdir()} == {path, elsewhere, alive}


def test_a_folder_is_held_by_one_process_and_free_when_it_is_killed(tmp_path):
    code = (
        "import pathlib, sys, time\n"
        "from batchnorm_mechanics._io.files import alone_in\n"
        "with alone_in(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in\n"
        by = f"process {process.pid} on .*, since 2"
        with pytest.raises(HeldError, match=by), alone_in(tmp_path):
            pytest.fail("two at once")
        process.kill()
    with alone_in(tmp_path):
        (tmp_path / ".lock.json").write_text("damaged")
        with pytest.raises(HeldError, match=r"^another process$"), alone_in(tmp_path):
            pytest.fail("two at once")
