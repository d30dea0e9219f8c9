"""docs/how/source.md names the notebook and the heading of each of the source's items."""

import re
from pathlib import Path

import jupytext
import pytest
from notebooks.checks import headings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how" / "source.md").read_text(encoding="utf-8")
ROWS = re.findall(r"(?m)^\| (\d)\. .+ \| `(\w+)` \| (.+) \|$", PAGE)
IN_TEXT = re.findall(r"\(`(\d\d_\w+)`, ([^)]+)\)", PAGE)


def test_all_six_items_are_there():
    assert [int(number) for number, *_ in ROWS] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("notebook", "heading"), [*((name, heading) for _, name, heading in ROWS), *IN_TEXT]
)
def test_the_notebook_has_the_heading(notebook, heading):
    script = jupytext.read(ROOT / "notebooks" / f"{notebook}.py", fmt="py:percent")
    assert " ".join(heading.split()) in headings(script)


def test_questions_that_the_source_left_open_are_named():
    assert len(IN_TEXT) == 3
