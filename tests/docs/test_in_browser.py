"""The site in Chromium: search, the explorer within it, widths, access; no other host is asked."""

import node
import pytest

# Whichever comes first waits until the site is built.
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
WIDTHS = (360, 1400)
# One of each kind of page.
KINDS = (
    "index.html",
    "wrong/index.html",
    "wrong/masks.html",
    "howto/judge.html",
    "how/mathematics.html",
    "notebooks/01_simple_inputs.html",
    "conventions.html",
    "files_and_data.html",
    "rules/index.html",
    "rules/BN201.html",
    "commands/doctor.html",
    "reference/index.html",
    "reference/layers.html",
    "changes.html",
    "under_the_hood/floors.html",
    "search.html?q=folding",
)
# What people type, and a page that answers it.
SEARCHED = {
    "val accuracy collapses": "wrong/good-in-training.html",
    "folding": "wrong/folding-and-export.html",
    "momentum 0.1 pytorch": "wrong/ported-from-pytorch.html",
}


def opened(open_page, address, **context):
    page = open_page(**context).page
    page.goto(address)
    return page


@pytest.mark.parametrize("width", WIDTHS)
def test_the_search_leads_to_the_page_that_answers(open_page, served, width):
    page = open_page(viewport={"width": width, "height": 900}).page
    for words, answer in SEARCHED.items():
        page.goto(f"{served}/index.html")
        page.locator("button.search-button__button, button.search-button-field").locator(
            "visible=true"
        ).first.click()
        field = page.locator("#pst-search-dialog input[type=search]")
        field.fill(words)
        with page.expect_navigation():
            field.press("Enter")
        page.wait_for_function("/finished/.test(document.body.innerText)")
        found = page.locator("#search-results ul.search > li > a").evaluate_all(
            "links => links.map(link => link.pathname.slice(1))"
        )
        assert answer in found[:3], words


@pytest.mark.parametrize("width", WIDTHS)
def test_the_explorer_works_within_the_first_page(open_page, served, width):
    page = opened(open_page, f"{served}/index.html", viewport={"width": width, "height": 900})
    page.locator("iframe.explorer").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe.explorer")
    output = frame.locator('[data-cell="training-y.0.0"]')
    output.wait_for()
    before = output.inner_text()
    frame.locator('[data-cell="x.0.0"]').fill("100")
    assert output.inner_text() != before
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("location.pathname") == "/index.html"


def test_no_page_is_wider_than_a_telephone(open_page, site):
    page = open_page(viewport={"width": 360, "height": 900}).page
    paths = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    written = [path for path in paths if not path.startswith(("_static/", "live/"))]
    wide = {}
    # Many are of one kind: some of all, besides one of each.
    for path in {*written[::8], *(kind for kind in KINDS if kind in written)}:
        page.goto((site / path).as_uri(), wait_until="domcontentloaded")
        seen = page.evaluate("document.documentElement.scrollWidth")
        if seen > 360:
            wide[path] = seen
    assert wide == {}


@pytest.mark.parametrize(
    ("scheme", "kinds"),
    [("light", KINDS), pytest.param("dark", KINDS[::3], marks=pytest.mark.thorough)],
)
def test_axe_finds_nothing_on_any_kind_of_page(open_page, served, scheme, kinds):
    page = open_page(color_scheme=scheme, viewport={"width": 1400, "height": 900}).page
    found = {}
    for kind in kinds:
        page.goto(f"{served}/{kind}")
        if page.evaluate("document.documentElement.scrollWidth") > 1400:
            found[kind] = "wider than the window"
        if told := node.axe(page):
            found[kind] = told
    assert found == {}


def test_the_first_page_is_whole_as_a_file(open_page, site):
    page = open_page().page
    page.goto((site / "index.html").as_uri())
    page.locator("iframe.explorer").scroll_into_view_if_needed()
    page.frame_locator("iframe.explorer").locator('[data-cell="x.0.0"]').wait_for()
    page.get_by_role("link", name="Rules").first.click()
    page.get_by_role("heading", name="Rules", level=1).wait_for()
