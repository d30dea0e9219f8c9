"""Layers and functions as people write them: taken without a wrapper, and each mistake named."""

import functools
import importlib

import numpy as np
import pytest

from batchnorm_mechanics.conformance import conform
from batchnorm_mechanics.conformance.cases import CASES
from batchnorm_mechanics.conformance.subjects.recognize import recognize

# Enough for every mistake here to show in all that follows from it.
CHOSEN = tuple(
    case
    for case in CASES
    if case.group in ("batch", "dtype", "steps", "behaviour") or case.name.startswith("axes rank 4")
)
# What is compiled for each shape takes a third of a second for each.
FEW = tuple(case for case in CHOSEN if case.group in ("steps", "dtype") or "rank 2" in case.name)
REVERSED = "momentum reversed against the declared convention"
UNBIASED = "variance divided by m'-1 in the normalization itself"
VARIANCE_TERM = "gradient through the variance missing"
ONE_BATCH = "moving statistics replaced by those of the last batch"
IN_INFERENCE = "statistics updated in inference"
OUTSIDE = "epsilon outside the root"

# By name what is wrong, None where nothing is. The first twelve are those of the issue.
MISTAKES = {
    "bn_batch_axis": None,
    "bn_fwd": UNBIASED,
    "MomentumReversed": REVERSED,
    "bn_no_epsilon": "epsilon missing",
    "bn_epsilon_outside": OUTSIDE,
    "bn_one_batch": ONE_BATCH,
    "short_forward": VARIANCE_TERM,
    "ForgottenBeta": "beta ignored",
    "UpdatesInInference": IN_INFERENCE,
    "UpdatesFirst": f"{IN_INFERENCE}, before they are used",
    "OverwritesImages": "input overwritten",
    "bn_in_place": "input overwritten",
    "bn_float64": None,
    "batchnorm_forward": None,
    # Their siblings.
    "batch_norm": None,
    "bn_in_tensorflow": None,
    "bn_assigns": REVERSED,
    "bn_with_state": IN_INFERENCE,
    "bn_unnamed_order": "beta ignored",
    "BatchNorm1d": None,
    "Nameless": None,
    "FromScratch": None,
    "Variables": None,
}
IN_TORCH = {
    "batch_norm": None,
    "BatchNorm": None,
    "LectureBatchNorm1d": UNBIASED,
    "ByOtherNames": None,
    "EpsilonOutside": OUTSIDE,
    "InferenceByBatch": "batch statistics used in inference",
    "Detached": VARIANCE_TERM,
    "an_instance": None,
    "lazy": None,
}
IN_JAX = {"batchnorm": None, "OfNnx": OUTSIDE, "OfLinen": None, "linen_instance": None}


@functools.cache
def report(module, name, cases):
    thing = getattr(importlib.import_module(f"conformance.{module}"), name)
    return conform(thing, name=name, cases=cases)


def check(found, mistake):
    verdict = found.verdict
    if mistake is None:
        assert verdict.right, verdict
        assert verdict.causes == ()
    else:
        assert verdict.causes[0].name == mistake, verdict
    assert any(case.status == "pass" for case in found.cases)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_people_write_is_taken_as_it_is_and_its_mistake_named_first(name):
    check(report("tutorials", name, CHOSEN), MISTAKES[name])


@pytest.mark.parametrize("name", IN_TORCH)
def test_what_they_write_in_pytorch_is_taken_too(name):
    pytest.importorskip("torch")
    check(report("tutorials_torch", name, CHOSEN), IN_TORCH[name])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if number else pytest.mark.slow)
        for number, name in enumerate(IN_JAX)
    ],
)
def test_what_they_write_in_jax_is_taken_too(name):
    pytest.importorskip("flax")
    check(report("tutorials_jax", name, FEW), IN_JAX[name])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "batchnorm_forward",
            "function of NumPy, settings in `bn_param`, training and inference by "
            "`bn_param['mode']` ('train' or 'test'), gradients by `batchnorm_backward`",
        ),
        ("batch_norm", "function of NumPy, training and inference by `training` (True or False)"),
        ("bn_no_epsilon", "function of NumPy, training alone"),
        (
            "UpdatesInInference",
            "object of NumPy, training and inference by `train()` and `eval()`, "
            "moving_mean in `mean_ema`, moving_variance in `var_ema`",
        ),
        (
            "Nameless",
            "object of NumPy, training and inference by `.training` (True or False), "
            "moving_mean in `r`, moving_variance in `t`",
        ),
    ],
)
def test_it_is_said_what_a_thing_was_taken_as(name, words):
    assert report("tutorials", name, CHOSEN).taken_as == words


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bn_batch_axis", "it keeps all axes but the batch's, over which alone it averages"),
        ("batchnorm_forward", "it takes rank 2"),
        ("batch_norm", "it takes rank 2 and 4 and keeps axis 1"),
        ("bn_with_state", "it keeps the last axis"),
    ],
)
def test_the_axes_that_a_thing_is_not_made_for_are_skipped_with_the_reason(name, reason):
    skipped = {case.reason for case in report("tutorials", name, CHOSEN).cases if case.reason}
    assert reason in skipped


def test_a_right_backward_pass_that_is_named_gives_the_gradients_in_its_own_order():
    module = importlib.import_module("conformance.tutorials")
    pair = recognize(module.normalize_forward, "pair", backward=module.its_gradients)
    assert conform(pair, cases=CHOSEN).passed
    wrong = recognize(module.normalize_forward, "pair", backward=module.short_backward)
    assert not conform(wrong, cases=CHOSEN).passed


def test_a_mode_by_the_recording_of_gradients_is_found():
    pytest.importorskip("torch")
    for name in ("batch_norm", "BatchNorm"):
        assert "`torch.is_grad_enabled()`" in report("tutorials_torch", name, CHOSEN).taken_as


def test_statistics_that_state_dict_leaves_out_are_no_mistake_of_saving():
    pytest.importorskip("torch")
    plain, buffers = (
        report("tutorials_torch", name, CHOSEN).cases for name in ("BatchNorm", "ByOtherNames")
    )
    assert {case.status for case in plain if case.group == "saving"} <= {"skipped"}
    assert any(case.status == "pass" for case in buffers)


def of_matrices_and_images(x, gamma, beta, moving_mean, moving_var, eps, momentum, training):
    """Right; of other ranks it normalizes something by broadcasting."""
    axes = 0 if x.ndim == 2 else (0, 2, 3)
    if training:
        mean, var = (of(x, axes, keepdims=True) for of in (np.mean, np.var))
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_var = momentum * moving_var + (1 - momentum) * var
    else:
        mean, var = moving_mean, moving_var
    return gamma * (x - mean) / np.sqrt(var + eps) + beta, moving_mean, moving_var


def test_a_rank_that_works_by_broadcasting_alone_is_a_limit():
    found = conform(of_matrices_and_images).verdict
    assert found.right, found
    assert "takes rank 2 and 4" in [limit.words for limit in found.limits]


def test_what_raises_in_every_case_is_one_fault_and_no_limit():
    def batch_norm(x, scale, shift, eps):
        return x.no_such_thing(scale, shift, eps)

    found = conform(batch_norm).verdict
    assert (found.right, found.limits) == (False, ())
    assert found.fault.raised == "AttributeError"
    assert "no_such_thing(scale" in found.fault.where
