"""What holds in every room: addresses, undo, code to copy, keyboard, widths, colours, access."""

import re
import statistics

import node
import numpy as np
import pytest
from commands import python_here

from batchnorm_mechanics.explorer import page as module

pytestmark = pytest.mark.browser
ROOMS = ("batch", "axes", "gradients", "statistics", "digits", "network")
STATES = {
    "batch": "#batch?x=1,2.5,-3;4,5,6;0.1,1e3,7&gamma=1,0.5,-2&epsilon=1e-5&mean=1,2,3&answer=2",
    "axes": "#axes?axes=2,0&x=" + ",".join(str((7 * number) % 24) for number in range(24)),
    "gradients": "#gradients?dy=1,2;3,-4;0.5,0;1,1&gamma=3,1&throughMean=no&channel=1",
    "statistics": "#statistics?source=5,2;-8,0.5&sizes=32,1&momentum=0.9&jump=60&at=70&seed=7",
    "digits": "#digits?mean=12300&dtype=float16&formula=tfnn&sample=2&variance=1&small=1e-3",
    "network": "#network?at=12&failure=domain&stage=repaired",
}
GRIDS = {
    "batch": ["x", "training-y", "inference-y", "training-variance"],
    "axes": ["groups", "steps"],
    "gradients": ["dX", "dVariance", "dMean", "dGamma"],
    "statistics": ["read", "batch", "before", "sizes"],
    "digits": ["digits", "errors", "held"],
    "network": ["now", "asked"],
}
GRIDS_OF = "inputs => inputs.map(input => input.dataset.cell.split('.')[0])"


@pytest.mark.parametrize("room", ROOMS)
def test_an_address_restores_the_whole_room(explorer, room):
    page = explorer(STATES[room])
    first = {name: page.numbers(name) for name in GRIDS[room]}
    assert not page.page.locator(".warning").is_visible()
    again = page.go(page.address)
    for name, numbers in first.items():
        np.testing.assert_array_equal(again.numbers(name), numbers)
    assert page.page.get_by_role("button", name="Undo").is_disabled()


def test_the_address_follows_every_change(explorer):
    page = explorer()
    page.write("x", 0, 0, "7")
    assert page.address == "#batch?x=7,2,3;4,5,6"
    page.page.get_by_role("link", name="Axes").click()
    assert page.address == "#axes"
    page.page.go_back()
    assert page.page.get_by_role("heading", name="One batch").is_visible()
    assert page.numbers("x")[0, 0] == 7


@pytest.mark.parametrize(
    "address",
    ["#nowhere", "#batch?x=no", "#batch?x=1;2,3&epsilon=0", "#axes?axes=", "#axes?axes=9,x&x=1",
     "#gradients?dy=1&channel=-5&throughMean=perhaps", "#batch?channel=99&answer=9", "#%E0%A4%A"],
)  # fmt: skip
def test_no_address_leaves_the_page_blank(explorer, address):
    page = explorer(address)
    assert page.page.get_by_role("heading", level=2).is_visible()
    assert page.page.locator("[role=gridcell]").count() > 10
    assert "NaN" not in page.page.locator("main").inner_text()


def test_what_an_address_says_wrongly_is_told(explorer):
    page = explorer("#batch?x=1,2;3&gamma=5,5,5")
    assert "could not be read in full: x" in page.page.get_by_role("alert").inner_text()
    assert page.numbers("gamma").tolist() == [[5, 5, 5]]


def test_typing_is_undone_as_one_and_redone(explorer):
    page = explorer()
    page.cell("x").click()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("12.5")
    page.page.keyboard.press("Tab")
    page.page.get_by_role("button", name="Undo").click()
    assert page.numbers("x")[0, 0] == 1
    assert page.cell("x").input_value() == "1"
    page.page.get_by_role("button", name="Redo").click()
    assert page.numbers("x")[0, 0] == 12.5


def test_one_starts_over_and_that_can_be_undone(explorer):
    page = explorer(STATES["gradients"])
    page.page.get_by_role("button", name="Start over").click()
    assert page.address == "#gradients"
    assert page.page.get_by_role("button", name="Start over").is_disabled()
    page.page.get_by_role("button", name="Undo").click()
    assert page.address == STATES["gradients"]


def printed(code, tmp_path):
    """The numbers that a program prints, by what they are called."""
    return {
        line.partition(" [")[0]: np.array(eval("[" + line.partition(" [")[2], {"nan": np.nan}))
        for line in python_here(code, cwd=tmp_path).splitlines()
        if " [" in line
    }


def test_the_code_of_room_1_prints_its_numbers(explorer, tmp_path):
    for address in ("", STATES["batch"]):
        page = explorer(address)
        numbers = printed(page.code(), tmp_path)
        for name, grid in [
            ("mean", "training-mean"),
            ("variance", "training-variance"),
            ("x_hat", "training-xHat"),
            ("y, training", "training-y"),
            ("y, inference", "inference-y"),
        ]:
            shown = page.numbers(grid).reshape(numbers[name].shape)
            np.testing.assert_allclose(shown, numbers[name], rtol=1e-6, err_msg=name)


def test_the_code_of_room_2_prints_its_numbers(explorer, tmp_path):
    for address in ("#axes", STATES["axes"]):
        page = explorer(address)
        numbers = printed(page.code(), tmp_path)
        groups = page.numbers("groups")
        np.testing.assert_allclose(groups[:, 1], numbers["mean"], rtol=1e-6)
        np.testing.assert_allclose(groups[:, 2], numbers["variance"], rtol=1e-6)
        last = list(numbers)[-1]
        np.testing.assert_allclose(numbers[last], numbers["variance"], rtol=1e-6)


def test_the_code_of_room_3_prints_its_numbers(explorer, tmp_path):
    for address in ("#gradients", STATES["gradients"], "#gradients?throughVariance=no"):
        page = explorer(address)
        numbers = printed(page.code(), tmp_path)
        names = ("dXHat", "dVariance", "dMean", "dX", "dGamma", "dBeta")
        for name, value in zip(names, list(numbers.values())[:6], strict=True):
            shown = page.numbers(name).reshape(value.shape)
            np.testing.assert_allclose(shown, value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_never_scrolls_sideways(explorer, room):
    page = explorer(STATES[room]).page
    for width in (320, 360, 768, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_large_batch_scrolls_within_its_grids(explorer):
    x = ";".join(",".join(str(row * 8 + column) for column in range(8)) for row in range(16))
    page = explorer(f"#batch?x={x}", viewport={"width": 360, "height": 800})
    assert page.numbers("training-y").shape == (16, 8)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 360


# The rooms share their colours, so that one in the dark stands for all.
@pytest.mark.parametrize(
    ("room", "scheme"),
    [
        *((room, "light") for room in ROOMS),
        (ROOMS[0], "dark"),
        *(pytest.param(room, "dark", marks=pytest.mark.thorough) for room in ROOMS[1:]),
    ],
)
def test_axe_finds_nothing(explorer, room, scheme):
    page = explorer(STATES[room], color_scheme=scheme).page
    for dialog in (False, True):
        if dialog:
            page.get_by_role("button", name="Copy as Python").click()
        assert node.axe(page) == []


def test_every_control_is_reached_by_tab(explorer):
    for room in ROOMS:
        page = explorer(f"#{room}").page
        reached = set()
        for _ in range(120):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    """(() => { const at = document.activeElement;
                    return at.dataset.cell?.split('.')[0] ?? at.getAttribute('aria-label')
                        ?? at.textContent; })()"""
                )
            )
        grids = page.evaluate(
            """[...new Set([...document.querySelectorAll('[data-cell]')]
                .filter(cell => cell.offsetParent !== null)
                .map(cell => cell.dataset.cell.split('.')[0]))]"""
        )
        assert set(grids) <= reached, room


def test_a_grid_is_one_stop_of_tab_where_one_was_last(explorer):
    page = explorer().page
    page.locator('[data-cell="x.0.0"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    at = "document.activeElement.dataset.cell"
    assert page.evaluate(at) == "gamma.0.0"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(at) == "x.1.1"


def test_nothing_moves_by_itself(explorer):
    page = explorer(reduced_motion="reduce").page
    page.locator('[data-cell="training-y.0.0"]').hover()
    assert page.evaluate("document.getAnimations().length") == 0


# Where there is room little moves.
@pytest.mark.parametrize("width", [360, pytest.param(1400, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "address",
    ["#batch", "#batch?x=1,2;1,3", "#axes", "#gradients", "#statistics", "#digits"],
)  # fmt: skip
def test_what_is_edited_stays_where_it_is_and_in_sight(explorer, address, width):
    page = explorer(address, viewport={"width": width, "height": 700}).page
    panel = page.locator(".inspector")
    for grid in set(page.eval_on_selector_all("input[data-cell]", GRIDS_OF)):
        input_ = page.locator(f"input[data-cell^='{grid}.']").first
        input_.focus()
        before = input_.bounding_box()
        # What makes remarks come and go, other digits wider, and the panel higher.
        for text in ("1", "-123456.789", "0", "many", "", "inf"):
            input_.fill(text)
            now = input_.bounding_box()
            assert now["y"] == pytest.approx(before["y"], abs=1), (grid, text)
            assert now["y"] + now["height"] <= panel.bounding_box()["y"], (grid, text)


def test_an_edit_of_16_by_8_values_is_quick(explorer):
    x = ";".join(",".join(str(row * 8 + column) for column in range(8)) for row in range(16))
    page = explorer(f"#batch?x={x}").page
    page.locator('[data-cell="x.3.4"]').focus()
    times = page.evaluate(
        """() => { const input = document.querySelector('[data-cell="x.3.4"]');
        return Array.from({length: 60}, (_, turn) => {
            input.value = String(turn / 7);
            const start = performance.now();
            input.dispatchEvent(new Event('input', {bubbles: true}));
            document.body.getBoundingClientRect();
            return performance.now() - start;
        }); }"""
    )
    assert statistics.median(times) < 50


def test_without_javascript_the_page_says_so(explorer):
    page = explorer(java_script_enabled=False).page
    assert page.locator("noscript").is_visible()
    assert "needs JavaScript" in page.locator("noscript").inner_text()


def test_the_page_holds_itself_to_asking_for_nothing():
    html = module.render()
    assert "default-src 'none'" in html
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', html) == []
    script = html.partition('<script type="module">')[2]
    assert script.count("</script") == 1


def test_what_python_gives_cannot_become_markup():
    html = module.render({"name": '"></div><script>alert(1)</script>'})
    assert "<script>alert" not in html
