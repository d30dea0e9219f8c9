"""The site in Chromium: search, the explorer within it, widths, access; no other host is asked."""

import node
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
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


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window(open_page, site, width):
    page = open_page(viewport={"width": width, "height": 900}).page
    wide = {}
    for path in sorted(site.rglob("*.html")):
        if path.parent.name not in ("_static", "live"):
            page.goto(path.as_uri())
            seen = page.evaluate("document.documentElement.scrollWidth")
            if seen > width:
                wide[path.relative_to(site).as_posix()] = seen
    assert wide == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_kind_of_page(open_page, served, scheme):
    page = open_page(color_scheme=scheme).page
    found = {}
    for kind in KINDS:
        page.goto(f"{served}/{kind}")
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
