"""`bnm explore`: the page as a file, opened or not."""

import pytest
import typer
from commands import bnm_here


@pytest.fixture
def opened(monkeypatch):
    found = []
    monkeypatch.setattr(typer, "launch", found.append)
    return found


def test_it_writes_the_page_and_opens_it(tmp_path, opened):
    done = bnm_here("explore", cwd=tmp_path)
    assert (done.code, done.out) == (0, "Page: explorer.html\n")
    assert (tmp_path / "explorer.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert opened == [(tmp_path / "explorer.html").resolve().as_uri()]


def test_it_is_written_where_one_says_and_not_opened(tmp_path, opened):
    done = bnm_here("explore", "--out", "my page.html", "--no-open", cwd=tmp_path)
    assert (done.code, done.out) == (0, "Page: my page.html\n")
    assert [path.name for path in tmp_path.iterdir()] == ["my page.html"]
    assert opened == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path, opened):
    done = bnm_here("explore", "--out", "no/such/page.html", cwd=tmp_path)
    assert (done.code, done.out, opened) == (2, "", [])
    assert done.err == (
        "bnm explore: `out` must be a file that can be written. Received: "
        "out='no/such/page.html' (No such file or directory). Name one in a folder that exists "
        "and is yours.\n"
    )


def test_it_does_without_tensorflow(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from batchnorm_mechanics.cli import main\n"
        "sys.argv = ['bnm', 'explore', '--no-open']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
