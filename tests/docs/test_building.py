"""What pages are made of the code by docs/_ext: links, rules, docstrings, floors, notebooks."""

import doctest
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))

import docstrings  # noqa: E402 - found by the line above
import floors  # noqa: E402
import gathering  # noqa: E402
import links  # noqa: E402
import looks  # noqa: E402
import notebook_pages  # noqa: E402
import rules_pages  # noqa: E402

from batchnorm_mechanics._io.html import family_style  # noqa: E402


@pytest.mark.parametrize(
    "module", [docstrings, floors, links, looks, rules_pages], ids=lambda module: module.__name__
)
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)


PAGES = {"docs/how/a.md": "how/a.md", "SECURITY.md": "security.md", "docs/b.md": "b.md"}


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("[s](../../SECURITY.md#safe)", "[s](../security.md#safe)"),
        ("[b](../b.md)", "[b](../b.md)"),
        ("[other](https://example.org/SECURITY.md)", "[other](https://example.org/SECURITY.md)"),
        ("[here](#heading)", "[here](#heading)"),
        ("[gone](../../gone.md)", "[gone](../../gone.md)"),
        ("`x[0](../../SECURITY.md)`", "`x[0](../../SECURITY.md)`"),
        ("```\n[s](../../SECURITY.md)\n```", "```\n[s](../../SECURITY.md)\n```"),
    ],
)
def test_a_link_leads_to_the_same_page_on_the_site(text, moved):
    assert links.moved(text, "docs/how/a.md", "how/a.md", pages=PAGES) == moved


def test_every_page_that_people_wrote_is_gathered():
    pages = gathering.written()
    assert {"docs/index.md", "docs/conventions.md", "CHANGELOG.md"} <= set(pages)
    assert len(set(pages.values())) == len(pages)
    assert not [path for path in pages if "_build" in path]


def test_a_rules_code_leads_to_its_page_but_in_code_headings_and_on_its_own():
    text = "# BN201\n\nsee BN103, `BN103`, BN201, BN999\n\n    BN103\n"
    assert rules_pages.linked(text, own="BN201") == (
        "# BN201\n\nsee [BN103](BN103.md), `BN103`, BN201, BN999\n\n    BN103\n"
    )


def test_a_bar_outside_code_is_a_bar_and_a_section_in_one_line_a_paragraph():
    lines = ["Return |x|, as `|x|`.", "", "Args: x,", "    and y.", "", ">>> abs(1) | 2", "3"]
    assert docstrings.readable(lines) == [
        r"Return \|x\|, as `|x|`.", "", "", "**Args**: x,", "and y.", "", ">>> abs(1) | 2", "3",
    ]  # fmt: skip


def test_the_site_has_the_colours_of_the_family():
    made = looks.family()
    for line in family_style().splitlines()[:2]:
        colours = line[line.rindex("{") + 1 : line.index("}")].strip()
        assert colours in made


SOURCES = {
    "core/__init__.py": '"""The algorithm."""\n',
    "core/axes.py": "import keras\n",
    "layers/layer.py": "from batchnorm_mechanics.core import axes\nimport numpy\n",
    "cli/main.py": (
        "def run():\n    from batchnorm_mechanics.layers import layer\n"
        "    from batchnorm_mechanics.core import axes\n"
        "    from batchnorm_mechanics._io import files\n"
    ),
    "_io/files.py": "",
}


def test_floors_follow_from_the_imports_in_the_code():
    parts = floors.parts_of(SOURCES)
    assert floors.floors_of(parts) == [["core"], ["layers"], ["cli"]]
    assert parts["core"].says == "The algorithm."
    assert parts["core"].modules == 2


def test_the_picture_leaves_out_what_a_way_over_other_parts_says():
    parts = floors.parts_of(SOURCES)
    assert floors.stairs(parts) == {("layers", "core"), ("cli", "layers")}
    assert floors.picture(parts).count('class="stair"') == 2
    assert "| `cli` |  | 1 | 4 | core 1, layers 1 |" in floors.table(parts)


def test_the_picture_shows_every_part_of_the_package():
    shown = floors.pages()["floors.svg.txt"]
    folders = {path.parent.name for path in (ROOT / "batchnorm_mechanics").glob("*/__init__.py")}
    assert {name for name in folders if f"{name}" not in shown} == set()


def test_a_notebook_that_was_not_run_comes_without_outputs(tmp_path):
    scripts, executed = tmp_path / "scripts", tmp_path / "executed"
    scripts.mkdir()
    executed.mkdir()
    (scripts / "01_a.py").write_text("# %% [markdown]\n# # A\n# %%\n1 + 1\n")
    assert '"outputs": []' in notebook_pages.pages(scripts, executed)["01_a.ipynb"]
    (executed / "01_a.ipynb").write_text("run")
    made = notebook_pages.pages(scripts, executed)
    assert made["01_a.ipynb"] == "run"
    assert "01_a" in made["index.md"]


def test_no_box_of_the_floors_lies_on_another():
    corners = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', floors.pages()["floors.svg.txt"])
    assert len(corners) == len(set(corners)) > 8
