import numpy as np
import pytest

from batchnorm_mechanics import reference
from batchnorm_mechanics.bench import layer
from batchnorm_mechanics.bench.peers import missing_peers
from batchnorm_mechanics.bench.problem import (
    EPSILON,
    expected_inference,
    inference_mistake,
    make_problem,
)


def test_what_is_expected_of_inference_is_the_paper_s_formula():
    problem = make_problem((60, 10))
    right = (problem.x - problem.moving_mean) / np.sqrt(problem.moving_variance + EPSILON)
    right = right * problem.gamma + problem.beta
    np.testing.assert_allclose(expected_inference(problem, slice(None)), right, rtol=1e-5)


def test_a_chain_of_inference_steps_stays_finite():
    problem = make_problem((20, 2048))
    assert (problem.gamma**2 < problem.moving_variance).all()


@pytest.mark.parametrize("shape", [(40, 6), (4, 9, 6), (4, 5, 5, 6), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("name", ["ours", "Keras", "torch"])
def test_inference_uses_the_problem_s_statistics_before_and_after_training(shape, name):
    if name in missing_peers():
        pytest.skip(f"{name} is not installed")
    problem = make_problem(shape)
    entries = layer.entries(problem)
    contestant = entries.get(name, entries.get("torch, channels last"))()
    assert inference_mistake(problem, contestant.inferred()) is None
    contestant.forward()
    contestant.inference()
    contestant.inference_calls()
    assert inference_mistake(problem, contestant.inferred()) is None


def test_a_batch_s_own_statistics_are_no_inference():
    problem = make_problem((60, 10))
    y, *_ = reference.forward(problem.x, problem.gamma, problem.beta, (0,), EPSILON)
    assert inference_mistake(problem, y).startswith("inference's y is off by")
    assert inference_mistake(problem, y.T) == "inference's y has the shape (10, 60), not (60, 10)"
