"""The explorer's modules: joined as they are, checked, and tested in Node.js's own runner."""

import subprocess

import node

from batchnorm_mechanics.explorer import page

JS = node.ROOT / "batchnorm_mechanics" / "explorer" / "js"


def test_the_page_s_one_module_is_that_of_its_sources():
    built = node.tool("esbuild", *node.build_options())
    assert built.returncode == 0, built.stderr
    assert built.stdout == page.script_file().read_text(encoding="utf-8"), "run `make explorer`"


def test_it_is_small():
    assert page.script_file().stat().st_size < 200_000


def test_no_source_is_long():
    lengths = {path.name: path.read_text(encoding="utf-8").count("\n") for path in JS.glob("*.js")}
    assert {name: lines for name, lines in lengths.items() if lines >= 300} == {}


def test_the_tests_in_javascript_pass():
    files = sorted(map(str, (node.HERE / "explorer").glob("*.test.js")))
    assert files
    done = subprocess.run(
        [node.node(), "--test", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
