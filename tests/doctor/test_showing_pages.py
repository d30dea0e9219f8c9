"""The page of a diagnosis: everything in it, nothing asked for, readable anywhere."""

from html.parser import HTMLParser

import pytest
from doctor.made_up_diagnoses import SICK, diagnosis, finding

from batchnorm_mechanics.doctor.showing import page


class Page(HTMLParser):
    """The words of a page, its tags, the addresses it asks for, and the rows of its tables."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.addresses, self.rows = [], [], [], []
        self.in_cell = False
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href"}]
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"} and self.rows:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self.in_cell = False

    def handle_data(self, data):
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def shown(found, **options):
    return Page(page(found, file="model.keras", **options))


def test_every_finding_is_there_with_its_numbers_and_the_page_asks_for_nothing():
    of = shown(SICK, next_steps=("Repair: bnm repair model.keras",))
    for words in (
        "model.keras: 3 batch norm layers, 1,000 samples",
        "3 errors, 2 warnings, 1 note: 2 causes, the first BN101 non-finite-statistics.",
        "the cause of BN101 in bn_1.",
        "the remedy of BN101.",
        "error BN205 non-finite-activations in bn_2",
        "Repair: bnm repair model.keras",
    ):
        assert words in of.text
    assert of.addresses == ["data:,"]
    assert "script" not in of.tags
    measured = "largest gap 12.35, samples 1,000"
    assert ["bn_1", "0, 3", measured] in of.rows
    assert ["bn_2BN205", "all", measured] in of.rows
    assert sum(row[-1:] == [measured] for row in of.rows) == len(SICK.findings)


def test_layers_that_were_not_seen_are_named_with_the_reason():
    found = diagnosis(samples=10, unseen={"cell/bn": "it runs in a loop"})
    assert "cell/bn: it runs in a loop" in shown(found).text
    assert "Not seen" not in shown(SICK).text


def test_the_map_has_the_worst_of_each_rule_by_layer_in_the_model_s_order():
    found = diagnosis(
        finding("BN201", "bn_3"),
        finding("BN114", ""),
        finding("BN101", "bn_1", severity="warning"),
        finding("BN101", "bn_1"),
    )
    rows = shown(found).rows
    start = rows.index(
        ["Layer", "BN101non-finite-statistics", "BN114partly-frozen", "BN201train-inference-gap"]
    )
    assert rows[start + 1 :] == [
        ["bn_1", "error", "", ""],
        ["bn_3", "", "", "error"],
        ["the model", "", "note", ""],
    ]


def test_the_story_of_each_rule_found_is_told():
    of = shown(diagnosis(finding("BN105"), finding("BN101")))
    from batchnorm_mechanics.doctor.rules import RULES

    for code in ("BN101", "BN105"):
        assert " ".join(RULES[code].story.split())[:200] in of.text
    assert "details" in of.tags
    assert "BN105 suspicious-momentum" in of.text


def test_all_channels_are_given_and_neighbours_together():
    of = shown(diagnosis(finding("BN101", channels=(*range(2048), 3000, 3002, 3003))))
    assert ["bn_1", "0-2047, 3000, 3002-3003", "largest gap 12.35, samples 1,000"] in of.rows


def test_what_is_code_in_a_sentence_is_code_on_the_page():
    html = page(diagnosis(finding("BN101", remedy="Say `a < b` or not.")), file="m.keras")
    assert "Say <code>a &lt; b</code> or not." in html


@pytest.mark.parametrize(("layers", "is_open"), [(8, True), (9, False)])
def test_what_was_seen_is_open_where_it_is_short(layers, is_open):
    names = tuple(f"bn_{number}" for number in range(layers))
    html = page(diagnosis(*(finding("BN101", name) for name in names), norms=names), file="m")
    assert ("<details open>" in html) == is_open


def test_of_the_next_steps_only_commands_look_like_commands():
    html = page(SICK, file="m", next_steps=("Scale the data.", "Repair: bnm repair m"))
    assert "<p>Scale the data.</p>" in html
    assert "<pre>Repair: bnm repair m</pre>" in html


def test_a_healthy_model_has_a_page_without_tables():
    of = shown(diagnosis())
    assert "Nothing is wrong." in of.text
    assert "table" not in of.tags


def test_markup_in_a_name_stays_text():
    evil = "<img src=x>"
    html = page(diagnosis(finding("BN101", evil), norms=(evil,)), file=evil)
    assert "<img" not in html
    assert evil in Page(html).text


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_phone_and_a_wide_screen(open_page, tmp_path, width, scheme):
    path = tmp_path / "diagnosis.html"
    long = diagnosis(
        *(finding("BN201", f"stage/{n}/block_with_a_long_name/bn_{n}") for n in range(12)),
        *SICK.findings,
    )
    path.write_text(page(long, file="model.keras"), encoding="utf-8")
    of = open_page(path, viewport={"width": width, "height": 900}, color_scheme=scheme).page
    assert of.evaluate("document.documentElement.scrollWidth") <= width
    dark = of.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
    assert dark == (scheme == "dark")
    # A layer's name is read in words, not letter by letter.
    assert of.locator(".map tbody th").first.bounding_box()["height"] < 120
    # The verdict is on the first screen.
    assert of.locator(".headline").bounding_box()["y"] < 300
    story = of.locator("details.story").first
    story.locator("summary").click()
    assert story.locator("pre").is_visible()
