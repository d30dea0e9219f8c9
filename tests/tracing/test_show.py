"""What a terminal, a notebook and a browser show of a trace."""

import io
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

import batchnorm_mechanics as bnm
from batchnorm_mechanics.tracing.show import print_trace, shown

A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
RNG = np.random.default_rng(0)
TRACES = {
    "small": lambda: bnm.trace(A, gamma=2.0, beta=1.0, dy=A * A, compare=True),
    "inference": lambda: bnm.trace(A, training=False, compare=True),
    "four axes": lambda: bnm.trace(np.arange(24.0).reshape(2, 2, 3, 2), axes=[0, 1, 2]),
    "large": lambda: bnm.trace(RNG.normal(size=(64, 7, 7, 32)) * 1e5, axes=[0, 1, 2]),
    "five axes": lambda: bnm.trace(RNG.normal(size=(3, 4, 3, 4, 3)), axes=[0, 1]),
    "wide": lambda: bnm.trace(-RNG.normal(size=(2, 40)) * 1e-9, compare=True),
    "nan": lambda: bnm.trace([[1.0, np.nan], [2.0, np.inf]], dy=[[1.0, 2.0], [3.0, 4.0]]),
    "layer": lambda: bnm.trace(keras.layers.BatchNormalization(), A, training=True, dy=A * A),
    "policy": lambda: bnm.trace(A, statistics=bnm.AverageOfBatches()),
    "no samples": lambda: bnm.trace(np.zeros((0, 3)), training=False, compare=True),
}


@pytest.fixture(params=list(TRACES), scope="module")
def found(request):
    return TRACES[request.param]()


class Page(HTMLParser):
    """The words of a page, its tags, and the addresses that it asks for."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.addresses = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href"}]

    def handle_data(self, data):
        self.words.append(data)


def test_no_line_is_longer_than_80_columns(found):
    assert max(map(len, str(found).splitlines())) <= 80


def test_text_names_every_step_with_its_shape(found):
    text = str(found)
    for step in found.all_steps():
        assert step.name.split()[0] in text
        assert step.dtype in text


def test_the_page_has_every_sentence_and_asks_for_nothing(found):
    page = Page(found.to_html())
    for sentence in (*found.why, *found.notes, found.title):
        assert " ".join(sentence.split()) in page.text
    assert page.addresses == ["data:,"]
    assert "script" not in page.tags


def test_a_notebook_shows_a_fragment_whose_style_stays_inside(found):
    html = found._repr_html_()
    page = Page(html)
    assert html.strip().startswith('<div class="bnm-trace">')
    assert not {"html", "body", "head", "script"} & set(page.tags)
    style = html.partition("<style>")[2].partition("</style>")[0]
    rules = [line for line in style.splitlines() if line.strip()]
    assert rules
    for rule in rules:
        selectors = rule.partition("{")[0].split(",")
        assert all(selector.strip().startswith(".bnm-trace") for selector in selectors)
    assert page.addresses == []


def test_the_numbers_of_the_source_are_in_text_and_page():
    found = TRACES["small"]()
    for shown_as in (str(found), Page(found.to_html()).text):
        for figure in ("[2.5 3.5 4.5]", "[2.25 2.25 2.25]", "-0.9995557", "2.9995557"):
            assert figure in shown_as


def test_large_arrays_are_abridged_and_their_shape_is_stated():
    text = str(TRACES["large"]())
    assert "..." in text
    assert "(64, 7, 7, 32) float64" in text
    assert text.count("\n") < 200


def test_a_failed_check_is_marked_in_text_and_page():
    class Wrong(keras.layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) + 1

    found = bnm.trace(Wrong(), A)
    assert "✗" in str(found)
    assert "does not hold" in found.to_html()


def test_markup_in_a_name_stays_text():
    evil = "<img src=x>"
    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.BatchNormalization()], name="[red]" + evil
    )
    found = bnm.trace(model, A)
    assert "<img" not in found.to_html() + found._repr_html_()
    assert "[red]<img src=x>" in " ".join(str(found).split())


def test_a_narrow_terminal_is_obeyed_and_a_terminal_has_colour():
    out = io.StringIO()
    print_trace(TRACES["small"](), Console(file=out, width=80, force_terminal=True))
    assert "\x1b[" in out.getvalue()
    assert "\x1b[" not in str(TRACES["small"]())
    narrow = io.StringIO()
    print_trace(TRACES["small"](), Console(file=narrow, width=64))
    assert max(map(cell_len, narrow.getvalue().splitlines())) <= 64


def test_small_numbers_keep_their_digits():
    assert shown(np.array([3.5524368e-4, -3.5536289e-4]), 60) == "[ 0.0003552437 -0.0003553629]"
    assert shown(np.array([2 / 3]), 60) == "[0.6666667]"


# --- In the browser -----------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_phone_and_a_wide_screen(open_page, tmp_path, width, scheme):
    path = tmp_path / "trace.html"
    path.write_text(TRACES["small"]().to_html(), encoding="utf-8")
    page = open_page(path, viewport={"width": width, "height": 900}, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
    assert dark == (scheme == "dark")
    assert page.get_by_text("[2.25 2.25 2.25]").first.is_visible()
    assert page.locator("table.steps tbody tr").count() == 11 + 7
    assert page.evaluate(
        "[...document.querySelectorAll('.steps pre')].every(e => e.getBoundingClientRect().right"
        f" <= {width})"
    )


@pytest.mark.browser
@pytest.mark.parametrize("ink", ["rgb(0, 0, 0)", "rgb(255, 255, 255)"])
def test_the_fragment_takes_the_notebook_s_ink(open_page, tmp_path, ink):
    path = tmp_path / "notebook.html"
    path.write_text(
        f'<!doctype html><link rel="icon" href="data:,"><body style="color: {ink}">'
        f"{TRACES['small']()._repr_html_()}<h2 id='mine'>mine</h2>",
        encoding="utf-8",
    )
    page = open_page(path).page
    for selector in (".bnm-trace td", ".bnm-trace pre", ".bnm-trace th"):
        assert page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color") == ink
