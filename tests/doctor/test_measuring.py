"""What data say about a model is what they say, and the model stays what it is."""

import re
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.calls import listening
from batchnorm_mechanics.doctor.heard import Heard, by_batch
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.doctor.pools import Pool
from batchnorm_mechanics.doctor.sample import MOST_ROWS, Sample
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers


def probe(model, source, batch_size=32):
    return measure(model, norms_in(model), Data(source, None, batch_size))


def sequential(*parts, shape=(3,)):
    keras.utils.set_random_seed(1)
    return keras.Sequential([layers.Input(shape), *parts])


def two_norms(**settings):
    return sequential(
        layers.Dense(5),
        layers.BatchNormalization(name="first", **settings),
        layers.ReLU(),
        layers.Dense(4),
        layers.BatchNormalization(name="second", **settings),
    )


def inputs_of(model, name, x):
    """Return what a layer really gets at inference, in float64."""
    norm = model.get_layer(name)
    return np.asarray(keras.Model(model.inputs[0], norm.input)(x), np.float64)


def assert_moments(pool, values, rtol=1e-5):
    rows = values.reshape(-1, values.shape[-1])
    np.testing.assert_allclose(pool.mean, rows.mean(0), rtol, 1e-6 * np.abs(values).max())
    np.testing.assert_allclose(pool.variance, rows.var(0), rtol)
    assert pool.count == len(rows)


# A batch's mean is float32, and off by 5e-4 at 1e4.
@pytest.mark.parametrize(("offset", "rtol"), [(0, 1e-6), (1e4, 1e-4)])
def test_pooled_moments_are_those_of_the_inputs_with_an_uneven_last_batch(rng, offset, rtol):
    x = (rng.normal(2, 3, (70, 3)) + offset).astype("float32")
    model = sequential(layers.BatchNormalization(name="bn"))
    assert_moments(probe(model, x).norms["bn"].pool, x.astype(np.float64), rtol)


def test_pooled_moments_of_large_images_are_right(rng):
    x = rng.normal(2, 3, (40, 20, 20, 3)).astype("float32")
    model = sequential(
        layers.Conv2D(16, 3), layers.BatchNormalization(name="bn"), shape=(20, 20, 3)
    )
    assert_moments(probe(model, x).norms["bn"].pool, inputs_of(model, "bn", x))


@pytest.mark.parametrize("ratio", [25.0, 1e3, 1e4])
def test_large_inputs_far_from_zero_keep_their_moments(rng, ratio):
    x = (rng.normal(0, 1, (16, 96, 96, 8)) + ratio).astype("float32")
    model = sequential(layers.BatchNormalization(name="bn"), shape=(96, 96, 8))
    pool = probe(model, x, batch_size=8).norms["bn"].pool
    exact = x.astype(np.float64).reshape(-1, 8)
    # A thousandth of a deviation is what a float32 mean of this size can tell.
    np.testing.assert_allclose(pool.mean, exact.mean(0), rtol=0, atol=2e-3)
    np.testing.assert_allclose(pool.variance, exact.var(0), rtol=1e-4)


def test_batches_of_several_sizes_are_each_read_by_their_own_kernels(rng):
    small, large = ((rng.normal(2, 3, (2, size, size, 4))).astype("float32") for size in (2, 200))
    inputs = layers.Input((None, None, 4))
    model = keras.Model(inputs, layers.BatchNormalization(name="bn")(inputs))
    batches = [small, large, small, large]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=tf.TensorSpec((None, None, None, 4))
    )
    rows = np.concatenate([one.reshape(-1, 4) for one in batches]).astype(np.float64)
    assert_moments(probe(model, data).norms["bn"].pool, rows)


def test_the_axis_that_a_layer_keeps_is_kept(rng):
    x = rng.normal(rng.normal(size=(1, 6, 1, 1)), 1, (20, 6, 4, 3)).astype("float32")
    model = sequential(layers.BatchNormalization(axis=1, name="bn"), shape=(6, 4, 3))
    assert_moments(probe(model, x).norms["bn"].pool, np.moveaxis(x, 1, -1).astype(float))


def test_the_scatter_of_batches_is_theirs(rng):
    x = rng.normal(5, 2, (640, 3)).astype("float32")
    pool = probe(sequential(layers.BatchNormalization(name="bn")), x).norms["bn"].pool
    batches = x.astype(np.float64).reshape(20, 32, 3)
    mean, second = pool.spread
    np.testing.assert_allclose(mean, batches.mean(1).std(0, ddof=1), 1e-4)
    # About the mean of the batch that was taken in first; the widest are held back.
    expected = [
        np.square(batches - batches[first].mean(0)).mean(1).std(0, ddof=1) for first in range(20)
    ]
    assert any(np.allclose(second, one, rtol=1e-3) for one in expected)


def test_one_batch_has_no_scatter():
    pool = Pool(2)
    pool.add(3.0, np.ones(2), np.ones(2), np.zeros(2))
    assert np.isnan(pool.spread).all()


def test_a_batch_without_samples_that_count_changes_nothing():
    pool = Pool(1)
    pool.add(2.0, np.array([4.0]), np.array([1.0]), np.zeros(1))
    pool.add(0.0, np.array([0.0]), np.array([0.0]), np.zeros(1))
    assert (pool.count, pool.mean.item(), pool.batches) == (2.0, 4.0, 1)


def test_masked_samples_do_not_count(rng):
    x = rng.normal(3, 1, (50, 6, 2)).astype("float32")
    x[:, 4:] = 0
    model = sequential(layers.Masking(), layers.BatchNormalization(name="bn"), shape=(6, 2))
    assert_moments(probe(model, x).norms["bn"].pool, x[:, :4].astype(float))


def test_masked_samples_of_long_sequences_do_not_count(rng):
    x = rng.normal(3, 1, (4, 3000, 16)).astype("float32")
    x[:, 1000:] = 0
    model = sequential(layers.Masking(), layers.BatchNormalization(name="bn"), shape=(3000, 16))
    assert_moments(probe(model, x).norms["bn"].pool, x[:, :1000].astype(float))


def test_both_calls_of_a_layer_count(rng):
    inputs = layers.Input((3,))
    norm = layers.BatchNormalization(name="bn")
    model = keras.Model(inputs, layers.Add()([norm(inputs), norm(inputs * 2.0 + 1.0)]))
    x = rng.normal(size=(40, 3)).astype("float32")
    assert_moments(probe(model, x).norms["bn"].pool, np.concatenate([x, 2 * x + 1]).astype(float))


def test_the_order_is_that_of_the_first_calls(rng):
    found = probe(two_norms(), rng.normal(size=(40, 3)).astype("float32")).norms
    assert list(found) == ["first", "second"]


class Own(keras.Model):
    """A model that says nothing of its inputs, and may insist on training mode."""

    def __init__(self, *, training=None, eager=False):
        super().__init__()
        self.norm = layers.BatchNormalization(name="bn")
        self.training = training
        if eager:
            self.compile(run_eagerly=True)

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training if self.training is None else self.training)


@pytest.mark.parametrize("eager", [False, True])
def test_subclassed_models_are_measured_in_a_graph_and_eagerly(rng, eager):
    x = rng.normal(3, 1, (50, 3)).astype("float32")
    model = Own(eager=eager)
    model(x[:1])
    assert_moments(probe(model, x).norms["bn"].pool, x.astype(float))


def looping(loop):
    class Looping(Own):
        def call(self, inputs, training=None):
            return loop(lambda one: self.norm(one[None])[0], inputs)

    model = Looping()
    model.norm.build((None, 3))
    model.built = True
    return model


def test_each_step_of_a_loop_of_the_graph_is_a_call(rng):
    x = rng.normal(3, 2, (8, 3)).astype("float32")
    found = probe(looping(tf.map_fn), x)
    assert dict(found.unseen) == {}
    assert_moments(found.norms["bn"].pool, x.astype(float))
    assert [call.mean.tolist() for call in found.norms["bn"].calls] == x.astype(float).tolist()


def test_a_layer_in_a_vectorized_loop_is_named_as_unseen(rng):
    found = probe(looping(tf.vectorized_map), rng.normal(size=(8, 3)).astype("float32"))
    assert dict(found.norms) == {}
    reason = "it runs inside a function of its own that is compiled or vectorized"
    assert found.unseen == {"bn": reason}


def test_a_layer_that_the_model_does_not_call_is_named_as_unseen(rng):
    class Skipping(Own):
        def call(self, inputs, training=None):
            return inputs

    model = Skipping()
    model.norm.build((None, 3))
    model.built = True
    found = probe(model, rng.normal(size=(8, 3)).astype("float32"))
    assert (dict(found.norms), found.unseen) == ({}, {"bn": "the model does not call it"})


def test_a_layer_that_uses_the_batch_at_inference_is_seen_and_its_statistics_stay(rng):
    x = rng.normal(3, 1, (50, 3)).astype("float32")
    model = Own(training=True)
    model(x[:1])
    before = [weight.numpy() for weight in model.weights]
    assert probe(model, x).norms["bn"].by_batch
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_nothing_of_the_model_changes(rng):
    inputs = layers.Input((3,))
    hidden = layers.BatchNormalization(name="bn")(inputs, training=True)
    model = keras.Model(inputs, layers.Dropout(0.5)(hidden, training=True))
    before = [value.numpy() for value in model.variables]
    probe(model, rng.normal(3, 1, (50, 3)).astype("float32"))
    for value, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert "call" not in vars(model.get_layer("bn"))


def test_an_accelerated_layer_stays_accelerated(rng):
    model = two_norms()
    bnm.accelerate(model)
    probe(model, rng.normal(size=(40, 3)).astype("float32"))
    assert bnm.restore(model) == 2


def test_hooks_go_even_when_the_model_fails():
    model = two_norms()
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        listening(norms_in(model), lambda *_: None),
    ):
        raise RuntimeError("on purpose")
    assert not any("call" in vars(layer) for layer in model.layers)


def test_own_moments_are_those_with_the_layers_before_on_the_batch(rng):
    x = rng.normal(50, 3, (120, 3)).astype("float32")
    model = two_norms()
    found = probe(model, x).norms["second"]
    dense, norm, relu, last = model.layers[:4]
    expected = last(relu(norm(dense(x), training=True))).numpy().astype(float)
    np.testing.assert_allclose(found.own[0].mean, expected.mean(0), atol=0.05)
    np.testing.assert_allclose(found.own[0].variance, expected.var(0), 0.1)
    assert np.abs(found.pool.mean - found.own[0].mean).max() > 1  # inference is far from that


def test_frozen_layers_are_told_from_a_model_frozen_for_its_use(rng):
    x = rng.normal(size=(40, 3)).astype("float32")
    model = two_norms()
    model.get_layer("first").trainable = False
    found = probe(model, x).norms
    assert (found["first"].frozen, found["second"].frozen) == (True, False)
    model.trainable = False
    assert not any(one.frozen for one in probe(model, x).norms.values())


def test_a_frozen_layer_keeps_its_statistics_in_the_look_at_training(rng):
    x = rng.normal(50, 3, (120, 3)).astype("float32")
    model = two_norms()
    model.get_layer("first").trainable = False
    found = probe(model, x).norms["second"]
    np.testing.assert_allclose(found.own[0].mean, found.pool.mean, 0.02)


def test_values_that_are_not_finite_are_counted_where_they_are():
    x = np.ones((40, 2), "float32")
    x[3:5, 1] = 1e30
    model = sequential(
        layers.Lambda(lambda x: x * 1e20), layers.BatchNormalization(name="bn"), shape=(2,)
    )
    assert probe(model, x).norms["bn"].pool.non_finite.tolist() == [0, 2]


def test_the_largest_input_is_known_for_float16_alone():
    x = np.array([[1.0], [-300.0], [2.0]], "float32")
    half = sequential(layers.BatchNormalization(name="bn", dtype="mixed_float16"), shape=(1,))
    assert probe(half, x).norms["bn"].pool.largest == 300
    assert probe(half, x).norms["bn"].dtype == "float16"
    full = sequential(layers.BatchNormalization(name="bn"), shape=(1,))
    assert probe(full, x).norms["bn"].pool.largest == 0


def test_each_float16_layer_has_its_own_largest_input():
    model = sequential(
        layers.BatchNormalization(name="one", dtype="mixed_float16"),
        layers.Rescaling(7.0, dtype="float16"),
        layers.BatchNormalization(name="two", dtype="mixed_float16", epsilon=0.0),
        shape=(2,),
    )
    found = probe(model, np.array([[1.0, 2.0], [-4.0, 3.0]], "float32")).norms
    assert found["one"].pool.largest == 4
    assert 27 < found["two"].pool.largest < 28.1
    np.testing.assert_allclose(found["two"].pool.mean, 7 * np.array([-1.5, 2.5]), rtol=1e-2)


def test_batch_sizes_are_those_of_a_dataset():
    data = tf.data.Dataset.from_tensor_slices(np.ones((20, 3), "float32")).batch(6)
    found = probe(two_norms(), data)
    assert found.norms["first"].pool.counts == {6: 3, 2: 1}
    assert (found.samples, found.batches, found.full) == (20, 4, True)


@pytest.mark.parametrize(("rows", "full"), [(31, False), (32, True), (33, True)])
def test_a_batch_is_full_if_data_filled_it(rows, full):
    assert probe(two_norms(), np.ones((rows, 3), "float32")).full is full


def test_a_sample_is_spread_over_the_data_and_bounded():
    sample = Sample()
    for batch in np.split(np.arange(10_000.0)[:, None], 100):
        sample.add(batch)
    kept = sample.take(np.arange(sample.rows)).numpy()[:, 0]
    assert len(set(kept)) == MOST_ROWS == sample.rows
    np.testing.assert_allclose(np.histogram(kept, 4, (0, 10_000))[0], MOST_ROWS / 4, atol=32)


def test_memory_does_not_grow_with_the_data():
    model = two_norms()
    probe(model, np.ones((64, 3), "float32"))  # what stays from the first time

    def peak(batches):
        data = tf.data.Dataset.from_tensors(np.ones((256, 3), "float32")).repeat(batches)
        tracemalloc.start()
        probe(model, data)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(5), peak(250)
    # The data are 0.77 MB; what a trace of the model leaves varies by less.
    assert many - few < 250_000


def test_data_of_another_shape_are_refused_with_both_shapes():
    message = (
        "diagnose: `data` must have the shape of the model's input, (n, 3). Received: batches of "
        "shape (n, 4). The first axis is that of the samples."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        probe(two_norms(), np.ones((9, 4), "float32"))


def test_a_model_of_ones_own_that_does_not_take_the_data_says_so(rng):
    model = Own()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(InputError, match=r"`data` must fit the model\. Received: .*\(n, 4\)"):
        probe(model, np.ones((9, 4), "float32"))


def test_data_that_are_not_finite_are_refused_by_number(rng):
    x = rng.normal(size=(100, 3)).astype("float32")
    x[40], x[99, 0] = np.nan, np.inf
    message = (
        "diagnose: `data` must be finite. Received: 4 values that are NaN or infinite, in 2 of 100 "
        "samples. Leave these samples out."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        probe(two_norms(), x)


def test_large_finite_data_are_not_taken_for_infinite():
    x = np.full((4, 3), 3e38, "float32")
    assert probe(sequential(layers.Rescaling(1e-38), layers.BatchNormalization()), x).samples == 4


def test_a_dataset_without_batches_is_refused():
    data = tf.data.Dataset.from_tensor_slices(np.ones((0, 3), "float32")).batch(2)
    with pytest.raises(InputError, match=r"must hold at least one sample\. Received: none"):
        probe(two_norms(), data)


def test_the_last_smaller_batch_needs_no_trace_of_its_own():
    traces = []

    class Counting(layers.Layer):
        def call(self, inputs):
            if not tf.executing_eagerly():
                traces.append(inputs.shape)
            return inputs + 1.0

    model = sequential(Counting(), layers.BatchNormalization())
    traces.clear()
    probe(model, np.random.default_rng(0).normal(size=(70, 3)).astype("float32"))
    assert [shape[0] for shape in traces] == [None]  # training is looked at eagerly


RENORMS = {
    "keras": lambda: layers.BatchNormalization(
        name="bn", renorm=True, renorm_clipping={"rmin": 0.4, "rmax": 2.5, "dmax": 3.0}
    ),
    "ours": lambda: bnm.BatchNormalization(
        name="bn", statistics=bnm.Renormalization(r_max=2.5, d_max=3.0)
    ),
}


def renormalizing(rng, kind, *, stale):
    """A layer whose averages are off by less than its bounds allow for, or by more."""
    model = sequential(layers.Dense(4), RENORMS[kind](), layers.Dense(2))
    norm, x = model.get_layer("bn"), rng.normal(2, 3, (256, 3)).astype("float32")
    bnm.recalibrate(model, x)
    deviation = np.sqrt(norm.moving_variance + norm.epsilon)
    mean, variance = norm.moving_mean + stale * deviation, 1.5 * norm.moving_variance
    held = {weight.name: weight for weight in norm.weights}
    for name, value in (("mean", mean), ("variance", variance)):
        held[f"moving_{name}"].assign(value)
    for name in ("moving_stddev", "renorm_stddev"):
        held[name].assign(np.sqrt(variance + norm.epsilon))
    held["renorm_mean"].assign(mean)
    return model, x


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("kind", RENORMS)
def test_in_training_mode_renormalization_corrects_the_batch_as_the_layer_itself_does(
    rng, kind, exactly
):
    model, x = renormalizing(rng, kind, stale=4.0)
    norm, x = norms_in(model)[0], tf.constant(rng.normal(1, 2, (32, 4)), tf.float32)
    outputs, moments = by_batch(norm, Heard(x, None, True), exactly=exactly)
    np.testing.assert_allclose(moments.variance, np.var(x, 0), rtol=1e-5)
    expected = norm.layer(x, training=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    # Bounds hold it back here: it is neither what plain batch norm gives nor what inference does.
    plain = norm.layer.gamma * (x - moments.mean) / tf.sqrt(moments.variance + 1e-3)
    assert np.abs(outputs - plain).max() > 0.5


@pytest.mark.parametrize("kind", RENORMS)
def test_stale_averages_within_its_bounds_are_no_gap_of_renormalization(rng, kind):
    model, x = renormalizing(rng, kind, stale=1.0)
    assert probe(model, x).effects.relative < 0.05
    model, x = renormalizing(rng, kind, stale=6.0)
    assert probe(model, x).effects.relative > 0.5
