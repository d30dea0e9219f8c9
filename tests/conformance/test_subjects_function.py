"""Functions of users, in TensorFlow and in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import whole
from subject_checks import (
    Layout,
    batch_of,
    check_gradients,
    check_inference_output,
    check_training,
    setting_of,
)

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.subject import Ability, Setting
from batchnorm_mechanics.conformance.subjects import as_subject
from batchnorm_mechanics.conformance.subjects.recognize import FORMS

LAYOUT = Layout((6, 3, 5), (1,))
OF_TENSORS = {Ability.TRAIN, Ability.INFER, Ability.STATISTICS, Ability.GRADIENTS}


def in_tensorflow(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    axes = [other for other in range(x.shape.rank) if other != axis]
    shape = [-1 if other == axis else 1 for other in range(x.shape.rank)]
    wide = tf.cast(x, gamma.dtype)
    mean, variance = moving_mean, moving_variance
    if training:
        mean, variance = tf.nn.moments(wide, axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    scale = tf.reshape(gamma * tf.math.rsqrt(variance + epsilon), shape)
    y = (wide - tf.reshape(mean, shape)) * scale + tf.reshape(beta, shape)
    return tf.cast(y, x.dtype), moving_mean, moving_variance


def in_numpy(
    x,
    gamma,
    beta,
    moving_mean,
    moving_variance,
    axis=-1,
    momentum=0.9,
    epsilon=0.25,
    training=False,
):
    axes = tuple(other for other in range(x.ndim) if other != axis % x.ndim)
    mean, variance = moving_mean, moving_variance
    if training:
        wide = x.astype(gamma.dtype)
        mean, variance = wide.mean(axes), wide.var(axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    mean, variance, gamma, beta = (
        np.expand_dims(value, axes) for value in (mean, variance, gamma, beta)
    )
    y = (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return y.astype(x.dtype), moving_mean, moving_variance


def narrow(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training):
    """Multiplies whatever comes: in TensorFlow all must have one dtype."""
    return x * gamma + beta, moving_mean, moving_variance


@pytest.mark.parametrize("function", [in_tensorflow, in_numpy])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("check", [check_training, check_inference_output])
def test_a_function_is_judged_in_each_dtype(check, function, dtype, rng):
    check(as_subject(function), LAYOUT._replace(dtype=dtype), rng)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_function_s_gradients_are_tensorflow_s(dtype, rng):
    check_gradients(as_subject(in_tensorflow), LAYOUT._replace(dtype=dtype), rng)


def test_a_function_of_tensors_has_gradients_and_no_mode_of_its_own():
    assert as_subject(in_tensorflow).abilities == OF_TENSORS


def test_a_function_of_numpy_arrays_has_no_gradients():
    assert as_subject(in_numpy).abilities == (OF_TENSORS | {Ability.CALL}) - {Ability.GRADIENTS}


def test_a_function_that_works_in_both_is_given_tensors():
    assert Ability.GRADIENTS in as_subject(narrow).abilities


def test_a_function_through_which_no_gradient_flows_has_none():
    def stopped(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
        return tf.stop_gradient(x) * gamma, mean, variance

    assert Ability.GRADIENTS not in as_subject(stopped).abilities


def test_a_parameter_that_no_gradient_reaches_has_gradient_zero(rng):
    def without_beta(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
        return x * gamma, mean, variance

    layout = Layout((6, 5), (1,))
    x = batch_of(layout, rng)
    subject = as_subject(without_beta)
    slopes = subject.open(setting_of(subject, layout, rng)).gradients(x, x)
    assert slopes.dbeta.tolist() == [0.0] * 5
    assert slopes.dgamma.all()


def test_defaults_in_the_signature_are_the_function_s_own():
    subject = as_subject(in_numpy)
    assert subject.needs == {"statistics"}
    y = subject.open(Setting((2, 3))).call(np.ones((2, 3), np.float32))
    np.testing.assert_allclose(y, 1 / np.sqrt(1.25), rtol=3e-7)


def test_what_has_no_default_is_given_as_keras_has_it_and_named():
    subject = as_subject(in_tensorflow)
    assert subject.needs == {"axis", "momentum", "epsilon", "statistics"}

    received = {}

    def spy(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
        received.update(axis=axis, momentum=momentum, epsilon=epsilon, training=training)
        return x, mean, variance

    as_subject(spy).open(Setting((2, 3))).infer(np.ones((2, 3), np.float32))
    assert received == {"axis": -1, "momentum": 0.99, "epsilon": 1e-3, "training": False}


def test_statistics_that_a_function_returns_in_inference_are_kept(rng):
    def moving(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
        return x, mean + 1, variance

    session = as_subject(moving).open(Setting((2, 3)))
    session.infer(np.ones((2, 3), np.float32))
    assert session.statistics().mean.tolist() == [1.0, 1.0, 1.0]


def test_variables_are_float32_beside_half_precision_unless_that_fails():
    setting = Setting((2, 3), dtype="bfloat16")
    assert as_subject(in_tensorflow).open(setting).statistics().mean.dtype == np.float32
    x = np.ones((2, 3)).astype(tf.bfloat16.as_numpy_dtype)
    session = as_subject(narrow).open(setting)
    assert session.statistics().mean.dtype == x.dtype
    assert session.train(x).dtype == x.dtype


def test_what_a_function_raises_comes_through():
    def broken(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
        raise RuntimeError("broken")

    subject = as_subject(broken)
    assert subject.abilities == OF_TENSORS
    with pytest.raises(RuntimeError, match=whole("broken")):
        subject.open(Setting((2, 3))).train(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "a float"), ((1.0, 2.0), "a tuple of 2"), ([1.0, 2.0, 3.0, 4.0], "a list of 4")],
)
def test_a_function_that_returns_something_else_says_so(value, words):
    def wrong(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
        return value

    message = (
        "conform: the function wrong must return the output, alone or before both new moving "
        f"statistics, or before what its backward pass takes. Received: {words}. "
        "Return the output first."
    )
    with pytest.raises(TypeError, match=whole(message)):
        as_subject(wrong).open(Setting((2, 3))).train(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("kept", [(), (1, 2)])
def test_a_function_keeps_one_axis(kept):
    assert as_subject(in_tensorflow).refusal(Setting((2, 3, 4), kept)) == "its `axis` is one axis"


def without_a_word(x):
    return x


def masked(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training, mask):
    return x


@pytest.mark.parametrize(
    ("function", "problem", "call"),
    [
        (without_a_word, "of which nothing says that it normalizes", "without_a_word(x=x)"),
        (
            masked,
            "whose `mask` could not be told from its name",
            "masked(x=x, gamma=gamma, beta=beta, mean=moving_mean, variance=moving_variance, "
            "axis=axis, momentum=momentum, epsilon=epsilon, training=training, mask=...)",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_function_to_wrap_it_in(function, problem, call):
    message = (
        f"conform: `subject` must be {FORMS}. Received: subject='mine', {problem}. "
        "Wrap it, as `bnm conform --wrap` does:\n\n"
        f"def wrapped_{function.__name__}(\n"
        "    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training\n"
        "):\n"
        "    # Put what is right where there is `...`, and take what moves from what it returns.\n"
        f"    y = {call}\n"
        "    return y, moving_mean, moving_variance"
    )
    with pytest.raises(InputError, match=whole(message)):
        as_subject(function, "mine")
