"""The layer's computation against the oracle and against Keras's own layer."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import (
    assert_within,
    count_of,
    data,
    largest,
    random_mask,
    resolution,
    rounding,
    spread,
    whole,
)

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

# Every axis of ranks 2 to 5, counted from either end.
KEPT = [
    ((6, 3), -1),
    ((6, 3), 0),
    ((4, 5, 3), 2),
    ((4, 3, 5), 1),
    ((4, 3, 5), -3),
    ((3, 4, 5, 2), -1),
    ((3, 4, 5, 2), 2),
    ((3, 2, 4, 5), 1),
    ((3, 4, 5, 2), -4),
    ((3, 2, 2, 3, 2), 4),
    ((3, 2, 2, 3, 2), 3),
    ((3, 2, 2, 3, 2), -3),
    ((3, 2, 2, 3, 2), 1),
    ((3, 2, 2, 3, 2), 0),
]
KEPT_IDS = [f"{len(shape)}d-axis={axis}" for shape, axis in KEPT]
kept_axes = pytest.mark.parametrize(("shape", "axis"), KEPT, ids=KEPT_IDS)


def reduced(shape, axis):
    return [other for other in range(len(shape)) if other != axis % len(shape)]


def weights_for(rng, channels):
    """Gamma, beta, moving mean and moving variance, all different."""
    return [
        (1 + 0.5 * rng.normal(size=channels)).astype("float32"),
        rng.normal(size=channels).astype("float32"),
        rng.normal(size=channels).astype("float32"),
        rng.uniform(0.5, 2, channels).astype("float32"),
    ]


def step(layer, x, dy, mask=None):
    """One training step: output, gradients of sum(dy * y) by x, gamma, beta, moving statistics."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
        loss = tf.reduce_sum(tf.cast(dy, y.dtype) * y)
    gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
    moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    names = ("y", "d_x", "d_gamma", "d_beta", "moving_mean", "moving_variance")
    return dict(zip(names, (y, *gradients, *moving), strict=True))


def step_by_the_oracle(x, dy, weights, axis, momentum=0.9, mask=None):
    axes = reduced(x.shape, axis)
    gamma, beta, mean, variance = weights
    moving = reference.exponential_moving_average(
        [x], axes, momentum, masks=[mask], initial_mean=mean, initial_variance=variance
    )
    return {
        "y": reference.forward(x, gamma, beta, axes, 1e-3, mask)[0],
        **reference.gradients(dy, x, gamma, axes, 1e-3, mask),
        "moving_mean": moving[0],
        "moving_variance": moving[1],
    }


def bounds(x, dy, weights, axis, dtype, mask=None):
    """The rounding errors that a step may have, channel by channel; see oracle_cases.rounding."""
    axes = reduced(x.shape, axis)
    gamma, beta = (np.abs(spread(value, x.shape, axes)) for value in weights[:2])
    _, mean, variance, x_hat = reference.forward(x, None, None, axes, 1e-3, mask)
    std = np.sqrt(spread(variance, x.shape, axes) + 1e-3)
    count = np.maximum(spread(reference.moments(x, axes, mask)[2], x.shape, axes), 1)
    terms, x_hat = 4 * count_of(x.shape, axes) + 24, 1 + np.abs(x_hat)

    def total(value):
        return np.sum(value, axis=tuple(axes), keepdims=True)

    d_gamma, d_beta = total(np.abs(dy) * x_hat), total(np.abs(dy))
    through = (2 * d_gamma * largest(x_hat, axes) + d_beta) * gamma / std / count
    size = {
        "y": gamma * largest(x_hat, axes) + beta,
        "d_x": gamma * largest(dy, axes) / std + 2 * through,
        "d_gamma": d_gamma.reshape(-1),
        "d_beta": d_beta.reshape(-1),
        "moving_mean": np.abs(mean) + np.abs(weights[2]) + np.sqrt(variance),
        "moving_variance": variance + weights[3],
    }
    narrow = dtype if dtype in ("bfloat16", "float16") else None
    return {
        name: rounding("float32", terms, value)
        # Under mixed precision only the output, and what flows back into x, is narrow: the cast
        # of y and of its gradient are one rounding each.
        + (rounding(narrow, 2, value) if narrow and name in ("y", "d_x") else 0)
        for name, value in size.items()
    }


def judge_step(actual, expected, allowed, case=""):
    for name, bound in allowed.items():
        assert_within(actual[name], expected[name], bound, f"{case} {name}")


def pair(shape, axis, weights, **settings):
    """Our layer and Keras's with the same settings and weights."""
    layers = []
    for kind in (bnm.BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(axis=axis, momentum=0.9, **settings)
        layer.build((None if axis % len(shape) else shape[0], *shape[1:]))
        layer.set_weights(weights)
        layers.append(layer)
    return layers


# Against the oracle and Keras


@kept_axes
def test_a_training_step_is_the_oracles_and_kerass_for_every_axis(shape, axis, rng):
    x, dy = data(rng, shape, 1.0, "float32"), data(rng, shape, 0.5, "float32")
    weights = weights_for(rng, shape[axis])
    ours, theirs = (step(layer, x, dy) for layer in pair(shape, axis, weights))
    expected = step_by_the_oracle(x, dy, weights, axis)
    allowed = bounds(x, dy, weights, axis, "float32")
    judge_step(ours, expected, allowed, "ours,")
    # Keras's own cancels a little: x * s + (offset - mean * s) at mean 1, standard deviation 0.5.
    judge_step(theirs, expected, {key: 8 * bound for key, bound in allowed.items()}, "Keras,")


@kept_axes
def test_inference_is_the_oracles_and_kerass_for_every_axis(shape, axis, rng):
    x, weights = data(rng, shape, 1.0, "float32"), weights_for(rng, shape[axis])
    gamma, beta, mean, variance = weights
    axes = reduced(shape, axis)
    expected = reference.infer(x, mean, variance, gamma, beta, axes, 1e-3)
    parts = [np.abs(spread(value, shape, axes)) for value in (gamma, beta, mean)]
    size = parts[0] * (largest(x, axes) + parts[2]) / np.sqrt(0.5) + parts[1]
    for layer in pair(shape, axis, weights):
        for training in (None, False):
            y = layer(x, training=training)
            assert_within(y, expected, rounding("float32", 16, size), type(layer).__module__)
        for weight, before in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(weight, before)


@kept_axes
def test_masks_work_for_every_axis(shape, axis, rng):
    x, dy = data(rng, shape, 1.0, "float32"), data(rng, shape, 0.5, "float32")
    weights = weights_for(rng, shape[axis])
    for rank in range(1, len(shape) + 1):
        mask = rng.random(shape[:rank]) < 0.7
        mask.flat[0] = True
        layer, _ = pair(shape, axis, weights)
        actual = step(layer, x, dy, tf.constant(mask))
        expected = step_by_the_oracle(x, dy, weights, axis, mask=mask)
        allowed = bounds(x, dy, weights, axis, "float32", mask)
        judge_step(actual, expected, allowed, f"mask of rank {rank},")


@pytest.mark.parametrize("shape", [(4, 5, 3), (3, 4, 5, 2)], ids=str)
def test_a_masked_step_is_kerass_where_keras_can_mask(shape, rng):
    x, dy = data(rng, shape, 1.0, "float32"), data(rng, shape, 0.5, "float32")
    weights, mask = weights_for(rng, shape[-1]), random_mask(rng, shape)
    ours, theirs = (step(layer, x, dy, tf.constant(mask)) for layer in pair(shape, -1, weights))
    allowed = bounds(x, dy, weights, -1, "float32", mask)
    # Keras adds 1e-7 to the count, and cancels a little.
    judge_step(theirs, ours, {key: 16 * bound for key, bound in allowed.items()})


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_training_step_at_a_large_mean_is_still_the_oracles(offset, rng):
    # Keras's layer is off by 1e-2 here.
    shape = (8, 5, 3)
    x, dy = data(rng, shape, offset, "float32"), data(rng, shape, 0.5, "float32")
    weights = weights_for(rng, 3)
    layer, _ = pair(shape, -1, weights)
    expected = step_by_the_oracle(x, dy, weights, -1)
    judge_step(step(layer, x, dy), expected, bounds(x, dy, weights, -1, "float32"))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_narrow_precision_is_the_oracles_and_kerass_with_float32_statistics(dtype, rng):
    narrow = dtype.removeprefix("mixed_")
    shape = (6, 4, 3)
    x, dy = data(rng, shape, 1.0, narrow), data(rng, shape, 0.5, narrow)
    weights = [np.asarray(value, narrow).astype("float32") for value in weights_for(rng, 3)]
    mine, keras_ = pair(shape, -1, weights, dtype=dtype)
    ours, theirs = step(mine, x, dy), step(keras_, x, dy)
    wide_x, wide_dy = x.astype("float64"), dy.astype("float64")
    expected = step_by_the_oracle(wide_x, wide_dy, weights, -1)
    allowed = bounds(wide_x, wide_dy, weights, -1, narrow)
    if not dtype.startswith("mixed"):
        # Gamma and beta, and with them their gradients, are narrow as well.
        allowed |= {
            name: allowed[name] + rounding(narrow, 1, expected[name])
            for name in ("d_gamma", "d_beta")
        }
    judge_step(ours, expected, allowed)
    assert ours["y"].dtype == theirs["y"].dtype == narrow
    # Keras keeps narrow statistics where the variables are narrow, so compare what flows.
    for name in ("y", "d_x"):
        both = allowed[name] + rounding(narrow, 2, expected[name])
        assert_within(ours[name], tf.cast(theirs[name], tf.float64), both, name)
    assert mine.moving_mean.dtype == mine.moving_variance.dtype == "float32"
    assert mine.gamma.dtype == keras_.gamma.dtype


def test_a_float64_layer_is_float64_all_the_way(rng):
    shape = (6, 3)
    x, dy = data(rng, shape, 10.0), data(rng, shape, 0.5)
    weights = [value.astype("float64") + 1e-9 for value in weights_for(rng, 3)]
    for layer in pair(shape, -1, weights, dtype="float64"):
        actual = step(layer, x, dy)
        expected = step_by_the_oracle(x, dy, weights, -1)
        for name, value in actual.items():
            # The layers' epsilon and momentum are Python's own numbers, so nothing is narrower.
            np.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_layer_of_unknown_batch_size_is_the_oracles(jit_compile, rng):
    shape = (6, 4, 3)
    weights = weights_for(rng, 3)
    layer, _ = pair(shape, -1, weights)

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4, 3]), tf.TensorSpec([None, 4], tf.bool)],
        jit_compile=jit_compile,
        autograph=False,
    )
    def compiled(x, mask):
        return layer(x, training=True, mask=mask), layer(x)

    x, mask = data(rng, shape, 1e2, "float32"), random_mask(rng, shape)
    y, inferred = compiled(x, mask)
    expected = step_by_the_oracle(x, np.ones(shape), weights, -1, mask=mask)
    allowed = bounds(x, np.ones(shape), weights, -1, "float32", mask)
    moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    actual = {"y": y, "moving_mean": moving[0], "moving_variance": moving[1]}
    judge_step(actual, expected, {name: allowed[name] for name in actual})
    # Inference comes after the update, as it stands.
    after = reference.infer(x, *moving, *weights[:2], [0, 1], 1e-3)
    assert_within(inferred, after, rounding("float32", 16, np.max(np.abs(after)) + 100))


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_epsilon_counts_in_training_and_in_inference(epsilon, rng):
    x = 0.1 * data(rng, (6, 3))
    layer = bnm.BatchNormalization(epsilon=epsilon, dtype="float64")
    expected = reference.forward(x, None, None, 0, epsilon)[0]
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-12)
    moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    expected = reference.infer(x, *moving, None, None, 0, epsilon)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)


def test_a_second_derivative_passes_through_the_layer(rng):
    layer = bnm.BatchNormalization(dtype="float64")
    x, w = data(rng, (5, 2), 3.0), rng.normal(size=(5, 2))

    def penalty(x):
        y = reference.forward(x, None, None, 0, 1e-3)[0]
        return np.sum(reference.gradients(w * np.cos(y), x, None, 0, 1e-3)["d_x"] ** 2)

    point = tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(point)
        with tf.GradientTape() as inner:
            inner.watch(point)
            loss = tf.reduce_sum(w * tf.sin(layer(point, training=True)))
        squared = tf.reduce_sum(inner.gradient(loss, point) ** 2)
    expected = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        moved = np.zeros(x.shape)
        moved[index] = 1e-5
        expected[index] = (penalty(x + moved) - penalty(x - moved)) / 2e-5
    # Central differences: an error of step**2 and of rounding / step, both about 1e-10.
    np.testing.assert_allclose(
        outer.gradient(squared, point), expected, rtol=1e-7, atol=1e-7 * float(squared)
    )


# What does not train


def test_a_layer_of_no_training_argument_infers():
    layer = bnm.BatchNormalization()
    y = layer(tf.constant([[1.0, 2.0], [4.0, 5.0]]))
    np.testing.assert_allclose(y, np.array([[1, 2], [4, 5]]) / np.sqrt(1.001), rtol=1e-6)
    assert [weight.tolist() for weight in layer.get_weights()] == [[1, 1], [0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("when", ["at first", "after building", "through the model"])
def test_a_frozen_layer_infers_even_in_training(when, rng):
    x, weights = data(rng, (6, 3), 5.0, "float32"), weights_for(rng, 3)
    layer = bnm.BatchNormalization(trainable=when != "at first")
    model = keras.Sequential([keras.layers.Input((3,)), layer])
    layer.set_weights(weights)
    if when == "after building":
        layer.trainable = False
    if when == "through the model":
        model.trainable = False
    expected = reference.infer(x, weights[2], weights[3], weights[0], weights[1], 0, 1e-3)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)
    for before, after in zip(weights, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)
    assert layer.trainable_weights == []


def test_a_layer_thawed_again_trains_again(rng):
    layer = bnm.BatchNormalization(trainable=False)
    x = data(rng, (6, 3), 5.0, "float32")
    layer(x, training=True)
    layer.trainable = True
    y = layer(x, training=True).numpy()
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    assert np.all(layer.moving_mean.numpy() != 0)
    assert [weight.name for weight in layer.trainable_weights] == ["gamma", "beta"]


# Batches without samples


def test_a_batch_whose_mask_is_empty_leaves_the_statistics(rng):
    for policy in (None, bnm.PooledPopulation(), bnm.AverageOfBatches()):
        layer = bnm.BatchNormalization(statistics=policy)
        layer(data(rng, (6, 3), 5.0, "float32"), training=True)
        before = layer.get_weights()
        y = layer(data(rng, (4, 3), 9.0, "float32"), training=True, mask=tf.zeros(4, tf.bool))
        assert np.all(np.isfinite(y))
        for one, other in zip(layer.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=repr(policy))


def test_a_channel_whose_mask_is_empty_keeps_its_statistics(rng):
    layer, _ = pair((4, 3, 5), 1, weights := weights_for(rng, 3))
    mask = np.array([[True, False, True]] * 4)
    layer(data(rng, (4, 3, 5), 5.0, "float32"), training=True, mask=tf.constant(mask))
    moved = [
        (layer.moving_mean.numpy() != weights[2]).tolist(),
        (layer.moving_variance.numpy() != weights[3]).tolist(),
    ]
    assert moved == [[True, False, True]] * 2


@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_empty_batch_of_unknown_size_leaves_the_statistics(jit_compile, rng):
    layer, _ = pair((6, 3), -1, weights := weights_for(rng, 3))
    signature = [tf.TensorSpec([None, 3])]

    @tf.function(input_signature=signature, jit_compile=jit_compile, autograph=False)
    def train(x):
        return layer(x, training=True)

    assert train(np.ones((0, 3), np.float32)).shape == (0, 3)
    for before, after in zip(weights, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


def test_an_empty_batch_may_be_inferred():
    y = bnm.BatchNormalization()(np.ones((0, 3), np.float32))
    assert (y.shape, y.dtype) == ((0, 3), tf.float32)


def test_an_empty_batch_cannot_be_trained_on():
    message = (
        "normalize_batch: `x` must hold at least one sample for each statistic. Received: "
        "x.shape=(0, 3), axes=(0,). An empty batch has no mean; leave it out."
    )
    # Keras puts its own words around what a layer's call raises.
    with pytest.raises(ValueError, match="Exception encountered when calling") as caught:
        bnm.BatchNormalization()(np.ones((0, 3), np.float32), training=True)
    assert message in str(caught.value)


def test_one_sample_gives_beta_and_shrinks_the_variance_as_in_keras(rng):
    x = data(rng, (1, 3), 5.0, "float32")
    weights = weights_for(rng, 3)
    ours, theirs = pair((1, 3), -1, weights)
    np.testing.assert_array_equal(ours(x, training=True), weights[1][None])
    theirs(x, training=True)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=4 * resolution("float32"))


def test_a_nan_stays_in_its_channel(rng):
    x = data(rng, (6, 3), 5.0, "float32")
    clean, dirty = (bnm.BatchNormalization() for _ in range(2))
    expected = clean(x, training=True).numpy()
    x[2, 1] = np.nan
    actual = dirty(x, training=True).numpy()
    np.testing.assert_array_equal(actual[:, [0, 2]], expected[:, [0, 2]])
    for one, other in zip(dirty.get_weights(), clean.get_weights(), strict=True):
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
    dirty.reset_statistics()
    assert np.all(np.isfinite(dirty.get_weights()))


def test_what_is_masked_out_does_not_reach_the_statistics(rng):
    x = data(rng, (6, 3), 5.0, "float32")
    mask = np.array([True, True, False, True, False, True])
    clean, dirty = (bnm.BatchNormalization(axis=-1) for _ in range(2))
    clean(x[mask], training=True)
    dirty(np.where(mask[:, None], x, np.nan), training=True, mask=tf.constant(mask))
    for one, other in zip(dirty.get_weights(), clean.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=4 * resolution("float32"))


# Policies


@pytest.mark.parametrize(
    ("policy", "oracle"),
    [
        (
            bnm.ExponentialMovingAverage(0.8, unbiased=True),
            lambda batches, masks: reference.exponential_moving_average(
                batches, [0, 2], 0.8, unbiased=True, masks=masks
            ),
        ),
        (
            bnm.DebiasedMovingAverage(0.8),
            lambda batches, masks: reference.debiased_moving_average(
                batches, [0, 2], 0.8, masks=masks
            ),
        ),
        (
            bnm.AverageOfBatches(),
            lambda batches, masks: reference.average_of_batches(batches, [0, 2], masks=masks),
        ),
        (
            bnm.PooledPopulation(),
            lambda batches, masks: reference.pooled(batches, [0, 2], masks=masks),
        ),
    ],
    ids=["moving-unbiased", "debiased", "average", "pooled"],
)
def test_the_layers_running_statistics_are_the_policys(policy, oracle, rng):
    layer = bnm.BatchNormalization(axis=1, statistics=policy)
    # A mask per step of axis 1, so that each channel has counts of its own, 0 and 1 among them.
    batches = [data(rng, (size, 3, 2), 5.0 + size, "float32") for size in (6, 6, 2)]
    masks = [rng.random(x.shape) < 0.6 for x in batches]
    masks[0][:, 1], masks[2][:, 2] = False, False
    masks[2][0, 2, 0] = True
    for x, mask in zip(batches, masks, strict=True):
        layer(x, training=True, mask=tf.constant(mask))
    mean, variance = oracle(batches, masks)
    bound = rounding("float32", 64, 10.0)
    assert_within(layer.moving_mean, mean, bound)
    assert_within(layer.moving_variance, variance, bound)
    x = batches[0]
    y = layer(x)
    expected = reference.infer(x, layer.moving_mean, layer.moving_variance, 1, 0, [0, 2], 1e-3)
    assert_within(y, expected, rounding("float32", 32, np.max(np.abs(expected)) + 10))


def test_momentum_is_the_weight_of_the_old_value():
    layer = bnm.BatchNormalization(momentum=0.9)
    layer(tf.constant([[9.0], [11.0]]), training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.1 * 10], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.9 * 1 + 0.1 * 1], rtol=1e-6)
    layer(tf.constant([[4.0], [8.0]]), training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.9 * 1 + 0.1 * 6], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.9 * 1 + 0.1 * 4], rtol=1e-6)


def test_the_policy_in_force_is_the_moving_average_of_momentum_unless_another_is_given():
    assert bnm.BatchNormalization(momentum=0.7).policy == bnm.ExponentialMovingAverage(0.7)
    policy = bnm.PooledPopulation()
    assert bnm.BatchNormalization(statistics=policy).policy is policy


@pytest.mark.parametrize(
    "policy", [None, bnm.DebiasedMovingAverage(), bnm.AverageOfBatches(), bnm.PooledPopulation()]
)
def test_resetting_brings_back_the_statistics_before_the_first_update(policy, rng):
    layer = bnm.BatchNormalization(
        statistics=policy, moving_mean_initializer=keras.initializers.Constant(3.0)
    )
    layer.build((None, 3))
    layer.gamma.assign([2.0, 3.0, 4.0])
    start = layer.get_weights()
    layer(data(rng, (6, 3), 5.0, "float32"), training=True)
    assert not np.array_equal(layer.get_weights()[2], start[2])
    layer.reset_statistics()
    for one, other in zip(layer.get_weights(), start, strict=True):
        np.testing.assert_array_equal(one, other)
    assert layer.moving_mean.numpy().tolist() == [3.0] * 3


def test_a_layer_without_weights_cannot_be_reset():
    message = (
        "BatchNormalization.reset_statistics: the layer must have weights. Received: built=False. "
        "Call the layer or its model on data first."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization().reset_statistics()


# Settings


def test_the_arguments_are_kerass_in_kerass_order_with_kerass_defaults():
    theirs = inspect.signature(keras.layers.BatchNormalization).parameters
    ours = inspect.signature(bnm.BatchNormalization).parameters
    left_out = {"renorm", "renorm_clipping", "renorm_momentum"}
    expected = [(n, p.default, p.kind) for n, p in theirs.items() if n not in left_out]
    actual = [(n, p.default, p.kind) for n, p in ours.items() if n != "statistics"]
    assert actual == expected


def test_the_weights_have_kerass_names_order_shapes_and_trainability():
    for center in (True, False):
        for scale in (True, False):
            described = []
            for kind in (bnm.BatchNormalization, keras.layers.BatchNormalization):
                layer = kind(center=center, scale=scale)
                layer.build((None, 5, 3))
                described.append([(w.name, w.shape, w.dtype, w.trainable) for w in layer.weights])
                assert (layer.gamma is None, layer.beta is None) == (not scale, not center)
            assert described[0] == described[1]


def test_a_policys_further_state_comes_after_the_four_weights():
    layer = bnm.BatchNormalization(statistics=bnm.AverageOfBatches())
    layer.build((None, 3))
    assert [weight.name for weight in layer.weights] == [
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "count",
        "degrees_of_freedom",
    ]
    assert [weight.name for weight in layer.trainable_weights] == ["gamma", "beta"]


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_without_center_or_scale_the_output_is_kerass(center, scale, rng):
    x = data(rng, (6, 3), 1.0, "float32")
    outputs = []
    for kind in (bnm.BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(
            center=center,
            scale=scale,
            beta_initializer=keras.initializers.Constant(0.5),
            gamma_initializer=keras.initializers.Constant(3.0),
        )
        outputs.append((layer(x, training=True), layer(x)))
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    beta, gamma = 0.5 if center else 0.0, 3.0 if scale else 1.0
    np.testing.assert_allclose(np.mean(outputs[0][0], axis=0), beta, atol=1e-5)
    np.testing.assert_allclose(np.std(outputs[0][0], axis=0), gamma, rtol=2e-2)


def test_the_initializers_fill_the_weights_they_are_named_after():
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    constants = {
        f"{name}_initializer": keras.initializers.Constant(k + 2.0) for k, name in enumerate(names)
    }
    for policy in (None, bnm.PooledPopulation()):
        layer = bnm.BatchNormalization(statistics=policy, **constants)
        layer.build((None, 2))
        for k, name in enumerate(names):
            assert getattr(layer, name).numpy().tolist() == [k + 2.0] * 2, name


def test_regularizers_add_kerass_losses(rng):
    settings = {
        "beta_regularizer": keras.regularizers.L1(0.1),
        "gamma_regularizer": keras.regularizers.L2(0.2),
    }
    losses = []
    for layer in pair((6, 3), -1, weights_for(rng, 3), **settings):
        layer(np.ones((2, 3), np.float32))
        losses.append([float(loss) for loss in layer.losses])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_the_output_has_the_inputs_shape():
    layer = bnm.BatchNormalization(axis=1)
    assert layer.compute_output_shape((None, 3, 5)) == (None, 3, 5)
    assert layer(keras.Input((3, 5))).shape == (None, 3, 5)


def test_the_layer_passes_a_mask_on():
    layer = bnm.BatchNormalization()
    assert layer.supports_masking
    mask = tf.constant([[True, False]])
    assert layer.compute_mask(tf.ones((1, 2, 3)), mask) is mask


# Bad input


@pytest.mark.parametrize("axis", [2, -3, 17])
def test_an_axis_out_of_range_is_refused(axis):
    message = (
        "BatchNormalization: `axis` must lie in [-2, 2) for an input of rank 2. Received: "
        f"axis={axis}, input_shape=(4, 3). Name the axis to keep, usually -1, or 1 for channels "
        "first."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization(axis=axis)(np.ones((4, 3), np.float32))


@pytest.mark.parametrize("axis", [[1], (0, 1), 0.5, None, True, "1"], ids=repr)
def test_an_axis_that_is_not_an_integer_is_refused(axis):
    message = (
        f"BatchNormalization: `axis` must be an integer. Received: axis={axis!r}. "
        "Name the one axis to keep; all others are reduced over."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.BatchNormalization(axis=axis)


def test_an_axis_of_unknown_size_is_refused():
    message = (
        "BatchNormalization: `axis` must name an axis of known size. Received: axis=1, "
        "input_shape=(None, None, 3). Give the model's input that size; each channel has its own "
        "weights."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization(axis=1)(keras.Input((None, 3)))


def test_an_input_of_rank_1_is_refused():
    message = (
        "BatchNormalization: `x` must have rank 2 or more (samples and channels). Received: "
        "rank=1. Add an axis, for instance x[:, None]."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization()(np.ones(3, np.float32))


@pytest.mark.parametrize("momentum", [-0.1, 1.1, 60, float("nan"), None, "0.9"], ids=repr)
def test_a_momentum_outside_0_to_1_is_refused(momentum):
    message = (
        f"BatchNormalization: `momentum` must lie in [0, 1]. Received: momentum={momentum!r}. "
        "It is the weight of the old value, 1 minus PyTorch's."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization(momentum=momentum)


@pytest.mark.parametrize("momentum", [0, 1, 0.0, 1.0, np.float32(0.5)], ids=repr)
def test_a_momentum_from_0_to_1_is_taken(momentum):
    assert bnm.BatchNormalization(momentum=momentum).momentum == float(momentum)


@pytest.mark.parametrize("epsilon", [0, -1e-3, float("nan"), float("inf"), None], ids=repr)
def test_an_epsilon_that_is_not_positive_is_refused(epsilon):
    message = (
        f"BatchNormalization: `epsilon` must be a positive number. Received: epsilon={epsilon!r}. "
        "It keeps a channel of zero variance finite; Keras uses 1e-3, PyTorch 1e-5."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization(epsilon=epsilon)


@pytest.mark.parametrize("policy", ["pooled", 0.9, bnm.PooledPopulation], ids=str)
def test_statistics_that_are_no_policy_are_refused(policy):
    message = (
        "BatchNormalization: `statistics` must be a statistics policy. Received: "
        f"statistics={policy!r}. Pass for instance AverageOfBatches()."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.BatchNormalization(statistics=policy)


def test_momentum_beside_statistics_is_refused():
    policy = bnm.AverageOfBatches()
    message = (
        "BatchNormalization: `momentum` must be left out where `statistics` is given. Received: "
        f"momentum=0.9, statistics={policy!r}. Give the policy its own decay."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.BatchNormalization(momentum=0.9, statistics=policy)


def test_a_mask_that_does_not_fit_is_refused():
    message = (
        "normalize_batch: `mask` must have the leading axes of the input, of shape (4, 3). "
        "Received: mask.shape=(3,). Pass one boolean for each sample, for instance of shape (4,)."
    )
    with pytest.raises(ValueError, match="Exception encountered when calling") as caught:
        bnm.BatchNormalization()(
            np.ones((4, 3), np.float32), training=True, mask=tf.ones(3, tf.bool)
        )
    assert message in str(caught.value)


def test_another_number_of_channels_than_at_first_is_refused():
    layer = bnm.BatchNormalization()
    layer(np.ones((4, 3), np.float32))
    with pytest.raises(ValueError, match="is incompatible with the layer"):
        layer(np.ones((4, 2), np.float32))
