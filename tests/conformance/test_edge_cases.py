"""What nobody defines is shown and explained, and fails only where it is asked to."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics.conformance import subjects
from batchnorm_mechanics.conformance.cases import CASES, judged, select
from batchnorm_mechanics.conformance.judge import conform

EDGE = select("edge cases")
# Other cases tell mistakes apart that look alike where all is masked out.
MASKED = (*select("mask"), *EDGE)
PUBLISHED = ("tf.nn", "tf.fused", "keras", "torch", "flax", "onnxruntime")


def in_numpy(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
    """The paper's two algorithms as a textbook has them."""
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    wide = x.astype(np.promote_types(np.float32, x.dtype))
    mean, variance = moving_mean, moving_variance
    if training:
        mean = wide.mean(axes)
        variance = ((wide - np.expand_dims(mean, axes)) ** 2).mean(axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    gamma, beta, mean, variance = (
        np.expand_dims(value, axes) for value in (gamma, beta, mean, variance)
    )
    y = gamma * (wide - mean) / np.sqrt(variance + epsilon) + beta
    return y.astype(x.dtype), moving_mean, moving_variance


def in_tensorflow(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    """The same in tensors."""
    axes = [a for a in range(x.shape.rank) if a != axis % x.shape.rank]
    wide = tf.cast(x, gamma.dtype)
    mean, variance = moving_mean, moving_variance
    if training:
        mean = tf.reduce_mean(wide, axes)
        variance = tf.reduce_mean((wide - spread(mean, axes)) ** 2, axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    gamma, beta, mean, variance = (spread(value, axes) for value in (gamma, beta, mean, variance))
    y = gamma * (wide - mean) / tf.sqrt(variance + epsilon) + beta
    return tf.cast(y, x.dtype), moving_mean, moving_variance


def spread(value, axes):
    for axis in axes:
        value = tf.expand_dims(value, axis)
    return value


@cache
def judged_by(name, cases):
    return conform(name, cases=cases)


def of_status(report, status):
    return {case.case for case in report.cases if case.status == status}


@pytest.mark.parametrize("textbook", [in_numpy, in_tensorflow])
def test_a_textbook_implementation_passes(textbook):
    report = conform(textbook)
    assert of_status(report, "fail") == set()
    assert report.passed
    assert {"batch of 0 rank 2", "batch of 0 rank 4"} <= of_status(report, "measured")


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_published_layer_fails_by_an_edge_case(name):
    if name not in subjects.default_names():
        pytest.skip(f"{name} is not installed")
    report = judged_by(name, EDGE)
    assert report.passed, str(report)
    assert {case.group for case in report.cases} == {"edge cases"}


@pytest.mark.parametrize("name", ["bnm.layer", "bnm.functions"])
def test_ours_pass_the_edge_cases_as_if_they_were_defined(name):
    assert of_status(conform(name, cases=EDGE, strict=True), "fail") == set()


def test_strict_judges_edge_cases_like_all_others():
    report = conform(in_numpy, cases=EDGE, strict=True)
    assert not report.passed
    assert of_status(report, "fail") == {"batch of 0 rank 2", "batch of 0 rank 4"}


def test_an_edge_case_that_is_only_shown_says_why_and_is_no_failure():
    report = judged_by("keras", EDGE)
    shown = next(case for case in report.cases if case.case == "batch of 0 rank 2")
    assert shown.status == "measured"
    assert shown.reason == "nobody defines what is due without samples"
    assert report.to_dict()["failures"] == []


def test_what_an_edge_case_shows_is_explained():
    report = judged_by("keras", MASKED)
    assert report.passed
    assert {
        check.diagnosis
        for case in report.cases
        for check in case.checks
        if case.case.endswith("all out") and not check.passed
    } == {"a batch without samples taken in as mean 0 and variance 0"}


def test_a_report_shows_its_edge_cases_and_how_to_have_them_judged():
    text = str(judged_by("keras", MASKED))
    assert "Edge cases: nobody defines them, so they are shown; --strict judges them" in text
    assert "  batch of 0 rank 2\n" in text
    assert "    moving mean: NaN or infinite after a training batch without samples" in text
    assert "      a batch without samples taken in as mean 0 and variance 0" in text


def test_only_cases_without_samples_are_edge_cases():
    assert {case.name for case in CASES if case.undefined} == {
        "batch of 0 rank 2",
        "batch of 0 rank 4",
        "mask over batch, all out",
        "mask over batch and time, all out",
    }
    assert not any(case.undefined for case in judged(CASES))
