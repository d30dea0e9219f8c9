"""What a notebook must hold is missed where it does not."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from notebooks import checks


def code(source="0", *outputs, seconds=1.0, run=1):
    """Return a cell of code that was run, and took so long."""
    metadata = {"cpu_seconds": seconds}
    return new_code_cell(source, outputs=[*outputs], execution_count=run, metadata=metadata)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def result(**data):
    data = {kind.replace("_", "/"): content for kind, content in data.items()}
    return new_output("execute_result", data=data, execution_count=1)


def found(check, *cells, **more):
    return list(check(new_notebook(cells=[*cells]), **more))


FIRST = """import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    %pip install -q "batchnorm-mechanics[notebook]"
"""


def test_a_good_notebook_has_no_problems(tmp_path):
    (tmp_path / "02_next.py").touch()
    text = new_markdown_cell("# Title\n\n[next](02_next.ipynb), [top](#Title)\n\nIt is 0.605.")
    cells = [code(FIRST), text, code("0.605", result(text_plain="0.605"))]
    assert found(checks.problems, *cells, folder=tmp_path) == []


def test_a_failed_cell_is_found():
    failed = new_output("error", ename="ValueError", evalue="no", traceback=[])
    assert found(checks.errors, code("0", failed)) == ["cell 0: ValueError: no"]


def test_a_cell_that_was_not_run_is_found():
    assert found(checks.errors, code(run=None)) == ["cell 0: it was not run"]


def test_a_warning_is_found():
    (line,) = found(checks.warnings, code("0", printed("UserWarning: x\n", name="stderr")))
    assert "UserWarning" in line


def test_a_slow_cell_and_a_slow_notebook_are_found():
    assert found(checks.slow_cells, code(seconds=59)) == []
    assert found(checks.slow_cells, code(seconds=61)) == ["cell 0: it took 61 s, more than 60"]
    assert found(checks.slow_cells, *(code(seconds=50) for _ in range(4))) == [
        "all cells together took 200 s, more than 180"
    ]


@pytest.mark.parametrize(
    ("output", "fits"),
    [
        (printed("x\n" * 40), True),
        (printed("x\n" * 41), False),
        (result(text_html="<table>" + "<tr><td>1</td></tr>" * 40 + "</table>"), True),
        (result(text_html="<table>" + "<tr><td>1</td></tr>" * 41 + "</table>"), False),
        (result(**{"image_svg+xml": '<svg width="9" height="800"/>'}), True),
        (result(**{"image_svg+xml": '<svg width="9" height="801"/>'}), False),
        (result(**{"image_svg+xml": '<svg viewBox="0 0 9 801"/>'}), False),
        (result(text_markdown="x\n" * 41), False),
    ],
)
def test_more_than_a_screen_is_found(output, fits):
    assert (found(checks.more_than_a_screen, code("0", output)) == []) is fits


def test_two_figures_of_more_than_half_a_screen_are_found():
    half = result(**{"image_svg+xml": '<svg height="420"/>'})
    assert len(found(checks.more_than_a_screen, code("0", half, half))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import keras",
        FIRST.replace("find_spec", "other"),
        FIRST.replace("    %pip", "%pip"),
        FIRST.replace("batchnorm-mechanics[", "keras["),
    ],
)
def test_a_first_cell_that_does_not_install_what_is_missing_is_found(source):
    assert found(checks.first_cell, code(FIRST)) == []
    assert found(checks.first_cell, code(source)) != []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "02_there.py").touch()
    text = "[a](02_there.ipynb) [b](02_gone.ipynb) [c](#One-two) [d](#three) `[e](no)`\n\n# One two"
    assert found(checks.broken_links, new_markdown_cell(text), folder=tmp_path) == [
        "cell 0: there is no 02_gone.ipynb",
        "cell 0: there is no heading #three",
    ]


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        "<script src='//cdn.example.org/a.js'></script>",
        '<img alt="" src=https://example.org/a.png>',
        '<link rel="stylesheet" href="http://example.org/a.css">',
        '<svg><image href="https://example.org/a.png"/></svg>',
        "<style>p { background: url(https://example.org/a.png) }</style>",
        '<style>@import "https://example.org/a.css"</style>',
        '<script>await import("https://example.org/a.js")</script>',
    ],
)
def test_an_output_that_asks_another_host_is_found(html):
    assert len(found(checks.requests, code("0", result(text_html=html)))) == 1


def test_a_link_and_a_name_in_an_output_ask_nobody():
    html = '<a href="https://example.org">x</a><svg xmlns="http://www.w3.org/2000/svg"></svg>'
    assert found(checks.requests, code("0", result(text_html=html))) == []
    assert len(found(checks.requests, code("0", result(text_markdown="![](https://a.org/b)")))) == 1
