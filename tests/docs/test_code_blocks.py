"""The code on the pages runs, and prints what they show; commands are what `bnm` takes.

The README's is run by `test_readme.py`, that of what is wrong by `test_symptoms.py`.
"""

import shlex
from pathlib import Path

import pytest
from docs.followed_pages import follow, steps_of
from typer.main import get_command

from batchnorm_mechanics._tensorflow import one_dnn_is_on
from batchnorm_mechanics.cli import app

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if not path.relative_to(DOCS).parts[0].startswith("_")
}
WITH_PYTHON = {
    name: [step for step in steps_of(page) if step.kind == "python"]
    for name, page in PAGES.items()
    if not name.startswith("wrong/")
}
COMMANDS = sorted(
    {
        line.partition("#")[0].strip().removeprefix(".venv/bin/")
        for page in PAGES.values()
        for step in steps_of(page)
        if step.kind == "sh"
        for line in step.code.splitlines()
        if line.partition("#")[0].strip()
    }
)
MAKEFILE = (DOCS.parent / "Makefile").read_text(encoding="utf-8")


def refusal(command):
    """Say why a line of `sh` on a page cannot be typed, or None."""
    # What follows is the shell's.
    words = shlex.split(command.partition(" > ")[0])
    if words[0] == "make":
        return None if f"\n{words[1]}:" in MAKEFILE else f"no target {words[1]}"
    if words[0] != "bnm":
        return f"a page shows {words[0]}, which nothing here tries"
    try:
        get_command(app).commands[words[1]].make_context(words[1], words[2:])
    except Exception as error:
        return repr(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, steps in WITH_PYTHON.items() if steps])
def test_the_python_of_a_page_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    # What is printed has a line more where oneDNN is off because nobody chose.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1" if one_dnn_is_on() else "0")
    follow(WITH_PYTHON[page], tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_page_is_one_that_is_taken(command):
    assert refusal(command) is None


@pytest.mark.parametrize(
    "command",
    ["bnm doctor model.keras --date x.npz", "bnm doctr", "make nothing", "pip install x"],
)
def test_a_command_that_is_not_taken_is_found(command):
    assert refusal(command) is not None
