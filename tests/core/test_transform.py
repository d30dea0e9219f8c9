"""Normalize, scale and shift, in training, in inference and folded, against the oracle."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_cases import (
    DTYPES,
    IDS,
    LAYOUTS,
    assert_within,
    count_of,
    data,
    kept,
    largest,
    oracle_slip,
    random_mask,
    rounding,
    spread,
    whole,
    wide,
)

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
layouts = pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=IDS)


def parameters(rng, shape, axes):
    """Gamma and beta, one for each statistic, in float64."""
    size = kept(shape, axes)
    return 1 + 0.5 * rng.normal(size=size), rng.normal(size=size)


def output_bound(dtype, terms, size):
    """The error that an output may have: that of the statistics' dtype, then one cast."""
    return rounding(wide(dtype), terms + 16, size) + rounding(dtype, 1, size)


def judge_forward(x, gamma, beta, axes, dtype, mask=None, case=""):
    y, cache = bnm.forward(x, gamma, beta, axes=axes, epsilon=1e-3, mask=mask)
    expected, _, variance, x_hat = reference.forward(x, gamma, beta, axes, 1e-3, mask)
    terms = count_of(x.shape, axes)
    slip = oracle_slip(x, variance, 1e-3, axes)
    # What y is made of, channel by channel: gamma * x_hat and beta may cancel in it.
    gamma, beta = (np.abs(spread(value, x.shape, axes)) for value in (gamma, beta))
    size = gamma * largest(x_hat, axes) + beta
    # An empty channel is divided by sqrt(epsilon) alone, and may leave float16's range.
    reach = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    expected = np.where(np.abs(expected) > reach, np.sign(expected) * np.inf, expected)
    assert y.dtype == DTYPES[dtype]
    assert_within(y, expected, output_bound(dtype, terms, size) + gamma * slip, f"{case} y")
    bound = rounding(wide(dtype), terms + 16, largest(x_hat, axes)) + slip
    assert_within(cache.x_hat, x_hat, bound, f"{case} x_hat")
    bound = rounding(wide(dtype), terms + 8, variance)
    assert_within(cache.variance, variance, bound, f"{case} variance")


# In training


@layouts
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_is_the_oracles_at_any_offset(shape, axes, dtype, rng):
    gamma, beta = parameters(rng, shape, axes)
    if dtype != "float64":
        gamma, beta = gamma.astype(np.float32), beta.astype(np.float32)
    for offset in (0.0, 1e2, 1e4):
        x = data(rng, shape, offset, dtype)
        mask = random_mask(rng, shape)
        judge_forward(x, gamma, beta, axes, dtype, case=f"offset {offset:g},")
        judge_forward(x, gamma, beta, axes, dtype, mask=mask, case=f"offset {offset:g}, masked,")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_forward_with_unknown_sizes_is_the_oracles(jit_compile, rng):
    layouts = [((5, 3), [0]), ((4, 3, 5), [0, 2])]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.float32),
            tf.TensorSpec([None, 3, None], tf.float32),
            tf.TensorSpec([None, 3], tf.bool),
        ],
        jit_compile=jit_compile,
        autograph=False,
    )
    def compiled(first, second, mask):
        return [
            bnm.forward(first, [1.0, 2.0, 3.0], 0.5, axes=[0])[0],
            bnm.forward(second, [1.0, 2.0, 3.0], 0.5, axes=[0, 2])[0],
            bnm.forward(second, [1.0, 2.0, 3.0], 0.5, axes=[0, 2], mask=mask)[0],
        ]

    first, second = (data(rng, shape, 1e4, "float32") for shape, _ in layouts)
    mask = random_mask(rng, second.shape)
    results = compiled(first, second, mask)
    cases = [(first, [0], None), (second, [0, 2], None), (second, [0, 2], mask)]
    for actual, (x, axes, masked) in zip(results, cases, strict=True):
        expected = reference.forward(x, [1, 2, 3], 0.5, axes, 1e-3, masked)[0]
        bound = output_bound("float32", 20, 3 * np.max(np.abs(expected)))
        assert_within(actual, expected, bound, f"axes {axes}")


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_the_output_stays_accurate_when_the_mean_is_large(mean, jit_compile, rng):
    x = (mean + rng.normal(size=(64, 14, 14, 32))).astype(np.float32)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def forward(x):
        return bnm.forward(x, axes=[0, 1, 2])[0]

    expected = reference.forward(x, None, None, [0, 1, 2], 1e-3)[0]
    # The project's promise; tf.nn.batch_normalization is off by 1e-2 at mean 1e4.
    assert np.max(np.abs(forward(x) - expected)) < 1e-5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_output_stays_accurate_over_a_great_many_samples(jit_compile, rng):
    # 200,704 samples a channel: a running float32 sum of so many has lost four digits.
    x = (1e4 + rng.normal(size=(64, 56, 56, 2))).astype(np.float32)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def forward(x):
        return bnm.forward(x, axes=[0, 1, 2])[0]

    expected = reference.forward(x, None, None, [0, 1, 2], 1e-3)[0]
    assert np.max(np.abs(forward(x) - expected)) < 1e-5


def test_the_known_output_of_the_two_by_three_input():
    y, _ = bnm.forward(A, 2.0, 1.0, axes=[0])
    np.testing.assert_allclose(y, [[-0.9995557] * 3, [2.9995557] * 3], rtol=1e-6)
    y, _ = bnm.forward(A, 2.0, 1.0, axes=[1])
    np.testing.assert_allclose(y, [[-1.4476547, 1, 3.4476547]] * 2, rtol=1e-6)


@pytest.mark.parametrize("gamma", [None, 2.0, [1.0, 2.0, 3.0]], ids=repr)
@pytest.mark.parametrize("beta", [None, 0.5, [3.0, 2.0, 1.0]], ids=repr)
def test_gamma_and_beta_may_be_missing_scalar_or_per_channel(gamma, beta, rng):
    x = data(rng, (6, 3), 1e2)
    y, _ = bnm.forward(x, gamma, beta, axes=0)
    expected = reference.forward(x, gamma, beta, 0, 1e-3)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_gamma_and_beta_of_several_kept_axes_stand_where_they_belong(rng):
    shape, axes = (3, 4, 5, 2), [0, 2]
    x, (gamma, beta) = data(rng, shape), parameters(rng, shape, axes)
    y, _ = bnm.forward(x, gamma, beta, axes=axes)
    expected = reference.forward(x, gamma, beta, axes, 1e-3)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1e-3, 0.1, 10.0, 1, np.float32(0.5)], ids=repr)
def test_epsilon_is_added_inside_the_square_root(epsilon, rng):
    x = 0.1 * data(rng, (6, 3))
    y, _ = bnm.forward(x, axes=0, epsilon=epsilon)
    expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + float(epsilon))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    _, mean, variance, _ = reference.forward(x, None, None, 0, epsilon)
    for actual in (
        bnm.normalize(x, mean, variance, axes=0, epsilon=epsilon),
        bnm.infer(x, mean, variance, axes=0, epsilon=epsilon),
        bnm.multiply_and_add(x, *bnm.fold_statistics(mean, variance, epsilon=epsilon), axes=0),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_float64_is_float64_all_the_way(rng):
    x = data(rng, (20, 3), 1e2)
    # None of these is a float32.
    gamma, beta, epsilon = [0.1, 1 / 3, 1.7], [0.3, -0.7, 1e-3], 1.1e-3
    y, cache = bnm.forward(x, gamma, beta, axes=0, epsilon=epsilon)
    expected, mean, variance, _ = reference.forward(x, gamma, beta, 0, epsilon)
    assert y.dtype == cache.variance.dtype == tf.float64
    assert np.max(np.abs(y - expected)) < 1e-12
    lists = mean.tolist(), variance.tolist()
    for actual in (
        bnm.infer(x, *lists, gamma, beta, axes=0, epsilon=epsilon),
        bnm.scale_and_shift(bnm.normalize(x, *lists, axes=0, epsilon=epsilon), gamma, beta, axes=0),
        bnm.multiply_and_add(
            x, *bnm.fold_statistics(mean, variance, gamma, beta, epsilon=epsilon), axes=0
        ),
    ):
        # At mean 1e2 the folded form loses two digits of sixteen.
        assert np.max(np.abs(actual - expected)) < 1e-12


def test_forward_is_moments_then_normalize_then_scale_and_shift(rng):
    x = data(rng, (4, 3, 5), 2.0)
    gamma, beta = parameters(rng, x.shape, [0, 2])
    mean, variance, _ = bnm.moments(x, [0, 2])
    x_hat = bnm.normalize(x, mean, variance, axes=[0, 2])
    expected = bnm.scale_and_shift(x_hat, gamma, beta, axes=[0, 2])
    actual, _ = bnm.forward(x, gamma, beta, axes=[0, 2])
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


def test_the_cache_holds_what_a_policy_takes(rng):
    x = data(rng, (4, 3, 5), 1e4, "float32")
    mask = random_mask(rng, x.shape)
    _, cache = bnm.forward(x, axes=[0, 2], mask=mask)
    for actual, expected in zip(cache, bnm.moments(x, [0, 2], mask=mask), strict=False):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_inputs_are_normalized_in_float32_and_cast_once(dtype, rng):
    x = data(rng, (50, 3), 3.0, dtype)
    y, cache = bnm.forward(x, 1.5, 0.25, axes=0)
    exact = bnm.forward(x.astype(np.float32), 1.5, 0.25, axes=0)[0]
    assert {cache.mean.dtype, cache.variance.dtype, cache.x_hat.dtype} == {tf.float32}
    np.testing.assert_array_equal(y, exact.numpy().astype(DTYPES[dtype]))


def test_float16_values_whose_squares_overflow_are_normalized():
    x = np.array([[60000.0], [-60000.0], [30000.0]], np.float16)
    expected = reference.forward(x, None, None, 0, 1e-3)[0]
    assert_within(bnm.forward(x, axes=0)[0], expected, output_bound("float16", 3, expected))


def test_one_sample_gives_beta(rng):
    x = data(rng, (1, 3), 1e4, "float32")
    y, _ = bnm.forward(x, 5.0, [1.0, 2.0, 3.0], axes=0)
    assert y.numpy().tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("value", [0.0, 0.1, -12.3, 1e3])
def test_a_constant_channel_gives_beta(value):
    y, _ = bnm.forward(np.full((13, 2), value, np.float32), 2.0, 1.0, axes=0)
    # The mean of equal numbers may be off by its rounding, which 1/sqrt(epsilon) magnifies.
    bound = rounding("float32", 4, [1.0]) + 2 * 32 * rounding("float32", 0.01, [value])
    assert_within(y, np.ones((13, 2)), bound)


def test_a_nan_stays_in_its_channel(rng):
    x = data(rng, (6, 3), 0.0, "float32")
    clean = bnm.forward(x, axes=0)[0].numpy()
    x[2, 1] = np.nan
    dirty = bnm.forward(x, axes=0)[0].numpy()
    assert np.isnan(dirty[:, 1]).all()
    np.testing.assert_array_equal(dirty[:, [0, 2]], clean[:, [0, 2]])


def test_what_is_masked_out_is_normalized_and_changes_no_other_output(rng):
    x = data(rng, (5, 3), 1e2)
    mask = np.array([True, True, False, True, True])
    clean = bnm.forward(x, axes=0, mask=mask)[0].numpy()
    mean, variance = x[mask].mean(axis=0), x[mask].var(axis=0)
    np.testing.assert_allclose(clean[2], (x[2] - mean) / np.sqrt(variance + 1e-3), rtol=1e-12)
    x[2, 1] = np.nan
    dirty = bnm.forward(x, axes=0, mask=mask)[0].numpy()
    np.testing.assert_array_equal(dirty[mask], clean[mask])


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    st.floats(-1e4, 1e4),
    st.floats(1e-2, 1e2) | st.floats(-1e2, -1e-2),
    st.integers(0, 99),
)
def test_shifting_and_scaling_the_input_does_not_change_the_output(shift, factor, seed):
    x = data(np.random.default_rng(seed), (8, 3))
    y, _ = bnm.forward(x, axes=0, epsilon=1e-30)
    moved, _ = bnm.forward(shift + factor * x, axes=0, epsilon=1e-30)
    # The shifted input is itself rounded at the size of the shift: 1e4 / 1e-2 * 1e-16.
    np.testing.assert_allclose(moved, np.sign(factor) * y, rtol=1e-8, atol=1e-8)


# In inference, whole and folded


@layouts
@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_whole_and_in_steps_is_the_oracles(shape, axes, dtype, rng):
    kind = np.float64 if dtype == "float64" else np.float32
    gamma, beta = (value.astype(kind) for value in parameters(rng, shape, axes))
    for offset in (0.0, 1e2, 1e4):
        x = data(rng, shape, offset, dtype)
        mean = data(rng, kept(shape, axes) or (1,), offset).reshape(kept(shape, axes)).astype(kind)
        variance = rng.uniform(0.5, 2.0, kept(shape, axes)).astype(kind)
        given = (mean, variance)
        expected = reference.infer(x, *given, gamma, beta, axes, 1e-3)
        x_hat = reference.normalize(x, *given, axes, 1e-3)
        parts = [np.abs(spread(value, shape, axes)) for value in (gamma, beta)]
        # x and the mean may differ by far more than 1: for half types by a unit at 1e4.
        bound = output_bound(dtype, 0, (1 + parts[0]) * largest(x_hat, axes) + parts[1])
        y = bnm.infer(x, *given, gamma, beta, axes=axes)
        assert y.dtype == DTYPES[dtype]
        assert_within(y, expected, bound, f"infer at {offset:g}")
        actual = bnm.normalize(x, *given, axes=axes)
        assert_within(actual, x_hat, bound, f"normalize at {offset:g}")
        expected = reference.scale_and_shift(actual, gamma, beta, axes)
        actual = bnm.scale_and_shift(actual, gamma, beta, axes=axes)
        assert_within(actual, expected, bound, f"scale_and_shift at {offset:g}")


@layouts
def test_folded_inference_is_the_oracles(shape, axes, rng):
    for offset in (0.0, 1e2, 1e4):
        for dtype in ("float64", "float32"):
            x = data(rng, shape, offset, dtype)
            mean, variance, _ = reference.moments(x, axes)
            gamma, beta = parameters(rng, shape, axes)
            statistics = [value.astype(dtype) for value in (mean, variance, gamma, beta)]
            scale, offset_ = bnm.fold_statistics(*statistics)
            for actual, expected in zip(
                (scale, offset_), reference.fold(*statistics, 1e-3), strict=True
            ):
                assert actual.dtype == dtype
                size = np.max(np.abs(expected)) + np.max(np.abs(beta))
                assert_within(actual, expected, rounding(dtype, 8, size), f"at {offset:g}")
            y = bnm.multiply_and_add(x, scale, offset_, axes=axes)
            expected = reference.infer(x, *statistics, axes, 1e-3)
            # x * scale and the offset cancel: each is about scale * |x| in size.
            size = np.max(np.abs(scale)) * np.max(np.abs(x)) + np.max(np.abs(expected))
            assert_within(y, expected, rounding(dtype, 16, size), f"folded at {offset:g}")


def test_the_known_inference_with_initial_statistics():
    y = bnm.infer(A, 0.0, 1.0, 2.0, 1.0, axes=[0])
    np.testing.assert_allclose(
        y, [[2.9990008, 4.9980016, 6.9970026], [8.996003, 10.995004, 12.994005]], rtol=1e-6
    )


def test_inference_does_not_depend_on_the_other_samples(rng):
    x = data(rng, (6, 3), 1e4, "float32")
    mean, variance = np.full(3, 1e4, np.float32), np.ones(3, np.float32)
    together = bnm.infer(x, mean, variance, axes=0)
    alone = [bnm.infer(x[k : k + 1], mean, variance, axes=0)[0] for k in range(6)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("unknown", [False, True])
def test_inference_on_no_samples_gives_no_samples(unknown):
    def infer(x):
        return bnm.infer(x, [0.0] * 3, [1.0] * 3, [1.0] * 3, [0.0] * 3, axes=[0])

    if unknown:
        signature = [tf.TensorSpec([None, 3], tf.float32)]
        infer = tf.function(infer, input_signature=signature, autograph=False)
    y = infer(np.ones((0, 3), np.float32))
    assert (y.shape, y.dtype) == ((0, 3), tf.float32)


def test_compiled_inference_is_the_oracles(rng):
    @tf.function(
        input_signature=[tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([3], tf.float32)],
        jit_compile=True,
        autograph=False,
    )
    def compiled(x, mean):
        variance, gamma, beta = [1.0, 2.0, 0.5], [1.0, -2.0, 0.5], [0.0, 1.0, -1.0]
        return (
            bnm.infer(x, mean, variance, gamma, beta, axes=[0]),
            bnm.multiply_and_add(x, *bnm.fold_statistics(mean, variance, gamma, beta), axes=[0]),
        )

    x, mean = data(rng, (5, 3), 1e4, "float32"), np.full(3, 1e4, np.float32)
    expected = reference.infer(
        x, mean, [1.0, 2.0, 0.5], [1.0, -2.0, 0.5], [0.0, 1.0, -1.0], 0, 1e-3
    )
    whole, folded = compiled(x, mean)
    assert_within(whole, expected, rounding("float32", 16, np.max(np.abs(expected)) + 1))
    assert_within(folded, expected, rounding("float32", 16, [2e4]))


# Bad input

EPSILONS = [0, 0.0, -1e-3, float("nan"), float("inf"), None, "1e-3", [1e-3]]


@pytest.mark.parametrize("epsilon", EPSILONS, ids=repr)
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("forward", lambda epsilon: bnm.forward(A, axes=0, epsilon=epsilon)),
        ("normalize", lambda epsilon: bnm.normalize(A, 0.0, 1.0, axes=0, epsilon=epsilon)),
        ("infer", lambda epsilon: bnm.infer(A, 0.0, 1.0, axes=0, epsilon=epsilon)),
        ("fold_statistics", lambda epsilon: bnm.fold_statistics([0.0], [1.0], epsilon=epsilon)),
    ],
    ids=["forward", "normalize", "infer", "fold_statistics"],
)
def test_an_epsilon_that_is_not_positive_is_refused(function, call, epsilon):
    message = (
        f"{function}: `epsilon` must be a positive number. Received: epsilon={epsilon!r}. "
        "It keeps a channel of zero variance finite; Keras uses 1e-3, PyTorch 1e-5."
    )
    with pytest.raises(ValueError, match=whole(message)):
        call(epsilon)


WRONG = {
    "forward": ("gamma", "beta"),
    "scale_and_shift": ("gamma", "beta"),
    "normalize": ("mean", "variance"),
    "infer": ("mean", "variance", "gamma", "beta"),
    "multiply_and_add": ("scale", "offset"),
}
CALLS = {
    "forward": bnm.forward,
    "scale_and_shift": bnm.scale_and_shift,
    "normalize": lambda x, mean=0.0, variance=1.0, **rest: bnm.normalize(x, mean, variance, **rest),
    "infer": lambda x, mean=0.0, variance=1.0, **rest: bnm.infer(x, mean, variance, **rest),
    "multiply_and_add": lambda x, scale=1.0, offset=0.0, **rest: bnm.multiply_and_add(
        x, scale, offset, **rest
    ),
}


@pytest.mark.parametrize(
    ("function", "name"), [(function, name) for function in WRONG for name in WRONG[function]]
)
@pytest.mark.parametrize("shape", [(2,), (1,), (4,), (2, 3), (1, 3), (0,)], ids=str)
def test_a_parameter_of_the_wrong_length_is_refused(function, name, shape):
    message = (
        f"{function}: `{name}` must be a scalar or have the shape of the axes that are kept, (3,). "
        f"Received: {name}.shape={shape}. The input has shape (2, 3) and is reduced over axes (0,)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        CALLS[function](A, axes=[0], **{name: np.ones(shape, np.float32)})


@pytest.mark.parametrize("name", ["variance", "gamma", "beta"])
def test_folding_parameters_of_different_lengths_is_refused(name):
    arguments = {"mean": np.ones(3), "variance": np.ones(3), name: np.ones(2)}
    with pytest.raises(
        ValueError, match=rf"^fold_statistics: `{name}` must .* Received: {name}\.shape=\(2,\)"
    ):
        bnm.fold_statistics(**arguments)


def test_folding_integers_is_refused():
    # [2] is an int32 tensor, and the variance 3.999 would have to become one too.
    with pytest.raises(TypeError, match=r"^fold_statistics: `mean` must be a floating tensor"):
        bnm.fold_statistics([2], [3.999])


def test_a_mask_that_does_not_fit_is_refused():
    message = (
        "forward: `mask` must have the leading axes of the input, of shape (2, 3). "
        "Received: mask.shape=(3,). Pass one boolean for each sample, for instance of shape (2,)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.forward(A, axes=0, mask=[True] * 3)


def test_an_empty_batch_is_refused():
    message = (
        "forward: `x` must hold at least one sample for each statistic. Received: "
        "x.shape=(0, 3), axes=(0,). An empty batch has no mean; leave it out."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.forward(np.ones((0, 3), np.float32), axes=[0])
