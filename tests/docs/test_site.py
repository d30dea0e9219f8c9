"""The site holds together: links, names, rules, commands, and the floors' picture."""

import ast
import re
import zlib
from pathlib import Path

import pytest
from docs.site_links import broken
from typer.main import get_command

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference
from batchnorm_mechanics.cli import app
from batchnorm_mechanics.doctor.rules import RULES

PACKAGE = Path(bnm.__file__).parent


def needs_the_site(test):
    """Whichever comes first waits until the site is built."""
    return pytest.mark.slow(pytest.mark.timeout(600)(test))


def public_functions_of_the_oracle():
    return {f"batchnorm_mechanics.reference.{name}" for name in reference.__all__}


def named_in_the_stub():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    (names,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    return {f"batchnorm_mechanics.{name}" for name in ast.literal_eval(names)}


def documented(site):
    """Return the names of Python that the site has an entry for, as other sites look them up."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


@needs_the_site
def test_no_link_or_anchor_leads_nowhere_and_no_page_asks_another_host(site):
    assert list(broken(site)) == []


@needs_the_site
def test_every_public_name_is_documented(site):
    # A string, of which the page of the reference says what it is.
    wanted = named_in_the_stub() - {"batchnorm_mechanics.__version__"}
    assert "bnm.__version__" in (site / "reference" / "index.html").read_text(encoding="utf-8")
    wanted |= public_functions_of_the_oracle()
    assert wanted - documented(site) == set()


@needs_the_site
def test_the_signature_of_a_name_says_its_types_and_its_example_is_there(site):
    page = (site / "reference" / "core.html").read_text(encoding="utf-8")
    entry = page[page.index('id="batchnorm_mechanics.merge_moments"') :].partition("<dt")[0]
    text = re.sub(r"<[^>]+>", "", entry)
    assert re.search(r"merge_moments\(\s*a: Moments,\s*b: Moments,\s*\)\s*&#x2192; Moments", text)


@needs_the_site
def test_every_rule_and_every_command_has_its_page(site):
    for code, rule in RULES.items():
        page = (site / "rules" / f"{code}.html").read_text(encoding="utf-8")
        assert f"{code} {rule.name}" in page
    for name, command in get_command(app).commands.items():
        page = (site / "commands" / f"{name}.html").read_text(encoding="utf-8")
        options = {option for param in command.params for option in param.opts if "--" in option}
        assert {option for option in options if option not in page} == set()


@needs_the_site
def test_pages_show_nothing_of_the_machine_that_built_them(site):
    root = str(PACKAGE.parent)
    showing = [
        path.relative_to(site).as_posix()
        for path in site.rglob("*")
        if path.suffix in (".html", ".js") and root in path.read_text(encoding="utf-8")
    ]
    assert showing == []


@needs_the_site
def test_formulas_are_set_when_the_site_is_built(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "mathjax" not in text.lower(), path


PAGE = '<h1 id="a">A</h1><a href="{}">b</a>'


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (PAGE.format("gone.html"), "a.html leads to gone.html, which is not there"),
        (PAGE.format("#b"), "a.html leads to #b, where there is no such anchor"),
        (PAGE.format("a.html#c"), "a.html leads to a.html#c, where there is no such anchor"),
        (PAGE.format("#a") + '<img src="no.png">', "a.html leads to no.png, which is not there"),
        (
            PAGE.format("a.html") + '<script src="https://cdn.example.org/x.js"></script>',
            "a.html fetches https://cdn.example.org/x.js",
        ),
        (PAGE.format("#a") + '<link href="//fonts.example.org/f.css">', "a.html fetches "),
    ],
)
def test_a_broken_page_is_found(page, said, tmp_path):
    (tmp_path / "a.html").write_text(page)
    (found,) = broken(tmp_path)
    assert found.startswith(said)


def test_a_whole_page_is_left_in_peace(tmp_path):
    (tmp_path / "a.html").write_text(PAGE.format("a.html#a") + PAGE.format("https://example.org/"))
    assert list(broken(tmp_path)) == []
