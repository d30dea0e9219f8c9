"""The explorer as a widget: traits that Python and the page both write, and a picture."""

import importlib
import json
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference
from batchnorm_mechanics._exceptions import InputError

# A widget in a page of its own: what anywidget's front end does with a model, in a few lines.
HOST = """<!doctype html><meta charset="utf-8"><div id="el"></div>
<script type="module">
const source = document.querySelector('script[type="text/plain"]').textContent;
const module = await import(URL.createObjectURL(new Blob([source], {type: 'text/javascript'})));
const traits = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const listeners = {};
window.saved = [];
window.model = {
  get: name => traits[name],
  set: (name, value) => {
    traits[name] = value;
    window.saved.push(name);
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  },
  save_changes: () => {},
  on: (event, listener) => (listeners[event] ??= []).push(listener),
  off: (event, listener) => {
    listeners[event] = listeners[event].filter(one => one !== listener);
  },
};
window.stop = module.default.render({model, el: document.getElementById('el')});
window.traits = traits;
</script>
<script type="text/plain">{source}</script><script type="application/json">{traits}</script>
"""


@pytest.fixture
def make():
    pytest.importorskip("anywidget", reason="the extra `notebook` is not installed")
    return bnm.Explorer


def test_it_begins_with_the_notebooks_example(make):
    explorer = make()
    assert explorer.x.tolist() == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_allclose(explorer.y[:, 0], [-0.9995557, 2.9995557], rtol=1e-6)
    np.testing.assert_allclose(explorer.y_inference[0, 0], 2.9990008, rtol=1e-6)


def test_what_is_set_changes_the_outputs(make, rng):
    x = rng.normal(size=(5, 4)).astype(np.float32)
    explorer = make(x, gamma=[1, 2, 3, 4], beta=0.5, epsilon=0.1)
    expected, *_ = reference.forward(x, [1, 2, 3, 4], np.full(4, 0.5), axes=0, epsilon=0.1)
    np.testing.assert_allclose(explorer.y, expected, rtol=1e-5, atol=1e-6)
    explorer.x = x[:, :2]
    assert explorer.gamma.tolist() == [1, 2]
    assert explorer.y.shape == (5, 2)
    explorer.x = np.zeros((3, 8))
    assert explorer.gamma.tolist() == [1, 2, 2, 2, 2, 2, 2, 2]
    explorer.moving_mean = np.ones(8)
    assert explorer.y_inference.shape == (3, 8)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("x", np.zeros((17, 2)), r"`x` must have the shape 1 to 16 x 1 to 8"),
        ("x", np.zeros(3), r"`x` must have the shape"),
        ("gamma", np.zeros((2, 2)), r"`gamma` must have the shape 1 to 8"),
        ("epsilon", 0.0, "`epsilon` must be a positive number"),
        ("moving_variance", [-1.0, 1, 1], "`moving_variance` must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(make, name, value, why):
    import traitlets

    explorer = make()
    before = np.array(getattr(explorer, name))
    with pytest.raises(traitlets.TraitError, match=why):
        setattr(explorer, name, value)
    np.testing.assert_array_equal(getattr(explorer, name), before)


def test_its_state_is_json(make):
    explorer = make([[np.nan, 0.1], [np.inf, -1e30]])
    state = explorer.get_state(["x", "gamma", "epsilon", "address"])
    assert json.loads(json.dumps(state, allow_nan=False))["x"] == [["nan", 0.1], ["inf", -1e30]]
    explorer.set_state({"x": [["nan", 2.5], ["-inf", 1]], "epsilon": 0.25})
    assert explorer.epsilon == 0.25
    assert explorer.x[:, 1].tolist() == [2.5, 1]
    assert np.isnan(explorer.x[0, 0])


def test_a_picture_stands_where_no_javascript_runs(make):
    explorer = make([[1.0, -2.0], [np.nan, 4.0]])
    data, _ = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    picture = ET.fromstring(data["image/svg+xml"])
    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Input x", "Output y, training", "Output y, inference", "−2", "nan"} <= set(words)


def test_without_anywidget_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "batchnorm_mechanics.explorer.widget", raising=False)
    notebook = importlib.import_module("batchnorm_mechanics.explorer.notebook")
    with pytest.raises(InputError, match=r"batchnorm-mechanics\[notebook\]"):
        notebook.Explorer()


@pytest.fixture
def shown(make, open_page, tmp_path):
    """Return a function that shows a widget, and gives the page and what Python receives of it."""

    def show(**traits):
        explorer = make(**traits)
        names = [name for name in explorer.keys if not name.startswith("_")]
        state = explorer.get_state(set(names) - {"layout", "tabbable", "tooltip"})
        source = explorer._esm.replace("</script", r"<\/script")
        path = tmp_path / "widget.html"
        host = HOST.replace("{source}", source).replace("{traits}", json.dumps(state))
        path.write_text(host, encoding="utf-8")
        page = open_page(path).page
        page.get_by_role("gridcell").first.wait_for()
        return explorer, page

    return show


@pytest.mark.browser
def test_an_edit_on_the_page_reaches_python(shown):
    explorer, page = shown()
    page.locator("[data-cell='x.0.1']").fill("inf")
    page.locator("[data-cell='gamma.0.0']").fill("7")
    page.locator("[data-cell='inference-mean.0.2']").fill("-1")
    page.get_by_role("link", name="Axes").click()
    sent = page.evaluate("window.traits")
    explorer.set_state(sent)
    assert explorer.x.tolist() == [[1, np.inf, 3], [4, 5, 6]]
    assert explorer.gamma.tolist() == [7, 2, 2]
    assert explorer.moving_mean.tolist() == [0, 0, -1]
    assert explorer.address == "#axes"


@pytest.mark.browser
def test_a_trait_that_python_sets_reaches_the_page(shown):
    explorer, page = shown()
    explorer.x = [[1.5], [2.5], [np.nan]]
    for name in ("gamma", "beta", "moving_mean", "moving_variance", "x"):
        value = explorer.get_state([name])[name]
        page.evaluate("([name, value]) => window.model.set(name, value)", [name, value])
    values = page.evaluate(
        """[0, 1, 2].map(row => document.querySelector(`[data-cell="x.${row}.0"]`)
            .closest('td').dataset.value)"""
    )
    assert values == ["1.5", "2.5", "nan"]
    page.evaluate("window.model.set('address', '#gradients?throughMean=no')")
    assert page.get_by_role("heading", name="Back through it").is_visible()
    assert not page.get_by_label("through the mean").is_checked()


@pytest.mark.browser
def test_it_begins_as_python_says_with_nothing_to_undo_and_can_be_taken_away(shown):
    _, page = shown(x=[[1.0, 2.0]], address="#axes?axes=2")
    assert page.get_by_role("heading", name="Which numbers share a mean").is_visible()
    assert page.get_by_role("button", name="Undo").is_disabled()
    assert page.evaluate("location.hash") == ""
    page.evaluate("window.stop()")
    assert page.locator("#el").inner_html() == ""


@pytest.mark.browser
@pytest.mark.parametrize("room", ["batch", "axes", "gradients"])
def test_what_has_the_focus_keeps_its_keys_in_jupyterlab(shown, room):
    _, page = shown(address=f"#{room}")
    without = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea, a, [tabindex="0"],' +
            '[role=gridcell][data-cell]')]
            .filter(each => !each.hasAttribute('data-lm-suppress-shortcuts'))
            .map(each => each.outerHTML)"""
    )
    assert without == []
