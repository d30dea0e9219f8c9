"""The HTML report: one file, no request, every number, and charts that draw."""

import re
from html.parser import HTMLParser

import node
import pytest
from made_up_runs import DATA, ENVIRONMENT, made_up

from batchnorm_mechanics.studies import report
from batchnorm_mechanics.studies.registry import STUDIES
from batchnorm_mechanics.studies.report import render, write_report
from batchnorm_mechanics.studies.summary import results

PAPER = ("paper-with-bn", "paper-without-bn")
MNIST = tuple(name for name in STUDIES if name not in PAPER)


class Page(HTMLParser):
    """The text that a reader without JavaScript sees, and the addresses that are asked for."""

    def __init__(self, html):
        super().__init__()
        self.words, self.addresses, self.open, self.ids = [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


@pytest.fixture(scope="module")
def found():
    return made_up()


@pytest.fixture(scope="module")
def path(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(found, path)
    return path


@pytest.fixture(scope="module")
def html(path):
    return path.read_text(encoding="utf-8")


def test_without_javascript_the_page_has_every_number(found, html):
    text = Page(html).text
    assert text.index(found["conclusion"]) < text.index("Published and ours")
    for study in found["studies"]:
        for figures in study["summary"].values():
            keys = ("mean", "std", "min", "max", "published")
            for value in (figures[key] for key in keys):
                assert value is None or f"{value:.2f}" in text
        for run in study["runs"]:
            assert f"{run['test']:.2f}" in text
    for effect in found["effects"]:
        assert f"{effect['from']} → {effect['to']}" in text
        assert f"{abs(effect['difference']):.2f}" in text
    for miss in found["misses"]:
        assert miss["why"] in text
    for value in (ENVIRONMENT["tensorflow"], ENVIRONMENT["platform"], DATA["sha256"]):
        assert value in text


def test_it_asks_for_nothing(html):
    page = Page(html)
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in html
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_it_is_about_a_megabyte(html):
    assert 0.8e6 < len(html.encode()) < 1.5e6


def test_what_comes_from_outside_cannot_become_markup(monkeypatch):
    monkeypatch.setattr(report, "_bundle", lambda: "")
    evil = "</script><script>alert(1)</script><!--"
    text = render(made_up(("keras-100",), name=evil))
    assert "alert(1)</script>" not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text


def test_a_script_in_the_bundle_cannot_end_early(html):
    bundle = html.partition('<script type="module">')[2]
    assert bundle.count("</script") == 1
    assert "<!--" not in bundle


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_bundle", lambda: "draw()")
    path = tmp_path / "new" / "report.html"
    write_report(made_up(("keras-100",)), path)
    before = path.read_bytes()
    monkeypatch.setattr(report, "_charts", lambda results: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(made_up(("keras-916",)), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


@pytest.mark.thorough
def test_more_rows_than_altair_likes_are_drawn(monkeypatch):
    monkeypatch.setattr(report, "_bundle", lambda: "")
    assert "chart-0" in render(made_up(("keras-100", "keras-916"), range(300)))


CASES = {
    "all": {},
    "one study, one seed": {"names": ("keras-100",), "seeds": (1,)},
    "without the paper": {"names": MNIST, "seeds": (1, 2)},
    "the paper alone": {"names": PAPER},
    "half of the paper": {"names": PAPER[:1]},
    "quick": {"quick": True},
    "other data": {"name": "my.npz"},
    "interrupted": {"names": ("keras-100",), "planned_runs": 9},
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_results_has_a_page(case, monkeypatch):
    monkeypatch.setattr(report, "_bundle", lambda: "draw()")
    text = Page(render(made_up(**CASES[case]))).text
    assert ("The paper's experiment" in text) == (case not in {*list(CASES)[1:3], "interrupted"})
    assert ("quick run on a tenth of the data. It is not comparable" in text) == (case == "quick")
    assert ("Runs on other data than MNIST (my.npz)" in text) == (case == "other data")
    assert ("Not finished: 3 of 9 runs." in text) == (case == "interrupted")


def test_no_results_have_a_page_too():
    html = render(results(ENVIRONMENT, DATA, STUDIES, {}, planned_runs=4))
    assert "Not finished: 0 of 4 runs." in html
    assert "vega" not in html.partition("<style>")[0]


# --- In the browser -----------------------------------------------------------------------------


def drawn(watched):
    watched.page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
    return watched.page


@pytest.mark.browser
def test_all_charts_draw_something(open_page, path, found):
    page = drawn(open_page(path))
    expected = 1 + 3 + 1 + 1 + 1 + 2 + 1 + 2
    sizes = page.evaluate(
        """[...document.querySelectorAll(".plot")].map(plot => {
            const box = plot.querySelector("svg").getBoundingClientRect();
            const marks = plot.querySelectorAll("svg .role-mark path").length;
            return [box.width, box.height, marks];
        })"""
    )
    assert len(sizes) == expected
    assert [size for size in sizes if min(size) <= 0] == []
    labels = page.evaluate(
        """[...document.querySelectorAll(".plot")].map(p => p.getAttribute("aria-label"))"""
    )
    assert all(len(label) > 40 for label in labels)


@pytest.mark.browser
def test_the_chart_of_test_accuracies_has_a_dot_for_each_seed(open_page, path, found):
    page = drawn(open_page(path))
    dots = page.locator("#chart-3 .layer_3_marks path").count()
    assert dots == sum(len(study["runs"]) for study in found["studies"] if study["name"] in MNIST)
    diamonds = page.locator("#chart-3 .layer_4_marks path").count()
    assert diamonds == 3


@pytest.mark.browser
def test_the_table_has_our_numbers(open_page, path, found):
    page = drawn(open_page(path))
    rows = dict(
        page.evaluate(
            """[...document.querySelectorAll("#accuracies tbody tr")].map(
                row => [row.cells[0].innerText, row.textContent])"""
        )
    )
    names = [f"{study['name']}\n{study['title']}" for study in found["studies"]]
    assert list(rows) == names
    for name, study in zip(names, found["studies"], strict=True):
        assert f"{study['summary']['test']['mean']:.2f}" in rows[name]


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 400, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(open_page, path, width, scheme):
    page = drawn(open_page(path, viewport={"width": width, "height": 800}, color_scheme=scheme))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widest = "Math.max(...[...document.querySelectorAll('svg')].map(s => s.clientWidth))"
    assert page.evaluate(widest) <= width


@pytest.mark.browser
def test_choosing_a_study_changes_its_curves(open_page, path):
    page = drawn(open_page(path))
    # The first of the two charts of learning curves.
    lines = page.locator("#chart-7 .role-mark path")
    before = lines.first.get_attribute("d")
    page.locator("#chart-7 + .choose select").select_option("reversed-100-short")
    page.wait_for_function(
        "before => document.querySelector('#chart-7 .role-mark path').getAttribute('d') !== before",
        arg=before,
    )


@pytest.mark.browser
def test_the_charts_follow_when_the_page_turns_dark(open_page, path):
    page = drawn(open_page(path, color_scheme="light"))
    ink = "getComputedStyle(document.querySelector('#chart-0 .role-axis-label text')).fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => {ink} !== before", arg=light)
    assert page.locator("#chart-7 + .choose select").count() == 1


@pytest.mark.browser
def test_each_study_says_what_it_is_wherever_a_chart_names_it(open_page, path, found):
    page = drawn(open_page(path))
    shown = page.evaluate(
        """[...document.querySelectorAll("#chart-1, #chart-4, #chart-5")].map(plot =>
            [...plot.querySelectorAll("text")].map(text =>
                [...text.querySelectorAll("tspan")].map(line => line.textContent).join(" ")
                || text.textContent).join(" ").replace(/\\s+/g, " "))"""
    )
    mnist, published, compared = shown
    for study in found["studies"]:
        if study["name"] in MNIST:
            assert study["title"] in mnist
        if study["published"]:
            assert study["title"] in published
        if any(study["name"] in (each["from"], each["to"]) for each in found["effects"]):
            assert study["title"] in compared
    options = page.locator("#chart-7 + .choose option").all_inner_texts()
    assert options == [f"{name}: {STUDIES[name].title}" for name in MNIST]


@pytest.mark.browser
def test_axe_finds_nothing_and_the_keyboard_reaches_all(open_page, path):
    page = drawn(open_page(path, color_scheme="light"))
    assert node.axe(page) == []
    page.emulate_media(color_scheme="dark")
    assert node.axe(page) == []
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    stops = page.evaluate(
        """[...document.querySelectorAll("a[href], select, summary, [tabindex='0']")]
            .filter(stop => stop.checkVisibility({visibilityProperty: true})
                && !stop.closest("details:not([open]) > :not(summary)"))
            .map(stop => stop.outerHTML.slice(0, 60))"""
    )
    assert set(stops) <= reached


@pytest.mark.browser
def test_on_paper_it_is_light_and_nothing_is_folded_away(open_page, path):
    page = drawn(open_page(path, color_scheme="dark", viewport={"width": 700, "height": 900}))
    page.emulate_media(media="print", color_scheme="dark")
    fill = "getComputedStyle(document.querySelector('#chart-0 .role-axis-label text')).fill"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(fill) == "rgb(28, 30, 33)"
    assert page.evaluate(
        """[...document.querySelectorAll("details table")].every(
            table => table.checkVisibility({contentVisibilityAuto: true})
                && table.getBoundingClientRect().height > 0)"""
    )
    assert not page.locator("nav").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 700


@pytest.mark.browser
def test_without_javascript_tables_are_there_and_empty_charts_are_not(open_page, path):
    page = open_page(path, java_script_enabled=False).page
    assert page.locator("#accuracies").is_visible()
    assert not page.locator(".chart").first.is_visible()
    assert page.get_by_text("The charts need JavaScript").is_visible()


@pytest.mark.browser
def test_a_page_that_asks_for_something_fails(open_page, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://example.invalid/x.png"><script>throw Error("no")</script>')
    watched = open_page(path)
    watched.page.wait_for_load_state()
    with pytest.raises(AssertionError):
        watched.check()
    assert watched.requests == ["http://example.invalid/x.png"]
    assert any(re.search("no", error) for error in watched.errors)
    watched.requests.clear()
    watched.errors.clear()
