"""The page of a comparison in a browser: readable on a phone, by everybody, asking for nothing."""

import compared_networks as networks
import node
import pytest

from batchnorm_mechanics.comparison.compare import compare
from batchnorm_mechanics.comparison.showing import page


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from comparison.conftest import made

    model, data = made("mobile")
    other = networks.folded(networks.faulty(model, "0_depth_bn", "initial_statistics"))
    path = tmp_path_factory.mktemp("comparison") / "page.html"
    path.write_text(page(compare(model, other, data)), encoding="utf-8")
    return path


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_for_a_phone_and_for_everybody(open_page, file, scheme):
    # Afterwards `open_page` fails on any request.
    of = open_page(file, viewport={"width": 360, "height": 800}, color_scheme=scheme).page
    assert of.evaluate("document.documentElement.scrollWidth") <= 360
    assert node.axe(of) == []
    assert of.locator("td.differs").count() == 1
