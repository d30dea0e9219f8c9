"""The whole way of one subject in this process, and the report that comes of it."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from numpy_subjects import Right, RightSession, always, raise_something

import batchnorm_mechanics as bnm
from batchnorm_mechanics.conformance.cases import select
from batchnorm_mechanics.conformance.judge import conform
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.subject import Ability

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
        "where": None,
    }
    assert found["conventions"]["moving_variance"] == "biased"
    assert found["cases"][0]["checks"][0]["what"] == "training output"


def test_a_report_prints_in_80_columns_and_all_of_it_if_asked():
    report = conform(Right(epsilon_outside=True), cases=STEPS)
    lines, all_lines = str(report).splitlines(), report.text(verbose=True).splitlines()
    assert max(map(len, lines + all_lines)) <= 80
    assert lines[0].startswith("right ")
    assert lines[2].startswith("Wrong: epsilon outside the root (")
    assert '    print(bnm.conform(right, cases="one step rank 2"))' in lines
    assert "\x1b" not in str(report)
    assert "  biased moving variance, as Keras; PyTorch's is unbiased" in all_lines
    assert "  FAIL one step rank 2" in all_lines


def test_a_report_is_true_where_nothing_is_wrong_and_says_in_a_line_what_is():
    right, wrong = (conform(each, cases="one step") for each in (Right(), Right(reversed=True)))
    assert right
    assert not wrong
    assert repr(right) == "<Report: right: Right.>"
    assert repr(wrong).startswith(
        "<Report: right: Wrong: momentum reversed against the declared convention ("
    )


def test_what_is_required_and_lacking_fails():
    class Some(Right):
        abilities = Right.abilities - {Ability.MASK}

    assert conform(Some(), cases=STEPS, require="float32, saving")
    report = conform(Some(), cases=STEPS, require=["masks"])
    assert report.verdict.sentence == "Right, but not what is required: no masks."


def test_what_comes_back_in_a_narrower_dtype_is_judged_by_that_and_said_once():
    class Narrow(RightSession):
        def __init__(self, setting, changes):
            dtype = "float32" if setting.dtype == "float64" else setting.dtype
            super().__init__(replace(setting, dtype=dtype), changes)

        def train(self, x, mask=None):
            return super().train(x.astype(np.float32) if x.dtype == np.float64 else x, mask)

        def infer(self, x):
            return super().infer(x.astype(np.float32) if x.dtype == np.float64 else x)

        def gradients(self, x, dy, mask=None):
            narrow = x.dtype == np.float64
            x, dy = (v.astype(np.float32) if narrow else v for v in (x, dy))
            return super().gradients(x, dy, mask)

    for cases in ("dtype", "offset", "scale", "steps"):
        report = conform(Right(session=Narrow), cases=cases)
        assert report, str(report)
        assert [limit.words for limit in report.verdict.limits] == ["float64 comes back as float32"]
    assert not conform(Right(session=Narrow), cases="dtype", require="float64")
    wrong = conform(Right(session=Narrow, epsilon_outside=True), cases="dtype float64")
    # Its gradients are those of the right output.
    outputs = [c for case in wrong.cases for c in case.wrong if c.what.endswith("output")]
    assert {check.diagnosis for check in outputs} == {"epsilon outside the root"}
