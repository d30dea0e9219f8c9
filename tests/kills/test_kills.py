"""Commands that are killed at any moment: what they have written is whole, and they go on.

SIGKILL leaves a process no time to tidy up. `make test` kills six times and the thorough tests
eight times; `KILLS=3 make kills` kills three times as often. Each test prints the seed of its
moments, and `KILLS_SEED` gives another one. A table at the end of the run says what was hit.
"""

import collections
import contextlib
import functools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import sick_models

SEED = int(os.environ.get("KILLS_SEED", "0"))
MORE = int(os.environ.get("KILLS", "1"))
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
# It imports once what takes seconds, and runs each command in a process of its own, which it forks:
# a real one, with real signals. Where it is told to, the process kills itself when a file is on the
# disk, and not yet in its place.
FORKING = """
import json, os, pathlib, signal, sys
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
import_tensorflow_quietly()
import keras
from batchnorm_mechanics.doctor import recalibrate, repair
from batchnorm_mechanics.folding import fold
from batchnorm_mechanics.cli import main

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def run(folder, arguments, between):
    os.setpgid(0, 0)
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    if between:
        pathlib.Path.replace = kill
    sys.argv = ["bnm", *arguments]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code or 0)
    os._exit(0)

print("ready", flush=True)
for line in sys.stdin:
    process = os.fork()
    if not process:
        run(*json.loads(line))
    try:
        # Here too: whoever reads the number may kill the group at once.
        os.setpgid(process, process)
    except OSError:
        pass
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class Forking:
    """Runs commands in processes that can be killed, quickly."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self):
        return self._process.stdout.readline().strip()

    def __call__(self, name, folder, *, seconds=None, between=False, writing=False):
        """Run a command, kill it and all that it has started after so long; return its code.

        With `writing`, the time runs from where it begins to write a file.
        """
        arguments, _ = COMMANDS[name]
        before = set(left_behind(folder))
        print(json.dumps([str(folder), arguments, between]), file=self._process.stdin, flush=True)
        process = int(self._answer())
        ready = []
        while writing and not ready and set(left_behind(folder)) <= before:
            ready, _, _ = select.select([self._process.stdout], [], [], 0.0005)
        if not ready:
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            # It may end just now.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        return int(self._answer())

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def bnm():
    forking = Forking()
    yield forking
    forking.close()


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
def undisturbed(bnm, inputs, tmp_path_factory):
    """Return what a command gives that nobody kills, and how long it takes."""

    @functools.cache
    def undisturbed(name):
        folder = tmp_path_factory.mktemp(name)
        for file in INPUTS:
            (folder / file).write_bytes((inputs / file).read_bytes())
        begun = time.perf_counter()
        assert bnm(name, folder) in (0, 1)
        return result(name, folder), time.perf_counter() - begun

    return undisturbed


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


def moment(folder):
    """Return at what a command was killed, by what it has left there."""
    parts = left_behind(folder)
    if parts:
        return "saving a model" if ".keras." in parts[0].name else "writing results"
    begun = [run for run in folder.glob("out/runs/*/seed-*") if not (run / "run.json").exists()]
    return "training" if begun else "loading or computing"


def kill_at_random(bnm, name, folder, undisturbed, times, record_property):
    times *= MORE
    expected, seconds = undisturbed(name)
    moments = random.Random(f"{SEED} {name} {times}")
    print(f"KILLS_SEED={SEED}: {name}, {times} kills within {seconds:.1f} s")
    hit = collections.Counter()
    for number in range(times):
        # One in three while a file is being written, which takes next to no time.
        writing = number % 3 == 2
        longest = 0.003 if writing else 0.7 * seconds
        code = bnm(name, folder, seconds=moments.uniform(0.0, longest), writing=writing)
        hit[moment(folder) if code == -signal.SIGKILL else "it had ended"] += 1
        check_whole(folder)
    record_property("kills", [name, times, dict(hit), "differs"])
    assert bnm(name, folder) in (0, 1)
    check_whole(folder)
    assert result(name, folder) == expected
    assert left_behind(folder) == []
    record_property("kills", [name, times, dict(hit), "the same, nothing left"])
    # Most of them must have met the command at work.
    assert hit["it had ended"] <= times / 2


@pytest.mark.parametrize(("name", "times"), [("repair", 2), ("fold", 2), ("trace", 2)])
def test_a_command_that_is_killed_goes_on_and_ends_with_the_same(
    bnm, name, times, folder, undisturbed, record_property
):
    kill_at_random(bnm, name, folder, undisturbed, times, record_property)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["repair", "doctor", "trace"])
def test_a_command_that_is_killed_between_a_file_and_its_name_leaves_the_old_one(
    bnm, name, inputs, folder, record_property
):
    out = folder / COMMANDS[name][1]
    old = (inputs / "healthy.keras").read_bytes() if out.suffix == ".keras" else b"<html></html>"
    out.write_bytes(old)
    assert bnm(name, folder, between=True) == -signal.SIGKILL
    assert out.read_bytes() == old
    assert len(left_behind(folder)) == 1
    assert bnm(name, folder) in (0, 1)
    assert out.read_bytes() != old
    assert left_behind(folder) == []
    check_whole(folder)
    record_property("kills", [name, 1, {"between file and name": 1}, "the old one, then the new"])


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "times"), [("doctor", 4), ("reproduce", 4)])
def test_a_longer_command_that_is_killed_goes_on_and_ends_with_the_same(
    bnm, name, times, folder, undisturbed, record_property
):
    kill_at_random(bnm, name, folder, undisturbed, times, record_property)
