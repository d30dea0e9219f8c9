"""A command names the page that says more: its path where it was built, else what builds it."""

import pytest
from commands import bnm_here

from batchnorm_mechanics._io import site

UNBUILT = "rules/BN201.html of the documentation, which `make docs` builds in a checkout"


@pytest.fixture
def checkout(tmp_path):
    page = tmp_path / "docs" / "_build" / "html" / "rules" / "BN201.html"
    page.parent.mkdir(parents=True)
    for file in (page, tmp_path / "docs" / "conf.py", tmp_path / "pyproject.toml"):
        file.write_text("")
    return tmp_path


def test_a_page_that_was_built_is_named_by_its_path(checkout):
    path = checkout / "docs" / "_build" / "html" / "rules" / "BN201.html"
    assert site.where("rules/BN201", checkout) == str(path)


@pytest.mark.parametrize(
    "missing", ["docs/_build/html/rules/BN201.html", "docs/conf.py", "pyproject.toml"]
)
def test_of_a_page_that_is_not_there_the_line_says_what_builds_it(checkout, missing):
    (checkout / missing).unlink()
    assert site.where("rules/BN201", checkout) == UNBUILT


def test_the_story_of_a_rule_ends_with_its_page(monkeypatch, tmp_path):
    monkeypatch.setattr(site, "where", lambda page: f"HERE/{page}")
    done = bnm_here("doctor", "--explain", "train-inference-gap", cwd=tmp_path)
    assert done.out.splitlines()[-1] == "Page: HERE/rules/BN201"
