"""`bnm explore`: the page as a file, opened or not."""

import html
import json
import re

import pytest
import sick_models
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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    sick_models.write(folder)
    return folder


def test_a_model_of_one_s_own_comes_with_the_page(files, opened):
    done = bnm_here("explore", "sick.keras", "--data", "data.npz", "--no-open", cwd=files)
    assert done.code == 0, done.err
    assert done.out.startswith("Page: explorer.html\nData: data.npz: ")
    page = (files / "explorer.html").read_text(encoding="utf-8")
    data = json.loads(html.unescape(re.search('data-bnm-explorer="([^"]*)"', page)[1]))
    own = data["model"]
    assert (own["name"], own["data"]) == ("sick.keras", "data.npz")
    assert [layer["name"] for layer in own["layers"]] == ["bn_1", "bn_2"]
    assert own["told"]["groups"][0]["code"] == "BN101"
    assert len(data["network"]["failures"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--data", "data.npz"],
            "explore: `data` must go with a model. Received: data='data.npz' without one. Name its "
            "file first; numbers of your own are typed into the page.",
        ),
        (
            ["--labels", "y"],
            "explore: `labels` must go with a model. Received: labels='y' without one. Name its "
            "file first; numbers of your own are typed into the page.",
        ),
        (
            ["sick.keras"],
            "explore: `data` must be given with a model. Received: model='sick.keras' without "
            "--data. Name what the model is called on.",
        ),
        (
            ["sick.keras", "--data", "data.npz", "--out", "sick.keras"],
            "explore: `out` must be another file than the model and the data. Received: "
            "out='sick.keras'. Inputs are never written to.",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(files, opened, words, message):
    before = (files / "sick.keras").read_bytes()
    done = bnm_here("explore", *words, cwd=files)
    assert (done.code, done.out, done.err) == (2, "", f"bnm {message}\n")
    assert (files / "sick.keras").read_bytes() == before
    assert opened == []


def test_files_are_read_as_by_the_other_commands(files, opened):
    done = bnm_here("explore", "nowhere.keras", "--data", "data.npz", cwd=files)
    assert done.code == 2
    assert done.err.startswith("bnm explore: `model` must be ")
    done = bnm_here("explore", "sick.keras", "--data", "nowhere.npz", cwd=files)
    assert done.code == 2
    assert done.err.startswith("bnm explore: `data` must be ")
