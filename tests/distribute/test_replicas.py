"""Two replicas that share a batch against the float64 oracle on all of it."""

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import assert_within, data, oracle_slip, rounding
from two_replicas import exchanges, halves, on_replicas, strategy

import batchnorm_mechanics as bnm
from batchnorm_mechanics import core, reference
from batchnorm_mechanics.distribute import replicas as distribute


def step(x, dy, gamma, beta, mask=None, *, axes, synchronized):
    """Return y, the gradients of sum(dy * y), and the moments, on this replica."""
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y, moments = distribute.normalize_batch(
            x, gamma, beta, axes=axes, epsilon=1e-3, mask=mask, synchronized=synchronized
        )
        loss = tf.reduce_sum(dy * y)
    return y, *tape.gradient(loss, [x, gamma, beta]), *moments


def both(parts, axes, *, mask=None, synchronized=True, graph=False, dtype="float64", rng):
    """Run a step on two parts of a batch; return the arguments of the oracle, and the results."""
    shape = parts[0].shape
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    dy = [data(rng, part.shape, 0.5, dtype) for part in parts]
    gamma, beta = (data(rng, kept, offset, dtype) for offset in (1.0, 0.0))
    values = [parts, dy, [gamma] * 2, [beta] * 2, *([] if mask is None else [mask])]

    def run(*tensors):
        return step(*tensors, axes=axes, synchronized=synchronized)

    return dy, gamma, beta, on_replicas(run, *values, graph=graph)


CASES = {
    # name: (shapes of the two parts, axes, offset, whether the mask leaves nothing of the second)
    "even": ([(6, 3), (6, 3)], (0,), 0.0, None),
    "uneven": ([(5, 3), (2, 3)], (0,), 10.0, None),
    "empty": ([(5, 3), (0, 3)], (0,), 10.0, None),
    "one sample": ([(5, 3), (1, 3)], (0,), 10.0, None),
    "large mean": ([(40, 3), (24, 3)], (0,), 1e4, None),
    "images": ([(4, 5, 5, 2), (3, 5, 5, 2)], (0, 1, 2), 3.0, None),
    "channels first": ([(4, 2, 5, 5), (3, 2, 5, 5)], (0, 2, 3), 3.0, None),
    "masks": ([(4, 5, 3), (3, 5, 3)], (0, 1), 10.0, False),
    "a mask of nothing": ([(4, 5, 3), (3, 5, 3)], (0, 1), 10.0, True),
}


def parts_of(case, rng, dtype):
    shapes, axes, offset, nothing = CASES[case]
    # Each replica with another mean: what lies between them is most of the variance.
    parts = [data(rng, shape, offset + 3 * k, dtype) for k, shape in enumerate(shapes)]
    mask = None
    if nothing is not None:
        mask = [rng.random(shape[:2]) < 0.7 for shape in shapes]
        mask[1] &= not nothing
    return parts, axes, mask


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_synchronized_replicas_are_one_that_has_the_whole_batch(case, dtype, rng):
    parts, axes, mask = parts_of(case, rng, dtype)
    dy, gamma, beta, results = both(parts, axes, mask=mask, dtype=dtype, rng=rng)
    x, slope = np.concatenate(parts), np.concatenate(dy)
    whole = None if mask is None else np.concatenate(mask)
    y, *moments, _ = reference.forward(x, gamma, beta, axes, 1e-3, whole)
    expected = reference.gradients(slope, x, gamma, axes, 1e-3, whole)
    count = reference.moments(x, axes, whole)[2]
    # As in one replica: the terms of the longest sum, each at the size of what is summed.
    bound = rounding(dtype, 4 * x.size + 24, 8.0)
    # The oracle adds x up as it comes; at the end of a sum over the batch, that many times.
    bound = bound + np.max(oracle_slip(x, moments[1], 1e-3, axes)) * 8 * len(x)
    first, second = results
    assert_within(np.concatenate([first[0], second[0]]), y, bound, "y")
    assert_within(np.concatenate([first[1], second[1]]), expected["d_x"], bound, "d_x")
    for place, name in ((2, "d_gamma"), (3, "d_beta")):
        assert_within(first[place] + second[place], expected[name], bound, name)
    for result in results:
        mean_bound = bound + rounding(dtype, 4, np.abs(moments[0]))
        assert_within(result[4], moments[0], mean_bound, "mean")
        assert_within(result[5], moments[1], bound, "variance")
        np.testing.assert_array_equal(result[6], np.broadcast_to(count, result[6].shape))
    for one, other in zip(first[4:], second[4:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_others_normalize_by_their_part_and_know_the_moments_of_all(case, rng):
    parts, axes, mask = parts_of(case, rng, "float64")
    dy, gamma, beta, results = both(parts, axes, mask=mask, synchronized=False, rng=rng)
    for k, (y, d_x, d_gamma, d_beta, *_) in enumerate(results):
        own = None if mask is None else mask[k]
        if parts[k].size and (own is None or own.any()):
            expected = reference.forward(parts[k], gamma, beta, axes, 1e-3, own)[0]
            slopes = reference.gradients(dy[k], parts[k], gamma, axes, 1e-3, own)
            np.testing.assert_allclose(y, expected, atol=1e-9)
            for one, name in ((d_x, "d_x"), (d_gamma, "d_gamma"), (d_beta, "d_beta")):
                np.testing.assert_allclose(one, slopes[name], atol=1e-9, err_msg=name)
        assert np.all(np.isfinite([d_gamma, d_beta]))
    whole = None if mask is None else np.concatenate(mask)
    moments = reference.moments(np.concatenate(parts), axes, whole)
    for result in results:
        for one, expected in zip(result[4:], moments, strict=True):
            np.testing.assert_allclose(one, np.broadcast_to(expected, one.shape), rtol=1e-11)
    for one, other in zip(results[0][4:], results[1][4:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("synchronized", [True, False])
def test_a_graph_of_parts_of_unknown_size_may_get_an_empty_one(synchronized, rng):
    x = data(rng, (5, 3), 10.0, "float32")

    def of_unknown_size(x):
        x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=tf.TensorShape([None, 3]))
        variables = [tf.ones(3), tf.zeros(3)]
        with tf.GradientTape() as tape:
            tape.watch(variables)
            y, moments = distribute.normalize_batch(
                x, *variables, axes=(0,), epsilon=1e-3, synchronized=synchronized
            )
            loss = tf.reduce_sum(y * tf.range(3.0))
        return (*tape.gradient(loss, variables), *moments)

    results = on_replicas(of_unknown_size, [x, x[:0]], graph=True)
    mean, variance, _ = reference.moments(x, 0)
    for d_gamma, d_beta, *moments in results:
        assert np.all(np.isfinite([d_gamma, d_beta]))
        np.testing.assert_allclose(moments[0], mean, rtol=1e-6)
        np.testing.assert_allclose(moments[1], variance, rtol=1e-4)
        np.testing.assert_array_equal(moments[2], [5, 5, 5])
    np.testing.assert_allclose(results[0][1], [0, 5, 10])
    np.testing.assert_array_equal(results[1][1], [0, 0, 0])


def test_a_nan_of_one_replica_reaches_all_and_stays_in_its_channel(rng):
    parts = halves(data(rng, (8, 3)))
    parts[1][2, 1] = np.nan
    for synchronized in (True, False):
        *_, results = both(parts, (0,), synchronized=synchronized, rng=rng)
        for result in results:
            assert np.isnan(result[4].numpy()).tolist() == [False, True, False]


# What it costs


@pytest.mark.parametrize(
    ("synchronized", "forward", "backward"), [(True, 1, 1), (False, 1, 0)], ids=["all", "part"]
)
def test_a_layer_takes_one_collective_in_each_direction(synchronized, forward, backward, rng):
    parts = halves(data(rng, (8, 3), dtype="float32"))
    mask = [np.array([True, True, False, True])] * 2
    ones = [np.ones(3, "float32")] * 2

    def ahead(x, mask):
        return distribute.normalize_batch(
            x, None, None, axes=(0,), epsilon=1e-3, mask=mask, synchronized=synchronized
        )

    def and_back(x, gamma, mask):
        return step(x, x, gamma, gamma, mask, axes=(0,), synchronized=synchronized)

    assert exchanges(ahead, parts, mask) == forward
    assert exchanges(and_back, parts, ones, mask) == forward + backward


def test_between_processes_it_is_one_collective_of_tensorflows(rng, monkeypatch):
    values, asked = halves(data(rng, (4, 3))), []

    def met(value):
        replicas = distribute.replicas_here()
        reduce = replicas._context.all_reduce
        # As for replicas that do not lie in one graph.
        monkeypatch.setattr(replicas, "_in_one_graph", False)
        monkeypatch.setattr(
            replicas._context, "all_reduce", lambda *args: asked.append(1) or reduce(*args)
        )
        return replicas.gather(value), replicas.add(value)

    for gathered, total in on_replicas(met, values):
        np.testing.assert_array_equal(gathered, np.stack(values))
        np.testing.assert_allclose(total, values[0] + values[1])
    # Two for each replica.
    assert len(asked) == 4


def test_what_is_computed_again_and_not_wanted_is_not_exchanged(rng):
    def ahead(x):
        return distribute.normalize_batch(
            x, None, None, axes=(0,), synchronized=False, moments_are_wanted=False
        )

    assert exchanges(ahead, halves(data(rng, (8, 3)))) == 0


def operations_of(function, *arguments):
    graph = tf.function(function, autograph=False).get_concrete_function(*arguments).graph
    return sorted(operation.type for operation in graph.get_operations())


@pytest.mark.parametrize("synchronized", [True, False])
@pytest.mark.parametrize("shape", [(8, 3), (None, 3), (8, 5, 5, 2)], ids=str)
def test_one_replica_computes_what_it_did_before_there_were_others(synchronized, shape):
    layer = bnm.BatchNormalization(synchronized=synchronized)
    layer.build(shape)
    axes = tuple(range(len(shape) - 1))

    def as_it_was(x):
        y, batch = core.normalize_batch(x, layer.gamma, layer.beta, axes=axes)
        moved = layer.policy.update(
            layer.policy.init([shape[-1]])._replace(
                mean=tf.convert_to_tensor(layer.moving_mean),
                variance=tf.convert_to_tensor(layer.moving_variance),
            ),
            *batch,
        )
        layer.moving_mean.assign(moved.mean)
        layer.moving_variance.assign(moved.variance)
        return tf.cast(y, "float32")

    spec = tf.TensorSpec(shape)
    now = operations_of(lambda x: layer.call(x, training=True), spec)
    # The initial state that is replaced leaves two constants.
    before = operations_of(as_it_was, spec)
    for kind in set(now) - {"Const", "Identity", "NoOp", "Cast"}:
        assert now.count(kind) == before.count(kind), kind
    assert len(now) <= len(before)


# Where replicas cannot meet


def test_in_a_loop_the_statistics_stay_each_replicas_own_with_a_warning(rng):
    x = halves(data(rng, (8, 3), dtype="float32"))

    def normalized(x):
        return distribute.normalize_batch(x, None, None, axes=(0,), synchronized=False)[0]

    def looped(x):
        start = tf.constant(0), x
        return tf.while_loop(lambda k, _: k < 1, lambda k, y: (k + 1, normalized(y)), start)[1]

    with pytest.warns(UserWarning, match="the statistics of this layer stay each replica's own"):
        results = on_replicas(looped, x, graph=True)
    for part, y in zip(x, results, strict=True):
        np.testing.assert_allclose(y, reference.forward(part, None, None, 0, 1e-3)[0], atol=1e-5)


def test_in_a_loop_a_synchronized_layer_is_refused(rng):
    def within(x):
        return tf.cond(
            tf.reduce_sum(x) > 0,
            lambda: distribute.normalize_batch(x, None, None, axes=(0,), synchronized=True)[0],
            lambda: x,
        )

    with pytest.raises(ValueError, match="`synchronized` must be False inside a loop"):
        on_replicas(within, halves(data(rng, (8, 3))), graph=True)


def test_outside_of_a_run_a_call_belongs_to_no_replica(rng):
    assert distribute.replicas_here() is None
    x = data(rng, (8, 3), 5.0, "float32")
    with strategy().scope():
        layer = bnm.BatchNormalization(momentum=0.0, synchronized=True)
        layer(x, training=True)
    for one in strategy().experimental_local_results(layer.moving_mean.value):
        np.testing.assert_allclose(one, x.mean(0), rtol=1e-5)
