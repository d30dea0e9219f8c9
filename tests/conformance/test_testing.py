"""`conform_cases` in people's own tests, which pytest runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError

ROOT = Path(bnm.__file__).parents[1]
THEIRS = """
import numpy as np

import batchnorm_mechanics as bnm


def right(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    mean, variance = moving_mean, moving_variance
    if training:
        mean, variance = x.mean(axes), x.var(axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    gamma, beta, mean, variance = (
        np.expand_dims(value, axes) for value in (gamma, beta, mean, variance)
    )
    y = gamma * (x - mean) / np.sqrt(variance + epsilon) + beta
    return y.astype(x.dtype), moving_mean, moving_variance


def doubled(*tensors, epsilon, **settings):
    return right(*tensors, epsilon=2 * epsilon, **settings)


def last_axis(x, *tensors, axis, **settings):
    if axis not in (-1, x.ndim - 1):
        raise NotImplementedError("only the last axis")
    return right(x, *tensors, axis=axis, **settings)


def broken(x, *tensors, axis, **settings):
    return right(np.asarray(x).reshape(7, -1), *tensors, axis=axis, **settings)


@bnm.conform_cases(right, cases="axes rank 3")
def test_right(case):
    case()


@bnm.conform_cases(doubled, cases="one step rank 2")
def test_doubled(case):
    case()


@bnm.conform_cases(last_axis, cases="axes rank 3")
def test_last_axis(case):
    case()


@bnm.conform_cases(last_axis, cases="axes rank 3", require="axes")
def test_all_axes(case):
    case()


@bnm.conform_cases(broken, cases="one step rank 2")
def test_broken(case):
    case()


def test_in_one_line():
    assert bnm.conform(doubled, cases="one step rank 2")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What pytest says of people's tests: its outcomes by test, and all that it printed."""
    file = tmp_path_factory.mktemp("theirs") / "test_theirs.py"
    file.write_text(THEIRS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", file.name],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "::" in line]
    outcomes = {
        words[0].partition("::")[2]: words[1] for words in lines if "[" in words[0] and words[1:]
    }
    return outcomes, done.stdout


def test_each_case_is_a_test_with_the_name_of_the_case(ran):
    outcomes, _ = ran
    assert outcomes["test_right[axes_rank_3_keep_1_float32]"] == "PASSED"
    assert sum(name.startswith("test_right") for name in outcomes) == 7


def test_a_limit_is_skipped_with_its_reason_and_fails_where_it_is_required(ran):
    outcomes, printed = ran
    case = "axes_rank_3_keep_{}_float32"
    assert outcomes[f"test_last_axis[{case.format(2)}]"] == "PASSED"
    assert outcomes[f"test_last_axis[{case.format(1)}]"] == "SKIPPED"
    assert "only the last axis" in printed
    assert outcomes[f"test_all_axes[{case.format(2)}]"] == "PASSED"
    assert outcomes[f"test_all_axes[{case.format(1)}]"] == "FAILED"
    assert (
        "last_axis: takes the last axis. raised NotImplementedError: only the last axis. "
        "Take it, or leave it out of `require`."
    ) in printed


def test_a_failure_says_what_is_wrong_and_ends_in_what_to_do(ran):
    outcomes, printed = ran
    assert outcomes["test_doubled[one_step_rank_2]"] == "FAILED"
    assert "doubled: Wrong: epsilon added twice (" in printed
    assert "  training output: off by " in printed
    assert (
        'Mend that. This case alone: print(bnm.conform(doubled, cases="one step rank 2"))'
    ) in printed


def test_an_exception_is_shown_with_the_line_that_raised(ran):
    _, printed = ran
    assert "broken: It raises ValueError in every case: nothing could be judged." in printed
    assert "at test_theirs.py, line 32: return right(np.asarray(x).reshape(7, -1), " in printed


def test_a_report_that_is_asserted_says_what_is_wrong(ran):
    _, printed = ran
    assert "assert <Report: doubled: Wrong: epsilon added twice (" in printed


def test_cases_that_are_none_are_refused_when_the_tests_are_collected():
    with pytest.raises(InputError, match="Received: cases='ofset'"):
        bnm.conform_cases("keras", cases="ofset")
