"""Layer classes and instances of users, found out about and set up."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import whole
from subject_checks import (
    Layout,
    assert_close,
    batch_of,
    check_gradients,
    check_inference_output,
    check_reloading,
    check_training,
    setting_of,
)

from batchnorm_mechanics import reference
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.subject import Ability, Setting
from batchnorm_mechanics.conformance.subjects import as_subject
from batchnorm_mechanics.conformance.subjects.keras_layer import KerasLayer
from batchnorm_mechanics.conformance.subjects.layer_recipe import find_weights

LAYOUT = Layout((6, 3, 5), (2,))


class Plain(keras.layers.Layer):
    """A user's own: weights under other names, no axis, all made in the order of Keras."""

    def __init__(self, momentum=0.9, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}

    def build(self, shape):
        of = {"shape": (shape[-1],)}
        self.scale = self.add_weight(**of, initializer="ones", name="scale")
        self.offset = self.add_weight(**of, initializer="zeros", name="offset")
        self.seen = self.add_weight(**of, dtype="int32", initializer="zeros", trainable=False)
        self.rate = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.average = self.add_weight(**of, initializer="zeros", trainable=False)
        self.spread = self.add_weight(**of, initializer="ones", trainable=False)

    def call(self, x, training=False):
        mean, variance = self.average, self.spread
        if training:
            mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
            for old, new in ((self.average, mean), (self.spread, variance)):
                old.assign(self.momentum * old + (1 - self.momentum) * new)
        x_hat = (x - mean) / tf.sqrt(variance + self.epsilon)
        return x_hat * self.scale + self.offset


class Handing(keras.layers.BatchNormalization):
    """Takes whatever Keras's layer takes, by **kwargs, except an axis, which it sets itself."""

    def __init__(self, **kwargs):
        super().__init__(axis=-1, **kwargs)


class Wrapping(keras.layers.Layer):
    """Its weights are in a layer within it that is built by the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.BatchNormalization(momentum=0.7, epsilon=0.01)

    def call(self, x, training=False):
        return self.inner(x, training=training)


class Bare(keras.layers.Layer):
    """No parameters, no statistics, no modes."""

    def call(self, x):
        mean, variance = tf.nn.moments(x, [0], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-3)


class Stopped(keras.layers.BatchNormalization):
    """No gradient leads to gamma."""

    def call(self, inputs, training=None, mask=None):
        return super().call(tf.stop_gradient(inputs), training=training, mask=mask)


class KeepingSize(keras.layers.Layer):
    """Statistics as they broadcast: with axes of size 1."""

    def build(self, shape):
        shape = (1,) * (len(shape) - 1) + (shape[-1],)
        self.moving_mean = self.add_weight(shape=shape, initializer="zeros", trainable=False)
        self.moving_variance = self.add_weight(shape=shape, initializer="ones", trainable=False)

    def call(self, x, training=False):
        return x - self.moving_mean


def given_setting(without=(), **changes):
    given = {
        name: np.arange(1.0, 6.0)
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
        if name not in without
    }
    return Setting(LAYOUT.shape, LAYOUT.kept, **given, **changes)


@pytest.mark.parametrize(
    "check",
    [
        check_training,
        check_inference_output,
        check_gradients,
        check_reloading,
    ],
)
def test_a_user_s_class_is_judged_by_weights_found_in_keras_s_order(check, rng):
    check(as_subject(Plain), LAYOUT, rng)


def test_other_states_are_not_taken_for_statistics():
    layer = Plain()
    layer.build((None, 4))
    found = find_weights(layer)
    assert [found[role] for role in found] == [
        layer.scale,
        layer.offset,
        layer.average,
        layer.spread,
    ]


def test_weights_are_found_by_name_in_a_layer_within():
    layer = Wrapping()
    layer(keras.Input((4,)))
    assert find_weights(layer)["moving_variance"] is layer.inner.moving_variance


def test_a_name_counts_more_than_the_order():
    class Backwards(keras.layers.Layer):
        def build(self, shape):
            self.kept = [
                self.add_weight(shape=(3,), name=name, trainable=name in ("gamma", "beta"))
                for name in ("moving_variance", "beta", "moving_mean", "gamma")
            ]

    layer = Backwards()
    layer.build((None, 3))
    assert {role: weight.name for role, weight in find_weights(layer).items()} == {
        role: role for role in ("gamma", "beta", "moving_mean", "moving_variance")
    }


def test_weights_that_a_call_creates_are_there_when_it_is_opened(rng):
    subject = as_subject(Wrapping)
    assert {Ability.STATISTICS, Ability.INFER} < subject.abilities
    session = subject.open(given_setting())
    np.testing.assert_array_equal(session.statistics().mean, np.arange(1.0, 6.0))


def test_one_variable_for_two_roles_is_not_guessed_at():
    class OnlyOne(keras.layers.Layer):
        def build(self, shape):
            self.something = self.add_weight(shape=(shape[-1],))

        def call(self, x):
            return x * self.something

    layer = OnlyOne()
    layer.build((None, 3))
    assert find_weights(layer) == {}


@pytest.mark.parametrize(
    ("layer", "lacks"),
    [
        ({"scale": False}, {"gamma"}),
        ({"center": False}, {"beta"}),
        ({"scale": False, "center": False}, {"gamma", "beta"}),
    ],
)
def test_a_layer_without_a_parameter_is_judged_without_it(layer, lacks, rng):
    subject = as_subject(keras.layers.BatchNormalization(**layer))
    assert subject.lacks == lacks
    x, dy = batch_of(LAYOUT, rng), batch_of(LAYOUT, rng)
    slopes = subject.open(given_setting(lacks, epsilon=0.01)).gradients(x, dy)
    gamma = None if "gamma" in lacks else np.arange(1.0, 6.0)
    right = reference.gradients(dy, x, gamma, LAYOUT.axes, 0.01)
    assert_close(slopes.dx, right["d_x"], "float32")
    assert (slopes.dgamma is None, slopes.dbeta is None) == ("gamma" in lacks, "beta" in lacks)


@pytest.mark.parametrize("name", ["gamma", "beta", "moving_mean", "moving_variance", "momentum"])
def test_a_setting_for_what_the_layer_lacks_is_refused(name):
    value = 0.5 if name == "momentum" else np.ones(5)
    assert as_subject(Bare).refusal(Setting(LAYOUT.shape, (2,), **{name: value})) == (
        f"it has no {name}"
    )


def test_a_layer_without_modes_is_taken_to_train(rng):
    subject = as_subject(Bare)
    assert subject.abilities == {
        Ability.TRAIN,
        Ability.CALL,
        Ability.GRADIENTS,
        Ability.RELOAD,
    }
    assert subject.declared_momentum is None
    assert subject.takes_epsilon is False
    x = batch_of(Layout((6, 5), (1,)), rng)
    y = subject.open(Setting((6, 5))).train(x)
    assert_close(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), "float32")


def test_a_layer_without_the_argument_keeps_the_last_axis_alone():
    subject = as_subject(Plain)
    assert subject.refusal(Setting((2, 3, 4), (2,))) is None
    assert subject.refusal(Setting((2, 3, 4), (1,))) == (
        "it has no argument `axis` and keeps the last"
    )


def test_a_layer_that_takes_a_list_of_axes_is_not_refused_one(rng):
    class Several(keras.layers.Layer):
        def __init__(self, axis=(-1,), **kwargs):
            super().__init__(**kwargs)
            self.axis = axis

        def build(self, shape):
            kept = [self.axis] if isinstance(self.axis, int) else self.axis
            self.gamma = self.add_weight(shape=[shape[a] for a in kept], initializer="ones")

        def call(self, x):
            return x * self.gamma

    assert as_subject(Several).refusal(Setting((2, 3, 4), (1, 2))) is None


def test_options_go_through_kwargs_to_the_class_that_takes_them(rng):
    subject = as_subject(Handing)
    assert subject.declared_momentum == "old"
    assert subject.takes_epsilon
    check_training(subject, LAYOUT, rng)


def test_an_option_that_the_class_sets_itself_is_not_given():
    subject = as_subject(Handing)
    assert subject.refusal(Setting((2, 3, 4), (1,))) == (
        "it has no argument `axis` and keeps the last"
    )


def test_a_class_that_must_be_told_its_options_is_told_keras_s():
    class Demanding(keras.layers.BatchNormalization):
        def __init__(self, axis, momentum, epsilon, **kwargs):
            super().__init__(axis, momentum, epsilon, **kwargs)

    subject = as_subject(Demanding)
    assert subject.needs == {"axis", "momentum", "epsilon"}
    y = subject.open(Setting((2, 3))).infer(np.ones((2, 3), np.float32))
    np.testing.assert_allclose(y, 1 / np.sqrt(1.001), rtol=3e-7)


def test_a_class_that_must_be_told_more_is_no_subject():
    class Units(keras.layers.Layer):
        def __init__(self, units, mode, axis=-1):
            super().__init__()

    message = (
        "conform: `subject` must be a layer class that can be constructed without arguments. "
        "Received: subject=Units, whose __init__ needs units, mode. Pass an instance instead."
    )
    with pytest.raises(InputError, match=whole(message)):
        as_subject(Units)


def test_a_dtype_that_the_constructor_refuses_is_not_claimed():
    class Narrow(keras.layers.BatchNormalization):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            if self.variable_dtype == "float64":
                raise TypeError("Narrow has no float64")

    subject = as_subject(Narrow)
    assert subject.refusal(Setting((2, 3), (1,))) is None
    assert subject.refusal(Setting((2, 3), (1,), "float64")) == (
        "it does not take float64 with this axis: TypeError: Narrow has no float64"
    )


def test_a_layer_that_takes_no_dtype_computes_in_float32():
    class Fixed(keras.layers.BatchNormalization):
        def __init__(self, axis=-1):
            super().__init__(axis)

    assert as_subject(Fixed).refusal(Setting((2, 3), (1,), "bfloat16")) == (
        "it has no argument `dtype` and computes in float32"
    )


def test_a_layer_made_for_one_rank_is_refused_the_others():
    class Images(keras.layers.BatchNormalization):
        def __init__(self, axis=-1):
            super().__init__(axis)
            self.input_spec = keras.layers.InputSpec(ndim=4)

    subject = as_subject(Images)
    assert subject.refusal(Setting((2, 3), (1,))) == "its input_spec is for other ranks than 2"
    assert subject.refusal(Setting((2, 3, 4, 5), (3,))) is None
    assert Ability.STATISTICS in subject.abilities


def test_what_a_constructor_always_raises_is_a_failure_and_no_refusal():
    class Broken(keras.layers.BatchNormalization):
        def __init__(self, axis=-1, **kwargs):
            raise RuntimeError("never works")

    subject = as_subject(Broken)
    assert subject.refusal(Setting((2, 3), (1,))) is None
    with pytest.raises(RuntimeError, match="never works"):
        subject.open(Setting((2, 3), (1,)))


def test_half_precision_is_the_mixed_policy():
    layer = as_subject(keras.layers.BatchNormalization).open(Setting((2, 3), dtype="float16"))
    assert layer.statistics().mean.dtype == np.float32


def test_no_gradient_is_a_gradient_of_zero(rng):
    x = batch_of(LAYOUT, rng)
    slopes = as_subject(Stopped).open(given_setting()).gradients(x, x)
    assert not slopes.dx.any()
    assert slopes.dgamma.all()


def test_statistics_lose_the_axes_that_broadcasting_put_there():
    session = as_subject(KeepingSize).open(given_setting(without=("gamma", "beta")))
    assert session.statistics().mean.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_output_that_is_no_tensor_says_so():
    class Pair(keras.layers.Layer):
        def call(self, x):
            return x, x

    message = (
        "conform: the layer Pair must return one tensor. Received: tuple. "
        "Return the output alone from call()."
    )
    with pytest.raises(TypeError, match=whole(message)):
        as_subject(Pair).open(Setting((2, 3))).train(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("check", [check_training, check_reloading])
def test_an_instance_is_copied_with_other_options(check, rng):
    instance = keras.layers.BatchNormalization(axis=1, momentum=0.1, epsilon=0.5)
    check(as_subject(instance), LAYOUT, rng)
    assert (instance.axis, instance.momentum, instance.built) == (1, 0.1, False)


def test_an_instance_keeps_what_a_setting_leaves_out():
    instance = keras.layers.BatchNormalization(epsilon=3.0, moving_variance_initializer="zeros")
    session = as_subject(instance).open(Setting((2, 3)))
    np.testing.assert_allclose(session.infer(np.ones((2, 3), np.float32)), 3**-0.5, rtol=3e-7)


def test_a_frozen_instance_is_judged_as_if_it_were_not(rng):
    instance = keras.layers.BatchNormalization(trainable=False)
    check_training(as_subject(instance), LAYOUT, rng)


def test_an_instance_that_its_configuration_does_not_make_fails_and_is_not_refused():
    class NoConfig(keras.layers.Layer):
        def __init__(self, width):
            super().__init__()

        def get_config(self):
            return {"name": "none"}

        @classmethod
        def from_config(cls, config):
            raise KeyError("width")

    instance = NoConfig(3)
    subject = as_subject(instance)
    assert subject.refusal(Setting((2, 3), (1,))) is None
    message = (
        "conform: `subject` must give by get_config() what from_config() makes the same layer of. "
        f"Received: subject={instance!r}, KeyError: 'width' "
        "Repair get_config, which saving a model needs too, or pass the class."
    )
    with pytest.raises(ValueError, match=whole(message)):
        subject.open(Setting((2, 3), (1,)))


def test_an_instance_whose_configuration_cannot_be_had_is_not_refused_for_it():
    class Unserializable(keras.layers.Layer):
        def __init__(self, function):
            super().__init__()

    instance = Unserializable(lambda x: x)
    subject = as_subject(instance)
    assert subject.refusal(Setting((2, 3), (1,), "float64", epsilon=0.1, momentum=0.5)) is None
    with pytest.raises(ValueError, match="Repair get_config, which saving a model needs too"):
        subject.open(Setting((2, 3), (1,)))


def test_a_loaded_layer_has_its_epsilon_from_the_file():
    class Forgetful(Plain):
        def get_config(self):
            return {**super().get_config(), "epsilon": 1.0}

    session = as_subject(Forgetful).open(Setting((2, 3), (1,), epsilon=0.5))
    assert session.reload().layer.epsilon == 1.0


def test_a_layer_that_cannot_be_saved_raises_on_reloading():
    class Lost(Plain):
        def __init__(self, secret=object, **kwargs):
            super().__init__(**kwargs)
            self.secret = secret

        @classmethod
        def from_config(cls, config):
            raise RuntimeError("lost")

    session = as_subject(Lost).open(Setting((2, 3), (1,)))
    with pytest.raises((TypeError, RuntimeError), match="lost"):
        session.reload()


def test_the_compiled_path_is_compiled(rng):
    class Python(keras.layers.BatchNormalization):
        """Calls back into Python, which XLA cannot."""

        def call(self, inputs, training=None, mask=None):
            same = tf.numpy_function(lambda x: x, [inputs], inputs.dtype)
            return super().call(tf.ensure_shape(same, inputs.shape), training, mask)

    x = batch_of(LAYOUT, rng)
    setting = setting_of(as_subject(Python), LAYOUT, rng)
    KerasLayer("graph", Python, "graph").open(setting).train(x)
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        KerasLayer("compiled", Python, "compiled").open(setting).train(x)


def test_the_graph_path_traces_each_shape_once(rng):
    traces = []

    class Counting(keras.layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            traces.append(inputs.shape)
            return super().call(inputs, training=training, mask=mask)

    subject = KerasLayer("graph", Counting, "graph")
    session = subject.open(setting_of(subject, LAYOUT, rng))
    for size in (6, 4, 6, 4):
        session.train(batch_of(LAYOUT, rng, size))
    assert [shape[0] for shape in traces] == [6, 4]
