"""Open our own pages in Chromium, cut off from the network."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "ws://127.0.0.1:")
ARGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


@dataclass
class Watched:
    """A page, and what it did that a page of ours must not do."""

    page: object
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, path) -> None:
        self.page.goto(path.resolve().as_uri())

    def check(self) -> None:
        assert self.requests == []
        assert self.errors == []


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """Start Chromium once; without one, skip, or fail where CI=true: nobody would see the skip."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        reason = f"none of {', '.join(NAMES)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and {reason}")
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Give a function that opens a page and watches it; afterwards hold the page to the rules."""
    opened = []

    def open_watched(path=None, **context):
        page = chromium.new_page(**context)
        watched = Watched(page)

        def note(url):
            if not url.startswith(LOCAL):
                watched.requests.append(url)

        page.on("request", lambda request: note(request.url))
        page.on("websocket", lambda socket: note(socket.url))
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                watched.errors.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        opened.append(watched)
        if path is not None:
            watched.open(path)
        return watched

    yield open_watched
    for watched in opened:
        watched.page.close()
        watched.check()
