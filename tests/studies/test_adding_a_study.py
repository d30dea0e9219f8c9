"""A study is added in the files that CONTRIBUTING names, and nowhere else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import batchnorm_mechanics

ROOT = Path(batchnorm_mechanics.__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Adding a study\n")[2]
FILES = re.findall(r"^\d\. `([\w/.]+)`", GUIDE.partition("\n## ")[0], flags=re.M)
REGISTRY = Path("batchnorm_mechanics/studies/registry.py")


@pytest.fixture
def copy(tmp_path):
    """A copy of the package with a study and a factor more, added as the guide says."""
    shutil.copytree(
        ROOT / "batchnorm_mechanics",
        tmp_path / "batchnorm_mechanics",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    registry = tmp_path / REGISTRY
    text = registry.read_text()
    studies, factors = "    for study in (\n", "FACTORS: tuple[Factor, ...] = (\n"
    assert text.count(studies) == text.count(factors) == 1
    study = 'Study("made-up", "a lower learning rate", replace(_KERAS, learning_rate=1e-4))'
    factor = 'Factor("learning rate", "keras-916", "made-up", "0.001", "0.0001")'
    text = text.replace(studies, f"{studies}        {study},\n")
    registry.write_text(text.replace(factors, f"{factors}    {factor},\n"))
    return tmp_path


def bnm(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm_mechanics", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_names_three_files_at_most_the_registry_first():
    assert 1 <= len(FILES) <= 3
    assert Path(FILES[0]) == REGISTRY
    assert all((ROOT / file).is_file() for file in FILES)


@pytest.mark.thorough
def test_a_study_that_is_added_to_the_registry_is_listed_run_and_compared(copy):
    assert "made-up               a lower learning rate\n" in bnm("reproduce", "--list", cwd=copy)
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 10
    images = (rng.uniform(0, 25, (600, 8, 8)) + 20 * labels[:, None, None]).astype(np.uint8)
    np.savez(
        copy / "tiny.npz", x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50]
    )
    names = ("made-up", "keras-916")
    out = bnm("reproduce", *names, "--quick", "--data", "tiny.npz", cwd=copy)
    lines = [line.rstrip() for line in out.splitlines()]
    assert any(re.match(r"made-up +1 +\d+\.\d\d", line) for line in lines)
    at = lines.index("learning rate: 0.001 → 0.0001")
    assert lines[at + 1].split()[:3] == ["keras-916", "→", "made-up"]
    assert (copy / "results" / "runs" / "made-up" / "seed-100" / "best.keras").is_file()
