"""`bnm conform` as a user meets it: in this process but for the one that is interrupted."""

import os
import signal
import subprocess
import sys
import time

import pytest
from commands import BNM, bnm_here, strict_json, workers_here
from processes import group_is_alive, start

from batchnorm_mechanics.conformance import workers

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


def shifted(x, *values, **settings):
    return right(np.asarray(x)[:, :1, None, :2], *values, **settings)


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


@pytest.fixture
def in_this_process(monkeypatch):
    """Have the workers' calls made here: workers have tests of their own, and take seconds each."""
    monkeypatch.setattr(workers, "side_by_side", workers_here)
    # A worker gives its libraries their settings in its environment.
    monkeypatch.setattr(os, "environ", {**os.environ})


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
    done = bnm_here("conform", "--list", cwd=folder)
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert {"  keras", "  tf.nn", "  bnm.functions"} <= set(lines)
    assert ["axes", "56"] in [line.split() for line in lines]


def refused(done):
    """Return the message of a command that was refused, holding it to one line and code 2."""
    assert (done.code, done.out) == (2, ""), done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("bnm conform: `")
    return done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kears"], "Received: subject='kears'"),
        (["nowhere.py:Layer"], "Received: subject='nowhere.py:Layer'"),
        (["mine.py"], "Received: subject='mine.py'"),
        (["mine.py:right", "--cases", "ofset"], "Received: cases='ofset'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_a_process_starts(
    folder, monkeypatch, arguments, expected
):
    monkeypatch.setattr(workers, "side_by_side", lambda *_, **options: pytest.fail("it started"))
    assert expected in refused(bnm_here("conform", *arguments, cwd=folder))


def test_a_name_that_a_file_does_not_hold_is_refused_in_one_line(folder, in_this_process):
    done = bnm_here("conform", "mine.py:right", "mine.py:wrong", cwd=folder)
    assert "Received: subject='mine.py:wrong'" in refused(done)


def test_functions_of_ones_own_are_judged_and_the_mistake_is_named(folder, in_this_process):
    arguments = ["mine.py:right", "mine.py:doubled", "--cases", "one step", "--json"]
    done = bnm_here("conform", *arguments, cwd=folder)
    assert done.code == 1, done.err
    found = strict_json(done.out)
    assert (found["passed"], found["finished"]) == (False, True)
    right, doubled = found["subjects"]
    assert (right["name"], right["passed"], right["failures"]) == ("mine.py:right", True, [])
    assert right["conventions"]["moving_variance"] == "biased"
    assert [case["case"] for case in right["cases"]] == ["one step rank 2", "one step rank 4"]
    assert {failure["diagnosis"] for failure in doubled["failures"]} == {"epsilon added twice"}
    assert {"case", "what", "error", "tolerance", "diagnosis"} <= set(doubled["failures"][0])


# What NumPy warns of an empty batch is for a user to see, and no error.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_edge_case_is_shown_and_ends_with_1_only_if_it_is_to_be_judged(folder, in_this_process):
    arguments = ["conform", "mine.py:textbook", "--cases", "edge cases"]
    shown, judged = (bnm_here(*arguments, *last, cwd=folder) for last in ([], ["--strict"]))
    assert (shown.code, judged.code) == (0, 1), shown.err + judged.err
    reason = "moving mean: NaN or infinite after a training batch without samples"
    for done, heading in ((shown, "Edge cases: "), (judged, "What failed, by cause")):
        assert f"\n{heading}" in done.out
        assert reason in " ".join(done.out.split())


def test_what_is_required_is_refused_where_it_is_no_word_and_fails_where_it_is_lacking(
    folder, in_this_process
):
    arguments = ["conform", "mine.py:right", "--cases", "one step", "--require"]
    assert "Received: require='speed'" in refused(bnm_here(*arguments, "speed", cwd=folder))
    there, lacking = (bnm_here(*arguments, word, cwd=folder) for word in ("float32", "masks"))
    assert (there.code, lacking.code) == (0, 1), there.err + lacking.err
    assert "Right, but not what is required: no masks.\n" in lacking.out


def test_a_subject_that_raises_in_every_case_is_shown_on_one_screen(folder, in_this_process):
    done = bnm_here("conform", "mine.py:shifted", "--cases", "one step", cwd=folder)
    assert done.code == 1
    assert "It raises IndexError in every case: nothing could be judged.\n" in done.out
    assert "  mine.py, line 32: return right(np.asarray(x)[:, :1, None, :2]" in done.out
    assert len(done.out.splitlines()) < 10


def test_all_is_printed_if_asked_and_ends_with_one_line_for_each_subject(folder, in_this_process):
    done = bnm_here("conform", "mine.py:right", "--cases", "one step", "--verbose", cwd=folder)
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "  biased moving variance, as Keras; PyTorch's is unbiased" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert any(line[:5] == ["one", "step", "rank", "2", "pass"] for line in lines)
    assert any(line[:6] == ["mine.py:right", "2", "·", "·", "·", "biased"] for line in lines)
    assert done.err == ""


def test_ctrl_c_prints_what_was_found_and_leaves_no_process(folder):
    process = start(
        [*BNM, "conform", "mine.py:slow", "--cases", "one step"],
        cwd=folder,
    )
    # The conventions are looked for in rank 4 too; that probe hangs first. No message of
    # TensorFlow's comes before it.
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
