import bench_explorer
import pytest

pytestmark = pytest.mark.browser


@pytest.fixture
def browser(chromium, monkeypatch):
    # One process has one Chromium.
    monkeypatch.setattr(bench_explorer, "_chromium", lambda: chromium)
    yield
    bench_explorer._room.cache_clear()


def some_at_once(names):
    """The first, and the others in the thorough tests: they differ in the address alone."""
    first, *others = names
    return [first, *(pytest.param(one, marks=pytest.mark.thorough) for one in others)]


@pytest.mark.parametrize("name", some_at_once(bench_explorer.EDITS))
def test_what_is_timed_is_an_edit_that_changes_the_page(browser, name):
    assert 0 < bench_explorer.edit(2, *bench_explorer.EDITS[name]) < 10


@pytest.mark.parametrize("name", some_at_once(bench_explorer.FRAMES))
def test_what_is_timed_is_a_frame_that_goes_on(browser, name):
    # Beyond the end of the stored run it begins anew.
    assert 0 < bench_explorer.frame(30, bench_explorer.FRAMES[name]) < 100


def test_an_edit_that_changes_nothing_is_refused(browser):
    address, _ = bench_explorer.EDITS["digits"]
    with pytest.raises(Exception, match="setting 'value'"):
        bench_explorer.edit(1, address, "no-such-cell")
