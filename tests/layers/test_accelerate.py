"""accelerate and restore."""

import dataclasses
import gc
import os
import pickle
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from oracle_cases import data, float64, resolution, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics import _tensorflow, core
from batchnorm_mechanics.core import kernels
from batchnorm_mechanics.layers import Accelerated

BN = layers.BatchNormalization


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


class Block(layers.Layer):
    """Batch normalizations in a list and in a dictionary."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = [layers.Dense(4), BN(), layers.Dense(3)]
        self.named = {"last": BN(momentum=0.8)}

    def build(self, input_shape):
        for step in [*self.steps, self.named["last"]]:
            step.build(input_shape)
            input_shape = step.compute_output_shape(input_shape)

    def call(self, x, training=None):
        for step in self.steps:
            x = step(x, training=training)
        return self.named["last"](x, training=training)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block, self.head = Block(), layers.Dense(2)

    def call(self, x):
        return self.head(self.block(x))


@keras.saving.register_keras_serializable("tests.accelerate")
class NormalizedCell(layers.SimpleRNNCell):
    """A recurrent cell that normalizes its input."""

    def build(self, input_shape):
        self.bn = BN()
        self.bn.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, states, training=False):
        return super().call(self.bn(inputs, training=training), states, training=training)


def small():
    return keras.Sequential([layers.Dense(4), BN(), layers.Dense(2)])


def sequential():
    return keras.Sequential([layers.Dense(4), BN(), layers.Dense(3), BN(), layers.Dense(2)])


def with_a_frozen_layer():
    """A large normalization, for the fused kernel, and a frozen one."""
    x = layers.Input((16, 16, 3))
    y = layers.Conv2D(64, 3, padding="same")(x)
    y = layers.ReLU()(BN(momentum=0.9)(y))
    y = BN(trainable=False)(layers.Conv2D(4, 3)(y))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))


def convolution():
    """2**17 elements and more, so that the fused kernel runs."""
    start = [layers.Conv2D(64, 3, padding="same"), BN()]
    return keras.Sequential([*start, layers.GlobalAveragePooling2D(), layers.Dense(2)])


def nested_and_shared():
    inner = keras.Sequential([layers.Input((5,)), layers.Dense(5), BN()], name="inner")
    shared = BN()
    x = layers.Input((5,))
    y = keras.Model(x, inner(x) + shared(x))(x)
    return keras.Model(x, layers.Dense(2)(shared(y)))


def wrapped():
    x = layers.Input((4, 5))
    y = layers.TimeDistributed(BN())(x)
    y = layers.Bidirectional(layers.RNN(NormalizedCell(3)))(y)
    return keras.Model(x, layers.Dense(2)(y))


def masked():
    x = layers.Input((4, 5))
    return keras.Model(x, layers.Dense(2)(layers.SimpleRNN(3)(BN()(layers.Masking()(x)))))


def subclassed():
    return Subclassed()


# Each with the shape of its input and the number of its batch normalizations.
MODELS = {
    sequential: ((5,), 2),
    with_a_frozen_layer: ((16, 16, 3), 2),
    nested_and_shared: ((5,), 2),
    wrapped: ((4, 5), 3),
    masked: ((4, 5), 1),
    subclassed: ((5,), 2),
}


def twins(make, shape, **compiled):
    """The same model twice, built and compiled; the first runs eagerly: tracing takes long."""
    models = make(), make()
    for model in models:
        model(np.zeros((2, *shape), "float32"))
        model.compile(**{"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", **compiled})
    models[0].run_eagerly = True
    models[1].set_weights(models[0].get_weights())
    return models


def batches(rng, shape, size=8, number=2):
    x = data(rng, (size * number, *shape), 2.0, "float32")
    if len(shape) == 2:
        x[::3, 2:] = 0  # what Masking masks
    return x, rng.normal(size=(len(x), 2)).astype("float32")


def trained(model, x, y, epochs=1, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, epochs=epochs, **options).history["loss"]


def assert_same_weights(one, other, **tolerance):
    tolerance = {"rtol": 1e-4, "atol": 1e-5, **tolerance}
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a, b, err_msg=a.path, **tolerance)


def accelerated_layers(model):
    return [layer for layer in model._flatten_layers() if "call" in vars(layer)]


def fused_operations(function, *arguments):
    graph = tf.function(function).get_concrete_function(*arguments).graph
    return sum(operation.type == "FusedBatchNormV3" for operation in graph.get_operations())


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_training_goes_on_as_that_of_an_untouched_twin(make, rng):
    shape, count = MODELS[make]
    untouched, model = twins(make, shape)
    x, y = batches(rng, shape)
    assert bnm.accelerate(model) == Accelerated(count, {})
    np.testing.assert_allclose(
        trained(model, x, y, epochs=3), trained(untouched, x, y, epochs=3), rtol=1e-4
    )
    assert_same_weights(model, untouched)
    np.testing.assert_allclose(model(x), untouched(x), rtol=1e-4, atol=1e-5)
    assert bnm.restore(model) == count


@pytest.mark.parametrize("make", [small, convolution], ids=lambda make: make.__name__)
def test_a_model_compiled_with_xla_trains_as_an_untouched_twin(make, rng):
    shape = (5,) if make is small else (16, 16, 3)
    untouched, model = twins(make, shape)
    model.compile("sgd", "mse", jit_compile=True)
    untouched.compile("sgd", "mse", run_eagerly=True)
    bnm.accelerate(model)
    x, y = batches(rng, shape)
    np.testing.assert_allclose(trained(model, x, y), trained(untouched, x, y), rtol=1e-4)
    assert_same_weights(model, untouched)


def test_training_goes_on_after_restore(rng):
    untouched, model = twins(small, (5,))
    bnm.accelerate(model)
    x, y = batches(rng, (5,))
    trained(model, x, y)
    bnm.restore(model)
    trained(model, x, y)
    trained(untouched, x, y, epochs=2)
    assert_same_weights(model, untouched)


def test_adams_slots_stay_valid(rng):
    # Its epsilon keeps a gradient that is 0 but for rounding, a bias's before BN, from a step of
    # full length in a random direction.
    adam = {"learning_rate": 0.01, "epsilon": 1e-3}
    untouched, model = twins(small, (5,))
    for one, eagerly in ((untouched, True), (model, False)):
        one.compile(keras.optimizers.Adam(**adam), "mse", run_eagerly=eagerly)
    x, y = batches(rng, (5,))
    trained(untouched, x, y, epochs=3)
    trained(model, x, y)
    slots = model.optimizer.variables[:]
    bnm.accelerate(model)
    trained(model, x, y, epochs=2)
    assert all(a is b for a, b in zip(slots, model.optimizer.variables, strict=True))
    for a, b in zip(model.optimizer.variables, untouched.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=a.path)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16", "float16"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((6, 3), -1),
        ((6, 3, 4), 1),
        ((3, 4, 5), -1),
        ((2, 3, 4, 5), 1),
        ((32, 16, 16, 16), -1),
        ((2, 3, 4, 5, 2), -1),
    ],
    ids=str,
)
def test_a_layer_and_its_gradients_agree_with_kerass(shape, axis, dtype, training, rng):
    theirs, ours = (BN(axis=axis, momentum=0.7, dtype=dtype) for _ in range(2))
    values = rng.uniform(0.5, 1.5, (4, shape[axis]))
    for layer in (theirs, ours):
        layer.build(shape)
        layer.set_weights(list(values))
    assert bnm.accelerate(ours).count == 1
    x = tf.constant(data(rng, shape, 2.0, theirs.compute_dtype))
    dy = tf.constant(data(rng, shape, 0.0, theirs.compute_dtype))
    found = []
    for layer in (theirs, ours):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)
        found.append([y, *gradients, *layer.weights])
    # gamma's gradient is a sum of up to 8192 terms, whose roundings add up.
    tolerance = 64 * resolution(theirs.compute_dtype)
    for expected, actual in zip(*found, strict=True):
        assert actual.dtype == expected.dtype
        scale = max(1.0, np.abs(float64(expected)).max())
        np.testing.assert_allclose(
            float64(actual), float64(expected), rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}], ids=str)
def test_a_layer_without_gamma_or_beta_agrees_with_kerass(options, rng):
    theirs, ours = BN(**options), BN(**options)
    x = data(rng, (8, 3), 2.0, "float32")
    bnm.accelerate(ours)
    for training in (True, False):
        np.testing.assert_allclose(
            ours(x, training=training), theirs(x, training=training), rtol=1e-5, atol=1e-5
        )


def test_integers_are_normalized_as_by_keras(rng):
    theirs, ours = BN(), BN()
    bnm.accelerate(ours)
    x = tf.constant(rng.integers(0, 9, (8, 3)))
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)
    assert ours(x).dtype == theirs(x).dtype


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("size", [8, 2**16])
def test_without_autocast_the_result_is_as_exact_as_kerass(dtype, size, rng):
    theirs, ours = BN(autocast=False), BN(autocast=False)
    bnm.accelerate(ours)
    x = tf.constant(data(rng, (size, 3), 0.0, dtype))
    for training in (True, False):
        expected, actual = (layer(x, training=training) for layer in (theirs, ours))
        assert actual.dtype == expected.dtype == tf.float32
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_large_inputs_run_on_the_fused_operation_and_restored_ones_do_not(rng, monkeypatch):
    # Which is chosen where oneDNN makes it fast; it can run anywhere.
    for name in ("one_dnn_is_on", "has_avx512"):
        monkeypatch.setattr(kernels, name, lambda: True)
    model = keras.Sequential([layers.Input((16, 16, 64)), BN()])
    x = tf.constant(data(rng, (16, 16, 16, 64), 0.0, "float32"))
    for training in (True, False):
        bnm.accelerate(model)
        assert fused_operations(lambda x, t=training: model(x, training=t), x) > 0
        bnm.restore(model)
        assert fused_operations(lambda x, t=training: model(x, training=t), x) == 0


def test_a_compiled_model_takes_the_change_with_its_next_step(rng, monkeypatch):
    _, model = twins(small, (5,))
    x, y = batches(rng, (5,))
    steps = {
        "normalize_batch": lambda: trained(model, x, y),
        "normalize_with": lambda: model.predict(x, verbose=0),
    }
    calls = []
    for name in steps:
        original = getattr(core, name)
        monkeypatch.setattr(
            core, name, lambda *a, f=original, n=name, **k: calls.append(n) or f(*a, **k)
        )
    for step in steps.values():
        step()
    assert not calls
    bnm.accelerate(model)
    for name, step in steps.items():
        step()
        assert name in calls
    theirs = BN.call
    monkeypatch.setattr(BN, "call", lambda *a, **k: calls.append("keras") or theirs(*a, **k))
    bnm.restore(model)
    for step in steps.values():
        calls.clear()
        step()
        assert calls == ["keras"]


def test_a_compiled_model_within_another_takes_the_change_too(rng):
    inner = keras.Sequential([layers.Input((5,)), BN(), layers.Dense(2)])
    inner.compile("sgd", "mse")
    x, y = batches(rng, (5,))
    inner.train_on_batch(x, y)
    before = inner.train_function
    bnm.accelerate(keras.Sequential([inner]))
    assert inner.train_function is not before
    before = inner.train_function
    bnm.accelerate(inner)
    assert inner.train_function is before, "nothing changed, so nothing is traced again"


def test_a_callback_may_accelerate_while_fit_runs(rng):
    class Accelerate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            (bnm.accelerate if epoch == 1 else bnm.restore)(self.model)

    untouched, model = twins(small, (5,))
    x, y = batches(rng, (5,))
    losses = trained(model, x, y, epochs=3, callbacks=[Accelerate()], validation_data=(x, y))
    np.testing.assert_allclose(losses, trained(untouched, x, y, epochs=3), rtol=1e-4)


def test_a_model_without_weights_yet_is_accelerated_too(rng):
    model = sequential()
    assert bnm.accelerate(model).count == 2
    model.compile("sgd", "mse")
    trained(model, *batches(rng, (5,)))
    assert len(accelerated_layers(model)) == 2


def test_settings_changed_afterwards_count(rng):
    theirs, ours = BN(), BN()
    x = data(rng, (8, 3), 2.0, "float32")
    bnm.accelerate(ours)
    for layer in (theirs, ours):
        layer(x, training=True)
        layer.momentum, layer.epsilon = 0.5, 0.1
        layer(x, training=True)
    assert_same_weights(ours, theirs)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    ours.trainable = theirs.trainable = False
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)


def test_a_training_flag_that_is_baked_in_stays(rng):
    def make():
        x = layers.Input((5,))
        return keras.Model(x, layers.Dense(2)(BN()(x, training=True)))

    untouched, model = twins(make, (5,))
    bnm.accelerate(model)
    x, _ = batches(rng, (5,))
    np.testing.assert_allclose(model(x), untouched(x), rtol=1e-4, atol=1e-5)
    assert_same_weights(model, untouched)


def test_a_mask_goes_on_to_the_next_layer(rng):
    layer = BN()
    bnm.accelerate(layer)
    x = keras.ops.convert_to_tensor(data(rng, (4, 3, 2), 0.0, "float32"))
    mask = tf.constant(rng.random((4, 3)) < 0.5)
    keras.src.backend.set_keras_mask(x, mask)
    np.testing.assert_array_equal(layer(x, training=True)._keras_mask, mask)


def test_a_batch_that_is_masked_throughout_keeps_the_statistics(rng):
    layer = BN(momentum=0.5)
    x = data(rng, (4, 3, 2), 5.0, "float32")
    layer(x, training=True)
    before = layer.get_weights()
    bnm.accelerate(layer)
    layer(x, training=True, mask=np.zeros((4, 3), bool))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_gradient_of_a_gradient_agrees_with_kerass(rng):
    theirs, ours = BN(), BN()
    bnm.accelerate(ours)
    x = tf.constant(data(rng, (6, 3), 1.0, "float32"))
    found = []
    for layer in (theirs, ours):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(tf.tanh(layer(x, training=True)) ** 3)
            penalty = tf.reduce_sum(tape.gradient(y, x) ** 2)
        found.append(outer.gradient(penalty, x))
    assert np.abs(found[0]).max() > 0.1
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_a_stateless_call_changes_no_weight(rng):
    layer = BN(momentum=0.5)
    layer.build((None, 3))
    bnm.accelerate(layer)
    x = data(rng, (8, 3), 2.0, "float32")
    values = [variable.value for variable in layer.non_trainable_variables]
    _, (mean, _) = layer.stateless_call(layer.trainable_variables, values, x, training=True)
    np.testing.assert_allclose(mean, x.mean(0) / 2, rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [0, 0, 0])


def test_rematerialization_trains_as_keras_without_it(rng):
    def make():
        with keras.RematScope(mode="full"):
            return small()

    # Only eagerly: in a graph Keras's own rematerialization refuses the argument `training`. And
    # Keras moves the statistics again each time that it recomputes.
    plain, model = small(), make()
    for one in (plain, model):
        one.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        one.build((None, 5))
    model.set_weights(plain.get_weights())
    bnm.accelerate(model)
    x, y = batches(rng, (5,))
    np.testing.assert_allclose(trained(model, x, y), trained(plain, x, y), rtol=1e-4)
    assert_same_weights(model, plain)


def test_time_steps_of_unknown_number_agree_with_keras(rng):
    def make():
        return keras.Sequential([layers.Input((None, 5)), layers.TimeDistributed(BN())])

    untouched, model = twins(make, (4, 5))
    bnm.accelerate(model)
    x = data(rng, (8, 4, 5), 2.0, "float32")
    np.testing.assert_allclose(
        model.predict(x, verbose=0), untouched.predict(x, verbose=0), rtol=1e-4, atol=1e-5
    )


class OwnCall(BN):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) + 1.0


class OwnCorrection(BN):
    """Renormalizes its own way."""

    def _renorm_correction_and_moments(self, mean, variance):
        return 1.0, 0.0, mean, variance


class OwnMoments(BN):
    def _moments(self, inputs, mask):
        return tf.nn.moments(inputs, self._reduction_axes)


@keras.saving.register_keras_serializable("tests.accelerate")
class OwnDefaults(BN):
    def __init__(self, momentum=0.5, **kwargs):
        super().__init__(momentum=momentum, **kwargs)


def replaced():
    layer = BN()
    layer.call = lambda inputs, training=None, mask=None: inputs
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: BN(epsilon=0.0), "its epsilon is 0.0"),
        (OwnCall, "its class, OwnCall, has its own `call`"),
        (
            lambda: OwnCorrection(renorm=True),
            "its class, OwnCorrection, has its own `_renorm_correction_and_moments`",
        ),
        (OwnMoments, "its class, OwnMoments, has its own `_moments`"),
        (replaced, "its `call` was replaced"),
    ],
)
def test_what_it_cannot_replace_it_leaves_and_names(make, reason, rng):
    layer = make()
    call = vars(layer).get("call")
    model = keras.Sequential([layers.Input((3,)), BN(), layer])
    assert bnm.accelerate(model) == Accelerated(1, {layer.name: reason})
    assert vars(layer).get("call") is call
    assert bnm.restore(model) == 1
    assert vars(layer).get("call") is call


def test_a_subclass_that_computes_as_keras_does_is_accelerated():
    layer = OwnDefaults()
    assert bnm.accelerate(layer) == Accelerated(1, {})
    assert type(layer) is OwnDefaults


def test_layers_left_that_share_a_name_are_all_named():
    inner = keras.Sequential([layers.Input((3,)), BN(epsilon=0.0, name="bn")], name="inner")
    model = keras.Sequential([inner, BN(epsilon=0.0, name="bn")])
    assert sorted(bnm.accelerate(model).left) == ["bn", "bn (2)"]


def test_a_model_without_batch_normalization_counts_none():
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2), bnm.BatchNormalization()])
    assert bnm.accelerate(model) == Accelerated(0, {})
    assert bnm.restore(model) == 0


def test_accelerating_twice_is_harmless(rng):
    untouched, model = twins(sequential, (5,))
    once = bnm.accelerate(model)
    assert bnm.accelerate(model) == once
    x, _ = batches(rng, (5,))
    np.testing.assert_allclose(model(x, training=True), untouched(x, training=True), rtol=1e-4)
    assert_same_weights(model, untouched)
    assert bnm.restore(model) == 2
    assert not accelerated_layers(model)


def test_restore_leaves_the_layer_as_it_was(rng):
    layer = BN()
    layer.build((None, 3))
    before = dict(vars(layer))
    bnm.accelerate(layer)
    assert type(layer) is BN
    bnm.restore(layer)
    assert type(layer) is BN
    assert dict(vars(layer)) == before


@pytest.mark.parametrize("function", [bnm.accelerate, bnm.restore], ids=["accelerate", "restore"])
def test_what_is_no_model_is_refused(function):
    message = (
        f"{function.__name__}: `model` must be a Keras model or layer. Received: model=[1, 2]. "
        "Pass a keras.Model; what tf_keras or another library makes is none."
    )
    with pytest.raises(TypeError, match=whole(message)):
        function([1, 2])


def test_the_record_is_immutable_and_readable():
    record = bnm.accelerate(keras.Sequential([BN(), BN(epsilon=0.0, name="bn_7")]))
    assert repr(record) == "Accelerated(count=1, left={'bn_7': 'its epsilon is 0.0'})"
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.count = 2
    with pytest.raises(TypeError):
        record.left["bn_8"] = "it is new"


def test_a_layer_that_is_no_longer_used_is_freed():
    layer = BN()
    bnm.accelerate(layer)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("restored", [False, True])
def test_a_saved_model_loads_and_can_be_accelerated(restored, rng, tmp_path):
    model = sequential()
    x, _ = batches(rng, (5,))
    bnm.accelerate(model)
    model(x, training=True)
    if restored:
        bnm.restore(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    assert not accelerated_layers(loaded)
    assert bnm.accelerate(loaded).count == 2
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-5)


LOAD_WITHOUT_US = """
import sys
import keras
import numpy as np
folder = sys.argv[1]
model = keras.models.load_model(f"{folder}/model.keras")
x = np.load(f"{folder}/x.npy")
np.testing.assert_allclose(model(x), np.load(f"{folder}/y.npy"), rtol=1e-4, atol=1e-5)
assert model.optimizer.iterations == 2, model.optimizer.iterations
assert type(model.layers[2]) is keras.layers.BatchNormalization
assert not [name for name in sys.modules if name.startswith("batchnorm_mechanics")]
"""


@pytest.mark.thorough
def test_a_saved_file_needs_nothing_of_ours_even_without_restore(rng, tmp_path):
    _, model = twins(with_a_frozen_layer, (16, 16, 3))
    x, y = batches(rng, (16, 16, 3))
    bnm.accelerate(model)
    trained(model, x, y)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model(x))
    run = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_US, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "copied",
    [keras.models.clone_model, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["clone", "pickle"],
)
def test_copies_hold_kerass_layers_and_can_be_accelerated(copied, rng):
    model = small()
    model.build((None, 5))
    plain = model.layers[1].get_config()
    bnm.accelerate(model)
    copy = copied(model)
    assert type(copy.layers[1]) is BN
    assert copy.layers[1].get_config() == model.layers[1].get_config() == plain
    assert not accelerated_layers(copy)
    assert bnm.accelerate(copy).count == 1


def test_weights_and_checkpoints_go_between_accelerated_and_plain_models(rng, tmp_path):
    untouched, model = twins(sequential, (5,))
    bnm.accelerate(model)
    trained(model, *batches(rng, (5,)))
    model.save_weights(tmp_path / "model.weights.h5")
    untouched.load_weights(tmp_path / "model.weights.h5")
    assert_same_weights(untouched, model, rtol=0, atol=0)
    trained(model, *batches(rng, (5,)))
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=untouched).restore(path).assert_existing_objects_matched()
    assert_same_weights(untouched, model, rtol=0, atol=0)


def test_an_exported_model_needs_nothing_of_keras(rng, tmp_path):
    _, model = twins(with_a_frozen_layer, (16, 16, 3))
    bnm.accelerate(model)
    model.export(tmp_path / "exported", verbose=False)
    x, _ = batches(rng, (16, 16, 3))
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mobilenet_v2_trains_on_as_before(dtype, rng):
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 10}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        untouched, model = (keras.applications.MobileNetV2(**options) for _ in range(2))
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(untouched.get_weights())
    assert bnm.accelerate(model) == Accelerated(52, {})
    x = data(rng, (8, 32, 32, 3), 0.0, dtype)
    if dtype == "float32":
        np.testing.assert_allclose(model(x), untouched(x), rtol=1e-4, atol=1e-6)
        return
    # A step in float64: over 52 normalizations of few samples, float32's roundings grow too large
    # to tell from a mistake. Eagerly, because building the graph takes 20 times as long.
    for one in (untouched, model):
        one.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    labels = rng.integers(0, 10, 8)
    np.testing.assert_allclose(
        model.train_on_batch(x, labels), untouched.train_on_batch(x, labels), rtol=1e-6
    )
    assert_same_weights(model, untouched, rtol=1e-6, atol=1e-6)


@pytest.mark.thorough
def test_every_normalization_of_resnet50_is_found():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    assert bnm.accelerate(model) == Accelerated(53, {})


def printed(script, **variables):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("TF_ENABLE_ONEDNN")
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.thorough
def test_a_last_line_says_what_onednn_would_give_where_it_is_off_because_nobody_chose():
    script = (
        "import keras, batchnorm_mechanics as bnm\n"
        "from batchnorm_mechanics._tensorflow import one_dnn_is_on\n"
        "print(one_dnn_is_on())\n"
        "print(bnm.accelerate(keras.layers.BatchNormalization()))\n"
        "print(bnm.accelerate(keras.layers.ReLU()))"
    )
    for chosen in ("0", "1"):
        _, first, second = printed(script, TF_ENABLE_ONEDNN_OPTS=chosen)
        assert first == "Accelerated(count=1, left={})"
        assert second == "Accelerated(count=0, left={})"
    on, *rest = printed(script)
    assert len(rest) == (2 if on == "True" else 3)


def test_that_line_names_the_variable_when_to_set_it_and_what_changes(monkeypatch):
    record = bnm.accelerate(keras.layers.BatchNormalization())
    module = sys.modules[type(record).__module__]
    monkeypatch.setattr(module, "one_dnn_is_left_off", lambda: True)
    first, second = str(record).splitlines()
    assert first == repr(record) == "Accelerated(count=1, left={})"
    for words in ("TF_ENABLE_ONEDNN_OPTS=1", "before TensorFlow is imported", "last digits"):
        assert words in second


@pytest.mark.parametrize(
    ("environment", "on", "gpu", "platform", "machine", "expected"),
    [
        ({}, False, False, "linux", "x86_64", True),
        ({}, False, False, "win32", "AMD64", True),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False, False, "linux", "x86_64", False),
        ({}, True, False, "linux", "x86_64", False),
        ({}, False, True, "linux", "x86_64", False),
        ({}, False, False, "darwin", "x86_64", False),
        ({}, False, False, "linux", "aarch64", False),
    ],
)
def test_who_could_gain_by_onednn(monkeypatch, environment, on, gpu, platform, machine, expected):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_tensorflow, "one_dnn_is_on", lambda: on)
    monkeypatch.setattr(_tensorflow, "has_gpu", lambda: gpu)
    monkeypatch.setattr(_tensorflow.sys, "platform", platform)
    monkeypatch.setattr(_tensorflow.platform, "machine", lambda: machine)
    assert _tensorflow.one_dnn_is_left_off() == expected
