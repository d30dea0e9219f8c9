"""recalibrate, and the record of what it changed."""

import json
from importlib import resources

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.changes import Change, joined
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.models.norms import norms_in

BN = layers.BatchNormalization
ROWS = 83  # batches of 16 and a last one of 3


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def numbers(rows=ROWS, shape=(5,), seed=0):
    """Data whose channels have offsets, and whose batches differ."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(-1, 2, rows).reshape(-1, *[1] * len(shape))
    return (rng.normal(3, 2, (rows, *shape)) + drift).astype("float32")


def plain(**settings):
    return keras.Sequential(
        [
            layers.Input((5,)),
            layers.Dense(6),
            BN(name="first", **settings),
            layers.ReLU(),
            layers.Dense(4),
            BN(name="second", **settings),
            layers.Dense(2),
        ]
    )


def numbers_of(weight):
    return weight.numpy().copy()


def inputs_of(model, name, x):
    """The real inputs of a layer of a graph, in inference."""
    return keras.Model(model.inputs, model.get_layer(name).input).predict(x, verbose=0)


def float64_moments(x, axis=-1):
    x = np.moveaxis(np.asarray(x, np.float64), axis, -1).reshape(-1, x.shape[axis])
    mean = x.sum(0) / len(x)
    return mean, ((x - mean) ** 2).sum(0) / len(x)


def batches_of(x, size=16):
    return [x[start : start + size] for start in range(0, len(x), size)]


def state(model):
    return [weight.copy() for weight in model.get_weights()]


def same(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


def close(got, expected, rtol=1e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=1e-7)


# What the statistics are.


def test_pooled_statistics_are_the_float64_moments_of_the_real_inputs_uneven_last_batch_included():
    model, x = plain(), numbers()
    recalibrate(model, x, batch_size=16, only=["first"])
    first = model.get_layer("first")
    mean, variance = float64_moments(inputs_of(model, "first", x))
    close(first.moving_mean, mean)
    close(first.moving_variance, variance)


def test_the_second_layer_gets_what_the_first_gives_when_it_normalizes_by_the_batch():
    model, x = plain(), numbers()
    kernel, bias, gamma, beta = (w.astype(np.float64) for w in model.get_weights()[:4])
    kernel2, bias2 = (w.astype(np.float64) for w in model.get_weights()[6:8])
    gamma, beta = gamma + 0.5, beta + 0.25
    model.get_layer("first").gamma.assign(gamma)
    model.get_layer("first").beta.assign(beta)
    recalibrate(model, x, batch_size=16)
    inputs = []
    for batch in batches_of(x):
        y, *_ = reference.forward(batch @ kernel + bias, gamma, beta, axes=(0,), epsilon=1e-3)
        inputs.append(np.maximum(y, 0) @ kernel2 + bias2)
    mean, variance = float64_moments(np.concatenate(inputs))
    close(model.get_layer("second").moving_mean, mean, rtol=1e-5)
    close(model.get_layer("second").moving_variance, variance, rtol=1e-5)


def test_the_average_is_the_papers_mean_of_unbiased_batch_variances():
    model, x = plain(), numbers(80)
    recalibrate(model, x, batch_size=16, method="average")
    batches = [float64_moments(batch) for batch in batches_of(inputs_of(model, "first", x))]
    close(model.get_layer("first").moving_mean, np.mean([mean for mean, _ in batches], 0))
    expected = 16 / 15 * np.mean([variance for _, variance in batches], 0)
    close(model.get_layer("first").moving_variance, expected)


def test_the_average_weights_an_uneven_batch_by_samples_and_degrees_of_freedom():
    model, x = plain(), numbers()
    recalibrate(model, x, batch_size=16, method="average")
    batches = batches_of(inputs_of(model, "first", x))
    squares = sum(len(batch) * float64_moments(batch)[1] for batch in batches)
    expected = squares / sum(len(batch) - 1 for batch in batches)
    close(model.get_layer("first").moving_variance, expected)
    mean, _ = float64_moments(np.concatenate(batches))
    close(model.get_layer("first").moving_mean, mean)


def test_layer_by_layer_the_statistics_are_the_moments_of_the_inputs_in_inference():
    model, x = plain(), numbers()
    recalibrate(model, x, batch_size=16, sequential=True)
    for name in ("first", "second"):
        mean, variance = float64_moments(inputs_of(model, name, x))
        close(model.get_layer(name).moving_mean, mean, rtol=2e-6)
        close(model.get_layer(name).moving_variance, variance, rtol=2e-6)


def test_layer_by_layer_follows_the_order_of_the_calls_not_of_the_attributes():
    class Backwards(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = BN(name="last")
            self.dense = layers.Dense(3)
            self.first = BN(name="first")

        def call(self, x):
            return self.last(self.dense(self.first(x)))

    model, x = Backwards(), numbers()
    model(x[:2])
    # Without it what reaches the last layer has a mean of 0.
    model.first.beta.assign(np.arange(1.0, x.shape[-1] + 1))
    recalibrate(model, x, batch_size=16, sequential=True)
    mean, variance = float64_moments(model.dense(model.first(x)))
    close(model.last.moving_mean, mean, rtol=1e-5)
    close(model.last.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("axis", [1, -1])
def test_every_sample_of_an_image_counts(axis):
    model = keras.Sequential([layers.Input((4, 6, 3)), BN(axis=axis)])
    x = numbers(20, (4, 6, 3))
    recalibrate(model, x, batch_size=8)
    mean, variance = float64_moments(x, axis)
    close(model.layers[0].moving_mean, mean)
    close(model.layers[0].moving_variance, variance)


def test_a_large_mean_does_not_cancel_the_variance():
    model = keras.Sequential([layers.Input((3,)), BN()])
    x = numbers(90, (3,)) + np.float32(1e4)
    recalibrate(model, x, batch_size=16)
    mean, variance = float64_moments(x)
    close(model.layers[0].moving_mean, mean)
    # The batches' means are known to half a unit in the last place, here 2e-4 of a deviation.
    close(model.layers[0].moving_variance, variance, rtol=1e-3)


def test_large_images_far_from_zero_keep_their_moments():
    # Large enough for the fused kernel, whose sums alone would be off by whole deviations.
    model = keras.Sequential([layers.Input((64, 64, 4)), BN()])
    x = np.random.default_rng(0).normal(1e4, 1, (40, 64, 64, 4)).astype("float32")
    recalibrate(model, x)
    mean, variance = float64_moments(x)
    assert np.abs(model.layers[0].moving_mean.numpy() - mean).max() < 2e-3
    close(model.layers[0].moving_variance, variance, rtol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16, 16), (256, 16)])
@pytest.mark.parametrize("affine", [True, False])
def test_inputs_large_enough_for_the_fused_kernel_give_the_same(shape, affine):
    first, second = BN(scale=affine, center=affine), BN()
    model = keras.Sequential([layers.Input(shape), first, layers.ReLU(), second])
    gamma, beta = np.linspace(0.5, 2, 16), np.linspace(-1, 1, 16)
    if affine:
        first.gamma.assign(gamma)
        first.beta.assign(beta)
    else:
        gamma, beta = None, None
    x = numbers(6, shape)
    recalibrate(model, x, batch_size=2)
    close(first.moving_variance, float64_moments(x)[1], rtol=1e-5)
    axes = tuple(range(len(shape)))
    outputs = [
        reference.forward(batch, gamma, beta, axes=axes, epsilon=1e-3)[0]
        for batch in batches_of(x, 2)
    ]
    mean, variance = float64_moments(np.maximum(np.concatenate(outputs), 0))
    close(second.moving_mean, mean, rtol=1e-5)
    close(second.moving_variance, variance, rtol=1e-5)


def test_an_epsilon_of_zero_is_taken():
    model = keras.Sequential([layers.Input((5,)), BN(epsilon=0.0)])
    recalibrate(model, numbers())
    close(model.layers[0].moving_mean, float64_moments(numbers())[0])


def test_a_last_single_sample_goes_with_the_batch_before():
    # By itself it would come out of the first layer as beta, whatever it is.
    model, other, x = plain(), plain(), numbers(33)
    other.set_weights(model.get_weights())
    assert recalibrate(model, x, batch_size=16).samples == 33
    first, last = (tf.data.Dataset.from_tensors(part) for part in (x[:16], x[16:]))
    recalibrate(other, first.concatenate(last))
    assert same(state(model), state(other))


@pytest.mark.parametrize("form", ["dataset", "labelled", "tuple"])
def test_all_forms_of_data_give_the_same(form):
    x = numbers()
    y = np.arange(len(x))
    data = {
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(16),
        "labelled": tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        "tuple": (x, y),
    }[form]
    model, other = plain(), plain()
    other.set_weights(model.get_weights())
    recalibrate(model, x, batch_size=16)
    recalibrate(other, data, batch_size=16)
    assert same(state(model), state(other))


def test_masked_samples_do_not_count():
    model = keras.Sequential([layers.Input((4, 3)), layers.Masking(), BN()])
    x = numbers(24, (4, 3))
    x[::2, 2:] = 0
    recalibrate(model, x, batch_size=8)
    counted = x[(x != 0).any(-1)]
    mean, variance = float64_moments(counted)
    close(model.layers[1].moving_mean, mean)
    close(model.layers[1].moving_variance, variance)


def test_several_inputs_come_by_name():
    a, b = layers.Input((3,), name="a"), layers.Input((2,), name="b")
    model = keras.Model(
        {"a": a, "b": b}, layers.Concatenate()([BN(name="of_a")(a), BN(name="of_b")(b)])
    )
    data = {"a": numbers(40, (3,)), "b": numbers(40, (2,), seed=1)}
    recalibrate(model, data, batch_size=16)
    for name in "ab":
        mean, variance = float64_moments(data[name])
        close(model.get_layer(f"of_{name}").moving_mean, mean)
        close(model.get_layer(f"of_{name}").moving_variance, variance)


# What it leaves alone.


def test_dropout_stays_off():
    model = keras.Sequential([layers.Input((5,)), layers.Dropout(0.5), BN()])
    x = numbers()
    recalibrate(model, x, batch_size=16)
    _, variance = float64_moments(x)
    close(model.layers[1].moving_variance, variance)


def test_only_statistics_change():
    model = plain()
    before = state(model)
    recalibrate(model, numbers(), batch_size=16)
    moved = [
        weight.name
        for weight, old in zip(model.weights, before, strict=True)
        if not np.array_equal(weight, old)
    ]
    assert moved == ["moving_mean", "moving_variance"] * 2


def test_a_frozen_layer_is_left_unless_it_is_asked_for():
    model, x = plain(), numbers()
    model.get_layer("first").trainable = False
    change = recalibrate(model, x, batch_size=16)
    assert dict(change.left) == {"first": "it is frozen"}
    assert not np.any(model.get_layer("first").moving_mean)
    # It inferred while the second one was estimated.
    mean, variance = float64_moments(inputs_of(model, "second", x))
    close(model.get_layer("second").moving_mean, mean, rtol=1e-5)
    close(model.get_layer("second").moving_variance, variance, rtol=1e-5)
    assert len(recalibrate(model, x, include_frozen=True).layers) == 2
    assert np.all(model.get_layer("first").moving_mean)


def test_layers_that_are_not_named_infer_and_keep_their_statistics():
    model, x = plain(), numbers()
    first = model.get_layer("first")
    first.moving_mean.assign(np.full(6, 7.0))
    recalibrate(model, x, only=["second"], batch_size=16)
    assert np.all(numbers_of(first.moving_mean) == 7)
    mean, _ = float64_moments(inputs_of(model, "second", x))
    close(model.get_layer("second").moving_mean, mean, rtol=1e-5)


def test_a_layer_whose_code_always_trains_it_keeps_its_statistics_when_it_is_not_named():
    class Stubborn(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = BN(name="first"), BN(name="second")

        def call(self, x, training=None):
            return self.second(self.first(x, training=True), training=training)

    model, x = Stubborn(), numbers()
    model(x[:4])
    before = numbers_of(model.first.moving_mean)
    recalibrate(model, x, only=["second"])
    assert np.array_equal(model.first.moving_mean, before)


def test_a_subclass_with_its_own_call_is_left():
    class Halved(BN):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) / 2

    model = keras.Sequential([layers.Input((5,)), Halved(name="own"), BN(name="plain")])
    change = recalibrate(model, numbers())
    assert dict(change.left) == {"own": "its class, Halved, has its own `call`"}
    assert [layer.name for layer in change.layers] == ["plain"]


class NormalizedCell(layers.SimpleRNNCell):
    """A recurrent cell that normalizes its input."""

    def build(self, input_shape):
        self.bn = BN(name="inner")
        self.bn.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, states, training=False):
        return super().call(self.bn(inputs, training=training), states, training=training)


def of_some_lengths():
    for length in (4, 5, 4):
        yield numbers(8, (length, 3))


LOOPS = {
    "a recurrent cell": (lambda: layers.RNN(NormalizedCell(2)), numbers(20, (4, 3))),
    "a vectorized map": (
        lambda: layers.TimeDistributed(BN(name="inner")),
        tf.data.Dataset.from_generator(
            of_some_lengths, output_signature=tf.TensorSpec([None, None, 3])
        ),
    ),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_all_steps_of_a_loop_of_the_graph_count(kind):
    make, data = LOOPS[kind]
    model = keras.Sequential([layers.Input((None, 3)), BN(name="seen"), make()])
    (_, inner) = norms_in(model)
    recalibrate(model, data)
    # What it gets is what the layer before gives, which normalizes by the batch, all steps of it.
    assert abs(inner.mean).max() < 1e-5
    assert inner.variance == pytest.approx(np.ones(3), rel=2e-2)
    assert hooks_in(model) == []


class Mapped(layers.Layer):
    """Hands its layer a vectorized map's tensors, which nobody outside can read."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.bn = BN(name="inner")

    def build(self, input_shape):
        self.bn.build(input_shape)

    def call(self, inputs, training=False):
        def normalized(part):
            return self.bn(part[None], training=training)[0]

        return tf.vectorized_map(normalized, inputs)


def test_a_layer_in_a_vectorized_map_is_left():
    model = keras.Sequential([layers.Input((3,)), BN(name="seen"), Mapped()])
    (_, inner) = norms_in(model)
    change = recalibrate(model, numbers(20, (3,)))
    assert [layer.name for layer in change.layers] == ["seen"]
    assert list(change.left) == [inner.name]
    assert "compiled or vectorized" in change.left[inner.name]
    assert not np.any(inner.mean)
    assert hooks_in(model) == []


def test_each_step_of_a_time_distributed_layer_counts():
    model = keras.Sequential([layers.Input((4, 3)), layers.TimeDistributed(BN())])
    x = numbers(40, (4, 3))
    recalibrate(model, x, batch_size=16)
    mean, variance = float64_moments(x)
    close(norms_in(model)[0].mean, mean)
    close(norms_in(model)[0].variance, variance)


def test_a_layer_that_the_model_does_not_call_is_left():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = BN(name="used"), BN(name="spare")
            self.spare.build((None, 5))

        def call(self, x):
            return self.used(x)

    change = recalibrate(Unused(), numbers())
    assert dict(change.left) == {"spare": "the model does not call it"}


# Kinds of models and layers.


def test_a_nested_model_is_reached():
    inner = keras.Sequential([layers.Input((5,)), layers.Dense(4), BN(name="bn")], name="inner")
    x = layers.Input((5,))
    model = keras.Model(x, layers.Dense(2)(inner(x)))
    data = numbers()
    change = recalibrate(model, data, batch_size=16)
    assert [layer.name for layer in change.layers] == ["inner/bn"]
    mean, _ = float64_moments(inner.layers[0](data))
    close(inner.get_layer("bn").moving_mean, mean, rtol=1e-5)


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_subclassed_model_that_was_never_called_is_built_first(eagerly):
    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = BN(name="bn")

        def call(self, x):
            return self.bn(x)

    model, x = Small(), numbers()
    model.compile(run_eagerly=eagerly)
    recalibrate(model, x, batch_size=16)
    mean, variance = float64_moments(x)
    close(model.bn.moving_mean, mean)
    close(model.bn.moving_variance, variance)


def test_both_calls_of_a_shared_layer_count():
    shared = BN(name="shared")
    a, b = layers.Input((3,)), layers.Input((3,))
    model = keras.Model([a, b], layers.Add()([shared(a), shared(b)]))
    data = [numbers(40, (3,)), numbers(40, (3,), seed=1) + 5]
    recalibrate(model, data, batch_size=16)
    mean, variance = float64_moments(np.concatenate(data))
    close(shared.moving_mean, mean)
    close(shared.moving_variance, variance)


def test_an_accelerated_model_is_recalibrated_and_stays_accelerated():
    model, x = plain(), numbers()
    other = plain()
    other.set_weights(model.get_weights())
    bnm.accelerate(model)
    recalibrate(model, x)
    recalibrate(other, x)
    assert same(state(model), state(other))
    assert bnm.restore(model) == 2


def test_a_baked_training_flag_changes_nothing():
    x = layers.Input((5,))
    bn = BN(name="bn")
    model = keras.Model(x, bn(layers.Dense(4)(x), training=True))
    data = numbers()
    recalibrate(model, data, batch_size=16)
    mean, variance = float64_moments(inputs_of(model, "bn", data))
    close(bn.moving_mean, mean)
    close(bn.moving_variance, variance)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float64", "float16", "bfloat16"]
)
def test_other_types_of_numbers_work(policy):
    model = keras.Sequential([layers.Input((5,)), BN(name="bn", dtype=policy)])
    x = numbers()
    recalibrate(model, x, batch_size=16)
    wide = np.asarray(tf.cast(x, model.layers[0].compute_dtype).numpy(), np.float64)
    mean, variance = float64_moments(wide)
    rtol = {"float16": 1e-3, "bfloat16": 1e-2}.get(policy, 1e-6)
    close(model.layers[0].moving_mean, mean, rtol=rtol)
    close(model.layers[0].moving_variance, variance, rtol=rtol)
    assert model.layers[0].moving_mean.dtype == ("float32" if "mixed" in policy else policy)


@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False, "scale": False}])
def test_layers_of_fewer_weights_work(settings):
    model = keras.Sequential([layers.Input((5,)), BN(**settings)])
    recalibrate(model, numbers())
    close(model.layers[0].moving_mean, float64_moments(numbers())[0])


def test_the_seven_weights_of_renorm_agree_and_still_do_after_a_training_step():
    model = keras.Sequential([layers.Input((5,)), BN(renorm=True, momentum=0.9, epsilon=0.01)])
    layer, x = model.layers[0], numbers()
    recalibrate(model, x, batch_size=16)
    mean, variance = float64_moments(x)
    for weight, expected in (
        (layer.moving_mean, mean),
        (layer.moving_variance, variance),
        (layer.moving_stddev, np.sqrt(variance + 0.01)),
        (layer.renorm_mean, mean),
        (layer.renorm_stddev, np.sqrt(variance + 0.01)),
    ):
        close(weight, expected)
    model.compile(optimizer="sgd", loss="mse")
    model.train_on_batch(x[:16], x[:16])
    _, of_batch = float64_moments(x[:16])
    stddev = 0.9 * np.sqrt(variance + 0.01) + 0.1 * np.sqrt(of_batch + 0.01)
    close(layer.moving_variance, stddev**2 - 0.01, rtol=1e-5)


POLICIES = {
    "moving": bnm.ExponentialMovingAverage(decay=0.9),
    "debiased": bnm.DebiasedMovingAverage(decay=0.9),
    "average": bnm.AverageOfBatches(),
    "pooled": bnm.PooledPopulation(),
    "unbiased": bnm.ExponentialMovingAverage(decay=0.9, unbiased=True),
}


def ours(policy):
    model = keras.Sequential([layers.Input((5,)), bnm.BatchNormalization(statistics=policy)])
    return model, model.layers[0]


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_gets_the_variance_that_it_keeps(name):
    model, layer = ours(POLICIES[name])
    x = numbers()
    recalibrate(model, x, batch_size=16)
    mean, variance = float64_moments(x)
    factor = ROWS / (ROWS - 1) if name in {"average", "unbiased"} else 1
    close(layer.moving_mean, mean)
    close(layer.moving_variance, variance * factor)


@pytest.mark.parametrize("name", ["moving", "debiased", "unbiased"])
def test_a_moving_average_goes_on_from_the_new_statistics(name):
    model, layer = ours(POLICIES[name])
    x = numbers()
    recalibrate(model, x, batch_size=16)
    layer(x[:16], training=True)
    mean, _ = float64_moments(x)
    close(layer.moving_mean, 0.9 * mean + 0.1 * float64_moments(x[:16])[0], rtol=1e-5)


def test_a_pooled_population_goes_on_counting_from_the_data():
    model, layer = ours(POLICIES["pooled"])
    x = numbers()
    recalibrate(model, x, batch_size=16)
    layer(x[:16] + 9, training=True)
    mean, variance = float64_moments(np.concatenate([x, x[:16] + 9]))
    close(layer.moving_mean, mean, rtol=1e-5)
    close(layer.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize(("method", "freedom"), [("pooled", ROWS - 1), ("average", ROWS - 6)])
def test_an_average_of_batches_knows_its_degrees_of_freedom(method, freedom):
    model, layer = ours(POLICIES["average"])
    recalibrate(model, numbers(), batch_size=16, method=method)
    values = {weight.name: numbers_of(weight) for weight in layer.weights}
    assert np.all(values["count"] == ROWS)
    assert np.all(values["degrees_of_freedom"] == freedom)


# Blending.


def test_blending_weights_old_and_new_mean_and_variance_linearly():
    model, x = plain(), numbers()
    first = model.get_layer("first")
    first.moving_mean.assign(np.arange(6.0))
    first.moving_variance.assign(np.arange(1.0, 7))
    mean, variance = float64_moments(inputs_of(model, "first", x))
    change = recalibrate(model, x, batch_size=16, blend=0.3)
    close(first.moving_mean, 0.7 * np.arange(6) + 0.3 * mean)
    close(first.moving_variance, 0.7 * np.arange(1, 7) + 0.3 * variance)
    assert change.how.endswith("blended in by 0.3")


def test_blending_in_wholly_replaces_the_statistics():
    model, other = plain(), plain()
    other.set_weights(model.get_weights())
    recalibrate(model, numbers(), blend=1)
    recalibrate(other, numbers())
    assert same(state(model), state(other))


def test_what_is_not_finite_cannot_be_blended():
    model = plain()
    model.get_layer("first").moving_mean.assign(np.full(6, np.nan))
    before = state(model)
    with pytest.raises(InputError, match="moving_mean of first not finite in float32"):
        recalibrate(model, numbers(), blend=0.5)
    assert same(state(model), before)


# Undoing and refusing.


def test_undo_restores_every_weight_bit_for_bit_and_can_be_repeated():
    model = plain(renorm=True)
    model.get_layer("first").moving_variance.assign(np.array([np.nan, np.inf, -1, 0, 1e-40, 3]))
    before = state(model)
    change = recalibrate(model, numbers())
    assert not same(state(model), before)
    change.undo()
    assert same(state(model), before)
    change.undo()
    assert same(state(model), before)


def test_changes_made_one_after_another_are_undone_as_one():
    model = plain()
    before = state(model)
    first, second = recalibrate(model, numbers()), recalibrate(model, numbers(seed=1))
    together = joined([*first.layers, *second.layers])
    assert len(together) == 2
    assert np.array_equal(together[0].after["moving_mean"], model.get_layer("first").moving_mean)
    Change(together).undo()
    assert same(state(model), before)


def test_undo_refuses_layers_that_were_rebuilt():
    model = plain()
    change = recalibrate(model, numbers())
    after = numbers_of(model.get_layer("second").moving_mean)
    first = model.get_layer("first")
    first._tracker.unlock()
    first._trainable_variables.clear()
    first._non_trainable_variables.clear()
    first.build((None, 6))
    with pytest.raises(InputError, match="Received: layers built anew since: first"):
        change.undo()
    assert np.array_equal(model.get_layer("second").moving_mean, after)


def hooks_in(model):
    return [norm.name for norm in norms_in(model) if "call" in vars(norm.layer)]


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_not_finite_are_refused_and_nothing_changes(bad, sequential):
    model, x = plain(), numbers()
    before = state(model)
    x[40, 2] = bad
    message = (
        "recalibrate: `data` must be finite. Received: 1 values that are NaN or infinite, in 1 of "
    )
    with pytest.raises(InputError, match=message):
        recalibrate(model, x, batch_size=16, sequential=sequential)
    assert same(state(model), before)
    assert hooks_in(model) == []


def test_a_model_that_makes_nan_of_good_data_is_named():
    model = plain()
    model.get_layer("first").gamma.assign(np.full(6, np.nan))
    with pytest.raises(
        InputError, match="at the input of second, in batch 1, whose samples are finite"
    ):
        recalibrate(model, numbers())


@pytest.mark.parametrize("sequential", [False, True])
def test_after_an_exception_in_the_middle_the_model_is_as_it_was(sequential):
    model, x = plain(), numbers()
    before = state(model)

    class Interrupted:
        """A data set that is interrupted at some batch."""

        left = 9

        def __len__(self):
            return len(x)

        @property
        def shape(self):
            return x.shape

        def __getitem__(self, rows):
            Interrupted.left -= 1
            if Interrupted.left < (7 if not sequential else 0):
                raise KeyboardInterrupt
            return x[rows]

    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, Interrupted(), batch_size=16, sequential=sequential)
    assert same(state(model), before)
    assert hooks_in(model) == []


def test_a_weight_that_cannot_be_assigned_leaves_the_model_as_it_was(monkeypatch):
    model = plain()
    before = state(model)
    second = model.get_layer("second")

    def fail(_value):
        raise MemoryError("no room")

    real = second.moving_variance.assign
    calls = []

    def fail_once(value):
        calls.append(value)
        return fail(value) if len(calls) == 1 else real(value)

    monkeypatch.setattr(second.moving_variance, "assign", fail_once)
    with pytest.raises(MemoryError, match="no room"):
        recalibrate(model, numbers())
    assert same(state(model), before)


def test_one_sample_behind_each_statistic_is_refused():
    model, x = plain(), numbers(9)
    before = state(model)
    with pytest.raises(InputError, match="one in every batch, at the input of first"):
        recalibrate(model, x, batch_size=1)
    with pytest.raises(InputError, match="one in every batch"):
        recalibrate(model, x[:1])
    assert same(state(model), before)


def test_batches_of_one_image_have_samples_enough():
    model = keras.Sequential([layers.Input((4, 4, 2)), BN()])
    x = numbers(5, (4, 4, 2))
    recalibrate(model, x, batch_size=1)
    mean, variance = float64_moments(x)
    close(model.layers[0].moving_mean, mean)
    close(model.layers[0].moving_variance, variance)


def test_statistics_too_large_for_the_layers_type_are_refused():
    model = keras.Sequential([layers.Input((2,)), BN(name="bn", dtype="float16")])
    x = np.array([[0, 1], [1000, 1]] * 8, "float32")
    with pytest.raises(InputError, match="moving_variance of bn not finite in float16"):
        recalibrate(model, x)


BAD = {
    "model": (lambda m, x: recalibrate("model", x), "`model` must be a Keras model"),
    "none": (
        lambda m, x: recalibrate(keras.Sequential([layers.Input((5,)), layers.Dense(1)]), x),
        "`model` must have batch normalization",
    ),
    "method": (lambda m, x: recalibrate(m, x, method="mean"), "`method` must be 'pooled' or"),
    "blend 0": (lambda m, x: recalibrate(m, x, blend=0), r"`blend` must lie in \(0, 1\]"),
    "blend 2": (lambda m, x: recalibrate(m, x, blend=1.5), r"`blend` must lie in \(0, 1\]"),
    "blend True": (lambda m, x: recalibrate(m, x, blend=True), r"`blend` must lie in \(0, 1\]"),
    "layers": (lambda m, x: recalibrate(m, x, only=["frist"]), "Did you mean 'first'?"),
    "no layers": (lambda m, x: recalibrate(m, x, only=[]), "Received: no name"),
    "shape": (
        lambda m, x: recalibrate(m, x[:, :3]),
        r"shape of the model's input, \(n, 5\)\. Received: batches of shape \(n, 3\)",
    ),
    "empty": (lambda m, x: recalibrate(m, x[:0]), "must hold at least one sample"),
    "batch": (lambda m, x: recalibrate(m, x, batch_size=0), "`batch_size` must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_and_nothing_changes(name):
    call, message = BAD[name]
    model = plain()
    before = state(model)
    with pytest.raises(InputError, match=message):
        call(model, numbers())
    assert same(state(model), before)


def test_a_model_of_frozen_layers_alone_is_refused():
    model = plain()
    model.trainable = False
    with pytest.raises(InputError, match="first: it is frozen; second: it is frozen"):
        recalibrate(model, numbers())


# The record.


def test_the_record_says_what_changed():
    model, x = plain(), numbers()
    model.get_layer("second").trainable = False
    change = recalibrate(model, x)
    (first,) = change.layers
    assert np.array_equal(first.before["moving_mean"], np.zeros(6))
    assert np.array_equal(first.after["moving_mean"], model.get_layer("first").moving_mean)
    lines = str(change).splitlines()
    assert lines[0] == "1 layers changed: moments of all samples pooled, from 83 samples"
    assert lines[3] == "Left as they are: second (it is frozen)"
    assert len(lines) == 5


def test_the_largest_move_is_in_the_new_standard_deviations_of_the_right_channel():
    model = keras.Sequential([layers.Input((3,)), BN(name="bn")])
    x = np.tile(np.array([[0, 9, 0], [2, 13, 2]], "float32"), (8, 1))
    lines = str(recalibrate(model, x)).splitlines()
    assert lines[1] == "Largest move of a mean: 5.5 standard deviations, bn channel 1 of 3"
    assert lines[2] == "Largest change of a variance: 4 times, bn channel 1 of 3"


def test_the_record_is_json_also_where_something_was_not_finite():
    model = plain()
    model.get_layer("first").moving_mean.assign(np.array([np.nan, np.inf, -np.inf, 0, 0, 0]))
    change = recalibrate(model, numbers())
    record = json.loads(json.dumps(change.as_json(), allow_nan=False))
    assert record["samples"] == ROWS
    first = record["layers"][0]
    assert first["layer"] == "first"
    assert first["changed"]["moving_mean"]["before"] == [
        "NaN",
        "Infinity",
        "-Infinity",
        0.0,
        0.0,
        0.0,
    ]
    assert "unusable before, first channel 0 of 6" in str(change)


# The whole, on real data.


@pytest.fixture(scope="module")
def mnist():
    path = resources.files("batchnorm_mechanics") / "studies" / "data" / "mnist.npz"
    with resources.as_file(path) as file, np.load(file) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def trained(mnist):
    keras.utils.set_random_seed(0)
    x, y = mnist["x_train"][:12000] / np.float32(255), mnist["y_train"][:12000]
    model = keras.Sequential(
        [
            layers.Input((28, 28)),
            layers.Flatten(),
            layers.Dense(64),
            BN(momentum=0.9),
            layers.ReLU(),
            layers.Dropout(0.1),
            layers.Dense(64),
            BN(momentum=0.9),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=3, verbose=0)
    return model, model.get_weights()


def accuracy(model, mnist):
    x, y = mnist["x_test"] / np.float32(255), mnist["y_test"]
    return float((model.predict(x, batch_size=500, verbose=0).argmax(1) == y).mean())


def zeros(mean, variance):
    return np.zeros_like(mean), np.zeros_like(variance)


def random(mean, variance):
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, mean.shape), rng.uniform(0.1, 30, variance.shape)


@pytest.mark.thorough
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("spoil", [zeros, random, "another domain"])
def test_the_accuracy_on_mnist_comes_back(trained, mnist, spoil, sequential):
    model, weights = trained
    model.set_weights(weights)
    healthy = accuracy(model, mnist)
    assert healthy > 0.94
    x = mnist["x_train"][:4000] / np.float32(255)
    if spoil == "another domain":
        recalibrate(model, 1 - x)
    else:
        for norm in norms_in(model):
            mean, variance = spoil(norm.mean, norm.variance)
            norm.layer.moving_mean.assign(mean)
            norm.layer.moving_variance.assign(variance)
    assert accuracy(model, mnist) < healthy - 0.05
    recalibrate(model, x, batch_size=64, sequential=sequential)
    assert accuracy(model, mnist) > healthy - 0.003
