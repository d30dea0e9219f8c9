"""Batch mean and biased variance, and how the moments of two groups become those of both."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics.core.axes import (
    Axes,
    TensorLike,
    as_dtype,
    as_floating,
    as_input,
    as_weights,
    normalize_axes,
)


class Moments(NamedTuple):
    """What a batch says of each channel; all three have the shape of the kept axes.

    Attributes:
        mean: average of the samples.
        variance: biased variance, the average squared deviation (divided by m', not m'-1).
        count: m', the number of samples behind each statistic.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


class AxisMoments(NamedTuple):
    """Moments after one more axis has been reduced; see `moments_one_axis_at_a_time`.

    Attributes:
        axis: the axis just reduced, as the input numbers it.
        mean: mean of the means so far.
        variance: biased variance so far, the sum of the two parts below.
        mean_of_variances: what varied already within the groups.
        variance_of_means: what varies between the groups along this axis.
    """

    axis: int
    mean: tf.Tensor
    variance: tf.Tensor
    mean_of_variances: tf.Tensor
    variance_of_means: tf.Tensor


class Centered(NamedTuple):
    """The input with its mean taken away, before the mean is rounded.

    Attributes:
        deviation: x - mean, in the shape of x and the statistics' dtype.
        shift: the mean, rounded, with size 1 where an axis was reduced.
        rest: what is left of the mean, likewise.
        count: m', likewise.
        weights: True where a sample counts, or None if all do.
    """

    deviation: tf.Tensor
    shift: tf.Tensor
    rest: tf.Tensor
    count: tf.Tensor
    weights: tf.Tensor | None

    @property
    def mean(self) -> tf.Tensor:
        """The mean in one number, rounded as one, with size 1 where an axis was reduced."""
        return self.shift + self.rest


def statistics_dtype(x: tf.Tensor) -> tf.DType:
    """Return the dtype of the statistics of `x`: float64 for float64, else float32.

    float16 ends at 65504, which a sum of squares passes at once, and bfloat16 keeps 8 bits.
    """
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def average(
    value: tf.Tensor, count: tf.Tensor, weights: tf.Tensor | None, axes: tuple[int, ...]
) -> tf.Tensor:
    """Return the average of `value` over `axes`, kept with size 1, over the samples that count.

    One axis is summed after another: a running float32 sum over all of them at once, 200,000
    samples in a convolution, would lose four digits.
    """
    if weights is None:
        for axis in axes:
            value = tf.reduce_mean(value, axis, keepdims=True)
        return value
    # Means of rows in which unequal numbers count would need weights; sums do not.
    total = tf.where(weights, value, tf.zeros_like(value))
    for axis in axes:
        total = tf.reduce_sum(total, axis, keepdims=True)
    return tf.math.divide_no_nan(total, count)


def center(x: tf.Tensor, axes: tuple[int, ...], mask: TensorLike, *, caller: str) -> Centered:
    """Take the mean away from `x` without losing digits to the size of the mean.

    A mean of 1e4 in float32 is known to 5e-4 only, so subtracting it leaves that error in every
    deviation. Its rounded value `shift` is subtracted first, which is exact for samples near the
    mean, and what is left of the mean, a small number, is then known to full relative precision.
    """
    x = tf.cast(x, statistics_dtype(x))
    if mask is None:
        weights, count = None, _count(x, axes)
    else:
        weights = tf.broadcast_to(as_weights(mask, x, caller=caller), tf.shape(x))
        x = without_what_is_masked_out(x, weights)
        count = tf.reduce_sum(tf.cast(weights, x.dtype), axes, keepdims=True)
    # The shift cancels from the result, so no gradient needs to flow through it.
    shift = tf.stop_gradient(average(x, count, weights, axes))
    shifted = x - shift
    rest = average(shifted, count, weights, axes)
    return Centered(shifted - rest, shift, rest, count, weights)


def without_what_is_masked_out(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return `x` with 0 for what is masked out and is no finite number.

    It would come back by the statistics or the gradient: 0 * NaN is NaN.
    """
    return tf.where(weights | tf.math.is_finite(x), x, tf.zeros_like(x))


def where_counted(
    count: tf.Tensor, new: tf.Tensor, old: tf.Tensor, *, more_than: int = 0
) -> tf.Tensor:
    """Return `new` where more samples than so many stand behind it, else `old`.

    Where the sizes of the batch are known when the graph is built, nothing is left to choose at
    each step: for a small layer, each operation is some percent of its time.
    """
    known = tf.get_static_value(count)
    if known is not None and np.all(known > more_than):
        return new
    return tf.where(count > more_than, new, old)


def check_samples(x: tf.Tensor, axes: tuple[int, ...], *, caller: str) -> None:
    """Refuse a batch that is known to be empty."""
    if 0 in (x.shape[axis] for axis in axes):
        raise ValueError(
            f"{caller}: `x` must hold at least one sample for each statistic. Received: "
            f"x.shape={tuple(x.shape)}, axes={axes}. An empty batch has no mean; leave it out."
        )


def _count(x: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
    # What is known beforehand takes no operation: this is in every step, and often traced.
    sizes: list[Any] = x.shape.as_list()
    if None in sizes:
        found = tf.shape(x, out_type=tf.int64)
        sizes = [found[axis] if size is None else size for axis, size in enumerate(sizes)]
    kept = [1 if axis in axes else size for axis, size in enumerate(sizes)]
    reduced = tf.convert_to_tensor(math.prod(sizes[axis] for axis in axes), tf.int64)
    return tf.fill(kept, tf.cast(reduced, x.dtype))


def moments(x: TensorLike, axes: Axes, *, mask: TensorLike = None) -> Moments:
    """Return mean, biased variance and number of samples of each channel.

    Implements: Alg. 1, l. 1 and 2 (mini-batch mean and variance); sec. 3.2, m' = m*p*q.

    Args:
        x: floating tensor of rank 2 or more.
        axes: the axes reduced over; negative ones count from the end.
        mask: boolean tensor over the leading axes of `x`, True where a sample counts; all by
            default.

    Returns:
        `Moments` in float64 for a float64 input and float32 otherwise, in the shape of the axes
        that are kept.

    Raises:
        ValueError: the rank is below 2; an axis is out of range, doubled, or none is named; the
            batch is empty; the mask does not fit.
        TypeError: `x` is not floating.

    Numerics:
        Two passes and a correction of the rounded mean (Chan, Golub and LeVeque, 1983), never
        E[x^2] - E[x]^2. A channel that the mask leaves without samples has mean 0, variance 0 and
        count 0. One sample has variance 0.

    Example:
        >>> mean, variance, count = moments([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], axes=[0])
        >>> mean.numpy().tolist(), variance.numpy().tolist(), count.numpy().tolist()
        ([2.5, 3.5, 4.5], [2.25, 2.25, 2.25], [2.0, 2.0, 2.0])
    """
    x = as_input(x, caller="moments")
    axes = normalize_axes(axes, x.shape.rank, caller="moments")
    check_samples(x, axes, caller="moments")
    centered = center(x, axes, mask, caller="moments")
    return _squeeze(centered, biased_variance(centered, axes), axes)


def biased_variance(centered: Centered, axes: tuple[int, ...]) -> tf.Tensor:
    """Return the average squared deviation over `axes`, kept with size 1."""
    return average(tf.square(centered.deviation), centered.count, centered.weights, axes)


def _squeeze(centered: Centered, variance: tf.Tensor, axes: tuple[int, ...]) -> Moments:
    values = (centered.mean, variance, centered.count)
    return Moments(*(tf.squeeze(value, axes) for value in values))


def unbiased_variance(variance: TensorLike, count: TensorLike) -> tf.Tensor:
    """Return the unbiased variance that belongs to a biased one.

    Implements: Alg. 2, l. 10, the factor m/(m-1).

    Args:
        variance: biased variance, a floating tensor.
        count: m', the samples behind it; broadcasts against `variance`.

    Returns:
        variance * m'/(m'-1), NaN where there are fewer than two samples: one sample says nothing
        of a spread.

    Raises:
        TypeError: `variance` is not floating.

    Example:
        >>> unbiased_variance(2.25, 2.0).numpy().item()
        4.5
    """
    variance = as_floating(variance, name="variance", caller="unbiased_variance")
    count = as_dtype(count, variance.dtype)
    # Dividing by at least 1 keeps the branch that is not taken finite, for autodiff's sake.
    corrected = variance * count / tf.maximum(count - 1, 1)
    return tf.where(count > 1, corrected, tf.constant(float("nan"), variance.dtype))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Return the moments of two groups of samples taken together.

    Implements: Chan, Golub and LeVeque (1983), the pairwise update; the law of total variance.

    Args:
        a: moments of one group.
        b: moments of the other, in the same shape and dtype.

    Returns:
        Moments of both; the variance is biased.

    Numerics:
        The result does not depend on how the samples were grouped, up to rounding. A group without
        samples changes nothing.

    Example:
        >>> both = merge_moments(moments([[1.0], [2.0]], 0), moments([[6.0]], 0))
        >>> round(both.mean.numpy().item(), 4), round(both.variance.numpy().item(), 4)
        (3.0, 4.6667)
    """
    count = a.count + b.count
    share = tf.math.divide_no_nan(b.count, count)
    delta = b.mean - a.mean
    within = (1 - share) * a.variance + share * b.variance
    return Moments(
        a.mean + delta * share,
        # Neither group has a share of 1 unless it is alone, and then the other's variance is moot.
        within + tf.square(delta) * share * (1 - share),
        count,
    )


class Joined(NamedTuple):
    """The moments of several groups of samples taken together.

    Attributes:
        mean: of all samples.
        variance: biased, of all samples.
        count: of all samples.
        apart: how far the mean of each group lies from that of all, with an axis for the groups in
            front.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    apart: tf.Tensor


def join(groups: Moments, rest: tf.Tensor | None = None) -> Joined:
    """Take the moments of several groups together; see `merge_groups`.

    Args:
        groups: with an axis for the groups in front.
        rest: what rounding left of each group's mean, likewise.
    """
    count = tf.reduce_sum(groups.count, 0)
    share = tf.math.divide_no_nan(groups.count, count)
    # Differences of means that are large and close are exact, where a mean of them all is rounded.
    common = tf.reduce_sum(share * groups.mean, 0)
    apart = groups.mean - common
    if rest is not None:
        apart += rest
    left = tf.reduce_sum(share * apart, 0)
    apart -= left
    variance = tf.reduce_sum(share * (groups.variance + tf.square(apart)), 0)
    return Joined(common + left, variance, count, apart)


def merge_groups(groups: Moments) -> Moments:
    """Return the moments of several groups of samples taken together, all at once.

    Implements: Chan, Golub and LeVeque (1983), for more than two; the law of total variance.

    Args:
        groups: moments of each group, floating, with an axis for the groups in front.

    Returns:
        Moments of all samples, without that axis; the variance is biased.

    Numerics:
        As `merge_moments`: no difference of squares, and a group without samples changes nothing,
        as long as its mean and variance are finite.

    Example:
        >>> groups = Moments(*map(tf.constant, ([1.5, 6.0], [0.25, 0.0], [2.0, 1.0])))
        >>> mean, variance, count = merge_groups(groups)
        >>> mean.numpy().item(), round(variance.numpy().item(), 4), count.numpy().item()
        (3.0, 4.6667, 3.0)
    """
    joined = join(groups)
    return Moments(joined.mean, joined.variance, joined.count)


def moments_one_axis_at_a_time(x: TensorLike, axes: Axes) -> list[AxisMoments]:
    """Reduce one axis after another, showing how means of means and variances build up.

    Implements: Alg. 1, l. 1 and 2 over several axes (sec. 3.2), by the law of total variance: the
    variance is the mean of the variances plus the variance of the means.

    Args:
        x: floating tensor of rank 2 or more.
        axes: the axes to reduce, in this order.

    Returns:
        One `AxisMoments` for each axis; the last holds what `moments(x, axes)` gives.

    Raises:
        ValueError, TypeError: as `moments`.

    Example:
        >>> x = tf.reshape(tf.range(24.0), (2, 2, 3, 2))
        >>> last = moments_one_axis_at_a_time(x, [0, 2])[-1]
        >>> last.mean_of_variances[0, 0].numpy().item(), last.variance_of_means[0, 0].numpy().item()
        (36.0, 2.6666667461395264)
    """
    x = as_input(x, caller="moments_one_axis_at_a_time")
    axes = normalize_axes(axes, x.shape.rank, caller="moments_one_axis_at_a_time")
    mean = tf.cast(x, statistics_dtype(x))
    variance = tf.zeros_like(mean)
    steps = []
    for done, axis in enumerate(axes):
        # Axes already gone shift the number of those behind them.
        position = axis - sum(gone < axis for gone in axes[:done])
        check_samples(mean, (position,), caller="moments_one_axis_at_a_time")
        between = center(mean, (position,), None, caller="moments_one_axis_at_a_time")
        variance_of_means = tf.squeeze(biased_variance(between, (position,)), position)
        mean_of_variances = tf.reduce_mean(variance, position)
        mean = tf.squeeze(between.mean, position)
        variance = mean_of_variances + variance_of_means
        steps.append(AxisMoments(axis, mean, variance, mean_of_variances, variance_of_means))
    return steps
