import dataclasses

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
    contestants = [enter() for enter in layer.entries(problem)]
    assert [one.name for one in contestants[:4]] == ["ours", "ours, XLA", "Keras", "Keras, XLA"]
    families = {one.name.split(",")[0] for one in contestants}
    assert families == {"ours", "Keras", "tf_keras", "torch", "flax"} - set(missing_peers())
    for contestant in contestants:
        wrong = mistake(problem, contestant.results(), unbiased=contestant.unbiased)
        assert wrong is None, f"{contestant.name}: {wrong}"


def small_problem():
    class Small(type(make_problem((8, 2)))):
        steps = 3

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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_copies_all_of_it(threads):
    source = np.arange(101, dtype=np.float32).reshape(101, 1)
    copy = Copy(source, 1, threads)
    copy.run()
    np.testing.assert_array_equal(copy.target, source.reshape(-1))
