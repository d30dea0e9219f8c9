"""What the walk through a model holds and how it measures: as little, and as quickly, as it can."""

import keras
import numpy as np
import pytest

from batchnorm_mechanics.comparison.calls import calls_of
from batchnorm_mechanics.comparison.keras_form import KerasForm
from batchnorm_mechanics.comparison.layouts import _LARGE, distance
from batchnorm_mechanics.comparison.matching import _FEW, Walk
from batchnorm_mechanics.comparison.ran import mean_of

L = keras.layers


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_distance_of_large_arrays_is_that_of_all_their_numbers(rng, dtype):
    one = rng.normal(size=(3, 2, _LARGE // 4 + 1)).astype(dtype)
    other = (one + 1e-2 * rng.normal(size=one.shape)).astype(dtype)
    bound = 1e-3 if dtype == "float16" else 1e-6
    wanted = np.sqrt(np.mean(np.square(one.astype(float) - other.astype(float))))
    assert distance(one, other) == pytest.approx(wanted, rel=bound)
    assert distance(one.T, other.T) == pytest.approx(wanted, rel=bound)


def test_what_is_not_finite_counts_in_large_arrays_as_in_small_ones(rng):
    one = rng.normal(size=(4, _LARGE)).astype("float32")
    other = one.copy()
    one[1, 2] = other[1, 2] = np.nan
    one[2, 3] = other[2, 3] = np.inf
    assert distance(one, other) == 0
    other[0, 0] = np.nan
    assert distance(one, other) == np.inf


@pytest.mark.parametrize("largest", [1.0, 1e30])
def test_a_mean_is_near_enough_to_rule_a_counterpart_out(rng, largest):
    array = (largest * rng.normal(1, 1, 100_000)).astype("float32")
    assert mean_of(array) == pytest.approx(array.astype(float).mean(), rel=1e-6)


def walk(network, name):
    model, data = network(name)
    form = KerasForm(model)
    ran = form.run([data])
    return Walk(form.calls, ran, ran.inputs, form.tensors(data)), form.calls


@pytest.mark.parametrize("name", ["mobile", "residual"])
def test_it_lets_go_of_what_no_stage_needs(network, name):
    found, calls = walk(network, name)
    held = [len(found.own) for _ in found]
    assert len(held) > 15
    assert max(held) <= 6
    # What the outputs are compared by is there at the end.
    assert set(calls.outputs) <= set(found.own)


def test_what_rounding_does_is_measured_on_a_few_samples(network):
    found, _ = walk(network, "mobile")
    assert {len(joined.moved) for joined in found} == {_FEW}
    assert all(len(joined.expected) > _FEW for joined in walk(network, "mobile")[0])


@pytest.mark.parametrize("kind", ["operation", "lambda", "own", "fixed"])
def test_where_samples_may_know_of_each_other_it_is_measured_on_all(kind):
    class Own(L.Layer):
        def call(self, x):
            return x - keras.ops.mean(x, 0)

    layers = {
        "operation": lambda x: x - keras.ops.mean(x, 0),
        "lambda": L.Lambda(lambda x: x - keras.ops.mean(x, 0)),
        "own": Own(),
        "fixed": L.ReLU(),
    }
    inputs = keras.Input((3,), batch_size=8 if kind == "fixed" else None)
    model = keras.Model(inputs, L.Dense(2)(layers[kind](L.BatchNormalization()(inputs))))
    assert calls_of(model).is_by_sample is False
    form, data = KerasForm(model), np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    ran = form.run([data])
    found = list(Walk(form.calls, ran, ran.inputs, form.tensors(data)))
    assert all(len(joined.moved) == len(joined.expected) for joined in found)
