"""docs/conventions.md says what the libraries do that are installed here, and its code runs."""

import importlib.util
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from commands import python_here

from batchnorm_mechanics.conformance import subjects
from batchnorm_mechanics.conformance.conventions import find_conventions

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "conventions.md").read_text(encoding="utf-8")


def generator():
    spec = importlib.util.spec_from_file_location("conventions_page", DOCS / "conventions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def column(lines, number):
    return [line.split("|")[number].strip() for line in lines]


@pytest.mark.parametrize("place", range(11))
def test_the_table_says_what_the_probe_finds_now(place, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    made = generator()
    name = made.SUBJECTS[place]
    package = next((key for key, (spec, _) in made.FURTHER.items() if spec == name), None)
    here = (
        name in subjects.default_names() if package is None else importlib.util.find_spec(package)
    )
    if not here:
        pytest.skip(f"{name} is not installed")
    now = made.table({name: asdict(find_conventions(subjects.resolve(name)))})
    written = [line for line in PAGE.splitlines() if line.startswith("|")][: len(now)]
    assert column(written, 1) == column(now, 1)
    assert column(written, place + 2) == column(now, 2)


def test_the_code_for_carrying_weights_runs_and_prints_what_is_shown(tmp_path):
    pytest.importorskip("torch")
    code, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, flags=re.S).groups()
    assert python_here(code, cwd=tmp_path) == output
