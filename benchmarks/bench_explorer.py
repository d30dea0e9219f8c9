"""What the explorer's page takes in Chromium for an edit, and for a frame while it plays.

A value is one edit: its scripting, with the layout that follows from it, by the page's own clock.
`python -m pyperf stats` says medians and worst; 16 ms is a frame of the screen, 50 ms the promise.
"""

import functools
import shutil
import sys
import tempfile
from pathlib import Path

from runner import Runner

# The browser is found and started as the tests do.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import browser
from playwright.sync_api import sync_playwright

from batchnorm_mechanics.explorer.page import write_page

_ROWS = ";".join(",".join(f"{(7 * row + 3 * at) % 11 - 5}" for at in range(8)) for row in range(16))
# Where each room is opened, and what is edited there; sizes are the largest that it takes.
EDITS = {
    "batch, 16 x 8": (f"#batch?x={_ROWS}", "x.3.4"),
    "axes, 2 x 2 x 3 x 2": ("#axes", "x"),
    "gradients, 16 x 8": (f"#gradients?x={_ROWS}&dy={_ROWS}", "dy.3.4"),
    "statistics, 300 batches": ("#statistics?batches=300&at=300", "momentum.0.0"),
    "digits": ("#digits", "mean.0.0"),
}
FRAMES = {
    "statistics, 300 batches": "#statistics?batches=300&at=0",
    "network": "#network?at=0",
}
_EDIT = """([cell, turn]) => {
    const input = document.querySelector(`input[data-cell^="${cell}"]`);
    const before = document.querySelector('main').innerText;
    input.value = String(0.1 + (turn % 97) / 200);
    const start = performance.now();
    input.dispatchEvent(new Event('input', {bubbles: true}));
    document.body.getBoundingClientRect();
    const seconds = (performance.now() - start) / 1000;
    if (document.querySelector('main').innerText === before) throw new Error('nothing changed');
    return seconds;
}"""
# The page plays at an interval: its frame is kept, to be called at once.
_KEEP = """window.setInterval = (frame) => { window.frame = frame; return 1; };
window.clearInterval = () => { window.frame = undefined; };"""
_FRAME = """() => {
    if (window.frame === undefined) document.querySelector('.playback .primary').click();
    const slider = document.querySelector('.playback input');
    const before = slider.value;
    const start = performance.now();
    window.frame();
    document.body.getBoundingClientRect();
    const seconds = (performance.now() - start) / 1000;
    if (slider.value === before) throw new Error('it does not play');
    return seconds;
}"""


@functools.cache
def _chromium():
    executable = next(filter(None, map(shutil.which, browser.NAMES)), None)
    if executable is None:
        raise SystemExit(f"none of {', '.join(browser.NAMES)} is installed")
    # They end with this process, which times and does nothing else.
    playwright = sync_playwright().start()
    return playwright.chromium.launch(executable_path=executable, args=list(browser.ARGS))


@functools.cache
def _room(address):
    """Open a room; it stays open, as it does for a person."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "explorer.html"
    write_page(path)
    page = _chromium().new_page(viewport={"width": 1400, "height": 900})
    page.add_init_script(_KEEP)
    page.goto(path.as_uri() + address)
    page.locator("[role=gridcell]").first.wait_for()
    shutil.rmtree(folder)
    page.turn = 0
    return page


def edit(loops, address, cell):
    """Return the seconds that edits of a cell take, each to another number."""
    page = _room(address)
    seconds = 0.0
    for _ in range(loops):
        page.turn += 1
        seconds += page.evaluate(_EDIT, [cell, page.turn])
    return seconds


def frame(loops, address):
    """Return the seconds that frames of playing take; at the end it begins anew."""
    page = _room(address)
    return sum(page.evaluate(_FRAME) for _ in range(loops))


def main():
    """Measure each room in a process of its own."""
    runner = Runner(processes=1, values=200, warmups=3)
    for name, (address, cell) in EDITS.items():
        runner.time(f"explorer, an edit: {name}", edit, address, cell)
    for name, address in FRAMES.items():
        runner.time(f"explorer, a frame: {name}", frame, address)
    runner.finish()


if __name__ == "__main__":
    main()
