"""The tolerances: right implementations stay inside, mistakes and one-pass variance fall outside.

Errors are given as shares of the tolerance, the largest over all elements of an output.
"""

import numpy as np
import pytest
from numpy_subjects import Right

from batchnorm_mechanics.conformance.cases import CASES
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.judge import judge
from batchnorm_mechanics.conformance.record import (
    DBETA,
    DGAMMA,
    DX,
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
    Conventions,
)
from batchnorm_mechanics.conformance.subject import Setting
from batchnorm_mechanics.conformance.tolerance import bound

BIASED = Conventions(moving_variance="biased")
OUTPUTS = (TRAINING_OUTPUT, INFERENCE_OUTPUT, MOVING_MEAN, MOVING_VARIANCE, DX, DGAMMA, DBETA)
NAMES = {case.name: case for case in CASES}


def share(check):
    return check.error / check.tolerance if check.tolerance else 0.0


def judged(subject, names, conventions=BIASED):
    return [judge(subject, NAMES[name], conventions)[0] for name in names]


def given(shape=(4, 2), dtype="float32", epsilon=1e-3, offset=0.0, **fields):
    """Evidence of one batch of normal numbers, each channel standardized before the offset."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    x = (x - x.mean(0)) / x.std(0) + offset
    kept = (shape[-1],)
    setting = Setting(
        shape,
        (1,),
        dtype,
        epsilon=epsilon,
        momentum=0.75,
        gamma=np.ones(kept),
        beta=np.zeros(kept),
        moving_mean=np.full(kept, offset),
        moving_variance=np.ones(kept),
    )
    x = x.astype(dtype)
    return Evidence(setting, "old", False, (x,), (None,), np.ones_like(x), x, **fields)


@pytest.fixture(scope="module")
def right():
    """Results of the right implementation in all cases."""
    return [judge(Right(), case, BIASED)[0] for case in CASES]


def test_a_two_pass_implementation_in_the_dtype_stays_inside_everywhere(right):
    results = right
    assert {case.status for case in results} == {"pass", "measured"}
    shares = [share(c) for case in results if case.status == "pass" for c in case.checks]
    assert max(shares) < 0.75


@pytest.mark.parametrize("name", ["offset 10000 float32", "offset 1e+06 float64"])
def test_a_one_pass_variance_falls_outside_at_large_offsets(name):
    # At 1e6 in float64 kappa is some 1e6 and m' is 16.
    [right] = judged(Right(), [name])
    [wrong] = judged(Right(one_pass=True), [name])
    assert right.status == "pass"
    assert wrong.status == "fail"
    failed = {check.what: share(check) for check in wrong.checks if not check.passed}
    assert failed[TRAINING_OUTPUT] > 10
    assert failed[MOVING_VARIANCE] > 10


def test_a_one_pass_variance_passes_where_it_does_no_harm():
    assert [case.status for case in judged(Right(one_pass=True), ["offset 0 float32"])] == ["pass"]


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        ("epsilon_outside", TRAINING_OUTPUT),
        ("m_minus_1", TRAINING_OUTPUT),
        ("no_variance_term", DX),
        ("unbiased", MOVING_VARIANCE),
        ("reversed", MOVING_MEAN),
        ("batch_in_inference", INFERENCE_OUTPUT),
    ],
)
def test_mistakes_fall_far_outside_in_float32_at_offset_0(mistake, what):
    [case] = judged(Right(**{mistake: True}), ["offset 0 float32"])
    [check] = [check for check in case.checks if check.what == what]
    assert not check.passed
    assert share(check) > 20


@pytest.mark.parametrize("what", OUTPUTS)
def test_in_float32_the_tolerance_is_small_beside_what_it_judges(what):
    for name in ("offset 0 float32", "dtype float32 rank 4 keep 3", "axes rank 3 keep 1 float32"):
        evidence = judge(Right(), NAMES[name], BIASED)[1]
        found = bound(evidence, what)
        assert np.max(found.tolerance / found.unit) < 2e-4


def test_the_tolerance_of_the_output_is_the_count_of_its_roundings():
    evidence = given()
    u, m, epsilon = 2.0**-24, 4, 1e-3
    x = evidence.batches[0].astype(np.float64)
    mean, variance, a = x.mean(0), x.var(0), np.abs(x).max(0)
    mean_error = (m * u + u) * a
    variance_error = (
        (m * u + 4 * u) * variance + (m * u + u) * 2 * a * np.sqrt(variance) + mean_error**2
    )
    d = np.sqrt(variance + epsilon)
    x_hat = (x - mean) / d
    inverse = (1 - variance_error / d**2) ** -0.5 - 1 + 4 * u
    error = (m * u + 4 * u) * a / d + np.abs(x_hat) * (inverse + 3 * u)
    expected = error + 2 * u * np.abs(x_hat)
    # What is left is the oracle's own share, in float64.
    np.testing.assert_allclose(bound(evidence, TRAINING_OUTPUT).tolerance, expected, rtol=1e-7)


def test_the_tolerance_of_given_statistics_has_no_sum_in_it():
    few, many = given(shape=(4, 2)), given(shape=(400, 2))
    ratio = bound(many, INFERENCE_OUTPUT).tolerance.max() / (
        bound(few, INFERENCE_OUTPUT).tolerance.max()
    )
    assert ratio < 4
    assert bound(many, TRAINING_OUTPUT).tolerance.max() > 20 * (
        bound(few, TRAINING_OUTPUT).tolerance.max()
    )


@pytest.mark.parametrize("what", [TRAINING_OUTPUT, DX, DGAMMA, MOVING_VARIANCE])
def test_tolerances_grow_with_kappa_and_not_with_its_square(what):
    at = [bound(given(offset=offset, dtype="float64"), what) for offset in (1e2, 1e4)]
    assert at[1].tolerance.max() / at[0].tolerance.max() == pytest.approx(100, rel=0.2)


def test_dbeta_does_not_depend_on_kappa():
    at = [bound(given(offset=offset), DBETA).tolerance for offset in (0.0, 1e4)]
    np.testing.assert_allclose(*at)


def test_half_types_sum_in_float32():
    few, many = given((4, 2), "float16"), given((400, 2), "float16")
    ratio = bound(many, DBETA).tolerance.max() / bound(few, DBETA).tolerance.max()
    # A hundred times the terms, each with its rounding in float16; 400 more in float32 are little.
    assert ratio == pytest.approx(100, rel=0.2)


def test_the_moving_statistics_tolerance_follows_each_update():
    rng = np.random.default_rng(0)
    one = given()
    batches = tuple(rng.normal(size=(4, 2)).astype(np.float32) for _ in range(40))
    many = Evidence(
        one.setting, "old", False, batches, (None,) * 40, np.ones((4, 2), np.float32), batches[0]
    )
    ratio = bound(many, MOVING_MEAN).tolerance.max() / bound(one, MOVING_MEAN).tolerance.max()
    # Old errors die out with the decay: 1/(1 - 3/4) of them are left in the end.
    assert 2 < ratio < 12


def test_what_a_dtype_cannot_promise_is_measured_and_not_judged():
    [case] = judged(Right(), ["offset 1e+06 float32"])
    assert case.status == "measured"
    assert case.reason.startswith("float32 has no digit left to judge by: training output")
    checks = {check.what: check for check in case.checks}
    assert checks[TRAINING_OUTPUT].reason == "measured, not judged: float32"
    assert checks[TRAINING_OUTPUT].absolute > 0
    assert checks[DBETA].reason is None


def test_a_failure_beside_what_is_only_measured_still_fails():
    [case] = judged(Right(batch_in_inference=True), ["offset 10 bfloat16"])
    checks = {check.what: check for check in case.checks}
    assert checks[DGAMMA].reason == "measured, not judged: bfloat16"
    assert not checks[INFERENCE_OUTPUT].passed
    assert case.status == "fail"


def test_only_half_types_and_float32_at_an_offset_of_1e6_are_beyond_judging(right):
    beyond = [
        case
        for case, result in zip(CASES, right, strict=True)
        if result.status == "measured" and case.dtype not in ("bfloat16", "float16")
    ]
    assert [case.name for case in beyond] == ["offset 1e+06 float32"]
    assert sum(result.status == "measured" for result in right) <= 8
