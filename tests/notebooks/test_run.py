"""A notebook is run again when something changed that it was made of, and only then."""

import threading

import pytest
from filelock import FileLock
from nbclient.exceptions import CellExecutionError

from notebooks import run


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Have one notebook in a folder of its own, and return the list of its executions."""
    (tmp_path / "batchnorm_mechanics").mkdir()
    (tmp_path / "batchnorm_mechanics" / "layer.py").write_text("1")
    (tmp_path / "requirements-dev.lock").write_text("keras==3")
    (tmp_path / "run.py").touch()
    script = tmp_path / "01_some.py"
    script.write_text("# %%\n1\n")
    executions = []
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "__file__", str(tmp_path / "run.py"))
    monkeypatch.setattr(run, "SCRIPTS", {"01_some": script})
    monkeypatch.setattr(run, "MADE", tmp_path / "made")
    monkeypatch.setattr(run, "_execute", executions.append)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    return executions


def test_a_notebook_that_is_there_is_kept(executed):
    assert run.run("01_some") == "01_some: 0 s"
    assert run.run("01_some") == "01_some: as it was"
    assert len(executed) == 1


@pytest.mark.parametrize(
    "changed", ["01_some.py", "batchnorm_mechanics/layer.py", "requirements-dev.lock", "run.py"]
)
def test_a_changed_file_has_it_run_again(executed, changed, tmp_path):
    run.run("01_some")
    with (tmp_path / changed).open("a") as file:
        file.write("\n# changed")
    run.run("01_some")
    assert len(executed) == 2


def test_other_kernels_have_it_run_again(executed, monkeypatch):
    run.run("01_some")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    run.run("01_some")
    assert len(executed) == 2


def test_a_notebook_that_fails_is_told_and_not_kept(executed, monkeypatch, tmp_path):
    def fail(notebook):
        raise CellExecutionError("traceback", "ValueError", "no")

    monkeypatch.setattr(run, "_execute", fail)
    told, went_well = run._told("01_some")
    assert told.startswith("01_some: traceback")
    assert not went_well
    assert not list((tmp_path / "made").glob("*.ipynb"))


def test_two_processes_do_not_run_the_same_notebook_at_once(executed, tmp_path):
    run.MADE.mkdir()
    with FileLock(tmp_path / "made" / ".01_some.lock"):
        other = threading.Thread(target=run.run, args=["01_some"])
        other.start()
        other.join(0.3)
        assert executed == []
    other.join(30)
    assert len(executed) == 1
