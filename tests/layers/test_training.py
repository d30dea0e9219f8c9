"""Models with the layer under fit, evaluate and predict, beside the same models with Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data, resolution

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

KINDS = {"ours": bnm.BatchNormalization, "keras": keras.layers.BatchNormalization}


@pytest.fixture(autouse=True)
def float64_by_default():
    """Let Keras compute in float64, its losses and metrics too: differences then mean something."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def model_of(kind):
    """Two batch norms, the one on a sequence, the other under a regularizer and constraints."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.layers.Input((4, 5)),
            KINDS[kind](axis=1, momentum=0.9),
            keras.layers.Flatten(),
            keras.layers.Dense(6),
            KINDS[kind](
                momentum=0.8,
                gamma_regularizer=keras.regularizers.L2(0.1),
                gamma_constraint=keras.constraints.MaxNorm(2.0),
                beta_constraint=keras.constraints.NonNeg(),
            ),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(2),
        ]
    )


def task(rng, size=29):
    # In batches of 8 the last of 29 has 5.
    return data(rng, (size, 4, 5), 3.0), data(rng, (size, 2))


def compiled(model, *, jit_compile=False, rate=0.05, eagerly=False):
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, "mse", jit_compile=jit_compile and not eagerly, run_eagerly=eagerly)
    return model


def fit(model, x, y, **options):
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0} | options
    return model.fit(x, y, **options).history


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_trains_evaluates_and_predicts_as_with_kerass_layer(jit_compile, rng):
    # XLA compiles once more for a last batch of another size.
    x, y = task(rng, size=24 if jit_compile else 29)
    found = {}
    for kind in KINDS:
        # Keras's is the measure: it need not be traced and compiled too.
        model = compiled(model_of(kind), jit_compile=jit_compile, eagerly=kind == "keras")
        history = fit(model, x, y, validation_data=(x, y))
        evaluated = model.evaluate(x, y, batch_size=8, verbose=0)
        predicted = model.predict(x, batch_size=8, verbose=0)
        found[kind] = history, evaluated, predicted, model.get_weights()
    ours, theirs = found["ours"], found["keras"]
    # Twelve steps of float64, each of which may double what the last one rounded.
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(ours[0][name], theirs[0][name], rtol=1e-10)
        assert ours[0][name][-1] < ours[0][name][0]
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-10)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-9, atol=1e-9)
    for one, other in zip(ours[3], theirs[3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_a_constraint_holds_and_a_regularizer_pulls_in_fit(rng):
    x, y = task(rng)
    model = compiled(model_of("ours"), rate=0.5)
    layer = model.layers[3]
    fit(model, x, y, epochs=1)
    assert np.all(layer.beta.numpy() >= 0)
    assert np.linalg.norm(layer.gamma) <= 2.0 + 1e-6
    assert np.any(layer.beta.numpy() == 0)
    assert len(model.losses) == 1


def test_moving_statistics_after_fit_are_the_oracles(rng):
    x, y = task(rng)
    model = compiled(model_of("ours"))
    fit(model, x, y, epochs=2)
    batches = [x[start : start + 8] for start in range(0, 29, 8)] * 2
    mean, variance = reference.exponential_moving_average(batches, [0, 2], 0.9)
    np.testing.assert_allclose(model.layers[0].moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(model.layers[0].moving_variance, variance, rtol=1e-12)


def test_reset_at_each_epoch_leaves_the_population_of_the_last_one(rng):
    x, y = task(rng)
    layer = bnm.BatchNormalization(axis=1, statistics=bnm.AverageOfBatches())
    model = keras.Sequential(
        [keras.layers.Input((4, 5)), layer, keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    compiled(model)
    # Epochs of other data: an average over both would be neither.
    fit(model, x + 100, y, epochs=1, callbacks=[bnm.ResetStatistics()])
    fit(model, x, y, epochs=1, callbacks=[bnm.ResetStatistics()])
    batches = [x[start : start + 8] for start in range(0, 29, 8)]
    mean, variance = reference.average_of_batches(batches, [0, 2])
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-12)


def test_mixed_precision_fits_under_jit_with_finite_losses_near_kerass(rng):
    x, y = task(rng, size=24)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("mixed_bfloat16")
    losses = {}
    for kind in KINDS:
        model = compiled(model_of(kind), jit_compile=True, eagerly=kind == "keras")
        losses[kind] = fit(model, x, y)["loss"]
        assert {str(w.dtype) for w in model.layers[0].weights} == {"float32"}
    # Activations of eight bits, a few roundings deep.
    np.testing.assert_allclose(losses["ours"], losses["keras"], rtol=8 * resolution("bfloat16"))


def test_a_frozen_layer_stays_as_it_is_in_fit(rng):
    x, y = task(rng)
    model = model_of("ours")
    frozen = model.layers[0]
    frozen.trainable = False
    frozen.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    before = frozen.get_weights()
    other = model.layers[3].get_weights()
    fit(compiled(model), x, y, epochs=1)
    for one, old in zip(frozen.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, old)
    assert not np.array_equal(model.layers[3].get_weights()[2], other[2])


def test_an_optimizer_updates_gamma_and_beta_only(rng):
    model = model_of("ours")
    names = [weight.path.split("/")[-1] for weight in model.trainable_weights]
    assert names.count("gamma") == names.count("beta") == 2
    names = [weight.path.split("/")[-1] for weight in model.non_trainable_weights]
    assert names == ["moving_mean", "moving_variance"] * 2


# Masks that Keras propagates


def test_a_mask_from_a_masking_layer_reaches_the_statistics_and_passes_on(rng):
    x = data(rng, (4, 6, 3), 5.0)
    x[1, 3:], x[2, 1:] = 0, 0
    layer = bnm.BatchNormalization(momentum=0.0)
    inputs = keras.Input((6, 3))
    masked = keras.layers.Masking()(inputs)
    normalized = layer(masked)
    model = keras.Model(inputs, [normalized, keras.layers.GlobalAveragePooling1D()(normalized)])
    _, pooled = model(x, training=True)
    mask = np.any(x != 0, axis=-1)
    mean, variance, _ = reference.moments(x, [0, 1], mask)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-12)
    # The pooling averages over what the mask leaves, so it must have come through.
    y = reference.forward(x, None, None, [0, 1], 1e-3, mask)[0]
    expected = np.stack([row[kept].mean(axis=0) for row, kept in zip(y, mask, strict=True)])
    np.testing.assert_allclose(pooled, expected, atol=1e-12)


def test_a_mask_from_an_embedding_works_with_axis_1(rng):
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 0], [2, 0, 0, 0]])
    layer = bnm.BatchNormalization(axis=1, momentum=0.0)
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    model = keras.Sequential([keras.layers.Input((4,), dtype="int32"), embedding, layer])
    model(tokens, training=True)
    x = embedding.embeddings.numpy()[tokens]
    mean, variance, count = reference.moments(x, [0, 2], tokens != 0)
    assert count.tolist() == [9, 6, 3, 0]
    # No token in the last place: its statistics stay at 0 and 1.
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, [*variance[:3], 1.0], rtol=1e-12)


# Inside other things


class Block(keras.layers.Layer):
    """A layer that makes its batch norms itself, and calls them without building them first."""

    def __init__(self, statistics=None, **kwargs):
        super().__init__(**kwargs)
        self.first = bnm.BatchNormalization(statistics=statistics)
        self.second = bnm.BatchNormalization(axis=1)

    def call(self, x, training=None):
        return self.second(self.first(x, training=training), training=training)


@pytest.mark.parametrize("policy", [None, bnm.PooledPopulation()])
def test_a_layer_within_a_layer_is_built_and_trained(policy, rng):
    x, _ = task(rng)
    block = Block(policy)
    model = keras.Sequential([keras.layers.Input((4, 5)), block, keras.layers.Flatten()])
    fit(compiled(model), x, np.zeros((29, 20)), epochs=1)
    assert np.all(block.first.moving_mean.numpy() != 0)
    assert len(block.weights) == 8 + (policy is not None)


def test_a_layer_trains_in_a_loop_of_ones_own(rng):
    x = data(rng, (29, 3), 5.0)
    layer = bnm.BatchNormalization(statistics=bnm.PooledPopulation())
    layer.build((None, 3))
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(batch, training=True) - 1.0))
        gradients = tape.gradient(loss, layer.trainable_weights)
        optimizer.apply_gradients(zip(gradients, layer.trainable_weights, strict=True))

    batches = [x[:8], x[8:16], x[16:]]
    for batch in batches:
        step(tf.constant(batch))
    mean, variance = reference.pooled(batches, 0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-12)
    assert np.all(layer.beta.numpy() > 0)


def test_one_layer_called_on_two_inputs_counts_both(rng):
    layer = bnm.BatchNormalization(statistics=bnm.PooledPopulation())
    a, b = data(rng, (6, 3)), data(rng, (4, 3), 5.0)
    first, second = keras.Input((3,)), keras.Input((3,))
    keras.Model([first, second], [layer(first), layer(second)])([a, b], training=True)
    mean, variance = reference.pooled([a, b], 0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-12)
