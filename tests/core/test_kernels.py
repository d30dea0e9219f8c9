"""Every kernel of the training transform against the float64 oracle, and which one is chosen."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import (
    DTYPES,
    IDS,
    LAYOUTS,
    assert_within,
    count_of,
    data,
    float64,
    kept,
    resolution,
    whole,
    wide,
)

from batchnorm_mechanics import core, reference
from batchnorm_mechanics._tensorflow import has_gpu, one_dnn_is_on
from batchnorm_mechanics.core import kernels

KERNELS = ("fused", "rows", "analytic", "autodiff")
# Layouts in which the last axis alone is kept: those that the fused kernel takes.
LAST = [(shape, [*range(len(shape) - 1)]) for shape in [(40, 3), (9, 8, 3), (5, 4, 6, 2)]]
LAST += [((3, 2, 4, 3, 2), [0, 1, 2, 3]), ((1, 5), [0])]


def parameters(rng, shape, axes, dtype):
    size = kept(shape, axes)
    return rng.normal(1.0, 0.5, size).astype(dtype), rng.normal(size=size).astype(dtype)


def run(x, gamma, beta, dy, **options):
    """Output, moments, and the gradients by x, gamma and beta."""
    inputs = [tf.convert_to_tensor(value) for value in (x, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y, moments = core.normalize_batch(*inputs, **options)
    return y, moments, tape.gradient(y, inputs, tf.convert_to_tensor(dy))


@functools.cache
def in_mode(mode):
    """Return `run` in a mode, the same for all tests: data of a shape and options share a trace."""
    return {"eager": run, "graph": tf.function(run), "xla": tf.function(run, jit_compile=True)}[
        mode
    ]


def check_against_oracle(x, gamma, beta, dy, result, axes, dtype, mask=None):
    """Bounds: relative to the largest value, one resolution for each of m' samples and 16 more.

    The statistics, x_hat and every sum are in the wide type; y and d_x alone are rounded to dtype.
    """
    y, moments, gradients = result
    want_y, mean, variance, x_hat = reference.forward(x, gamma, beta, axes, 1e-3, mask)
    want = reference.gradients(dy, x, gamma, axes, 1e-3, mask)
    steps = (count_of(x.shape, axes) + 16) * resolution(wide(dtype))
    own = 4 * resolution(dtype)
    ratio = 1 + float(np.max(np.abs(mean) / np.sqrt(variance + 1e-3)))

    def close(actual, expected, bound, what):
        scale = 1 + np.max(np.abs(expected))
        assert_within(actual, expected, bound * scale, what)

    # The kernel is run on deviations wherever the mean exceeds 4 standard deviations.
    of_x_hat = steps * min(ratio, 5)
    close(y, want_y, of_x_hat + own, "y")
    close(moments.variance, variance, 2 * of_x_hat, "variance")
    assert_within(moments.mean, mean, steps * (1 + np.abs(mean)), "mean")
    np.testing.assert_array_equal(moments.count, reference.moments(x, axes, mask)[2])
    d_x, d_gamma, d_beta = gradients
    close(d_x, want["d_x"], 4 * (of_x_hat + 2 * own), "d_x")
    # d_gamma adds up dy * x_hat, d_beta dy: each term brings its x_hat's error along, and each sum
    # makes its own.
    whole = np.abs(dy).sum(axis=tuple(np.atleast_1d(axes) % dy.ndim))
    reach = 1 + np.max(np.abs(x_hat))
    assert_within(d_gamma, want["d_gamma"], 2 * of_x_hat * reach * whole, "d_gamma")
    assert_within(d_beta, want["d_beta"], steps * whole, "d_beta")


def last_kernels():
    narrow = ("float32", "bfloat16", "float16")
    for number, (shape, axes) in enumerate(LAST):
        for at, kernel in enumerate(KERNELS):
            for dtype in narrow:
                yield shape, axes, dtype, kernel, "eager"
            # A graph computes the same: each type, kernel and layout has one of each other.
            yield shape, axes, narrow[(number + at) % 3], kernel, "graph"


@pytest.mark.parametrize(("shape", "axes", "dtype", "kernel", "mode"), [*last_kernels()], ids=str)
def test_each_kernel_gives_the_oracles_output_moments_and_gradients(
    rng, shape, axes, dtype, kernel, mode
):
    x, dy = data(rng, shape, 2.0, dtype), rng.normal(size=shape).astype(DTYPES[dtype])
    gamma, beta = parameters(rng, shape, axes, "float32")
    result = in_mode(mode)(x, gamma, beta, dy, axes=axes, kernel=kernel)
    check_against_oracle(float64(x), gamma, beta, float64(dy), result, axes, dtype)
    assert result[0].dtype == dtype
    assert result[2][0].dtype == dtype


@pytest.mark.parametrize("kernel", ["analytic", "autodiff"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)
def test_all_axes_and_float64_have_a_kernel(rng, shape, axes, dtype, kernel):
    x, dy = data(rng, shape, 3.0, dtype), rng.normal(size=shape).astype(dtype)
    gamma, beta = parameters(rng, shape, axes, dtype)
    result = run(x, gamma, beta, dy, axes=axes, kernel=kernel)
    check_against_oracle(x, gamma, beta, dy, result, axes, dtype)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("offset", [3.0, 5.0, 1e2, 1e4, 1e6])
def test_the_fused_kernel_keeps_its_digits_whatever_the_mean(rng, offset, mode):
    shape, axes = (16, 6, 5, 4), [0, 1, 2]
    x, dy = data(rng, shape, 0.0, "float32"), rng.normal(size=shape).astype("float32")
    # One channel alone lies far off: it must not spoil itself or the others.
    x[..., 1] += np.float32(offset)
    gamma, beta = parameters(rng, shape, axes, "float32")
    y, moments, (dx, _, _) = in_mode(mode)(x, gamma, beta, dy, axes=axes, kernel="fused")
    want_y, mean, variance, _ = reference.forward(x, gamma, beta, axes, 1e-3)
    assert_within(y, want_y, 2e-5, "y")
    assert_within(moments.variance, variance, 5e-5, "variance")
    assert_within(moments.mean, mean, 1e-6 * (1 + np.abs(mean)), "mean")
    assert_within(dx, reference.gradients(dy, x, gamma, axes, 1e-3)["d_x"], 4e-5, "dx")


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_has_a_gradient(rng, kernel):
    x = tf.constant(data(rng, (6, 4, 3), 1.0, "float32"))

    def slope_of_slope(kernel):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y, _ = core.normalize_batch(x, axes=[0, 1], kernel=kernel)
                loss = tf.reduce_sum(y**3)
            penalty = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(penalty, x)

    expected = slope_of_slope("autodiff")
    assert np.max(np.abs(expected)) > 1
    np.testing.assert_allclose(slope_of_slope(kernel), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_gamma_and_beta_they_are_1_and_0_and_a_scalar_serves_all(rng, kernel):
    x = data(rng, (30, 4), 1.0, "float32")
    plain, _ = core.normalize_batch(x, axes=[0], kernel=kernel)
    assert_within(plain, reference.forward(x, None, None, [0], 1e-3)[0], 2e-5)
    scalar, _ = core.normalize_batch(x, 2.0, 1.0, axes=[0], kernel=kernel)
    assert_within(scalar, 2 * float64(plain) + 1, 1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_moments_pass_no_gradient_on(rng, kernel):
    x = tf.constant(data(rng, (30, 4), 1.0, "float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, moments = core.normalize_batch(x, axes=[0], kernel=kernel)
        total = tf.reduce_sum(moments.mean) + tf.reduce_sum(moments.variance)
    assert tape.gradient(total, x) is None


# Shapes, axes, a mask's sizes: over all samples, by batch or by time alone; many rows of few
# channels, which the rows kernel takes together; another axis kept; by channel.
MASKED = [
    ((40, 3), [0], (40,)),
    ((9, 8, 3), [0, 1], (9, 8)),
    ((9, 8, 3), [0, 1], (9,)),
    ((9, 8, 3), [0, 1], (1, 8)),
    ((16, 16, 20, 3), [0, 1, 2], (16, 16, 20)),
    ((8, 60, 24, 5), [0, 1, 2], (8, 60)),
    ((9, 3, 8), [0, 2], (9, 1, 8)),
    ((9, 8, 3), [0, 1], (9, 8, 3)),
]


def a_mask(rng, sizes):
    mask = rng.random(sizes) < 0.6
    mask[(0,) * len(sizes)] = True
    return mask


# Rows are never chosen for XLA.
MASKED_MODES = [
    (kernel, mode)
    for kernel in ("rows", "analytic", "autodiff")
    for mode in ("eager", "graph", "xla")
    if (kernel, mode) != ("rows", "xla")
]


def masked_kernels():
    for number, (shape, axes, sizes) in enumerate(MASKED):
        for kernel, mode in MASKED_MODES:
            if kernel == "rows" and (axes[-1] != len(shape) - 2 or len(sizes) == len(shape)):
                continue
            # Compiled, every layout has one of the two kernels, in a graph the one that it has not
            # with XLA, which takes half a second for each.
            for_xla = ("analytic", "autodiff")[number % 2]
            if kernel != "rows" and mode != "eager" and (mode == "xla") != (kernel == for_xla):
                continue
            for offset in (2.0, 1e4):
                name = f"{kernel}-{mode}-{shape}-{sizes}-{offset:g}"
                yield pytest.param(shape, axes, sizes, kernel, mode, offset, id=name)


@pytest.mark.parametrize(
    ("shape", "axes", "sizes", "kernel", "mode", "offset"), [*masked_kernels()]
)
def test_each_kernel_counts_what_the_mask_lets_count(rng, shape, axes, sizes, kernel, mode, offset):
    x, dy = data(rng, shape, offset, "float32"), rng.normal(size=shape).astype("float32")
    gamma, beta = parameters(rng, shape, axes, "float32")
    mask = a_mask(rng, sizes)
    result = in_mode(mode)(x, gamma, beta, dy, axes=axes, kernel=kernel, mask=tf.constant(mask))
    # The oracle wants it of full size.
    whole_mask = np.broadcast_to(mask, shape[: mask.ndim])
    check_against_oracle(x, gamma, beta, dy, result, axes, "float32", whole_mask)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_masked_rows_of_every_dtype(rng, dtype):
    shape, axes = (9, 8, 3), [0, 1]
    x, dy = data(rng, shape, 2.0, dtype), rng.normal(size=shape).astype(DTYPES[dtype])
    gamma, beta = parameters(rng, shape, axes, wide(dtype))
    mask = a_mask(rng, (9, 8))
    result = run(x, gamma, beta, dy, axes=axes, kernel="rows", mask=mask)
    check_against_oracle(float64(x), gamma, beta, float64(dy), result, axes, dtype, mask)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize(("kernel", "mode"), MASKED_MODES)
def test_what_is_masked_out_may_be_anything(rng, kernel, garbage, mode):
    shape, axes = (60, 30, 3), [0, 1]
    x, dy = data(rng, shape, 2.0, "float32"), rng.normal(size=shape).astype("float32")
    gamma, beta = parameters(rng, shape, axes, "float32")
    mask = a_mask(rng, (60, 30))
    dirty = np.where(mask[..., None], x, np.float32(garbage))
    y, moments, (dx, d_gamma, d_beta) = in_mode(mode)(
        dirty, gamma, beta, dy, axes=axes, kernel=kernel, mask=tf.constant(mask)
    )
    x = np.where(mask[..., None], x, np.float32(0.0))
    want_y, mean, variance, _ = reference.forward(x, gamma, beta, axes, 1e-3, mask)
    want = reference.gradients(dy, x, gamma, axes, 1e-3, mask)
    assert_within(y, want_y, 2e-5, "y")
    assert_within(moments.mean, mean, 1e-5, "mean")
    assert_within(moments.variance, variance, 1e-5, "variance")
    # What was no number has no gradient.
    assert_within(dx, np.where(mask[..., None], want["d_x"], 0.0), 2e-5, "d_x")
    assert_within(d_gamma, want["d_gamma"], 5e-3, "d_gamma")
    assert_within(d_beta, want["d_beta"], 1e-3, "d_beta")


@pytest.mark.parametrize("kernel", ["rows", "analytic", "autodiff"])
def test_a_batch_that_is_masked_out_whole_has_the_moments_0(rng, kernel):
    x, dy = data(rng, (30, 4), 2.0, "float32"), rng.normal(size=(30, 4)).astype("float32")
    mask = np.zeros(30, bool)
    y, moments, (dx, d_gamma, d_beta) = run(
        x, np.float32(2), np.float32(1), dy, axes=[0], kernel=kernel, mask=mask
    )
    assert [value.numpy().tolist() for value in moments] == [[0.0] * 4] * 3
    scale = 2 / np.sqrt(1e-3)
    assert_within(y, float64(x) * scale + 1, 1e-4, "y")
    assert_within(dx, float64(dy) * scale, 1e-4, "d_x")
    assert_within(d_beta, np.sum(float64(dy)), 1e-4, "d_beta")
    assert_within(d_gamma, np.sum(float64(dy) * x) * scale / 2, 1e-2, "d_gamma")


def test_the_size_of_a_masked_batch_need_not_be_known(rng):
    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 3]), tf.TensorSpec([None, 7], tf.bool)]
    )
    def graph(x, mask):
        return core.normalize_batch(x, axes=[0, 1], mask=mask, kernel="rows")

    for size in (2, 900):
        x, mask = data(rng, (size, 7, 3), 1.0, "float32"), a_mask(rng, (size, 7))
        y, moments = graph(x, mask)
        assert_within(y, reference.forward(x, None, None, [0, 1], 1e-3, mask)[0], 2e-5)
        assert moments.count.numpy().tolist() == [mask.sum()] * 3


@pytest.mark.parametrize("kernel", ["fused", "rows", "analytic"])
def test_an_input_whose_batch_size_is_not_known_yet(rng, kernel):
    @tf.function(input_signature=[tf.TensorSpec([None, 7, 3], tf.float32)])
    def graph(x):
        y, moments = core.normalize_batch(x, axes=[0, 1], kernel=kernel)
        assert y.shape == (None, 7, 3)
        assert moments.mean.shape == (3,)
        return y, moments

    for size in (2, 9):
        x = data(rng, (size, 7, 3), 1.0, "float32")
        y, moments = graph(x)
        assert_within(y, reference.forward(x, None, None, [0, 1], 1e-3)[0], 2e-5)
        assert moments.count.numpy().tolist() == [size * 7] * 3


def machine(monkeypatch, *, one_dnn=False, avx512=True, gpu=False):
    """Have the choice made as on a machine of this kind."""
    monkeypatch.setattr(kernels, "one_dnn_is_on", lambda: one_dnn)
    monkeypatch.setattr(kernels, "has_avx512", lambda: avx512)
    monkeypatch.setattr(kernels, "has_gpu", lambda: gpu)


# With oneDNN on AVX-512 and without oneDNN.
CHOICES = [
    ((64, 56, 56, 64), "float32", [0, 1, 2], "fused", "rows"),
    ((64, 56, 56, 64), "bfloat16", [0, 1, 2], "fused", "rows"),
    ((None, 56, 56, 64), "float32", [0, 1, 2], "fused", "rows"),
    ((None, None, None, 64), "float32", [0, 1, 2], "fused", "rows"),
    ((512, 512), "float32", [0], "fused", "rows"),
    ((8, 100, 512), "float32", [1, 0], "fused", "rows"),
    ((4, 8, 8, 8, 64), "float16", [0, 1, 2, 3], "fused", "rows"),
    ((32, 62, 62, 8), "float32", [0, 1, 2], "fused", "rows"),
    ((64, 28, 28, 3), "float32", [0, 1, 2], "rows", "rows"),
    # Numbers of channels that oneDNN is slow for.
    ((64, 28, 28, 50), "float32", [0, 1, 2], "rows", "rows"),
    ((64, 28, 28, 728), "float32", [0, 1, 2], "rows", "rows"),
    ((64, 28, 28, 100), "float32", [0, 1, 2], "fused", "rows"),
    ((64, 28, 28, 72), "bfloat16", [0, 1, 2], "rows", "rows"),
    ((64, 28, 28, 72), "float16", [0, 1, 2], "rows", "rows"),
    ((60, 100), "float32", [0], "rows", "rows"),
    ((None, 100), "float32", [0], "rows", "rows"),
    ((64, 56, 56, 64), "float64", [0, 1, 2], "rows", "rows"),
    ((64, 64, 56, 56), "float32", [0, 2, 3], "analytic", "analytic"),
    ((64, 56, 56, None), "float32", [0, 1, 2], "analytic", "analytic"),
    ((0, 56, 56, 64), "float32", [0, 1, 2], "rows", "rows"),
    ((64, 56, 56, 0), "float32", [0, 1, 2], "analytic", "analytic"),
    ((64, 56, 56, 64), "float32", [0, 1, 2, 3], "analytic", "analytic"),
]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("shape", "dtype", "axes", "fast_kernel", "other"), CHOICES, ids=str)
def test_the_kernel_that_is_chosen(monkeypatch, shape, dtype, axes, fast_kernel, other, fast):
    machine(monkeypatch, one_dnn=fast)
    choose = functools.partial(core.choose_kernel, shape, tf.as_dtype(dtype), axes)
    assert choose() == (fast_kernel if fast else other)
    assert choose(masked=True) == ("analytic" if other == "analytic" else "rows")
    assert choose(compiled=True) == "analytic"
    assert choose(masked=True, compiled=True) == "analytic"


def test_onednn_without_avx512_is_used_where_it_loses_nothing(monkeypatch):
    machine(monkeypatch, one_dnn=True, avx512=False)
    shape, axes = (64, 56, 56, 64), [0, 1, 2]
    assert core.choose_kernel(shape, tf.float32, axes) == "fused"
    assert core.choose_kernel(shape, tf.float32, axes, training=False) == "rows"
    assert core.choose_kernel(shape, tf.bfloat16, axes) == "rows"
    assert core.choose_kernel((*shape[:3], 20), tf.float32, axes, training=False) == "fused"


def test_a_gpus_fused_kernel_takes_any_number_of_channels(monkeypatch):
    machine(monkeypatch, gpu=True)
    for dtype in ("float32", "bfloat16", "float16"):
        assert core.choose_kernel((64, 28, 28, 3), tf.as_dtype(dtype), [0, 1, 2]) == "fused"
    assert core.choose_kernel((64, 28, 28, 3), tf.float64, [0, 1, 2]) == "rows"
    assert core.choose_kernel((60, 100), tf.float32, [0]) == "rows"


def test_inference_is_taken_by_wide_rows_where_rows_are_narrow(monkeypatch):
    machine(monkeypatch)
    for shape, kernel in {
        (60, 3): "analytic",
        (2000, 3): "rows",
        (1024, 64): "rows",
        (16, 1024): "analytic",
        (1024, 1024): "analytic",
        (10**6, 1): "analytic",
    }.items():
        assert core.choose_kernel(shape, tf.float32, [0], training=False) == kernel


@pytest.mark.thorough
def test_what_the_process_runs_on_is_what_tensorflows_log_says():
    script = (
        "import tensorflow as tf\n"
        "from batchnorm_mechanics._tensorflow import has_gpu, one_dnn_is_on\n"
        "print(one_dnn_is_on(), has_gpu())"
    )
    for setting in ("0", "1"):
        environment = {
            **os.environ,
            "TF_ENABLE_ONEDNN_OPTS": setting,
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        on = "oneDNN custom operations are on" in done.stderr
        assert done.stdout.split() == [str(on), "False"]
        assert setting == "1" or not on


@pytest.mark.parametrize(("kernel", "bound"), [("fused", 1e-4), ("rows", 1e-5)])
def test_a_million_standard_deviations_of_many_samples_cost_few_digits(rng, kernel, bound):
    if kernel == "fused" and not (one_dnn_is_on() or has_gpu()):
        pytest.skip(
            "without oneDNN the fused kernel, which is never chosen then, adds all numbers one "
            "after the other, so that its variance is off by 4e-4"
        )
    # A plain sum's mean is off by 200 standard deviations here.
    x = data(rng, (100_000, 4), 1e6, "float32")
    y, moments = core.normalize_batch(x, axes=[0], kernel=kernel)
    assert_within(y, reference.forward(x, None, None, [0], 1e-3)[0], bound)
    # float32 has steps of 1/16 there.
    assert_within(moments.mean, x.astype(np.float64).mean(axis=0), 1 / 16)


def test_a_large_input_really_goes_through_the_fused_kernel_where_that_is_fast(rng, monkeypatch):
    machine(monkeypatch, one_dnn=True)
    x = tf.constant(data(rng, (512, 512), 0.0, "float32"))
    graph = tf.function(lambda x: core.normalize_batch(x, axes=[0])[0]).get_concrete_function(x)
    assert "FusedBatchNormV3" in {op.type for op in graph.graph.get_operations()}
    small = tf.function(lambda x: core.normalize_batch(x, axes=[0])[0])
    small = small.get_concrete_function(x[:8])
    assert "FusedBatchNormV3" not in {op.type for op in small.graph.get_operations()}


def kernels_in(function, x):
    """Return whether the fused kernel is in the graph, or in a graph that it calls."""
    graphs = [tf.function(function).get_concrete_function(x).graph]
    types = set()
    while graphs:
        graph = graphs.pop().as_graph_def()
        for nodes in (graph.node, *(inner.node_def for inner in graph.library.function)):
            types |= {node.op for node in nodes}
    return {kind for kind in types if kind.startswith("FusedBatchNorm")}


def test_what_xla_compiles_goes_without_the_fused_kernel_in_inner_functions_too(rng, monkeypatch):
    machine(monkeypatch, one_dnn=True)
    x = tf.constant(data(rng, (512, 512), 0.0, "float32"))

    def both(x):
        y, _ = core.normalize_batch(x, axes=[0])
        return y + core.normalize_with(x, tf.zeros(512), tf.ones(512), axes=[0])

    assert kernels_in(both, x) == {"FusedBatchNormV3"}
    assert kernels_in(tf.function(both), x) == {"FusedBatchNormV3"}
    assert kernels_in(tf.function(both, jit_compile=True), x) == set()
    inner = tf.function(both)
    assert kernels_in(tf.function(lambda x: inner(x) + 0.0, jit_compile=True), x) == set()


@pytest.mark.parametrize(
    ("kernel", "shape", "dtype", "axes", "mask"),
    [
        ("fused", (4, 3), "float64", [0], None),
        ("fused", (4, 3), "float32", [1], None),
        ("fused", (4, 3), "float32", [0], [True] * 4),
        ("rows", (4, 3), "float32", [1], None),
        ("rows", (4, 3), "float32", [0], [[True] * 3] * 4),
        ("quick", (4, 3), "float32", [0], None),
    ],
)
def test_a_kernel_that_cannot_take_the_input_is_refused(kernel, shape, dtype, axes, mask):
    message = (
        "normalize_batch: `kernel` must be 'fused' (the last axis alone kept, 32 bits or fewer, "
        "no mask), 'rows' (the last axis alone kept, a mask the same for all channels), 'analytic' "
        "or 'autodiff'. Received: "
        f"kernel={kernel!r}, x.shape={shape}, x.dtype={dtype!r}, axes={tuple(axes)}. "
        "Leave it out to have it chosen."
    )
    with pytest.raises(ValueError, match=whole(message)):
        core.normalize_batch(np.ones(shape, dtype), axes=axes, mask=mask, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_batch_known_beforehand_is_refused(kernel):
    with pytest.raises(ValueError, match="must hold at least one sample for each statistic"):
        core.normalize_batch(np.ones((0, 3), np.float32), axes=[0], kernel=kernel)


@pytest.mark.parametrize("shape", [(300, 512), (40, 9, 400), (8, 16, 16, 80), (5, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_given_statistics_give_the_oracles_output(rng, shape, dtype, offset):
    axes = [*range(len(shape) - 1)]
    x = data(rng, shape, offset, dtype)
    gamma, beta = parameters(rng, shape, axes, wide(dtype))
    mean = float64(x).mean(axis=tuple(axes)).astype(wide(dtype))
    variance = rng.uniform(0.5, 2.0, mean.shape).astype(wide(dtype))
    y = core.normalize_with(x, mean, variance, gamma, beta, axes=axes)
    expected = reference.infer(float64(x), mean, variance, gamma, beta, axes, 1e-3)
    scale = 1 + np.max(np.abs(expected))
    bound = (16 * resolution(wide(dtype)) * (1 + offset) + 2 * resolution(dtype)) * scale
    assert_within(y, expected, bound, "y")
    assert y.dtype == dtype


def test_inference_on_an_empty_batch_of_a_size_not_known_before_is_empty():
    @tf.function(input_signature=[tf.TensorSpec([None, 64, 64, 8], tf.float32)])
    def graph(x):
        return core.normalize_with(x, 0.0, 1.0, axes=[0, 1, 2])

    assert graph(np.zeros((0, 64, 64, 8), np.float32)).shape == (0, 64, 64, 8)


def test_given_statistics_of_another_shape_are_refused():
    message = (
        "normalize_with: `variance` must be a scalar or have the shape of the axes that are kept, "
        "(512,). Received: variance.shape=(3,). The input has shape (512, 512) and is reduced over "
        "axes (0,)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        core.normalize_with(np.ones((512, 512), np.float32), 0.0, np.ones(3, np.float32), axes=[0])
