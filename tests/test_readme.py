"""The README is true: its Python prints what it shows, and its commands run."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import bnm_here, python_here

from batchnorm_mechanics._tensorflow import one_dnn_is_on
from batchnorm_mechanics.studies.registry import STUDIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.M | re.S)
PYTHON = [
    (code, output)
    for (kind, code), (next_kind, output) in itertools.pairwise(BLOCKS)
    if kind == "python" and next_kind == ""
]
COMMANDS = [
    line.partition("#")[0].strip()
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
]

# What a command is run with here, so that it takes seconds and not minutes: the same targets and
# options on less data. A command of the README that is not here has no test, and so fails one.
SHORTER = {
    "make reproduce": 'make reproduce ARGS="keras-100 --quick --out {out}"',
    "make test": 'make test ARGS="-q tests/test_repository.py"',
    "bnm trace": "{command}",
    "bnm explore": "{command} --no-open",
    "bnm conform keras": '{command} --cases "one step rank 2"',
    "bnm conform my_layers.py:MyBatchNorm": '{command} --cases "one step rank 2"',
    "bnm reproduce --list": "{command}",
    "bnm reproduce --quick --out try": "{command}",
    # Into the folder of the one before, which has these runs.
    "bnm reproduce keras-100 algorithm2-100 --seeds 3 --out two": (
        "bnm reproduce keras-100 algorithm2-100 --seeds 1 --quick --out try"
    ),
    "bnm doctor demo": "bnm doctor --rules",  # Its own test runs it.
    "bnm doctor model.keras --data test.npz": "{command}",
    "bnm doctor --explain BN201": "{command}",
    "bnm repair model.keras --data train.npz --out repaired.keras": "{command}",
    "bnm fold repaired.keras --out folded.keras": "{command}",
    "bnm compare repaired.keras folded.keras --data test.npz": "{command}",
    "python -m batchnorm_mechanics --help": "{command}",
}

# What ends with another exit code than 0: the model below is sick.
EXIT_CODES = {"bnm doctor model.keras --data test.npz": 1}


def test_the_readme_has_what_the_tests_below_look_for():
    assert len(PYTHON) == 3
    assert len(PYTHON) == sum(kind == "python" for kind, _ in BLOCKS)
    assert {command.removeprefix(".venv/bin/") for command in COMMANDS} == set(SHORTER)


def test_the_first_screen_has_a_sentence_two_commands_a_picture_and_ten_lines():
    first = README.split("\n## ")[0]
    assert first.index("make reproduce") < first.index("make test")
    picture = re.search(r"!\[.+\]\((.+)\)", first)
    assert (ROOT / picture[1]).read_text().startswith("<svg")
    code = [line for line in PYTHON[0][0].splitlines() if line]
    assert len(code) == 10


@pytest.mark.parametrize(("code", "output"), PYTHON, ids=["first screen", "trace", "model"])
def test_the_python_runs_as_it_stands_and_prints_what_is_shown(code, output, tmp_path, monkeypatch):
    # What is printed has a line more where oneDNN is off because nobody chose.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1" if one_dnn_is_on() else "0")
    assert python_here(code, cwd=tmp_path) == output


def test_the_first_screens_python_keeps_tensorflows_messages_away(tmp_path):
    code, output = PYTHON[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert (done.stdout, done.stderr) == (output, "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reader's folder, with the files that the commands name; each leaves what it makes."""
    folder = tmp_path_factory.mktemp("reader")
    _save_models(folder, np.random.default_rng(0))
    (folder / "my_layers.py").write_text(
        "import keras\n\nclass MyBatchNorm(keras.layers.BatchNormalization):\n    pass\n"
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if "bnm " in one])
def test_every_command_runs(command, folder):
    # In this process, which has TensorFlow already; that `bnm` is installed, `make` below says.
    command = command.removeprefix(".venv/bin/")
    done = bnm_here(*shlex.split(SHORTER[command].format(command=command))[1:], cwd=folder)
    assert done.code == EXIT_CODES.get(command, 0), done.out + done.err
    assert done.out.strip()


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if "bnm " not in one])
def test_every_other_command_runs(command, tmp_path):
    # In the checkout, whose .venv is ready: setting one up is tried on an empty machine.
    if shutil.which("make") is None or not (ROOT / ".venv" / ".ready-dev").exists():
        pytest.skip("not run by make test")
    short = SHORTER[command.removeprefix(".venv/bin/")]
    words = shlex.split(short.format(command=command, out=tmp_path / "out"))
    # A make within make must not take part in the outer one's jobs.
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MAKE", "MFLAGS", "PYTEST"))
    }
    done = subprocess.run(
        words, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def _save_models(folder, rng):
    """Save a healthy model, a sick one, and data for both."""
    x, y = rng.normal(size=(256, 8)).astype("float32"), rng.integers(0, 3, 256)
    for name in ("train.npz", "test.npz"):
        np.savez(folder / name, x=x, y=y)
    model = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(16, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model.layers[1].moving_variance.assign(np.var(model.layers[0](x), axis=0))
    model.layers[1].moving_mean.assign(np.mean(model.layers[0](x), axis=0))
    model.save(folder / "repaired.keras")
    model.layers[1].moving_variance.assign(np.full(16, np.nan))
    model.save(folder / "model.keras")


def test_every_study_that_a_page_names_exists():
    pages = [README, (ROOT / "docs" / "how" / "studies.md").read_text()]
    name = r"`((?:keras|average|algorithm2|reversed|paper)-[\w-]+)`"
    named = {each for page in pages for each in re.findall(name, page)}
    assert named
    assert named <= set(STUDIES)


def test_every_make_target_of_the_contributing_guide_exists():
    targets = set(re.findall(r"`make ([a-z]+)", CONTRIBUTING))
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert targets <= set(re.findall(r"^([a-z]+):", makefile, flags=re.M))
