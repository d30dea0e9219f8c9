"""`bnm conform` as a user meets it: real processes, real signals, real exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from processes import group_is_alive, start

BNM = [sys.executable, "-m", "batchnorm_mechanics", "conform"]

# A user's own file: a function that is right, one that does not think of empty batches, one that is
# wrong, and one that hangs.
MINE = """
import time

import numpy as np


def textbook(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
    x, gamma, beta, mean, variance = map(np.asarray, (x, gamma, beta, moving_mean, moving_variance))
    kept = axis % x.ndim
    axes = tuple(a for a in range(x.ndim) if a != kept)
    if training:
        mean, variance = x.mean(axes), x.var(axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    spread = lambda value: np.expand_dims(value, axes)
    y = spread(gamma) * (x - spread(mean)) / np.sqrt(spread(variance) + epsilon) + spread(beta)
    return y.astype(x.dtype), moving_mean, moving_variance


def right(x, *values, training, **settings):
    if training and not np.asarray(x).size:
        raise ValueError("an empty batch has no mean")
    return textbook(x, *values, training=training, **settings)


def doubled(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
    settings = dict(axis=axis, momentum=momentum, epsilon=2 * epsilon, training=training)
    return right(x, gamma, beta, moving_mean, moving_variance, **settings)


def slow(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
    if np.asarray(x).ndim == 4:
        print("hanging", flush=True)
        time.sleep(600)
    settings = dict(axis=axis, momentum=momentum, epsilon=epsilon, training=training)
    return right(x, gamma, beta, moving_mean, moving_variance, **settings)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine")
    (path / "mine.py").write_text(MINE)
    return path


def bnm(folder, *arguments):
    return subprocess.run(
        [*BNM, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        env={**os.environ, "COLUMNS": "80"},
    )


def test_help_does_without_tensorflow_and_shows_examples_line_by_line():
    code = (
        "import sys; from batchnorm_mechanics.cli import main\n"
        "sys.argv = ['bnm', 'conform', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "bnm conform keras torch                  two of them" in lines


def test_subjects_and_groups_of_cases_are_listed(folder):
    done = bnm(folder, "--list")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert {"  keras", "  tf.nn", "  bnm.functions"} <= set(lines)
    assert ["axes", "56"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kears"], "Received: subject='kears'"),
        (["nowhere.py:Layer"], "Received: subject='nowhere.py:Layer'"),
        (["mine.py"], "Received: subject='mine.py'"),
        (["mine.py:right", "--cases", "ofset"], "Received: cases='ofset'"),
        (["mine.py:right", "mine.py:wrong"], "Received: subject='mine.py:wrong'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(folder, arguments, expected):
    done = bnm(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("bnm conform: `")
    assert expected in done.stderr


def test_functions_of_ones_own_are_judged_and_the_mistake_is_named(folder):
    done = bnm(folder, "mine.py:right", "mine.py:doubled", "--cases", "one step", "--json")
    assert done.returncode == 1, done.stderr

    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")

    found = json.loads(done.stdout, parse_constant=refuse)
    assert (found["passed"], found["finished"]) == (False, True)
    right, doubled = found["subjects"]
    assert (right["name"], right["passed"], right["failures"]) == ("mine.py:right", True, [])
    assert right["conventions"]["moving_variance"] == "biased"
    assert [case["case"] for case in right["cases"]] == ["one step rank 2", "one step rank 4"]
    assert {failure["diagnosis"] for failure in doubled["failures"]} == {"epsilon added twice"}
    assert {"case", "what", "error", "tolerance", "diagnosis"} <= set(doubled["failures"][0])


def test_an_edge_case_is_shown_and_ends_with_1_only_if_it_is_to_be_judged(folder):
    arguments = ["mine.py:textbook", "--cases", "edge cases"]
    shown, judged = bnm(folder, *arguments), bnm(folder, *arguments, "--strict")
    assert (shown.returncode, judged.returncode) == (0, 1), shown.stderr + judged.stderr
    reason = "moving mean: NaN or infinite after a training batch without samples"
    for done, heading in ((shown, "Edge cases: "), (judged, "Failures")):
        assert f"\n{heading}" in done.stdout
        assert f"    {reason}" in done.stdout


def test_tables_end_with_one_line_for_each_subject_and_code_0_if_all_passed(folder):
    done = bnm(folder, "mine.py:right", "--cases", "one step", "--verbose")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "  biased moving variance, as Keras; PyTorch's is unbiased" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert any(line[:5] == ["one", "step", "rank", "2", "pass"] for line in lines)
    assert any(line[:6] == ["mine.py:right", "2", "·", "·", "·", "biased"] for line in lines)
    assert done.stderr == ""


def test_ctrl_c_prints_what_was_found_and_leaves_no_process(folder):
    process = start(
        [*BNM, "mine.py:slow", "--cases", "one step"],
        cwd=folder,
    )
    # The conventions are looked for in rank 4 too; that probe hangs first.
    assert process.stderr.readline() == "hanging\n"
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Interrupted; this is what was found so far." in stderr
    deadline = time.monotonic() + 20
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.1)
