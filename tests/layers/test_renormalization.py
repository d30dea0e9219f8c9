"""Batch renormalization: the paper's formulas, Keras's numbers, in our layer and accelerated."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data, float64, random_mask, whole
from two_replicas import halves, on_replicas, strategy

import batchnorm_mechanics as bnm
from batchnorm_mechanics import core, reference

BN = keras.layers.BatchNormalization
WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
SEVEN = (*WEIGHTS, "moving_stddev", "renorm_mean", "renorm_stddev")
SETTINGS = {"momentum": 0.8, "renorm": True, "renorm_momentum": 0.6, "epsilon": 1e-2}
# r_max, d_max and r_min; bounds that bind, and none.
BOUNDS = {
    "bounded": {"rmax": 1.2, "rmin": 0.9, "dmax": 0.3},
    "free": {},
}


def keras_layer(clipping=None, **settings):
    return BN(renorm_clipping=clipping, **{**SETTINGS, **settings})


def layers_of(shape, clipping, **settings):
    """Keras's layer as it is, accelerated, and ours, with the same weights."""
    made = [keras_layer(clipping, **settings) for _ in range(2)]
    for layer in made:
        layer.build(shape)
        layer.gamma.assign(np.linspace(0.5, 2, shape[layer.axis]))
        layer.beta.assign(np.linspace(-1, 1, shape[layer.axis]))
    assert bnm.accelerate(made[1]).count == 1
    return {"keras": made[0], "accelerated": made[1], "ours": bnm.from_keras(made[0])}


def step(layer, x, dy, mask=None):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
        loss = tf.reduce_sum(tf.cast(dy, y.dtype) * y)
    return [float64(one) for one in (y, *tape.gradient(loss, [x, layer.gamma, layer.beta]))]


def of_the_oracle(layer, batches, dy, masks):
    """What the last of several steps gives, and the statistics after it, by the paper alone."""
    axes = [axis for axis in range(batches[0].ndim) if axis != layer.axis % batches[0].ndim]
    epsilon, clipping = layer.epsilon, layer.renorm_clipping
    *before, x = batches
    mask = masks[-1]
    moving = reference.moving_deviation(before, axes, 0.6, epsilon, masks=masks[:-1])
    mean, variance, _ = reference.moments(x, axes, mask)
    correction = reference.corrections(
        mean,
        np.sqrt(variance + epsilon),
        *moving,
        clipping.get("rmax", np.inf),
        clipping.get("dmax", np.inf),
        clipping.get("rmin", 0.0),
    )
    gamma, beta = float64(layer.gamma), float64(layer.beta)
    y, *_ = reference.renormalize(x, gamma, beta, axes, epsilon, correction, mask)
    gradients = reference.renormalized_gradients(dy, x, gamma, axes, epsilon, correction, mask)
    after = reference.moving_deviation(batches, axes, 0.8, epsilon, masks=masks)
    return [y, *gradients.values()], (after[0], after[1] ** 2 - epsilon)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(
    ("shape", "axis", "masked"),
    # Keras's mask is for channels that come last.
    [((6, 3), -1, False), ((4, 3, 5), 1, False), ((6, 3), -1, True)],
    ids=["last", "second", "masked"],
)
def test_output_gradients_and_statistics_are_the_papers_and_kerass(
    shape, axis, bounds, masked, rng
):
    batches = [data(rng, shape, offset) for offset in (0.0, 2.0, 1.0)]
    masks = [random_mask(rng, shape) if masked else None for _ in batches]
    dy = rng.normal(size=shape)
    layers = layers_of(shape, BOUNDS[bounds], axis=axis, dtype="float64")
    expected, statistics = of_the_oracle(layers["keras"], batches, dy, masks)
    # Keras divides by the count and 1e-7 where there is a mask.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if masked else {"rtol": 1e-9, "atol": 1e-10}
    for name, layer in layers.items():
        for x, mask in zip(batches, masks, strict=True):
            found = step(layer, x, dy, mask)
        exact = tolerance if name == "keras" else {"rtol": 1e-9, "atol": 1e-10}
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, err_msg=name, **exact)
        np.testing.assert_allclose(layer.moving_mean, statistics[0], err_msg=name, **exact)
        np.testing.assert_allclose(layer.moving_variance, statistics[1], err_msg=name, **exact)
        assert tuple(weight.name for weight in layer.weights) == SEVEN
        for one, other in zip(layer.weights, layers["keras"].weights, strict=True):
            np.testing.assert_allclose(one, other, err_msg=one.path, **tolerance)
        np.testing.assert_allclose(layer(batches[0]), layers["keras"](batches[0]), **tolerance)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_in_half_precision_only_the_output_is_rounded(dtype, rng):
    layers = layers_of((64, 3), BOUNDS["bounded"], dtype=dtype)
    x, dy = (tf.cast(data(rng, (64, 3), 1.0), layers["keras"].compute_dtype) for _ in range(2))
    expected = step(layers.pop("keras"), x, dy)
    atol = 0.04 if "bfloat16" in dtype else 0.005
    for layer in layers.values():
        for one, other in zip(step(layer, x, dy), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=atol, atol=atol)
        assert layer.moving_mean.dtype == ("float16" if dtype == "float16" else "float32") or (
            layer is layers["ours"]
        )


def test_an_accelerated_model_trains_as_an_untouched_twin_in_fit(rng):
    x, y = data(rng, (24, 3), 2.0, "float32"), rng.normal(size=(24, 1)).astype("float32")
    losses, weights = [], []
    for accelerate in (False, True):
        keras.utils.set_random_seed(0)
        norm = keras_layer(BOUNDS["bounded"])
        model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=not accelerate)
        if accelerate:
            bnm.accelerate(model)
        losses.append(model.fit(x, y, batch_size=8, shuffle=False, epochs=2, verbose=0).history)
        weights.append(model.get_weights())
    np.testing.assert_allclose(losses[1]["loss"], losses[0]["loss"], rtol=1e-5)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_without_room_it_is_batch_norm_and_the_room_grows_with_the_steps(rng):
    policy = bnm.Renormalization(0.5, 0.5, r_max=3.0, d_max=5.0, steps=(2, 6, 4))
    layer, plain = bnm.BatchNormalization(statistics=policy), bnm.BatchNormalization()
    batches = [data(rng, (8, 3), 4.0, "float32") for _ in range(8)]
    same = [
        np.allclose(layer(x, training=True), plain(x, training=True), atol=1e-5) for x in batches
    ]
    assert same[:3] == [True] * 3
    assert not any(same[3:])

    def bounds(batches):
        state = policy.init([1])._replace(batches=tf.constant([float(batches)]))
        # A batch that is far off in all.
        r, d = policy.correction(state, [1e3], [1e6])
        small, _ = policy.correction(state, [0.0], [0.0])
        return r.numpy().item(), d.numpy().item(), 1 / small.numpy().item()

    found = [bounds(n) for n in (0, 2, 3, 4, 6, 100)]
    expected = [(1, 0, 1), (1, 0, 1), (1.5, 2.5, 1.5), (2, 5, 2), (3, 5, 3), (3, 5, 3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("synchronized", [False, True])
def test_replicas_correct_by_what_they_normalized_by_and_agree_on_the_statistics(synchronized, rng):
    x = data(rng, (6, 3), 2.0, "float32")
    x[3:] += 4
    with strategy().scope():
        layer = bnm.BatchNormalization(
            statistics=bnm.Renormalization(0.5, r_max=1.5, d_max=0.5), synchronized=synchronized
        )
        layer.build((None, 3))
    alone = bnm.BatchNormalization.from_config(layer.get_config())
    alone.build((None, 3))
    y = np.concatenate(on_replicas(lambda x: layer(x, training=True), halves(x, 0)))
    if synchronized:
        expected = alone(x, training=True)
    else:
        start = [weight.numpy() for weight in alone.weights]
        expected = []
        for part in halves(x, 0):
            expected.append(alone(part, training=True))
            alone.set_weights(start)
        alone(x, training=True)
    np.testing.assert_allclose(y, np.reshape(expected, y.shape), atol=1e-5)
    for one, other in zip(layer.weights, alone.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-6, err_msg=one.name)


def test_virtual_batches_correct_each_batch_by_what_is_settled(rng):
    within = bnm.Renormalization(0.5, 0.5)
    layer = bnm.BatchNormalization(statistics=bnm.VirtualBatches(within, 2))
    alone = bnm.BatchNormalization(statistics=within)
    x = data(rng, (8, 3), 3.0, "float32")
    for part in (x[:4], x[4:]):
        fresh = bnm.BatchNormalization(statistics=within)
        np.testing.assert_array_equal(layer(part, training=True), fresh(part, training=True))
    alone(x, training=True)
    for one, other in zip(layer.weights[:7], alone.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=one.name)


def test_it_goes_to_kerass_layer_and_back(rng):
    theirs = keras_layer(BOUNDS["bounded"])
    theirs.build((None, 3))
    theirs(data(rng, (8, 3), 2.0, "float32"), training=True)
    ours = bnm.from_keras(theirs)
    assert ours.statistics == bnm.Renormalization(0.8, 0.6, r_max=1.2, d_max=0.3, r_min=0.9)
    assert ours.policy.epsilon == 1e-2
    back = bnm.to_keras(ours)
    assert back.get_config() == theirs.get_config()
    for one, other in zip(back.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert bnm.to_keras(bnm.from_keras(keras_layer())).renorm_clipping == {"rmin": 0.0}


def test_begun_from_a_trained_batch_norm_it_corrects_by_the_statistics_of_that(rng, tmp_path):
    x = data(rng, (64, 3), 5.0, "float32")
    plain = keras.Sequential([keras.Input((3,)), BN(momentum=0.0, name="bn")])
    plain(x, training=True)
    plain.save_weights(tmp_path / "plain.weights.h5")
    statistics = bnm.Renormalization(r_max=np.inf, d_max=np.inf)
    converted = bnm.from_keras(plain.layers[0], statistics=statistics)
    norm = bnm.BatchNormalization(statistics=statistics, name="bn")
    loaded = keras.Sequential([keras.Input((3,)), norm])
    loaded.load_weights(tmp_path / "plain.weights.h5")
    part = x[:8]
    for layer in (converted, loaded):
        expected = plain(part)
        np.testing.assert_allclose(layer(part, training=True), expected, atol=1e-5)
        # The statistics go on from there, and not from 0 and 1.
        np.testing.assert_allclose(layer(part), expected, atol=0.1)


def test_the_seven_weights_of_a_file_of_kerass_are_taken(rng, tmp_path):
    theirs = keras.Sequential([keras.Input((3,)), keras_layer(name="bn")])
    theirs(data(rng, (8, 3), 5.0, "float32"), training=True)
    theirs.save_weights(tmp_path / "renorm.weights.h5")
    statistics = bnm.Renormalization(steps=(1, 2, 2))
    ours = keras.Sequential(
        [keras.Input((3,)), bnm.BatchNormalization(statistics=statistics, name="bn")]
    )
    ours.load_weights(tmp_path / "renorm.weights.h5")
    for one, other in zip(ours.weights[:7], theirs.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_recalibration_settles_all_its_statistics_and_the_tracer_refuses_its_training(rng):
    layer = bnm.BatchNormalization(statistics=bnm.Renormalization(0.9), epsilon=0.01)
    model = keras.Sequential([keras.Input((3,)), layer])
    x = data(rng, (64, 3), 5.0, "float32")
    bnm.recalibrate(model, x)
    for weight in (layer.moving_mean, layer.weights[5]):
        np.testing.assert_allclose(weight, x.mean(0), rtol=1e-5)
    for weight in (layer.weights[4], layer.weights[6]):
        np.testing.assert_allclose(weight, np.sqrt(x.var(0) + 0.01), rtol=1e-5)
    with pytest.raises(ValueError, match="must not use renorm in training mode"):
        bnm.trace(layer, x, training=True)


def test_corrections_are_constants_to_gradients():
    parts = [tf.constant([value]) for value in (1.0, 2.0, 0.5, 1.5)]
    with tf.GradientTape() as tape:
        tape.watch(parts)
        r, d = core.corrections(*parts, r_min=0.0, r_max=3.0, d_max=5.0)
    assert tape.gradient([r, d], parts) == [None] * 4


@pytest.mark.parametrize(
    ("settings", "expectation"),
    [
        ({"decay": 1.5}, "`decay` must lie in [0, 1]. Received: decay=1.5. Here 0.99 is usual."),
        (
            {"r_max": 0.5},
            "`r_max` must be 1 or more. Received: r_max=0.5. Here 1 leaves r no room.",
        ),
        ({"d_max": -1}, "`d_max` must be 0 or more. Received: d_max=-1. Here 0 leaves d no room."),
        ({"r_min": 2}, "`r_min` must lie in [0, 1]. Received: r_min=2. Here None is 1/r_max."),
        (
            {"steps": (5, 4, 9)},
            "`steps` must be three numbers of batches, the first the least, beside bounds that are "
            "finite. Received: steps=(5, 4, 9). Here the paper has (5_000, 40_000, 25_000) with "
            "r_max=3.0 and d_max=5.0.",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, expectation):
    with pytest.raises(ValueError, match=whole(f"Renormalization: {expectation}")):
        bnm.Renormalization(**settings)
