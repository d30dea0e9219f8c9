"""The whole way of one subject in this process, and the report that comes of it."""

import json

import keras
import numpy as np
import pytest
from numpy_subjects import Right, RightSession, always, raise_something

import batchnorm_mechanics as bnm
from batchnorm_mechanics.conformance.cases import select
from batchnorm_mechanics.conformance.judge import conform
from batchnorm_mechanics.conformance.report import Report

STEPS = select("one step")


def test_a_right_subject_passes_and_has_its_conventions():
    report = conform(Right(), cases=STEPS)
    assert isinstance(report, Report)
    assert report.passed
    assert report.conventions.moving_variance == "biased"
    assert [case.case for case in report.cases] == [case.name for case in STEPS]
    assert report.seconds > 0


def test_a_mistake_is_named():
    report = conform(Right(epsilon_outside=True), cases=STEPS)
    assert not report.passed
    wrong = [check for case in report.cases for check in case.checks if not check.passed]
    outputs = [check for check in wrong if check.what.endswith("output")]
    assert len(outputs) == 4
    assert {check.diagnosis for check in outputs} == {"epsilon outside the root"}


def test_a_failure_that_no_mistake_explains_keeps_its_reason():
    report = conform(Right(session=always(raise_something)), cases=STEPS)
    check = report.cases[0].checks[0]
    assert check.diagnosis is None
    assert check.reason == "raised LookupError: no such channel and more of it"


def test_the_conventions_found_are_those_it_is_judged_by():
    report = conform(Right(unbiased=True), cases=STEPS)
    assert report.conventions.moving_variance == "unbiased"
    assert report.passed


def test_a_layer_class_an_instance_a_function_and_a_name_can_be_given():
    def function(x, gamma, beta, moving_mean, moving_variance, **settings):
        layer = RightSession.__new__(RightSession)
        layer.changes, layer.wide = {}, x.dtype.type
        layer.axes = tuple(a for a in range(x.ndim) if a != settings["axis"] % x.ndim)
        layer.gamma, layer.beta = gamma, beta
        layer.moving_mean, layer.moving_variance = moving_mean, moving_variance
        layer.epsilon, layer.momentum = settings["epsilon"], settings["momentum"]
        y = layer.train(x) if settings["training"] else layer.infer(x)
        return y, layer.moving_mean, layer.moving_variance

    def named(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
        x = np.asarray(x)
        return function(
            x,
            *(np.asarray(v) for v in (gamma, beta, moving_mean, moving_variance)),
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            training=training,
        )

    layer = keras.layers.BatchNormalization
    for subject, name in (
        (layer, "BatchNormalization"),
        (bnm.BatchNormalization(), None),
        (named, "named"),
        ("keras", "keras"),
    ):
        report = bnm.conform(subject, cases=STEPS[:1])
        assert report.passed, str(report)
        assert name is None or report.name == name
    assert bnm.conform(layer, name="mine", cases=STEPS[:1]).name == "mine"


def test_progress_hears_of_each_case():
    heard = []
    report = conform(Right(), cases=STEPS, progress=heard.append)
    assert [case.case for case in heard] == [case.case for case in report.cases]


def test_a_report_becomes_json_without_numbers_that_json_lacks():
    report = conform(
        Right(session=type("Nan", (RightSession,), {"infer": lambda self, x: x * np.nan})),
        cases=STEPS[:1],
    )
    text = json.dumps(report.to_dict(), allow_nan=False)
    found = json.loads(text)
    assert {"name", "conventions", "cases", "failures"} <= set(found)
    assert found["passed"] is False
    [failure] = found["failures"]
    assert failure == {
        "case": "one step rank 2",
        "what": "inference output",
        "error": "Infinity",
        "tolerance": pytest.approx(failure["tolerance"]),
        "diagnosis": None,
        "reason": "NaN or infinite where it should be a number",
    }
    assert found["conventions"]["moving_variance"] == "biased"
    assert found["cases"][0]["checks"][0]["what"] == "training output"


def test_a_report_prints_as_a_table_of_80_columns():
    text = str(conform(Right(epsilon_outside=True), cases=STEPS))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("right ")
    assert "  biased moving variance, as Keras; PyTorch's is unbiased" in lines
    assert "  FAIL one step rank 2" in lines
    assert "epsilon outside the root" in text
    assert "\x1b" not in text
