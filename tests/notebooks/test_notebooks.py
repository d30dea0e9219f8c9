"""Every notebook runs, and says what its code shows."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from notebooks.checks import problems

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_says_what_its_code_shows(name):
    # In a process of its own: the warnings of what runs it are not ours.
    command = [sys.executable, str(FOLDER / "run.py"), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(ROOT / "build" / "notebooks" / f"{name}.ipynb", as_version=4)
    assert list(problems(notebook, FOLDER)) == []
