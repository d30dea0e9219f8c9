"""Commands that are killed at any moment: what they have written is whole, and they go on.

SIGKILL leaves a process no time to tidy up. `make test` kills ten times, the slow tests fifty; each
test prints the seed of its moments, and `KILLS_SEED` gives another one.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import sick_models
from commands import BNM
from processes import start

SEED = int(os.environ.get("KILLS_SEED", "0"))
COMMANDS = {
    "repair": (["repair", "sick.keras", "--data", "data.npz", "--out", "out.keras"], "out.keras"),
    "fold": (["fold", "healthy.keras", "--out", "out.keras"], "out.keras"),
    "doctor": (["doctor", "sick.keras", "--html", "out.html"], "out.html"),
    "trace": (["trace", "--html", "out.html"], "out.html"),
    "reproduce": (
        ["reproduce", "average-100", "algorithm2-100", "--quick", "--out", "out"],
        "out/results.json",
    ),
}
INPUTS = ("sick.keras", "healthy.keras", "data.npz")
# The process kills itself where a file is on the disk, and not yet in its place.
BETWEEN = """
import os, pathlib, signal, sys
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = kill
from batchnorm_mechanics.cli import main
sys.argv = ["bnm", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    sick_models.write(folder)
    return folder


@pytest.fixture
def folder(inputs, tmp_path):
    for name in INPUTS:
        (tmp_path / name).write_bytes((inputs / name).read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """Return what a command gives that nobody kills, and how long it takes."""

    @functools.cache
    def undisturbed(name):
        folder = tmp_path_factory.mktemp(name)
        for file in INPUTS:
            (folder / file).write_bytes((inputs / file).read_bytes())
        begun = time.perf_counter()
        run(name, folder)
        return result(name, folder), time.perf_counter() - begun

    return undisturbed


def run(name, folder):
    arguments, _ = COMMANDS[name]
    done = subprocess.run(
        [*BNM, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode in (0, 1), done.stderr


def killed(name, folder, seconds):
    """Kill a command, and all processes that it has started, after some time, if it still runs."""
    arguments, _ = COMMANDS[name]
    process = start([*BNM, *arguments], cwd=folder)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def result(name, folder):
    """Return what a command has written, without what differs from one run to the next."""
    path = folder / COMMANDS[name][1]
    if path.suffix == ".keras":
        return [np.asarray(weight).tobytes() for weight in keras.saving.load_model(path).weights]
    if path.suffix == ".html":
        return path.read_text()
    found = json.loads(path.read_text())
    for study in found["studies"]:
        for of_one in study["runs"]:
            del of_one["seconds"]
    return found


def check_whole(folder):
    """See that whatever has its name is whole, and that no input was touched."""
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        # Those of a run that is not finished are made anew with it.
        elif path.suffix == ".keras" and (
            path.parent == folder or (path.parent / "run.json").exists()
        ):
            assert zipfile.ZipFile(path).testzip() is None, path
            keras.saving.load_model(path)


def left_behind(folder):
    """Return what lies hidden, but for the lock, which the next run takes."""
    return [path for path in folder.rglob(".*") if path.name not in {".lock", ".lock.json"}]


def kill_at_random(name, folder, undisturbed, times):
    expected, seconds = undisturbed(name)
    moments = random.Random(f"{SEED} {name} {times}")
    print(f"KILLS_SEED={SEED}: {name}, {times} kills within {seconds:.1f} s")
    hit = 0
    for _ in range(times):
        hit += killed(name, folder, moments.uniform(0.3, 1.0) * seconds)
        check_whole(folder)
    run(name, folder)
    check_whole(folder)
    assert result(name, folder) == expected
    assert left_behind(folder) == []
    # Most of them must have met the command at work.
    assert hit >= times / 3


@pytest.mark.parametrize(("name", "times"), [("repair", 2), ("fold", 3), ("trace", 3)])
def test_a_command_that_is_killed_goes_on_and_ends_with_the_same(name, times, folder, undisturbed):
    kill_at_random(name, folder, undisturbed, times)


@pytest.mark.parametrize("name", ["trace", "doctor"])
def test_a_command_that_is_killed_between_a_file_and_its_name_leaves_the_old_one(name, folder):
    arguments, out = COMMANDS[name]
    (folder / out).write_text("<html>old</html>\n")
    command = [sys.executable, "-c", BETWEEN, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / out).read_text() == "<html>old</html>\n"
    assert len(left_behind(folder)) == 1
    run(name, folder)
    assert left_behind(folder) == []
    check_whole(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "times"),
    [("repair", 10), ("fold", 10), ("doctor", 10), ("trace", 8), ("reproduce", 12)],
)
def test_fifty_kills(name, times, folder, undisturbed):
    kill_at_random(name, folder, undisturbed, times)
