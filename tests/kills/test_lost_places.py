"""Commands whose place for files fills up, turns read-only or goes away while they work.

The faults are the system's own. One message and exit code 2 say what happened; what was finished
stays, and when the place is back the same command goes on.
"""

import itertools
import os
import shutil
import subprocess
import time
import warnings

import keras
import numpy as np
import pytest
from commands import BNM, bnm, bnm_here

from batchnorm_mechanics import Watch
from batchnorm_mechanics.models.files import load_model

# What happens while the command is at work: as the model is loaded, and as it is saved.
FAULTY = """
import os

import keras


class Faulty(keras.layers.Layer):
    def call(self, inputs):
        os.system(os.environ.get("WHEN_LOADED", ":"))
        return inputs

    def save_own_variables(self, store):
        os.system(os.environ.get("WHEN_SAVED", ":"))
        super().save_own_variables(store)
"""
CUSTOM = ("--custom", "faulty.py:Faulty")
COMMANDS = {
    "repair": (
        ["repair", "sick.keras", "--data", "x.npy", "--out", "place/out.keras", *CUSTOM],
        "WHEN_SAVED",
    ),
    "fold": (["fold", "healthy.keras", "--out", "place/out.keras", *CUSTOM], "WHEN_SAVED"),
    "doctor": (["doctor", "sick.keras", "--html", "place/out.html", *CUSTOM], "WHEN_LOADED"),
}
# What does it, what puts it right, and what the system says of it.
FAULTS = {
    "full": ("cat /dev/zero >place/fill 2>/dev/null", "rm place/fill", "No space left on device"),
    "read-only": ("chattr -R +i place", "chattr -R -i place", "Operation not permitted"),
    "gone": ("mv place away", "mv away place", "No such file or directory"),
    # As the folder to which a share was mounted.
    "empty": ("mv place away; mkdir place", "rm -r place; mv away place", "No such file"),
}


def shell(command, folder):
    done = subprocess.run(command, shell=True, cwd=folder, check=False)
    return done.returncode == 0


@pytest.fixture
def place(tmp_path, request):
    """Return the folder in which to work; its folder `place` is where the fault will be."""
    fault = request.node.callspec.params["fault"]
    (tmp_path / "place").mkdir()
    if fault == "full":
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(tmp_path / "place")]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs root")
    elif fault == "read-only" and not shell("chattr +i place && chattr -i place", tmp_path):
        pytest.skip("making a folder immutable needs root, and a file system that knows it")
    yield tmp_path
    if fault == "full":
        subprocess.run(["umount", str(tmp_path / "place")], check=True)
    elif fault == "read-only":
        shell(FAULTS[fault][1], tmp_path)


@pytest.fixture
def models(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    scope = {}
    exec(FAULTY, scope)
    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            scope["Faulty"](),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
        ]
    )
    model.save(tmp_path / "healthy.keras")
    model.layers[-1].moving_variance.assign([-1.0, 1.0, 1.0, 1.0])
    model.save(tmp_path / "sick.keras")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 3)).astype("float32"))


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("command", "fault"),
    # A page has nothing in its folder before it is written: an empty one is as good as any.
    [case for case in itertools.product(COMMANDS, FAULTS) if case != ("doctor", "empty")],
)
def test_a_command_that_loses_its_place_says_so_and_goes_on_when_it_is_back(
    place, command, fault, monkeypatch
):
    (arguments, when), (fails, mends, reason) = COMMANDS[command], FAULTS[fault]
    out = place / arguments[arguments.index("--out" if "--out" in arguments else "--html") + 1]
    out.write_text("old")
    monkeypatch.setenv(when, fails)
    ended = bnm_here(*arguments, cwd=place)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"bnm {command}: `{'html' if command == 'doctor' else 'out'}` must be ")
    assert (reason in line) or (fault == "full" and "disk is full" in line), line
    monkeypatch.delenv(when)
    assert shell(mends, place)
    assert out.read_text() == "old"
    assert bnm_here(*arguments, cwd=place).code in (0, 1)
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    if out.suffix == ".keras":
        load_model(out, custom=[f"{place}/faulty.py:Faulty"])


REPRODUCE = ["reproduce", "average-100", "algorithm2-100", "--quick", "--out", "place/out"]


# The other two are met in the same way, and were by the commands above.
@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["full", "gone"])
def test_studies_that_lose_their_folder_keep_what_is_finished_and_go_on(place, fault):
    fails, mends, reason = FAULTS[fault]
    # On one core the runs come one after another.
    if shutil.which("taskset") is None:
        pytest.skip("needs taskset")
    core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    process = subprocess.Popen(
        [*core, *BNM, *REPRODUCE],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (finished := list(place.glob("place/out/runs/*/seed-100/run.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    shell(fails, place)
    stdout, stderr = process.communicate(timeout=240)
    assert (process.returncode, stdout) == (2, ""), stderr
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("bnm reproduce: ")]
    assert line.startswith("bnm reproduce: `out` must be ")
    assert (reason in line) or (fault == "full" and "is full" in line), line
    assert "Finished runs are kept" in line
    assert shell(mends, place)
    kept = {file: file.stat().st_mtime_ns for file in finished}
    again = bnm(*REPRODUCE, cwd=place)
    assert again.code == 0, again.err
    assert {file: file.stat().st_mtime_ns for file in finished} == kept
    assert len(list(place.glob("place/out/runs/*/seed-100/run.json"))) == 2
    assert "Damaged" not in again.err


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_training_goes_on_where_watch_loses_its_table(place, fault):
    fails, mends, reason = FAULTS[fault]
    table = place / "place" / "watch.csv"

    class Fault(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                shell(fails, place)

    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.BatchNormalization(momentum=0.5)]
    )
    model.compile(loss="mse")
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    watch = Watch(csv=table)
    # A page of the file has room for some rows more, even on a full disk.
    epochs = 100 if fault == "full" else 5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, x, epochs=epochs, verbose=0, callbacks=[Fault(), watch])
    (said,) = [str(one.message) for one in caught if "`csv`" in str(one.message)]
    assert said.startswith("Watch: `csv` must be a place that can be written to the end. Received:")
    assert f"({reason}" in said
    assert len(watch.records) == epochs
    assert shell(mends, place)
    head, *rows = table.read_text().splitlines()
    assert head.startswith("epoch,layer,")
    assert len(rows) == 2 if fault != "full" else 2 <= len(rows) < epochs
    assert {row.count(",") for row in rows} == {head.count(",")}
