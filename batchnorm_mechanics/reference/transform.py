"""The transform and its gradient, one function for each step of the paper."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike as Array
from numpy.typing import NDArray

Maybe = Array | None
Axes = int | Sequence[int]
Float64 = NDArray[np.float64]
Arrays = tuple[Float64, ...]
Prepared = tuple[Float64, tuple[int, ...], NDArray[np.bool_]]


def float64(value: Array) -> Float64:
    """Return a value in float64."""
    return np.asarray(value, dtype=np.float64)


def divide(total: Array, count: Float64) -> Float64:
    """Return total / count, and 0 where count is 0."""
    return np.divide(total, count, out=np.zeros(np.shape(count)), where=count > 0)


def prepare(function: str, x: Array, axes: Axes, mask: Maybe = None) -> Prepared:
    """Return x in float64, the axes as non-negative ints in the order given, mask in x's shape."""
    x, listed = float64(x), [int(axis) for axis in np.atleast_1d(axes)]
    valid = all(-x.ndim <= axis < x.ndim for axis in listed)
    if not listed or not valid or len({axis % x.ndim for axis in listed}) < len(listed):
        expectation = f"be one or more axes in [{-x.ndim}, {x.ndim}), each once"
        hint = f"Pass axes of the input, whose shape is {x.shape}."
        raise ValueError(f"{function}: `axes` must {expectation}. Received: axes={axes!r}. {hint}")
    counted = np.asarray(True if mask is None else mask)
    if counted.dtype != np.bool_ or counted.shape != x.shape[: counted.ndim]:
        expectation = f"be boolean, of the shape of the input's first dimensions, {x.shape}"
        received = f"mask.dtype={counted.dtype}, mask.shape={counted.shape}. Cast or reshape it."
        raise ValueError(f"{function}: `mask` must {expectation}. Received: {received}")
    counted = counted.reshape(counted.shape + (1,) * (x.ndim - counted.ndim))
    return x, tuple(axis % x.ndim for axis in listed), np.broadcast_to(counted, x.shape)


def spread(value: Array, x: Float64, axes: tuple[int, ...]) -> Float64:
    """Return `value`, a scalar or of shape S, with size-1 axes in place of the reduced ones."""
    kept = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    if np.shape(value) not in ((), kept):
        expectation = f"be scalars or have the shape of the axes kept, {kept}"
        received = f"shape={np.shape(value)}. Reshape it, or change `axes`."
        raise ValueError(f"reference: parameters must {expectation}. Received: {received}")
    return np.expand_dims(np.broadcast_to(float64(value), kept), axes)


def moments(x: Array, axes: Axes, mask: Maybe = None) -> Arrays:
    """Return the mean, the biased variance and the count of the samples of each statistic.

    Implements: Alg. 1, mini-batch mean and mini-batch variance; sec. 3.2, m' = m*p*q (the count).
    Args: x of any shape; axes; mask.
    Returns: mean, biased_variance (two passes; 0 for one sample), count: float64 of shape S.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.moments([[1, 2, 3], [4, 5, 6]], axes=[0])
        (array([2.5, 3.5, 4.5]), array([2.25, 2.25, 2.25]), array([2., 2., 2.]))
    """
    x, axes, counted = prepare("moments", x, axes, mask)
    count = float64(np.sum(counted, axis=axes))
    mean = divide(np.sum(x, axis=axes, where=counted), count)
    squares = (x - np.expand_dims(mean, axes)) ** 2
    return mean, divide(np.sum(squares, axis=axes, where=counted), count), count


def unbiased_variance(biased_variance: Array, count: Array) -> Float64:
    """Return the unbiased variance, m/(m-1) times the biased one.

    Implements: Alg. 2, l. 10, the factor m/(m-1).
    Args: biased_variance and count, the number m of samples behind it: of shape S, or scalars.
    Returns: unbiased_variance: float64 of shape S, NaN where count <= 1, for none exists there.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.unbiased_variance([2.25, 0.0], count=[2, 1])
        array([4.5, nan])
    """
    variance, m = float64(biased_variance), float64(count)
    return np.where(m > 1, variance * m / np.where(m > 1, m - 1, 1), np.nan)


def merge_moments(a: Sequence[Array], b: Sequence[Array]) -> Arrays:
    """Return the moments of two groups of samples taken together.

    Implements: the law of total variance, squares around the joint mean; the paper merges nothing.
    Args: a, b: (mean, biased_variance, count) of each group, as `moments` returns them.
    Returns: mean, biased_variance, count: float64 of shape S.
    Numerics: an empty group changes nothing; two empty ones give mean 0, variance 0, count 0.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.merge_moments(([0.0], [1.0], [1]), ([4.0], [1.0], [3]))
        (array([3.]), array([4.]), array([4.]))
    """
    (mean_a, variance_a, m_a), (mean_b, variance_b, m_b) = map(float64, a), map(float64, b)
    count = m_a + m_b
    mean = divide(m_a * mean_a + m_b * mean_b, count)
    squares_a = m_a * (variance_a + (mean_a - mean) ** 2)
    squares_b = m_b * (variance_b + (mean_b - mean) ** 2)
    return mean, divide(squares_a + squares_b, count), count


def moments_one_axis_at_a_time(x: Array, axes: Axes) -> list[tuple]:
    """Return the moments after each of the axes in turn, with the two parts of each variance.

    Implements: Alg. 1, mini-batch mean and variance, by the law of total variance.
    Args: x of any shape; axes, reduced in the order given.
    Returns: a list of (axis, mean, biased_variance, mean_of_variances, variance_of_means), one per
        axis: the non-negative number of the axis in x, then float64 of the shape still left.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> print(*reference.moments_one_axis_at_a_time([[1, 2], [5, 6]], axes=[1, 0])[-1])
        0 3.5 4.25 0.25 4.0
    """
    x, axes, _ = prepare("moments_one_axis_at_a_time", x, axes)
    steps, left = [], list(range(x.ndim))
    mean, variance = x, np.zeros_like(x)  # a single element is its own mean and does not vary
    for axis in axes:
        place = left.index(axis)
        left.remove(axis)
        mean_of_variances, variance_of_means = np.mean(variance, place), np.var(mean, place)
        mean, variance = np.mean(mean, place), mean_of_variances + variance_of_means
        steps.append((axis, mean, variance, mean_of_variances, variance_of_means))
    return steps


def normalize(x: Array, mean: Array, variance: Array, axes: Axes, epsilon: float) -> Float64:
    """Return x_hat = (x - mean) / sqrt(variance + epsilon).

    Implements: Alg. 1, normalize.
    Args: x of any shape; mean and variance (any variance) of shape S, or scalars; axes; epsilon.
    Returns: x_hat: float64 of the shape of x.
    Numerics: variance 0 with epsilon 0 gives NaN or infinity, and NumPy warns.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.normalize([1, 3], mean=2, variance=1, axes=0, epsilon=3)
        array([-0.5,  0.5])
    """
    x, axes, _ = prepare("normalize", x, axes)
    return (x - spread(mean, x, axes)) / np.sqrt(spread(variance, x, axes) + epsilon)


def scale_and_shift(x_hat: Array, gamma: Maybe, beta: Maybe, axes: Axes) -> Float64:
    """Return y = gamma * x_hat + beta.

    Implements: Alg. 1, scale and shift.
    Args: x_hat of any shape; gamma and beta; axes.
    Returns: y: float64 of the shape of x_hat.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.scale_and_shift([-0.5, 0.5], gamma=2, beta=1, axes=0)
        array([0., 2.])
    """
    x_hat, axes, _ = prepare("scale_and_shift", x_hat, axes)
    gamma, beta = 1 if gamma is None else gamma, 0 if beta is None else beta
    return spread(gamma, x_hat, axes) * x_hat + spread(beta, x_hat, axes)


def forward(
    x: Array, gamma: Maybe, beta: Maybe, axes: Axes, epsilon: float, mask: Maybe = None
) -> Arrays:
    """Return the batch-normalized input and what was computed on the way, as in training.

    Implements: Alg. 1, all four lines.
    Args: x of any shape; gamma and beta; axes; epsilon; mask.
    Returns: y, mean, biased_variance, x_hat: float64; y and x_hat of the shape of x, the others S.
    Numerics: with one sample (m' = 1), x_hat is 0 and y is beta, whatever x is.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> print(*reference.forward([1, 3], gamma=2, beta=1, axes=0, epsilon=3))
        [0. 2.] 2.0 1.0 [-0.5  0.5]
    """
    x, axes, counted = prepare("forward", x, axes, mask)
    mean, biased_variance, _ = moments(x, axes, counted)
    x_hat = normalize(x, mean, biased_variance, axes, epsilon)
    return scale_and_shift(x_hat, gamma, beta, axes), mean, biased_variance, x_hat


def infer(
    x: Array, mean: Array, variance: Array, gamma: Maybe, beta: Maybe, axes: Axes, epsilon: float
) -> Float64:
    """Return the input normalized with given statistics, as in inference.

    Implements: Alg. 2, l. 11, as normalize and then scale and shift (`fold` has its closed form).
    Args: x of any shape; mean and variance of shape S, or scalars; gamma and beta; axes; epsilon.
    Returns: y: float64 of the shape of x.
    Numerics: the mean is taken away first; x * scale + offset would cancel when it is large.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.infer([1, 3], mean=2, variance=1, gamma=2, beta=1, axes=0, epsilon=3)
        array([0., 2.])
    """
    x, axes, _ = prepare("infer", x, axes)
    return scale_and_shift(normalize(x, mean, variance, axes, epsilon), gamma, beta, axes)


def fold(mean: Array, variance: Array, gamma: Maybe, beta: Maybe, epsilon: float) -> Arrays:
    """Return the scale and offset of the one linear map that inference amounts to.

    Implements: Alg. 2, l. 11: y = scale * x + offset.
    Args: mean and variance (whichever the policy returned) of shape S; gamma and beta; epsilon.
    Returns: scale, offset: float64 of shape S.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.fold(mean=[2], variance=[1], gamma=[2], beta=[1], epsilon=3)
        (array([1.]), array([-1.]))
    """
    gamma, beta = float64(1 if gamma is None else gamma), float64(0 if beta is None else beta)
    scale = gamma / np.sqrt(float64(variance) + epsilon)
    return scale, beta - scale * float64(mean)


def gradients(
    dy: Array, x: Array, gamma: Maybe, axes: Axes, epsilon: float, mask: Maybe = None
) -> dict[str, Float64]:
    """Return the gradients of the loss with respect to everything in `forward`.

    Implements: sec. 3, the six gradients, in the paper's order. With a mask, the sums that come
    from the moments run over the samples that count; all other sums run over all elements.
    Args: dy, the gradient with respect to y, and x, of one shape; gamma; axes; epsilon; mask.
    Returns: float64: d_x_hat of the shape of x, d_variance (of the biased one) and d_mean of
        shape S, d_x of the shape of x, d_gamma and d_beta of shape S.
    Numerics: where the count is 0 the moments are constants, and d_x is d_x_hat / sqrt(epsilon).

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.gradients([1, 0], [1, 3], gamma=8, axes=0, epsilon=3)["d_x"]
        array([ 1.5, -1.5])
    """
    x, axes, counted = prepare("gradients", x, axes, mask)
    dy = np.broadcast_to(float64(dy), x.shape)
    mean, variance, m = (np.expand_dims(moment, axes) for moment in moments(x, axes, counted))
    centered, deviation = x - mean, np.sqrt(variance + epsilon)
    kept = {"axis": axes, "keepdims": True}
    d_x_hat = dy * spread(1 if gamma is None else gamma, x, axes)
    d_variance = np.sum(d_x_hat * centered * -0.5 * (variance + epsilon) ** -1.5, **kept)
    variance_by_mean = divide(np.sum(-2 * centered, **kept, where=counted), m)
    d_mean = np.sum(d_x_hat * -1 / deviation, **kept) + d_variance * variance_by_mean
    through_moments = d_variance * 2 * centered * divide(1, m) + d_mean * divide(1, m)
    return {
        "d_x_hat": d_x_hat,
        "d_variance": np.squeeze(d_variance, axes),
        "d_mean": np.squeeze(d_mean, axes),
        "d_x": d_x_hat / deviation + np.where(counted, through_moments, 0),
        "d_gamma": np.sum(dy * (centered / deviation), axis=axes),
        "d_beta": np.sum(dy, axis=axes),
    }
