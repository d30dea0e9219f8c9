"""The command line as a user meets it; in processes of its own where they are the matter."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import BNM, Ended, bnm, bnm_here, workers_here
from processes import group_is_alive, start

from batchnorm_mechanics._version import __version__
from batchnorm_mechanics.studies import reproduce, runs
from batchnorm_mechanics.studies.dataset import load
from batchnorm_mechanics.studies.registry import STUDIES, quick


def test_the_version_is_printed():
    done = bnm("--version", cwd=".")
    assert (done.code, done.out, done.err) == (0, f"bnm {__version__}\n", "")


def test_the_installed_command_is_the_module():
    command = Path(sys.executable).with_name("bnm")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bnm {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["reproduce", "--help"], ["--version"]])
def test_help_and_version_do_without_tensorflow(arguments):
    code = (
        "import sys; from batchnorm_mechanics.cli import main\n"
        f"sys.argv = ['bnm', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'altair'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_study_is_listed_with_what_it_is():
    lines = bnm_here("reproduce", "--list", cwd=".").out.splitlines()
    assert [line.split()[0] for line in lines] == list(STUDIES)
    assert all(study.title in line for study, line in zip(STUDIES.values(), lines, strict=True))


def one_line_error(done):
    """Return the message of a command that was refused, holding it to one line and code 2."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1, done.err
    assert re.search(r"`\w+` must .*Received: .*\. ", done.err), done.err
    return done.err


def npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (600, 28, 28), dtype=np.uint8),
        "y_train": rng.integers(0, 10, 600, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (100, 28, 28), dtype=np.uint8),
        "y_test": rng.integers(0, 10, 100, dtype=np.uint8),
        **changes,
    }
    np.savez_compressed(path, **{name: a for name, a in arrays.items() if a is not None})
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["keras-961"], "Did you mean 'keras-916'?"),
        (["--seeds", "0"], "`seeds` must be 1 or more"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, arguments, expected):
    assert expected in one_line_error(bnm_here("reproduce", *arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_bad_data_is_refused_in_one_line_each(tmp_path):
    good = npz(tmp_path / "good.npz")
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(good.read_bytes()[:5000])
    bad = {
        truncated: "truncated",
        npz(tmp_path / "missing.npz", y_test=None): "y_test",
        npz(tmp_path / "float.npz", x_train=np.zeros((600, 28, 28), np.float32)): "float32",
        npz(
            tmp_path / "few.npz",
            x_train=np.zeros((59, 28, 28), np.uint8),
            y_train=np.zeros(59, np.uint8),
        ): "59",
    }
    for path, expected in bad.items():
        done = bnm_here("reproduce", "--data", path, "--out", "out", cwd=tmp_path)
        assert expected in one_line_error(done)
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused_with_code_2(tmp_path):
    done = bnm_here("reproduce", "--sedes", "3", cwd=tmp_path)
    assert done.code == 2
    assert "--seeds" in done.err


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A command that was interrupted after its first run: folder, end, process, and results."""
    folder = tmp_path_factory.mktemp("interrupted")
    npz(folder / "mine.npz")
    process = start([*BNM, *REPRODUCE, "--seeds", "400"], cwd=folder, preexec_fn=on_one_core)
    first = folder / "out" / "runs" / "average-100" / "seed-100" / "run.json"
    deadline = time.monotonic() + 120
    while not first.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    results = json.loads((folder / "out" / "results.json").read_text())
    return folder, Ended(process.returncode, out, err), process.pid, results


REPRODUCE = ["reproduce", "average-100", "--quick", "--data", "mine.npz", "--out", "out"]


def on_one_core():
    """Make it one worker process, which takes seconds to start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def test_ctrl_c_stops_cleanly_keeps_finished_runs_and_leaves_no_process(interrupted):
    folder, done, group, results = interrupted
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert "run the same command again to go on" in done.err
    # TensorFlow's start-up messages stay away; what is left is ours.
    assert "tensorflow" not in done.err.lower()
    assert "cuda" not in done.err.lower()
    assert "average-100" in done.out
    assert results["finished"] is False
    assert results["planned_runs"] == 400
    finished = list((folder / "out" / "runs").glob("*/*/run.json"))
    assert len(results["studies"][0]["runs"]) == len(finished) >= 1
    deadline = time.monotonic() + 20
    while group_is_alive(group):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.1)


def test_the_same_command_again_goes_on_from_what_is_kept_to_the_report(interrupted):
    folder, *_ = interrupted
    artifacts = folder / "out" / "runs" / "average-100" / "seed-100"
    assert {"best.keras", "history.csv", "run.json", "tensorboard"} <= {
        path.name for path in artifacts.iterdir()
    }
    written = (artifacts / "best.keras").stat().st_mtime_ns
    done = bnm_here(*REPRODUCE, "--seeds", 1, "--json", cwd=folder)
    assert done.code == 0, done.err
    assert "1 of them kept from before" in done.err
    assert (artifacts / "best.keras").stat().st_mtime_ns == written
    results = json.loads(done.out)
    assert results == json.loads((folder / "out" / "results.json").read_text())
    assert results["finished"] is True
    assert results["data"]["name"] == "mine.npz"
    assert results["studies"][0]["summary"]["test"]["within"] is None
    assert (folder / "out" / "report.html").stat().st_size > 100_000


def test_a_full_disk_is_one_clear_message(disk_of, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "side_by_side", workers_here)
    # TensorFlow's threads cannot be chosen any more in this process.
    monkeypatch.setattr(runs._Trainer, "__init__", with_data_alone)
    monkeypatch.setattr(reproduce, "quick", with_one_layer)
    # A run overfills it.
    small_disk = disk_of(600)
    arguments = ["reversed-100-short", "--quick", "--data", npz(tmp_path / "mine.npz")]
    done = bnm_here("reproduce", *arguments, "--out", small_disk / "out", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert (
        "`out` must be on a disk with room. Received: "
        f"out={str(small_disk / 'out')!r}, which is full. Finished runs are kept"
    ) in done.err


def with_data_alone(trainer, source, _threads):
    trainer._digits, trainer._prepared, trainer._networks = load(source, minimum_rows=1), {}, {}


def with_one_layer(study):
    """XLA takes seconds for each."""
    short = quick(study)
    return replace(
        short, settings=replace(short.settings, hidden_units=(100,), baked_training=(False,))
    )


def test_a_worker_that_is_killed_ends_the_command_with_a_message(tmp_path):
    process = subprocess.Popen(
        [*BNM, "reproduce", "reversed-100-short", "--quick", "--out", "out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs Linux's list of child processes")
    deadline = time.monotonic() + 60
    workers = []
    while not workers:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        workers = [
            int(pid)
            for pid in children.read_text().split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a worker process ended with exit code -9" in stderr
    assert "Traceback" not in stderr
