import dataclasses

import numpy as np
import pytest
from problem import (
    EPSILON,
    Results,
    batch_statistics,
    expected,
    expected_inference,
    inference_mistake,
    make_problem,
    mistake,
    steps_between_looks,
)

from batchnorm_mechanics import reference


@pytest.mark.parametrize("shape", [(60, 100), (4, 3, 5, 8)])
def test_what_is_expected_is_what_the_oracle_gives(shape):
    problem = make_problem(shape)
    axes = tuple(range(len(shape) - 1))
    y, mean, variance, _ = reference.forward(problem.x, problem.gamma, problem.beta, axes, EPSILON)
    slopes = reference.gradients(problem.dy, problem.x, problem.gamma, axes, EPSILON)
    right = Results(y, slopes["d_x"], slopes["d_gamma"], slopes["d_beta"], mean, variance)
    found = expected(problem, slice(None), unbiased=False)
    for field in dataclasses.fields(Results):
        np.testing.assert_allclose(
            getattr(found, field.name), getattr(right, field.name), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Results)])
@pytest.mark.parametrize("damage", [1.01, np.nan])
def test_a_wrong_result_is_named(field, damage):
    problem = make_problem((60, 10))
    right = expected(problem, slice(None), unbiased=False)
    assert mistake(problem, right, unbiased=False) is None
    wrong = dataclasses.replace(right, **{field: getattr(right, field) * damage})
    assert mistake(problem, wrong, unbiased=False).startswith(f"{field} is off by")


def test_a_gradient_without_its_two_means_is_wrong():
    problem = make_problem((60, 10))
    right = expected(problem, slice(None), unbiased=False)
    dx = problem.dy * problem.gamma / np.sqrt(right.variance + EPSILON)
    assert "dx is off" in mistake(problem, dataclasses.replace(right, dx=dx), unbiased=False)


def test_the_other_variance_is_wrong():
    problem = make_problem((60, 10))
    biased = expected(problem, slice(None), unbiased=False)
    assert "variance is off" in mistake(problem, biased, unbiased=True)


def test_a_result_of_another_shape_is_wrong():
    problem = make_problem((60, 10))
    right = expected(problem, slice(None), unbiased=False)
    wrong = dataclasses.replace(right, dx=right.dx.T)
    assert mistake(problem, wrong, unbiased=False) == ("dx has the shape (10, 60), not (60, 10)")


def test_of_a_large_tensor_the_last_channel_is_compared_too():
    problem = make_problem((2**16, 20))
    right = expected(problem, np.arange(20), unbiased=False)
    assert mistake(problem, right, unbiased=False) is None
    right.dgamma[-1] = 0
    assert "dgamma is off" in mistake(problem, right, unbiased=False)


def test_batch_statistics_come_back_from_the_first_update():
    mean, variance = batch_statistics(np.array([0.02]), np.array([0.99 + 0.03]))
    assert (mean[0], variance[0]) == pytest.approx((2.0, 3.0))


@pytest.mark.parametrize(
    ("shape", "steps"), [((60, 100), 200), ((32, 7, 7, 512), 5), ((64, 56, 56, 64), 1)]
)
def test_a_chain_is_long_where_a_step_is_short(shape, steps):
    assert steps_between_looks(shape) == steps


def test_what_is_expected_of_inference_is_the_paper_s_formula():
    problem = make_problem((60, 10))
    right = (problem.x - problem.moving_mean) / np.sqrt(problem.moving_variance + EPSILON)
    right = right * problem.gamma + problem.beta
    np.testing.assert_allclose(expected_inference(problem, slice(None)), right, rtol=1e-5)


def test_a_chain_of_inference_steps_stays_finite():
    problem = make_problem((20, 2048))
    assert (problem.gamma**2 < problem.moving_variance).all()


def test_a_batch_s_own_statistics_are_no_inference():
    problem = make_problem((60, 10))
    y, *_ = reference.forward(problem.x, problem.gamma, problem.beta, (0,), EPSILON)
    assert inference_mistake(problem, y).startswith("inference's y is off by")
    assert inference_mistake(problem, y.T) == "inference's y has the shape (10, 60), not (60, 10)"
