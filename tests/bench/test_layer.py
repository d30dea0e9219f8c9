import dataclasses
import itertools

import keras
import numpy as np
import pytest

from batchnorm_mechanics.bench import layer
from batchnorm_mechanics.bench.copying import Copy
from batchnorm_mechanics.bench.peers import missing_peers
from batchnorm_mechanics.bench.problem import make_problem, mistake
from batchnorm_mechanics.bench.tensorflow_layer import TensorFlowLayer


def quiet(message):
    pass


@pytest.mark.parametrize("shape", [(40, 6), (4, 5, 5, 6)])
def test_every_contestant_that_is_installed_computes_the_problem(shape):
    problem = make_problem(shape)
    entries = layer.entries(problem)
    contestants = [enter() for enter in entries.values()]
    assert [one.name for one in contestants] == list(entries)
    assert [one.name for one in contestants[:4]] == ["ours", "ours, XLA", "Keras", "Keras, XLA"]
    families = {one.name.split(",")[0] for one in contestants}
    assert families == {"ours", "Keras", "tf_keras", "torch", "flax"} - set(missing_peers())
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


class Wrong(keras.layers.BatchNormalization):
    """Faster than all others, for it does nothing."""

    def call(self, inputs, training=None, mask=None):
        return inputs * self.gamma + self.beta


def test_a_contestant_that_computes_something_else_is_refused_and_not_timed():
    problem = small_problem()
    contestants = [
        TensorFlowLayer("ours", layer.BatchNormalization, problem),
        TensorFlowLayer("cheat", Wrong, problem),
    ]
    comparisons = layer.compare(problem, contestants, repeats=2, report=quiet)
    assert [one.measure for one in comparisons] == [
        "forward + backward",
        "forward",
        "backward",
    ]
    for comparison in comparisons:
        assert list(comparison.samples) == ["ours"]
        assert comparison.refused["cheat"].startswith("y is off by")
        assert len(comparison.samples["ours"]) == 2
        assert comparison.floor is None


def test_backward_is_what_both_take_beyond_forward():
    problem = small_problem()
    contestants = [TensorFlowLayer("ours", layer.BatchNormalization, problem)]
    both, forward, backward = layer.compare(problem, contestants, repeats=3, report=quiet)
    differences = np.subtract(both.samples["ours"], forward.samples["ours"])
    assert backward.samples["ours"] == pytest.approx(list(differences))


@pytest.mark.parametrize("name", ["ours", "torch", "flax"])
def test_calls_from_python_take_the_steps_of_a_chain_each_fed_with_the_one_before(name):
    if name in missing_peers():
        pytest.skip(f"{name} is not installed")
    problem = small_problem()
    contestant = layer.entries(problem)[name]()
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
    contestant = layer.entries(small_problem())["flax"]()
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


@pytest.mark.parametrize("steps", [3, 1])
def test_calls_from_python_are_timed_where_a_sample_is_a_chain(steps):
    problem = small_problem(steps)
    ran = []

    class Recording(TensorFlowLayer):
        def calls(self):
            ran.append("calls")
            super().calls()

    contestants = [Recording("ours", layer.BatchNormalization, problem)]
    found = layer.compare(problem, contestants, repeats=2, report=quiet, calls=True)
    called = [one for one in found if one.measure == "forward + backward, called from Python"]
    if steps == 1:
        assert not called
        assert not ran
        return
    (comparison,) = called
    assert ran == ["calls"] * 3  # once untimed
    assert len(comparison.samples["ours"]) == 2
    assert comparison.how == "3 calls a sample, each fed with the one before"
    assert comparison.floor is None


def test_the_batch_sizes_are_compared_with_keras_and_torch_alone():
    found = list(layer.compare_batches(((20, 3), (40, 3)), repeats=1, report=quiet))
    assert [(one.case, one.measure) for one in found] == [
        ("batch of 20", "forward + backward by batch size"),
        ("batch of 40", "forward + backward by batch size"),
    ]
    for one in found:
        assert set(one.samples) == {"ours", "Keras", "torch"} - set(missing_peers())


def test_of_a_batch_size_forward_and_backward_together_are_shown(monkeypatch):
    def compare(problem, contestants, **options):
        return [
            layer.Comparison("layer", "a shape", measure, "ours", {"ours": [seconds]})
            for measure, seconds in ((layer.BOTH, 3.0), (layer.FORWARD, 1.0), (layer.BACKWARD, 2.0))
        ]

    monkeypatch.setattr(layer, "compare", compare)
    monkeypatch.setattr(layer, "entries", lambda problem: {})
    (found,) = layer.compare_batches(((1200, 2),), repeats=1, report=quiet)
    assert (found.case, found.samples) == ("batch of 1,200", {"ours": [3.0]})


def test_the_batch_sizes_span_three_decades_of_the_study_s_channels():
    rows = [shape[0] for shape in layer.BATCHES]
    assert rows == [60, 600, 6_000, 60_000]
    assert {shape[1:] for shape in layer.BATCHES} == {(100,)}


def test_memory_limits_a_tensor_that_exceeds_the_cache(monkeypatch):
    monkeypatch.setattr(layer, "exceeds_cache", lambda shape: True)
    problem = small_problem()
    contestants = [TensorFlowLayer("ours", layer.BatchNormalization, problem)]
    both, forward, backward = layer.compare(problem, contestants, repeats=3, report=quiet)
    assert both.limit == "two passes over memory"
    # Of the same copies: 4, 1.5 and 2.5 of them.
    np.testing.assert_allclose(np.divide(both.floor, forward.floor), 4 / 1.5)
    np.testing.assert_allclose(np.divide(both.floor, backward.floor), 4 / 2.5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_copies_all_of_it(threads):
    source = np.arange(101, dtype=np.float32).reshape(101, 1)
    copy = Copy(source, 1, threads)
    copy.run()
    np.testing.assert_array_equal(copy.target, source.reshape(-1))
