"""Traces of real layers: the very call, why it did what it did, and nothing left behind."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics.tracing.capture import calls_of

KERAS = keras.layers.BatchNormalization
BOTH = pytest.mark.parametrize("kind", [KERAS, bnm.BatchNormalization], ids=["keras", "ours"])
A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def why(found):
    return " ".join(found.why)


@BOTH
def test_a_fresh_layer_called_without_training_used_the_initial_statistics(kind):
    layer = kind(gamma_initializer=keras.initializers.Constant(2.0), beta_initializer="ones")
    found = bnm.trace(layer, A)
    assert found.mode == "inference"
    assert "`training` was left out when it was called, and nothing else set it" in why(found)
    assert (
        "The layer is new and has seen no batch, so the initial moving statistics, mean 0 and "
        "variance 1, were used." in found.why
    )
    assert "This is why the output is not the normalized batch" in why(found)
    assert "this batch's own: mean [2.5, 3.5, 4.5], variance 2.25" in why(found)
    assert found["mean"].value.tolist() == found["moving_mean_before"].value.tolist() == [0, 0, 0]
    assert found["variance"].value.tolist() == [1, 1, 1]
    # The source's own output for this call.
    np.testing.assert_allclose(
        found["layer_output"].value,
        [[2.9990008, 4.9980016, 6.9970026], [8.996003, 10.995004, 12.994005]],
        rtol=1e-6,
    )
    assert not layer.built


@BOTH
@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16", "mixed_bfloat16"])
def test_the_steps_agree_with_what_the_layer_returned(rng, kind, training, dtype):
    x = rng.normal(3.0, 2.0, (8, 5))
    layer = kind(momentum=0.9, dtype=dtype)
    found = bnm.trace(layer, x, training=training)
    assert found.mode == ("training" if training else "inference")
    assert len(found.checks) == (3 if training else 1)
    assert all(check.passed for check in found.checks)
    layer.build(x.shape)
    np.testing.assert_array_equal(found["layer_output"].value, layer(x, training=training))
    np.testing.assert_array_equal(found["moving_mean_after"].value, layer.moving_mean)


@BOTH
def test_a_built_layer_is_left_as_it_was(rng, kind):
    layer = kind()
    layer.build((None, 3))
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    before = layer.get_weights()
    found = bnm.trace(layer, A, training=True, dy=A)
    np.testing.assert_array_equal(found["moving_mean_before"].value, [1, 2, 3])
    np.testing.assert_allclose(found["moving_mean_after"].value, [1.015, 2.015, 3.015])
    for was, weight in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(was, weight)
    assert "call" not in vars(layer)


def test_the_layer_is_put_back_even_if_the_call_fails():
    class Failing(KERAS):
        def call(self, inputs, training=None, mask=None):
            super().call(inputs, training=training, mask=mask)
            raise ArithmeticError

    layer = Failing()
    layer.build((None, 3))
    with pytest.raises(ArithmeticError):
        bnm.trace(layer, A, training=True)
    assert layer.moving_mean.numpy().tolist() == [0, 0, 0]
    assert "call" not in vars(layer)


@BOTH
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_axis_kept_becomes_the_axes_reduced(rng, kind, axis):
    found = bnm.trace(kind(axis=axis), rng.normal(size=(2, 3, 4, 5)), training=True)
    assert found["mean"].shape == ((5,) if axis == -1 else (3,))
    assert all(check.passed for check in found.checks)


@BOTH
def test_a_frozen_layer_does_not_obey_training(kind):
    found = bnm.trace(kind(trainable=False), A, training=True)
    assert found.mode == "inference"
    assert found.why[1].startswith("Why: the layer is frozen (trainable=False).")
    assert found["moving_mean_after"].value.tolist() == [0, 0, 0]


def test_statistics_that_have_moved_are_not_called_initial():
    layer = KERAS()
    layer(A, training=True)
    found = bnm.trace(layer, A)
    assert "initial" not in why(found)
    assert "moving standard deviations from the moving mean" in why(found)


def test_statistics_that_are_still_initial_after_building_are_named():
    layer = KERAS()
    layer.build((None, 3))
    assert "They are exactly what they are before the first batch" in why(bnm.trace(layer, A))


def test_other_initializers_have_other_initial_statistics():
    layer = KERAS(moving_mean_initializer=keras.initializers.Constant(5.0))
    found = bnm.trace(layer, A)
    assert "mean 5 and variance 1, were used" in why(found)
    assert "is almost x" not in why(found)
    random = KERAS(moving_mean_initializer="random_normal")
    assert "initial moving statistics" not in why(bnm.trace(random, A))


def test_the_layer_s_own_tape_stands_beside_the_six_gradients(rng):
    x, dy = rng.normal(size=(6, 3)).astype("float32"), rng.normal(size=(6, 3))
    found = bnm.trace(KERAS(), x, training=True, dy=dy, compare=True)
    through = {
        row.step: row for row in found.backward.tape if row.by == "GradientTape through the layer"
    }
    assert set(through) == {"d_x", "d_gamma", "d_beta"}
    assert all(row.difference.absolute < 1e-5 for row in through.values())
    assert "the layer traced" in {row.by for row in found.comparison.rows}


def test_a_policy_of_ours_shows_all_of_its_state():
    layer = bnm.BatchNormalization(statistics=bnm.PooledPopulation())
    found = bnm.trace(layer, A, training=True)
    assert found["count_after"].value.tolist() == [2, 2, 2]
    assert all(check.passed for check in found.checks)


def test_a_mask_reaches_the_layer(rng):
    mask = np.array([True, True, False, True])
    x = rng.normal(size=(4, 3)).astype("float32")
    found = bnm.trace(KERAS(), x, training=True, mask=mask)
    np.testing.assert_allclose(found["mean"].value, x[mask].mean(0), rtol=1e-6)
    assert all(check.passed for check in found.checks)


def test_a_cast_by_the_layer_s_dtype_policy_is_said():
    found = bnm.trace(KERAS(), A.astype("float64"))
    assert found["x"].note == "It came as float64; the layer's dtype policy has it cast to float32."


def test_a_subclass_that_computes_something_else_fails_its_check():
    class Wrong(KERAS):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) * 1.001

    found = bnm.trace(Wrong(), A, training=True)
    assert not found.checks[0].passed
    assert any("Wrong is a subclass" in note for note in found.notes)


def test_a_subclass_that_moves_its_statistics_wrongly_fails_its_check():
    class Reversed(KERAS):
        def call(self, inputs, training=None, mask=None):
            momentum, self.momentum = self.momentum, 1 - self.momentum
            outputs = super().call(inputs, training=training, mask=mask)
            self.momentum = momentum
            return outputs

    found = bnm.trace(Reversed(), A, training=True)
    assert [check.passed for check in found.checks] == [True, False, False]


def test_keras_s_synchronized_variance_is_caught_at_a_large_mean(rng):
    x = (rng.normal(size=(9, 3)) + 1e4).astype("float32")
    assert all(check.passed for check in bnm.trace(KERAS(), x, training=True).checks)
    assert not bnm.trace(KERAS(synchronized=True), x, training=True).checks[0].passed


def test_renorm_is_refused_in_training():
    layer = KERAS(renorm=True, name="r")
    message = (
        "trace: `layer` must not use renorm in training mode. Received: 'r' with renorm=True. "
        "Batch renormalization has other steps; trace it with training=False."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.trace(layer, A, training=True)
    assert bnm.trace(layer, A).checks[0].passed


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: bnm.trace(KERAS(name="a"), A, axes=0),
            TypeError,
            "trace: `axes` must be left out where a layer or model is traced. Received: axes=0. "
            "The layer 'a' has its own.",
        ),
        (
            lambda: bnm.trace(KERAS(name="a")),
            TypeError,
            "trace: `x` must be given where a layer or model is traced. Received: x=None. Pass the "
            "input of 'a': trace(layer, x).",
        ),
        (
            lambda: bnm.trace(KERAS(), A, layer="a"),
            ValueError,
            "trace: `layer` must be left out where a layer itself is traced. Received: layer='a'. "
            "It names a layer inside a model.",
        ),
        (
            lambda: bnm.trace(keras.layers.Dense(2, name="d"), A),
            TypeError,
            "trace: `layer` must be a BatchNormalization, Keras's or ours, or a model that holds "
            "one. Received: layer=<Dense name=d, built=False>. Pass the layer itself, or its model "
            "with layer=name.",
        ),
    ],
)
def test_what_does_not_go_with_a_layer_is_refused(call, error, message):
    with pytest.raises(error, match=whole(message)):
        call()


def test_symbolic_calls_are_noted_as_such():
    layer = KERAS()
    layer.build((None, 3))
    with calls_of(layer) as calls:
        tf.function(layer)(tf.constant(A))
        layer(A)
    assert calls[0] is None
    assert calls[1].inputs.shape == (2, 3)
