"""docs/bad_inputs.md says what each bad input gets, and that is what it gets."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("bad_inputs_page", DOCS / "bad_inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = generator()
PAGE = MADE.PAGE.read_text(encoding="utf-8").splitlines()
INPUTS = [(command, bad) for command, inputs in MADE.COMMANDS.items() for bad in inputs]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    MADE.write_files(folder)
    if importlib.util.find_spec("onnx") is not None:
        MADE.write_onnx(folder)
    return folder


# What reads a file of its kind must be there to say what is wrong with it.
NEEDED = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert", ".xml": "openvino"}


def need_runtimes(bad):
    for suffix, module in NEEDED.items():
        if suffix in bad.arguments:
            pytest.importorskip(module)


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "bad"), INPUTS, ids=[f"{command} {bad.arguments}" for command, bad in INPUTS]
)
def test_each_gets_its_line_and_nothing_else(files, monkeypatch, command, bad):
    need_runtimes(bad)
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "80")
    before = contents(files)
    code, out, err = MADE.said(command, bad)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    # What the parser refuses comes with the usage.
    assert err.startswith("Usage: ") or len(err.splitlines()) == 1
    assert {path for path in contents(files) if path.suffix != ".pyc"} == {*before}
    assert MADE.row(command, bad, code, err) in PAGE


def test_the_page_has_no_other_lines():
    lines = [line for line in PAGE if line.startswith("| ") and "what is wrong" not in line]
    assert len(lines) - len(MADE.COMMANDS) == len(INPUTS) >= 60
