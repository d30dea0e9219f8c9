"""Fixtures for the tests of what the doctor shows."""

from browser import chromium, open_page  # noqa: F401 - fixtures
