import dataclasses
import itertools

import keras
import numpy as np
import pytest
from contestants import TensorFlowLayer, entries
from hardware import missing_peers
from problem import inference_mistake, make_problem, mistake


@pytest.mark.parametrize("shape", [(40, 6), (4, 5, 5, 6)])
def test_every_contestant_that_is_installed_computes_the_problem(shape):
    problem = make_problem(shape)
    found = entries(problem)
    contestants = [enter() for enter in found.values()]
    assert [one.name for one in contestants] == list(found)
    families = {one.name.split(",")[0] for one in contestants}
    every = {"ours", "accelerated", "Keras", "tf_keras", "torch", "flax"}
    assert families == every - set(missing_peers())
    assert {"ours, XLA", "Keras, XLA"} <= set(found)
    for contestant in contestants:
        wrong = mistake(problem, contestant.results(), unbiased=contestant.unbiased)
        assert wrong is None, f"{contestant.name}: {wrong}"


def small_problem(chain=3):
    class Small(type(make_problem((8, 2)))):
        steps = chain

    problem = make_problem((8, 2))
    return Small(**{f.name: getattr(problem, f.name) for f in dataclasses.fields(problem)})


def test_a_chain_takes_as_many_steps_and_updates_the_statistics_in_each():
    counts = []

    class Counting(keras.layers.BatchNormalization):
        def build(self, shape):
            super().build(shape)
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
            counts.append(self.calls)

        def call(self, *args, **kwargs):
            self.calls.assign_add(1.0)
            return super().call(*args, **kwargs)

    contestant = TensorFlowLayer("Keras", Counting, small_problem())
    contestant.forward()
    assert float(counts[0].numpy()) == 3
    contestant.both()
    assert float(counts[0].numpy()) == 6
    contestant.calls()
    assert float(counts[0].numpy()) == 9


@pytest.mark.parametrize("shape", [(40, 6), (4, 9, 6), (4, 5, 5, 6), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("name", ["ours", "Keras", "torch"])
def test_inference_uses_the_problem_s_statistics_before_and_after_training(shape, name):
    if name in missing_peers():
        pytest.skip(f"{name} is not installed")
    problem = make_problem(shape)
    found = entries(problem)
    contestant = found.get(name, found.get("torch, channels last"))()
    assert inference_mistake(problem, contestant.inferred()) is None
    contestant.forward()
    contestant.inference()
    contestant.inference_calls()
    assert inference_mistake(problem, contestant.inferred()) is None


@pytest.mark.parametrize("name", ["ours", "torch", "flax"])
def test_calls_from_python_take_the_steps_of_a_chain_each_fed_with_the_one_before(name):
    if name in missing_peers():
        pytest.skip(f"{name} is not installed")
    problem = small_problem()
    contestant = entries(problem)[name]()
    fed = []

    class Spy:
        def __init__(self, step):
            self.step = step

        def __call__(self, *arguments):
            found = self.step(*arguments)
            fed.append((arguments[-2:], found))
            return found

    contestant._step = Spy(contestant._step)
    contestant.calls()
    assert len(fed) == problem.steps
    np.testing.assert_array_equal(np.asarray(fed[0][0][0]), problem.x)
    np.testing.assert_array_equal(np.asarray(fed[0][0][1]), problem.dy)
    for (_, (y, dx, *_)), (fed_with, _) in itertools.pairwise(fed):
        assert fed_with[0] is y
        assert fed_with[1] is dx


def test_flax_hands_its_statistics_from_call_to_call():
    if "flax" in missing_peers():
        pytest.skip("flax is not installed")
    contestant = entries(small_problem())["flax"]()
    step, seen = contestant._step, []

    def spy(weights, statistics, x, dy):
        seen.append(statistics)
        return step(weights, statistics, x, dy)

    contestant._step = spy
    contestant.calls()
    means = [np.asarray(one["mean"][...]) for one in seen]
    assert not means[0].any()
    assert (np.abs(means[1]) > 0).all()
    assert (means[1] != means[2]).all()
