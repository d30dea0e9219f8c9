"""The backward pass of a trace: the tape beside it, and sums that must come out."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data

import batchnorm_mechanics as bnm
from batchnorm_mechanics.tracing import backward

SIX = ["d_x_hat", "d_variance", "d_mean", "d_x", "d_gamma", "d_beta"]


def traced(rng, **options):
    x = data(rng, (6, 4, 3), 3.0, options.pop("dtype", "float64"))
    return bnm.trace(x, axes=[0, 1], gamma=[0.5, 1, 2], dy=rng.normal(size=x.shape), **options)


def test_the_six_gradients_come_in_the_paper_s_order(rng):
    steps = traced(rng).backward.gradients
    assert [step.name for step in steps] == ["dy", *SIX]
    assert [step.source for step in steps][1::5] == [
        "sec. 3, 1st gradient of 6",
        "sec. 3, 6th gradient of 6",
    ]


def test_the_tape_agrees_with_all_six_though_it_knows_no_formula(rng):
    tape = traced(rng).backward.tape
    assert [row.step for row in tape] == SIX
    assert all(row.difference.absolute < 1e-13 for row in tape)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_sums_come_out_as_far_as_rounding_allows(rng, dtype):
    checks = traced(rng, dtype=dtype).backward.checks
    assert len(checks) == 6
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("wrong", "caught"),
    [
        ({"d_x": lambda g: g.d_x + 1e-3}, "Σ d_x = 0: moving a channel changes nothing"),
        ({"d_beta": lambda g: g.d_beta * 1.001}, "d_beta = Σ dy"),
        ({"d_gamma": lambda g: g.d_gamma * 1.001}, "d_gamma = Σ dy · x_hat"),
        ({"d_variance": lambda g: g.d_variance * 2}, "d_variance = −½ · inverse_std² · Σ"),
        ({"d_mean": lambda g: g.d_mean * 1.01}, "d_mean = −inverse_std · Σ d_x_hat"),
        ({"d_x": lambda g: g.d_x * 1.5 + 0 * g.d_x_hat}, "Σ d_x · x_hat = ε"),
        ({"d_x": lambda g: g.d_x * float("nan")}, "Σ d_x = 0"),
    ],
)
def test_a_wrong_gradient_fails_its_sum(rng, monkeypatch, wrong, caught):
    right = backward.core.gradients
    monkeypatch.setattr(
        backward.core,
        "gradients",
        lambda dy, cache: (g := right(dy, cache))._replace(
            **{name: change(g) for name, change in wrong.items()}
        ),
    )
    failed = [check.what for check in traced(rng).backward.checks if not check.passed]
    assert any(what.startswith(caught) for what in failed)


def test_nan_in_one_channel_leaves_the_checks_of_the_others():
    found = bnm.trace([[1.0, np.nan], [2.0, 3.0]], dy=[[1.0, 2.0], [4.0, 3.0]])
    assert np.isnan(found["d_x"].value[:, 1]).all()
    assert all(check.passed for check in found.backward.checks)


def test_a_constant_dy_gives_no_gradient_by_x():
    found = bnm.trace([[1.0], [2.0], [6.0]], dy=tf.ones((3, 1)))
    np.testing.assert_allclose(found["d_x"].value, 0, atol=1e-7)
    assert found["d_beta"].value.tolist() == [3]
