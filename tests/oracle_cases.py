"""Data, axes and error bounds for the comparisons with the float64 oracle."""

import re

import ml_dtypes
import numpy as np

# Every rank from 2 to 6; all six sets of axes of the source's rank-4 example; negative axes, axes
# out of order, and all axes at once.
LAYOUTS = [
    ((5, 3), [0]),
    ((3, 5), [1]),
    ((5, 3), [-2]),
    ((4, 3), [0, 1]),
    ((4, 5, 3), [0, 1]),
    ((4, 3, 5), [2, 0]),
    ((4, 5, 3), 1),
    ((3, 4, 5, 2), [0]),
    ((3, 4, 5, 2), [1]),
    ((3, 4, 5, 2), [2]),
    ((2, 3, 2, 5), [3]),
    ((3, 4, 5, 2), [0, 2]),
    ((3, 4, 5, 2), [0, 1, 2]),
    ((3, 2, 4, 5), [0, -1, -2]),
    ((3, 2, 2, 3, 2), [0, 1, 2, 3]),
    ((3, 2, 2, 3, 2), [0, 2, 3, 4]),
    ((2, 3, 1, 2, 2, 2), [0, 3, 5]),
]
IDS = [f"{len(shape)}d-axes={axes}".replace(" ", "") for shape, axes in LAYOUTS]

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


def whole(message):
    """A pattern for pytest.raises that matches this message and nothing more."""
    return f"^{re.escape(message)}$"


def kept(shape, axes):
    """The shape of the statistics."""
    reduced = {axis % len(shape) for axis in np.atleast_1d(axes)}
    return tuple(size for axis, size in enumerate(shape) if axis not in reduced)


def count_of(shape, axes):
    """m', the samples behind each statistic."""
    return int(np.prod(shape)) // max(1, int(np.prod(kept(shape, axes))))


def data(rng, shape, offset=0.0, dtype="float64"):
    """Numbers of standard deviation about 1 around an offset, each channel with its own spread."""
    spread = np.linspace(0.5, 1.5, shape[-1])
    return (offset + spread * rng.normal(size=shape)).astype(DTYPES[dtype])


def random_mask(rng, shape):
    """A mask over all axes but the last, with at least one sample in and one out."""
    mask = rng.random(shape[:-1]) < 0.7
    mask.flat[0], mask.flat[-1] = True, False
    return mask


def float64(value):
    """A tensor's or array's value, for comparing."""
    return np.asarray(value).astype(np.float64)


def resolution(dtype):
    """The distance from 1 to the next number: twice the largest relative error of one rounding."""
    return float(ml_dtypes.finfo(DTYPES[dtype]).eps)


def wide(dtype):
    """The type in which statistics of this type are kept."""
    return "float64" if dtype == "float64" else "float32"


def assert_within(actual, expected, bound, case=""):
    """Compare shapes and values; `bound` is the largest absolute error, one or for each element."""
    actual, expected = float64(actual), float64(expected)
    assert actual.shape == expected.shape, f"{case}: {actual.shape} is not {expected.shape}"
    bound = np.broadcast_to(bound, actual.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(actual - expected)
    # Written so that a NaN on either side fails; infinities are fine where both have them.
    wrong = ~((actual == expected) | (error <= bound))
    assert not np.any(wrong), (
        f"{case}: {np.sum(wrong)} of {wrong.size} are off, the first by {error[wrong][0]:.3g} "
        f"where {bound[wrong][0]:.3g} is due: "
        f"{actual[wrong][0]!r} is not {expected[wrong][0]!r}"
    )


def rounding(dtype, operations, scale):
    """The bound that so many roundings of values of this size can add up to.

    A sum of m terms makes m - 1 roundings whatever its order, each at most half a resolution of
    the sum of the terms' sizes; `operations` counts the roundings on the longest way.
    """
    return 0.5 * resolution(dtype) * operations * np.abs(scale)


def largest(value, axes):
    """The largest size in each channel, with size 1 where an axis is reduced."""
    value = np.abs(value)
    return np.max(value, axis=tuple(np.atleast_1d(axes) % value.ndim), keepdims=True)


def spread(statistic, shape, axes):
    """A statistic with size 1 where an axis is reduced."""
    reduced = {axis % len(shape) for axis in np.atleast_1d(axes)}
    sizes = [1 if axis in reduced else size for axis, size in enumerate(shape)]
    return np.broadcast_to(statistic, kept(shape, axes)).reshape(sizes)


def oracle_slip(x, variance, epsilon, axes):
    """How far the oracle's own x_hat may be off: it adds up x as it comes, in float64.

    In the statistics' shape but for size 1 where an axis is reduced; judging float64 at offset 1e4
    needs it, since there the code under test errs less than its judge.
    """
    of_mean = rounding("float64", count_of(x.shape, axes) + 4, largest(float64(x), axes))
    return of_mean / np.sqrt(spread(variance, x.shape, axes) + epsilon)
