"""Alg. 1 and Alg. 2, l. 11 on rows of channels, in few and wide operations.

TensorFlow's operations on a CPU take a row at a time: a row of 8 channels keeps a processor that
adds 16 numbers at once waiting. Rows of channels that follow one another are therefore viewed as
one wide row; no element moves. A sum over wide rows leaves a sum for each place in the row, and
the sums of one channel are then added.

Measured beside Keras's layer in `benchmarks/worlds.md`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm_mechanics.core.moments import Moments, statistics_dtype

# elements from  width of a row to  because
# 2**15          512                beyond that, tiling the parameters costs what the width saves
# 2**14          64                 a row of 64 fills the processor's registers
# 2**12          32                 each operation takes some microseconds, whatever its width
# less           the channels       tiling costs more than it saves, as it does for a few rows
_WIDTHS = ((2**15, 512), (2**14, 64), (2**12, 32))
_FEWEST_GROUPS = 4
_SUMMED_BY_BIAS_FROM = 2**14, 8
# Below, two more operations on the batch take no longer than to choose whether they are needed.
_SMALL = 2**15

# One row after the other is added, so a sum takes fewer and still wider rows, of which the last few
# sums are added by themselves. It is as fast, and more exact.
_SUM_WIDTH = 2**15
_LEAST_ROWS = 64

# Up to this |mean|/std the mean of so many numbers, as it is rounded, is off by less than 1e-5
# standard deviations.
_LARGEST_RATIO = 4.0
_SHORT_SUM = 512


# What a size that is not known yet is taken to be, of samples as of pixels on a side.
_LIKELY = 32


def likely_elements(shape: Sequence[int | None]) -> int:
    """Return the number of elements, with a likely size where one is not known yet.

    Example:
        >>> likely_elements((60, 100)), likely_elements((None, 100))
        (6000, 3200)
    """
    return math.prod(_LIKELY if size is None else size for size in shape)


def rows_are_narrow(shape: Sequence[int | None]) -> bool:
    """Return whether rows of channels are taken together, and not one by one.

    Example:
        >>> rows_are_narrow((60, 100)), rows_are_narrow((64, 8, 8, 3))
        (False, True)
    """
    channels = shape[-1] or 1
    return channels > 1 and _width(likely_elements(shape)) // channels >= _FEWEST_GROUPS


def _width(elements: int) -> int:
    return next((width for least, width in _WIDTHS if elements >= least), 1)


class _Rows(NamedTuple):
    """How x, whose last axis alone is kept, is viewed.

    Attributes:
        shape: of x; None where a size is not known yet.
        channels: the last of it.
        groups: rows of channels in a wide row.
        summed: rows of channels in a wide row of a sum.
        samples: rows of channels in all, as an integer.
        dtype: of the statistics.
    """

    shape: tuple[int | None, ...]
    channels: int
    groups: int | tf.Tensor
    summed: int | tf.Tensor
    samples: int | tf.Tensor
    dtype: tf.DType

    @property
    def small(self) -> bool:
        return likely_elements(self.shape) < _SMALL

    @property
    def alone(self) -> bool:
        """Whether a row is one row of channels."""
        return isinstance(self.groups, int) and self.groups == 1

    @property
    def share(self) -> float | tf.Tensor:
        """1/m', what each sample weighs; infinite for an empty batch."""
        if isinstance(self.samples, int):
            return 1.0 / self.samples
        return 1.0 / tf.cast(self.samples, self.dtype)

    def count(self) -> tf.Tensor:
        if isinstance(self.samples, int):
            return tf.constant(float(self.samples), self.dtype, [self.channels])
        return tf.fill([self.channels], tf.cast(self.samples, self.dtype))

    def mask(self, weights: tf.Tensor, x: tf.Tensor) -> "_Mask":
        """Return which samples count, from a boolean for each sample, with size 1 for channels."""
        one_a_sample = tf.cast(
            tf.broadcast_to(weights, [*tf.unstack(tf.shape(x))[:-1], 1]), self.dtype
        )
        count = tf.reduce_sum(one_a_sample)
        boost = tf.math.divide_no_nan(tf.cast(self.samples, self.dtype), count)
        return _Mask(self.view(tf.broadcast_to(one_a_sample, tf.shape(x))), count, boost)

    def view(self, x: tf.Tensor) -> tf.Tensor:
        """Return x as wide rows in the statistics' dtype."""
        if len(self.shape) != 2 or not self.alone:
            x = tf.reshape(x, [-1, self.groups * self.channels])
        return tf.cast(x, self.dtype)

    def restore(self, rows: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Return wide rows in the shape and dtype of x."""
        if len(self.shape) != 2 or not self.alone:
            rows = tf.reshape(rows, tf.shape(like) if None in self.shape else self.shape)
        rows = tf.cast(rows, like.dtype)
        # One operation less where the shape was not lost.
        return rows if rows.shape == like.shape else tf.ensure_shape(rows, self.shape)

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Return one number a channel as one for each place in a wide row."""
        groups: Any = self.groups
        return values if self.alone else tf.tile(values, [groups])

    def average(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the average of each channel over all samples."""
        least, narrowest = _SUMMED_BY_BIAS_FROM
        few = likely_elements(self.shape) < least or self.channels < narrowest
        # A single channel is added up as a tree, which needs no wider rows.
        if self.channels == 1 or (few and self.alone and self.summed == 1):
            return tf.reduce_mean(rows, 0)
        # The sum over everything but channels, which is the gradient of adding a bias, is twice as
        # fast by the operation of that name as by a general reduction.
        wide = tf.reshape(rows, [-1, self.summed * self.channels])
        return self._gather(tf.raw_ops.BiasAddGrad(out_backprop=wide), self.summed)

    def average_square(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the average square of each channel over all samples."""
        if self.small and self.alone:
            return tf.reduce_mean(tf.square(rows), 0)
        return self._gather(_sum_of_squares(rows), self.groups)

    def _gather(self, sums: tf.Tensor, groups: Any) -> tf.Tensor:
        if isinstance(groups, tf.Tensor) or groups > 1:
            sums = tf.reduce_sum(tf.reshape(sums, [groups, self.channels]), 0)
        return sums * self.share

    @property
    def largest_ratio(self) -> float:
        """Up to which |mean|/std a rounded mean will do; less for a longer sum."""
        summed = 1 if isinstance(self.summed, tf.Tensor) else self.summed
        terms = likely_elements(self.shape) / (summed * self.channels)
        return _LARGEST_RATIO * min(1.0, math.sqrt(_SHORT_SUM / terms))


class _Mask(NamedTuple):
    """Which samples count.

    Attributes:
        rows: 1 where a number counts and 0 elsewhere, as wide rows.
        count: m', the samples that do.
        boost: the average over them, where the others are 0, of one over all; 0 if none counts.
    """

    rows: tf.Tensor
    count: tf.Tensor
    boost: tf.Tensor


@functools.lru_cache(maxsize=1024)
def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number up to `most`."""
    return max(k for k in range(1, max(1, most) + 1) if number % k == 0)


@tf.custom_gradient
def _sum_of_squares(rows: tf.Tensor) -> Any:
    # The norm reads once and writes nothing, where squaring writes all and reads it again. Its own
    # gradient is 0/0 where all is zero.
    squares = tf.square(tf.math.reduce_euclidean_norm(rows, 0))
    return squares, lambda slope: 2 * rows * slope


def _rows(x: tf.Tensor) -> _Rows:
    shape: list[Any] = x.shape.as_list()
    *sizes, channels = shape
    elements = likely_elements(shape)
    most = _width(elements) // channels if rows_are_narrow(shape) else 1
    known = math.prod(size for size in sizes if size is not None)
    groups: int | tf.Tensor = _divisor(known, most)
    summed: int | tf.Tensor = groups
    if elements >= _SMALL:
        summed = _divisor(known, min(_SUM_WIDTH, elements // _LEAST_ROWS) // channels)
    samples: int | tf.Tensor = known
    if None in sizes:
        samples = tf.size(x) // channels
        if 2 * groups <= most and len(sizes) > 1:
            # The known sizes have no such divisor; the largest power of two in all may be one.
            power = tf.bitwise.bitwise_and(samples, -samples)
            groups = summed = tf.clip_by_value(power, 1, 2 ** int(math.log2(most)))
    return _Rows(tuple(shape), channels, groups, summed, samples, statistics_dtype(x))


class _Centered(NamedTuple):
    """Wide rows with their mean taken away.

    Attributes:
        rows: x - mean.
        mean: of each channel.
        variance: biased.
    """

    rows: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def _center(rows: _Rows, x: tf.Tensor, mask: _Mask | None) -> _Centered:
    """Take the mean away, twice where what rounding leaves of it could be felt.

    A running sum of n equal numbers may round n times in one direction, so the mean may be off by
    n * 6e-8 of itself. Where that may be felt the mean of what is left is taken away too, until it
    is known to full relative precision. From a small input, whose sums are short, it always is.
    """

    def over_what_counts(average: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor) -> tf.Tensor:
        return average(values) if mask is None else average(values * mask.rows) * mask.boost

    # The rounded mean cancels from the result, so no gradient needs to flow through it.
    rounded = tf.stop_gradient(over_what_counts(rows.average, x))
    deviation = x - rows.spread(rounded)

    def again(times: int) -> _Centered:
        closer, mean = deviation, rounded
        for _ in range(times):
            rest = over_what_counts(rows.average, closer)
            closer, mean = closer - rows.spread(rest), mean + rest
        return _Centered(closer, mean, over_what_counts(rows.average_square, closer))

    if rows.small:
        return again(1)
    once = again(0)
    # Not beside epsilon: the sum of a constant channel is the one that rounds in one direction.
    far = tf.reduce_any(tf.square(rounded) > rows.largest_ratio**2 * once.variance)
    return _Centered(*tf.cond(far, lambda: again(2), lambda: once))


def batch_by_rows(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, Moments]:
    """Normalize by the batch's statistics, with the closed form of the gradient.

    Implements: Alg. 1; the 4th, 5th and 6th gradient of sec. 3.

    Args:
        x: floating tensor of rank 2 or more, whose last axis, of known size, is kept.
        gamma: one number a channel, in the statistics' dtype.
        beta: likewise.
        epsilon: added to the biased variance.
        weights: True where a sample counts in the statistics, with size 1 for the channels and
            where it is the same along an axis; None if all do. All of `x` is finite then.

    Returns:
        y in the shape and dtype of `x`, and the batch's moments with the biased variance.
    """
    rows = _rows(x)
    mask = None if weights is None else rows.mask(weights, x)

    @tf.custom_gradient
    def run(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[Any, Any]:
        deviation, mean, variance = _center(rows, rows.view(x), mask)
        inverse_std = tf.math.rsqrt(variance + epsilon)
        scale = inverse_std * gamma
        y = deviation * rows.spread(scale) + rows.spread(beta)

        def gradient(
            dy: tf.Tensor, *_of_moments: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            slope = rows.view(dy)
            average = rows.average(slope)
            # The averages of dy and of dy * x_hat are what the batch's statistics send back.
            along = rows.average(slope * deviation) * inverse_std
            by_variance, by_mean = along * inverse_std, average
            if mask is not None:
                by_variance, by_mean = by_variance * mask.boost, by_mean * mask.boost
            lost = deviation * rows.spread(by_variance) + rows.spread(by_mean)
            if mask is not None:
                # A sample that did not count in the statistics sends no gradient through them.
                lost *= mask.rows
            dx = (slope - lost) * rows.spread(scale)
            count = tf.cast(rows.samples, rows.dtype)
            return rows.restore(dx, x), along * count, average * count

        return (rows.restore(y, x), mean, variance), gradient

    y, *moments = run(x, gamma, beta)
    mean, variance = map(tf.stop_gradient, moments)
    count = rows.count() if mask is None else tf.fill([rows.channels], mask.count)
    return y, Moments(mean, variance, count)


def normalize_rows(
    x: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    *,
    by: Callable[..., tf.Tensor] | None = None,
) -> tf.Tensor:
    """Normalize by given statistics, folded, with the closed form of the gradient.

    Implements: Alg. 2, l. 11.

    Args:
        x: as in `batch_by_rows`.
        mean: one number a channel, in the statistics' dtype.
        variance: likewise.
        gamma: likewise.
        beta: likewise.
        epsilon: added to the variance.
        by: another function of these six that gives y; the gradient is the one of this function.

    Returns:
        y in the shape and dtype of `x`.
    """
    rows = _rows(x)

    @tf.custom_gradient
    def run(
        x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> Any:
        inverse_std = tf.math.rsqrt(variance + epsilon)
        scale = inverse_std * gamma
        if by is None:
            offset = beta - mean * scale
            y = rows.restore(rows.view(x) * rows.spread(scale) + rows.spread(offset), x)
        else:
            y = by(x, mean, variance, gamma, beta, epsilon)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            slope = rows.view(dy)
            count = tf.cast(rows.samples, rows.dtype)
            d_beta = rows.average(slope) * count
            # Nobody computes what nobody asks for: in a graph all but dx goes for a frozen layer.
            along = rows.average(slope * (rows.view(x) - rows.spread(mean))) * count
            d_gamma = along * inverse_std
            d_variance = -0.5 * d_gamma * gamma * tf.square(inverse_std)
            dx = rows.restore(slope * rows.spread(scale), x)
            return dx, -d_beta * scale, d_variance, d_gamma, d_beta

        return y, gradient

    return run(x, mean, variance, gamma, beta)
