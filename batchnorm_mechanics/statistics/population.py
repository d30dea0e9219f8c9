"""Statistics of the whole population: Algorithm 2's average of batches, and exact pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm_mechanics.core.axes import as_dtype
from batchnorm_mechanics.core.moments import Moments, merge_moments
from batchnorm_mechanics.statistics.policy import (
    Policy,
    Statistics,
    initial_statistics,
    spread_count,
)

# Counts are kept in float64: float32 stops counting in steps of 60 at 1e9 samples, which a
# convolution reaches in an epoch. The arithmetic follows suit, since it is per channel and cheap.
_EXACT = tf.float64


class BatchesState(NamedTuple):
    """State of `AverageOfBatches`; all fields have the shape of the kept axes.

    Attributes:
        mean: average of the batch means, weighted by samples.
        variance: unbiased, pooled within the batches.
        count: samples seen, float64.
        degrees_of_freedom: samples seen less batches seen, float64.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    degrees_of_freedom: tf.Tensor


class PopulationState(NamedTuple):
    """State of `PooledPopulation`; all fields have the shape of the kept axes.

    Attributes:
        mean: of all samples.
        variance: biased, of all samples.
        count: samples seen, float64.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


@dataclass(frozen=True)
class AverageOfBatches(Policy):
    """Average the means and the unbiased variances of the batches, as the paper does.

    Implements: Alg. 2, l. 10: E[x] = E_B[mean_B], Var[x] = m/(m-1) * E_B[variance_B].

    Batches of unequal size are weighted by what they know: the mean by samples, the variance by
    degrees of freedom, sum(m * variance_B) / sum(m - 1), which is the paper's formula when all
    have m samples. A batch of one sample says nothing of the variance and changes only the mean;
    until a batch has had two, the variance stays 1.

    The variance *between* the batch means is not in it. With shuffled batches its expectation is
    the population variance all the same; with sorted ones it is too small: see `PooledPopulation`.
    A batch is what one step of training sees: the parts of several replicas are one.

    Example:
        >>> policy = AverageOfBatches()
        >>> state = policy.init([1])
        >>> for mean, variance in [(20.0, 214.5), (21.5, 194.5833), (25.4167, 150.5764)]:
        ...     state = policy.update(state, [mean], [variance], count=12)
        >>> [value.numpy().round(4).tolist() for value in policy.read(state)]
        [[22.3056], [203.5126]]
    """

    @property
    def keeps_unbiased_variance(self) -> bool:
        """Yes, as the paper does; see `Policy`."""
        return True

    def settled(self, statistics: Statistics, count: Any, batches: int = 1) -> BatchesState:
        """Return a state that knows how many batches there were; see `Policy.settled`."""
        state = super().settled(statistics, count, batches)
        return state._replace(degrees_of_freedom=state.count - batches)

    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> BatchesState:
        """Return mean 0 and variance 1, with nothing behind them; see `Policy.init`."""
        none = tf.zeros(shape, _EXACT)
        return BatchesState(*initial_statistics(shape, dtype), none, none)

    def update(self, state: BatchesState, mean: Any, variance: Any, count: Any) -> BatchesState:
        """Return the averages after one more batch; see `Policy.update`."""
        count = spread_count(count, state.mean, _EXACT)
        freedom = tf.maximum(count - 1, 0)
        mean, variance = as_dtype(mean, _EXACT), as_dtype(variance, _EXACT)
        return self._with(state, count * mean, count, count * variance, freedom)

    def merge(self, state: BatchesState, other: BatchesState) -> BatchesState:
        """Return the averages over the batches of two states; see `Policy.merge`.

        Args:
            state: after some batches.
            other: after others, in the same shape.

        Returns:
            The state after all of them, in the dtypes of `state`.

        Example:
            >>> policy = AverageOfBatches()
            >>> a = policy.update(policy.init([1]), [1.0], [2.0], count=3)
            >>> b = policy.update(policy.init([1]), [4.0], [0.0], count=3)
            >>> [value.numpy().tolist() for value in policy.read(policy.merge(a, b))]
            [[2.5], [1.5]]
        """
        return self._with(
            state,
            other.count * tf.cast(other.mean, _EXACT),
            other.count,
            other.degrees_of_freedom * tf.cast(other.variance, _EXACT),
            other.degrees_of_freedom,
        )

    @staticmethod
    def _with(
        state: BatchesState,
        total: tf.Tensor,
        count: tf.Tensor,
        squares: tf.Tensor,
        degrees_of_freedom: tf.Tensor,
    ) -> BatchesState:
        """Add samples of this sum, and of this sum of squared deviations within their batches."""
        dtype = state.mean.dtype
        new_count = state.count + count
        new_freedom = state.degrees_of_freedom + degrees_of_freedom
        new_mean = tf.math.divide_no_nan(
            state.count * tf.cast(state.mean, _EXACT) + total, new_count
        )
        new_variance = tf.math.divide_no_nan(
            state.degrees_of_freedom * tf.cast(state.variance, _EXACT) + squares, new_freedom
        )
        return BatchesState(
            tf.where(count > 0, tf.cast(new_mean, dtype), state.mean),
            tf.where(degrees_of_freedom > 0, tf.cast(new_variance, dtype), state.variance),
            new_count,
            new_freedom,
        )


@dataclass(frozen=True)
class PooledPopulation(Policy):
    """Exact mean and biased variance of all samples, as if they had come in one batch.

    Implements: the population statistics that Alg. 2, l. 10 estimates, merged exactly by Chan,
    Golub and LeVeque's update: the variance between the batch means is in it.

    Batches may have any size and order, and two states may be merged; the result is the same up to
    rounding.

    Example:
        >>> policy = PooledPopulation()
        >>> state = policy.init([1])
        >>> for mean, variance in [(20.0, 214.5), (21.5, 194.5833), (25.4167, 150.5764)]:
        ...     state = policy.update(state, [mean], [variance], count=12)
        >>> [value.numpy().round(3).tolist() for value in policy.read(state)]
        [[22.306], [191.768]]
    """

    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> PopulationState:
        """Return mean 0 and variance 1, with nothing behind them; see `Policy.init`."""
        return PopulationState(*initial_statistics(shape, dtype), tf.zeros(shape, _EXACT))

    def update(
        self, state: PopulationState, mean: Any, variance: Any, count: Any
    ) -> PopulationState:
        """Return the statistics of all samples, this batch's included; see `Policy.update`."""
        count = spread_count(count, state.mean, _EXACT)
        batch = PopulationState(as_dtype(mean, _EXACT), as_dtype(variance, _EXACT), count)
        return self.merge(state, batch)

    def merge(self, state: PopulationState, other: PopulationState) -> PopulationState:
        """Return the statistics of two groups of samples taken together.

        Args:
            state: one group's state.
            other: the other's, in the same shape.

        Returns:
            The state of all samples, in the dtypes of `state`.

        Example:
            >>> policy = PooledPopulation()
            >>> a = policy.update(policy.init([1]), [1.5], [0.25], count=2)
            >>> b = policy.update(policy.init([1]), [6.0], [0.0], count=1)
            >>> [value.numpy().round(4).tolist() for value in policy.read(policy.merge(a, b))]
            [[3.0], [4.6667]]
        """
        exact = [Moments(*(tf.cast(field, _EXACT) for field in group)) for group in (state, other)]
        merged = merge_moments(*exact)
        dtype = state.mean.dtype
        return PopulationState(
            tf.where(other.count > 0, tf.cast(merged.mean, dtype), state.mean),
            tf.where(other.count > 0, tf.cast(merged.variance, dtype), state.variance),
            merged.count,
        )
