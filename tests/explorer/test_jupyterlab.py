"""The widget in JupyterLab, as a person has it: shown, edited, and set from Python."""

import importlib.util
import json

import jupyter_lab
import numpy as np
import pytest
from browser import LOCAL

from batchnorm_mechanics import reference

pytestmark = [pytest.mark.browser, pytest.mark.thorough, pytest.mark.timeout(90)]
FIRST = """import batchnorm_mechanics as bnm
explorer = bnm.Explorer([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0]])
explorer"""


@pytest.fixture(scope="module")
def notebook(chromium, tmp_path_factory):
    """A notebook that shows the widget; in the end it must have kept to itself."""
    for package in ("anywidget", "jupyterlab"):
        # They are for other processes: to import them here takes seconds.
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder = tmp_path_factory.mktemp("lab")
    asked, errors = [], []
    with jupyter_lab.server(folder) as address:
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.set_default_timeout(60_000)
        try:
            book = jupyter_lab.Notebook(page, address, folder, FIRST)
            book.run(0)
            page.locator(".bnm-explorer [role=gridcell]").first.wait_for()
            yield book
        finally:
            page.close()
    assert [url for url in asked if not url.startswith(LOCAL)] == []
    assert errors == []


@pytest.fixture
def lab(notebook):
    """The notebook, with the widget in its first room and numbers that all tests begin with."""
    notebook.python("explorer.address = '#batch'")
    notebook.python("explorer.x = [[1, 2], [3, 6], [5, 4]]")
    notebook.page.locator("[data-cell='x.2.1']").wait_for()
    return notebook


def told(lab, name):
    return np.array(json.loads(lab.python(f"print(explorer.{name}.tolist())")), np.float32)


def type_into(lab, cell, text):
    lab.page.locator(f"[data-cell='{cell}']").click()
    lab.page.keyboard.press("Control+a")
    lab.page.keyboard.type(text)


def test_what_is_typed_on_the_page_is_read_in_python(lab):
    type_into(lab, "x.0.0", "12.5")
    x = [[12.5, 2], [3, 6], [5, 4]]
    np.testing.assert_array_equal(told(lab, "x"), x)
    expected, *_ = reference.forward(x, [2, 2], [1, 1], axes=0, epsilon=1e-3)
    np.testing.assert_allclose(told(lab, "y"), expected, rtol=1e-5)


def test_what_python_sets_is_on_the_page(lab):
    # An address says what x is, too; what is set after it in the same cell holds.
    lab.python("explorer.address = '#batch?epsilon=0.5'; explorer.x = [[7.0, 8.0], [9.0, 2.5]]")
    lab.page.wait_for_function(
        """() => [...document.querySelectorAll('[data-cell^="x."], [data-cell^="epsilon"]')]
            .map(input => input.value).join() === '7,8,9,2.5,0.5'"""
    )
    lab.page.wait_for_timeout(300)
    np.testing.assert_array_equal(told(lab, "x"), [[7, 8], [9, 2.5]])
    lab.python("explorer.address = '#gradients?throughMean=no'")
    lab.page.get_by_role("heading", name="Back through it").wait_for()
    assert not lab.page.get_by_label("through the mean").is_checked()


def test_keys_are_the_widget_s_while_it_has_the_focus(lab):
    lab.page.locator(".bnm-explorer nav").get_by_role("link", name="Over time").click()
    slider = lab.page.get_by_role("slider", name="Go to a batch")
    slider.focus()
    for key, value in (("ArrowRight", "51"), ("ArrowDown", "50"), ("ArrowLeft", "49")):
        lab.page.keyboard.press(key)
        assert slider.input_value() == value
    # Letters are JupyterLab's commands outside of a text: b would add a cell, and x cut one.
    lab.page.get_by_role("button", name="One batch further").focus()
    lab.page.keyboard.press("b")
    lab.page.keyboard.press("x")
    assert lab.cells.count() == 2


def test_undo_takes_an_edit_back_in_python_too(lab):
    type_into(lab, "x.1.1", "-4")
    assert told(lab, "x")[1, 1] == -4
    lab.page.locator("[data-cell='x.1.1']").click()
    lab.page.keyboard.press("Control+z")
    assert lab.page.locator("[data-cell='x.1.1']").input_value() == "6"
    assert told(lab, "x")[1, 1] == 6
    lab.page.get_by_role("button", name="Redo").click()
    assert told(lab, "x")[1, 1] == -4
