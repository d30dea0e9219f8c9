"""Random inputs, the difference of two models, and their times."""

import itertools

import keras
import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.folding.comparing import (
    first_batches,
    largest_difference,
    random_inputs,
    rounding_of,
    times_as_fast,
)
from batchnorm_mechanics.models.data import Data

L = keras.layers


def model_of(*inputs):
    """Return a model of these inputs, which hands them on."""
    made = [keras.Input(shape, name=name, dtype=dtype) for name, shape, dtype in inputs]
    return keras.Model(made, [L.Identity()(one) for one in made])


def test_random_inputs_have_the_types_and_sizes_of_the_model_s():
    model = model_of(
        ("a", (3,), "float32"), ("b", (None, 2), "int32"), ("c", (2,), "bool"), ("d", (), "float16")
    )
    a, b, c, d = random_inputs(model, 5)
    assert [(x.shape, x.dtype.name) for x in (a, b, c, d)] == [
        ((5, 3), "float32"),
        ((5, 64, 2), "int32"),
        ((5, 2), "bool"),
        ((5,), "float16"),
    ]
    assert set(b.ravel()) == {0, 1}


def test_random_inputs_vary_and_are_the_same_each_time():
    model = model_of(("a", (300,), "float32"))
    (first,), (second,) = (random_inputs(model, 20) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert abs(first.std() - 1) < 0.05


def test_open_sizes_are_those_of_the_data():
    model = model_of(("a", (None, 2), "float32"), ("b", (None,), "float32"))
    like = {"b": np.zeros((4, 9)), "a": np.zeros((4, 7, 2))}
    assert [x.shape for x in random_inputs(model, 5, like=like)] == [(5, 7, 2), (5, 9)]


def test_the_structure_of_the_inputs_is_kept():
    x = keras.Input((3,), name="x")
    inputs = random_inputs(keras.Model({"x": x}, L.Identity()(x)), 2)
    assert inputs["x"].shape == (2, 3)


def test_a_sequential_model_has_inputs_too():
    model = keras.Sequential([L.Input((3,)), L.Dense(2)])
    assert random_inputs(model, 2).shape == (2, 3)


def test_text_is_refused():
    model = model_of(("a", (3,), "string"))
    with pytest.raises(InputError) as caught:
        random_inputs(model, 2)
    assert str(caught.value) == (
        "fold: `model` must take numbers. Received: the input 'a' of type string. "
        "Fold the part of the model that comes after its preprocessing."
    )


def test_data_of_another_size_are_refused():
    with pytest.raises(InputError) as caught:
        random_inputs(model_of(("a", (3,), "float32")), 2, like=np.zeros((4, 5)))
    assert str(caught.value) == (
        "fold: `data` must fit the inputs of the model, of shapes [(None, 3)]. "
        "Received: data of shapes [(4, 5)]. Give what you would give to its `predict`."
    )


def test_data_of_another_rank_are_refused():
    with pytest.raises(InputError, match="must fit the inputs of the model"):
        random_inputs(model_of(("a", (3,), "float32")), 2, like=np.zeros((4, 5, 6)))


def test_of_many_batches_the_first_are_taken():
    data = Data(np.arange(10.0).reshape(10, 1), batch_size=3)
    assert [x.ravel().tolist() for x in first_batches(data, 2)] == [[0, 1, 2], [3, 4, 5]]
    assert len(list(first_batches(data, 9))) == 4


class Given:
    """Stands for a model: predicts what it was given, and counts."""

    def __init__(self, *outputs, clock=None, seconds=()):
        self.outputs, self.clock, self.seconds = outputs, clock, iter(seconds)
        self.calls = 0

    def predict_on_batch(self, inputs):
        self.calls += 1
        if self.clock is not None and self.calls > 1:
            self.clock.now += next(self.seconds)
        return [np.array(output) for output in self.outputs]


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ([[1.0, -4.0]], [[1.0, -4.0]], 0.0),
        ([[1.0, -4.0]], [[3.0, -4.0]], 0.5),
        ([[1.0, -4.0], [10.0]], [[1.0, -4.0], [11.0]], 0.1),
        ([[0.0]], [[0.0]], 0.0),
        ([[0.0]], [[1.0]], np.inf),
        ([[-np.inf, np.inf, 2.0]], [[-np.inf, np.inf, 1.0]], 0.5),
        ([[1.0, 1.0]], [[np.nan, 1.0]], np.inf),
        ([[1.0, 1.0]], [[np.inf, 1.0]], np.inf),
        ([[np.inf, 1.0]], [[-np.inf, 1.0]], np.inf),
    ],
)
def test_the_difference_is_the_largest_relative_to_the_largest_output(expected, actual, difference):
    assert largest_difference(Given(*expected), Given(*actual), None) == difference


@pytest.mark.parametrize("actual", [[[1.0], [np.nan, 1.0]], [[1.0], [0.0, 1.0]]])
def test_nothing_agrees_with_nan(actual):
    # Equal NaN would be agreement by kernels that pass NaN on, and none by those that lose it.
    assert largest_difference(Given([1.0], [np.nan, 1.0]), Given(*actual), None) is None


def one_weight(value, dtype):
    """A model that multiplies by one weight."""
    layer = L.Dense(1, use_bias=False, dtype=dtype)
    model = keras.Sequential([L.Input((1,), dtype=layer.compute_dtype), layer])
    layer.kernel.assign([[value]])
    return model


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [
        ("float32", 2.0**-23),
        ("float64", 2.0**-52),
        ("float16", 2.0**-10),
        ("bfloat16", 2.0**-7),
        ("mixed_float16", 2.0**-10),
        ("mixed_bfloat16", 2.0**-7),
    ],
)
def test_weights_are_moved_by_a_unit_of_the_type_in_which_they_are_used(dtype, unit):
    model = one_weight(1.25, dtype)
    assert rounding_of(model, np.ones((2, 1))) == pytest.approx(unit / 1.25, rel=1e-6, abs=0)
    assert model.layers[0].kernel.numpy().item() == 1.25


def test_each_weight_is_moved_for_itself_up_or_down():
    layer = L.Dense(200, use_bias=False)
    model = keras.Sequential([L.Input((1,)), layer])
    layer.kernel.assign(np.full((1, 200), 1.25))
    seen = []

    class Noting(keras.Model):
        def predict_on_batch(self, inputs):
            seen.append(super().predict_on_batch(inputs))
            return seen[-1]

    noting = Noting(model.inputs, model.outputs)
    rounding_of(noting, np.ones((1, 1), "float32"))
    original, *moved = [seen[index] for index in (0, 1, 3, 5)]
    for outputs in moved:
        steps = (outputs - original).ravel() / 2.0**-23
        assert set(steps) == {-1.0, 1.0}
        assert abs(steps.mean()) < 0.3
    assert (moved[0] != moved[1]).any()


def test_weights_that_are_not_cast_are_moved_by_a_unit_of_their_own():
    layer = L.BatchNormalization(dtype="mixed_float16")
    model = keras.Sequential([L.Input((1,), dtype="float16"), layer])
    layer.gamma.assign([1.25])
    # What moves by a unit of float32 is the same in float16.
    assert rounding_of(model, np.ones((2, 1), "float16")) == 0


def test_whole_numbers_among_the_weights_are_not_moved():
    model = keras.Sequential([L.Input((3,)), L.Dropout(0.5, seed=1)])
    assert rounding_of(model, np.ones((2, 3))) == 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_times_are_medians_of_turns():
    clock = Clock()
    slow = Given(1.0, clock=clock, seconds=itertools.cycle([0.06, 0.06, 5.0]))
    fast = Given(1.0, clock=clock, seconds=itertools.cycle([0.02, 0.03, 0.02]))
    assert times_as_fast(slow, fast, None, clock=clock) == pytest.approx(3.0)
    # The first call of each compiles and is not timed.
    assert slow.calls == fast.calls == 1 + 5


def test_quick_models_take_more_turns():
    clock = Clock()
    models = [Given(1.0, clock=clock, seconds=itertools.repeat(0.001)) for _ in range(2)]
    assert times_as_fast(*models, None, clock=clock) == pytest.approx(1.0)
    assert models[0].calls == 1 + 21
