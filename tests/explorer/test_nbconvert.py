"""A notebook with the widget as nbconvert's page: a picture stands where no widget runs."""

import base64
import re
import xml.etree.ElementTree as ET

import pytest

pytestmark = pytest.mark.thorough
CELL = """import batchnorm_mechanics as bnm
bnm.Explorer([[1.0, -2.0], [3.0, 6.0]])"""
NUMBERS = {
    "Input x",
    "Output y, training",
    "Output y, inference",
    "−2",
    "−0.999",
    "2.999",
    "−2.998",
}
PICTURE = r'<img [^>]*src="data:image/svg\+xml;base64,([\w+/=]+)"'
VIEW, STATE = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("view", "state"))


@pytest.fixture(scope="module")
def ran():
    """The notebook after it has run, without the widgets' state."""
    pytest.importorskip("anywidget", reason="the extra `notebook` is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = nbclient.NotebookClient(
        book, timeout=120, kernel_name="python3", store_widget_state=False
    )
    return client.execute()


def exported(book):
    """Nbconvert's page, without what it loads itself for formulas and scripts of other cells."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="").from_notebook_node(
        book
    )
    return page


@pytest.mark.browser
def test_without_its_state_the_picture_stands_and_asks_no_host(ran, open_page, tmp_path):
    assert "widgets" not in ran.metadata
    html = exported(ran)
    (found,) = re.findall(PICTURE, html)
    words = ET.fromstring(base64.b64decode(found)).itertext()
    assert set(words) >= NUMBERS
    path = tmp_path / "book.html"
    path.write_text(html, encoding="utf-8")
    picture = open_page(path).page.locator("img[src^='data:image/svg']")
    assert picture.evaluate("picture => picture.complete && picture.naturalWidth > 100")


def test_with_its_state_the_notebook_keeps_the_picture_and_the_page_has_the_widget_alone(ran):
    from nbconvert import HTMLExporter

    (output,) = ran.cells[0].outputs
    assert {VIEW, "image/svg+xml"} <= set(output.data)
    own = output.data[VIEW]["model_id"]
    book = ran.copy()
    # What nbclient adds, as far as nbconvert asks for it.
    book.metadata = {**ran.metadata, "widgets": {STATE: {"state": {own: {}}}}}
    page, _ = HTMLExporter().from_notebook_node(book)
    # What the docstring of `Explorer` says: its scripts come from another host then.
    assert own in page
    assert "https://unpkg.com" in page
    assert re.findall(PICTURE, page) == []
