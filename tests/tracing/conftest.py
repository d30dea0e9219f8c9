"""Fixtures for the tests of what a trace shows."""

from browser import chromium, open_page  # noqa: F401 - fixtures
