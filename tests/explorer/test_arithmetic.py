"""The page's arithmetic, run in Node.js, beside `core` bit for bit and beside the oracle.

Bit for bit means what it says where `core` computes one number after another: up to 7 statistics
(TensorFlow's vectors hold 8) that stand beside one another in memory. Elsewhere TensorFlow sums in
vectors, or takes 1/sqrt from a processor's estimate, and the last digits differ; the distance is
then counted in units in the last place of the largest term that went into the number. So it is for
what comes of `inverse_std**3` in the one case of some hundred in which TensorFlow's power is not
the nearest number; the page's always is.
"""

import platform
from typing import NamedTuple

import node
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics import core, reference, statistics

# The largest seen is 4.5.
ULPS = 8
VECTORS_OF_8 = platform.machine().lower() in ("x86_64", "amd64")
GRADIENTS = {
    "d_x_hat": "dXHat",
    "d_variance": "dVariance",
    "d_mean": "dMean",
    "d_x": "dX",
    "d_gamma": "dGamma",
    "d_beta": "dBeta",
}
OF_A_POWER = {"d_variance", "d_mean", "d_x"}


@pytest.fixture(scope="module")
def page():
    with node.arithmetic() as served:
        yield served


class Case(NamedTuple):
    x: np.ndarray
    dy: np.ndarray
    axes: list
    epsilon: float
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def parameters(self):
        return {"gamma": self.gamma, "beta": self.beta}

    @property
    def options(self):
        return {"axes": self.axes, "epsilon": self.epsilon}


def drawn(rng, *, matrix):
    """A batch as rooms 1 and 3 have it, or one of rank 3 or 4 with some axes reduced."""
    rank = 2 if matrix else int(rng.integers(3, 5))
    most = {2: (16, 8), 3: (6, 6, 6), 4: (4, 4, 4, 4)}[rank]
    shape = tuple(int(rng.integers(1, size + 1)) for size in most)
    axes = [0]
    if not matrix:
        axes = sorted(int(axis) for axis in rng.choice(rank, rng.integers(1, rank), replace=False))
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    offset, scale = 10 ** rng.uniform(-2, 4), 10 ** rng.uniform(-2, 2)

    def normal(*size):
        return rng.normal(size=size).astype(np.float32)

    return Case(
        x=(offset * rng.choice([-1, 1]) + scale * normal(*shape)).astype(np.float32),
        dy=normal(*shape),
        axes=axes,
        epsilon=float(10 ** rng.uniform(-5, -1)),
        gamma=normal(*kept),
        beta=normal(*kept),
        mean=normal(*kept),
        variance=rng.uniform(0, 3, kept).astype(np.float32),
    )


def by_core(case):
    y, cache = core.forward(case.x, case.gamma, case.beta, axes=case.axes, epsilon=case.epsilon)
    inferred = core.infer(
        case.x,
        case.mean,
        case.variance,
        case.gamma,
        case.beta,
        axes=case.axes,
        epsilon=case.epsilon,
    )
    found = {
        "mean": cache.mean,
        "deviation": cache.deviation,
        "variance": cache.variance,
        "inverse_std": cache.inverse_std,
        "x_hat": cache.x_hat,
        "y": y,
        "inferred": inferred,
        **core.gradients(case.dy, cache)._asdict(),
    }
    return {name: value.numpy() for name, value in found.items()}


def by_page(page, case):
    known = {"x": case.x, "options": case.options}
    forward = page("forward", parameters=case.parameters, **known)
    moving = {**case.parameters, "mean": case.mean, "variance": case.variance}
    gradients = page("gradients", dy=case.dy, parameters=case.parameters, **known)
    return {
        "mean": forward["mean"],
        "deviation": forward["deviation"],
        "variance": forward["variance"],
        "inverse_std": forward["inverseStd"],
        "x_hat": forward["xHat"],
        "y": forward["y"],
        "inferred": page("infer", parameters=moving, **known)["y"],
        **{name: gradients[camel] for name, camel in GRADIENTS.items()},
    }


def sizes(case, found):
    """The largest term that goes into each output, for each statistic or for all of them."""
    axes = tuple(case.axes)

    def largest(value):
        return np.max(np.abs(value), axis=axes, keepdims=True)

    def total(value):
        return np.sum(np.abs(value), axis=axes, keepdims=True)

    def aligned(value):
        return np.expand_dims(value, axes)

    inverse, deviation, x_hat = (found[name] for name in ("inverse_std", "deviation", "x_hat"))
    gamma, beta = aligned(np.abs(case.gamma)), aligned(np.abs(case.beta))
    d_x_hat, d_variance = found["d_x_hat"], aligned(np.abs(found["d_variance"]))
    count = case.x.size / inverse.size
    slope = total(d_x_hat * deviation) * inverse**3
    d_mean = total(d_x_hat) * inverse + d_variance * total(deviation) / count
    given = (case.x - aligned(case.mean)) / np.sqrt(aligned(case.variance) + case.epsilon)
    return {
        "mean": largest(case.x),
        "deviation": largest(deviation) + np.spacing(largest(case.x)),
        "variance": largest(deviation) ** 2,
        "inverse_std": inverse,
        "x_hat": largest(x_hat),
        "y": gamma * largest(x_hat) + beta,
        "inferred": gamma * np.abs(given) + beta,
        "d_x_hat": np.abs(d_x_hat),
        "d_variance": slope,
        "d_mean": d_mean,
        "d_x": largest(d_x_hat) * inverse + (slope * largest(deviation) + d_mean) / count,
        "d_gamma": total(case.dy * x_hat),
        "d_beta": total(case.dy),
    }


def apart(expected, found, size):
    """How many units in the last place of `size` two results are apart, at most."""
    unit = np.spacing(np.maximum(np.abs(size), np.finfo(np.float32).tiny).astype(np.float32))
    distance = np.abs(expected.astype(np.float64).reshape(found.shape) - found)
    return float(np.max(distance / np.broadcast_to(unit, found.shape), initial=0.0))


def check_against_core(page, seed, count):
    rng = np.random.default_rng(seed)
    exact = powers = 0
    for number in range(count):
        case = drawn(rng, matrix=number % 2 == 0)
        expected, found = by_core(case), by_page(page, case)
        size = sizes(case, expected)
        inverse = expected["inverse_std"]
        cube = tf.pow(inverse, 3.0).numpy()
        nearest = np.array_equal(cube, (inverse.astype(np.float64) ** 3).astype(np.float32))
        beside = 2 <= case.gamma.size < 8 and VECTORS_OF_8
        for name, value in expected.items():
            # A gradient's sum runs over all axes at once.
            in_order = beside and (case.x.ndim == 2 or name not in GRADIENTS)
            if in_order and (name not in OF_A_POWER or nearest):
                wanted = value.astype(np.float64).reshape(found[name].shape)
                np.testing.assert_array_equal(found[name], wanted, err_msg=f"{name}, case {number}")
                exact += 1
                powers += name in OF_A_POWER
            distance = apart(value, found[name], size[name])
            assert distance <= ULPS, f"{name}: {distance} in case {number}"
    # Most of what is shown on the page is compared bit for bit.
    assert not VECTORS_OF_8 or (exact > 5 * count and powers > 0.9 * count)


def test_forward_inference_and_the_six_gradients_are_those_of_core(page):
    check_against_core(page, seed=1, count=300)


@pytest.mark.thorough
@pytest.mark.timeout(900)  # three minutes in all, most of them TensorFlow's
@pytest.mark.parametrize("seed", range(2, 6))
def test_they_are_in_10000_cases(page, seed):
    check_against_core(page, seed=seed, count=2_500)


def test_numbers_with_more_digits_than_float32_has_are_rounded_first(page, rng):
    typed = rng.normal(3.0, 1.0, (6, 3))
    settings = {
        "parameters": {"gamma": np.full(3, 0.1), "beta": np.full(3, 0.7)},
        "options": {"axes": [0], "epsilon": 1e-3},
    }
    y, _ = core.forward(typed.astype(np.float32), 0.1, 0.7, axes=[0])
    np.testing.assert_array_equal(page("forward", x=typed, **settings)["y"], y.numpy())


POLICIES = {
    "exponentialMovingAverage": (statistics.ExponentialMovingAverage, {"decay": 0.99}),
    "reversed": (statistics.ExponentialMovingAverage, {"decay": 0.01}),
    "as PyTorch": (statistics.ExponentialMovingAverage, {"decay": 0.9, "unbiased": True}),
    "debiasedMovingAverage": (statistics.DebiasedMovingAverage, {"decay": 0.99}),
    "debiased, unbiased": (statistics.DebiasedMovingAverage, {"decay": 0.5, "unbiased": True}),
    "averageOfBatches": (statistics.AverageOfBatches, {}),
    "pooledPopulation": (statistics.PooledPopulation, {}),
}
NAMES = {
    statistics.ExponentialMovingAverage: "exponentialMovingAverage",
    statistics.DebiasedMovingAverage: "debiasedMovingAverage",
    statistics.AverageOfBatches: "averageOfBatches",
    statistics.PooledPopulation: "pooledPopulation",
}


def check_policy(page, which, *, seed, sequences, batches):
    kind, settings = POLICIES[which]
    rng = np.random.default_rng(seed)
    policy = kind(**settings)
    for _ in range(sequences):
        channels = int(rng.integers(1, 9))
        taken = [
            {
                "mean": (10 * rng.normal(size=channels)).astype(np.float32),
                "variance": rng.uniform(0, 9, channels).astype(np.float32),
                "count": int(rng.integers(0, 20)),
            }
            for _ in range(batches)
        ]
        found = page("policy", name=NAMES[kind], settings=settings, start=None, batches=taken)
        state = policy.init([channels])
        for time, batch in enumerate(taken):
            state = policy.update(state, batch["mean"], batch["variance"], batch["count"])
            for name in ("mean", "variance"):
                wanted = getattr(state, name).numpy().astype(np.float64)
                np.testing.assert_array_equal(found[name][time], wanted, err_msg=f"{name} {time}")


@pytest.mark.parametrize("which", POLICIES)
def test_a_policy_follows_ours_bit_for_bit(page, which):
    check_policy(page, which, seed=3, sequences=4, batches=20)


@pytest.mark.thorough
@pytest.mark.parametrize("which", POLICIES)
def test_a_policy_does_in_10000_batches(page, which):
    check_policy(page, which, seed=4, sequences=200, batches=50)


@pytest.mark.parametrize("axes", [[0], [3], [0, 2], [2, 0], [0, 1, 2], [2, 1, 0]])
def test_axes_taken_one_after_another_are_those_of_core_and_of_the_oracle(page, axes, rng):
    x = rng.normal(size=(2, 2, 3, 2)).astype(np.float32)
    steps = zip(
        page("axes", x=x, axes=axes),
        core.moments_one_axis_at_a_time(x, axes),
        reference.moments_one_axis_at_a_time(x, axes),
        strict=True,
    )
    for found, ours, (_, *oracle) in steps:
        names = ("mean", "variance", "meanOfVariances", "varianceOfMeans")
        for name, value, right in zip(names, ours[1:], oracle, strict=True):
            np.testing.assert_allclose(found[name].ravel(), value.numpy().ravel(), rtol=3e-7)
            np.testing.assert_allclose(found[name].ravel(), right.ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_half_precision_is_tensorflow_s(page, dtype, rng):
    wide = np.concatenate(
        [
            rng.normal(size=500) * 10.0 ** rng.uniform(-12, 6, 500),
            [0.0, -0.0, 1.0, 65504, 65519.9, 65520, 3.4e38, 2**-24, 2**-25, 2**-25 * 1.01, np.inf],
            1 + np.arange(64) / 4096,
        ]
    ).astype(np.float32)
    expected = tf.cast(tf.cast(wide, dtype), tf.float32).numpy()
    np.testing.assert_array_equal(page("round", x=wide, dtype=dtype), expected)
