"""The page, written once, and opened by each test."""

import pytest
from explorer_page import Explorer

from batchnorm_mechanics.explorer.page import write_page


@pytest.fixture(scope="session")
def written_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    write_page(path)
    return path


@pytest.fixture
def explorer(open_page, written_page):
    """Return a function that opens the page at an address."""

    def opened(address="", **context):
        return Explorer(open_page(**context), written_page).go(address)

    return opened
