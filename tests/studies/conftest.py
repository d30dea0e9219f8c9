"""Fixtures for the tests of what the studies show."""

from browser import chromium, open_page  # noqa: F401 - fixtures
