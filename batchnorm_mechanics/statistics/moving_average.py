"""Exponential moving averages of batch statistics, plain and with the start corrected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm_mechanics.core.axes import as_dtype
from batchnorm_mechanics.core.moments import unbiased_variance, where_counted
from batchnorm_mechanics.statistics.policy import (
    Policy,
    Statistics,
    initial_statistics,
    spread_count,
)


class AverageState(NamedTuple):
    """State of `ExponentialMovingAverage`: the averages themselves.

    Attributes:
        mean: in the shape of the kept axes.
        variance: likewise, biased or unbiased as the policy says.
    """

    mean: tf.Tensor
    variance: tf.Tensor


class DebiasedState(NamedTuple):
    """State of `DebiasedMovingAverage`; all fields have the shape of the kept axes.

    Attributes:
        mean: weighted mean of the batch means so far.
        variance: weighted mean of the batch variances so far.
        mean_weight: 1 - decay**n after n batches, the weight that lies on batches and not on the
            start.
        variance_weight: likewise; it lags where a batch of one sample had no unbiased variance.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    mean_weight: tf.Tensor
    variance_weight: tf.Tensor


def _check_decay(policy: str, decay: object, *, one_is_allowed: bool) -> None:
    if isinstance(decay, float | int) and 0 <= decay <= 1 and (one_is_allowed or decay < 1):
        return
    raise ValueError(
        f"{policy}: `decay` must lie in [0, 1{']' if one_is_allowed else ')'}. Received: "
        f"decay={decay!r}. It is the weight of the old value: Keras's momentum, and 1 minus "
        "PyTorch's."
    )


def _batch_variance(
    variance: tf.Tensor, count: tf.Tensor, *, unbiased: bool
) -> tuple[tf.Tensor, int]:
    """Return the batch's variance of the wanted kind, and the count above which there is one."""
    if unbiased:
        return unbiased_variance(variance, count), 1
    return variance, 0


@dataclass(frozen=True)
class ExponentialMovingAverage(Policy):
    """Average that forgets: new = decay * old + (1 - decay) * batch.

    Implements: sec. 3.1, "we use moving averages instead", with Keras's weights.

    The average starts at mean 0 and variance 1, and that start weighs decay**n after n batches:
    60 % after 50 batches with decay 0.99. `DebiasedMovingAverage` corrects it.

    Args:
        decay: weight of the old value, in [0, 1]: Keras's `momentum`, and 1 minus PyTorch's.
        unbiased: average the unbiased variance, times m'/(m'-1), as PyTorch does, and not the
            biased one, as Keras 3 does. A batch of one sample, which has no unbiased variance, then
            leaves the variance as it was.

    Example:
        >>> policy = ExponentialMovingAverage(decay=0.9)
        >>> state = policy.update(policy.init([1]), mean=[10.0], variance=[4.0], count=60)
        >>> [value.numpy().round(4).tolist() for value in policy.read(state)]
        [[1.0], [1.3]]
    """

    decay: float = 0.99
    unbiased: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_decay("ExponentialMovingAverage", self.decay, one_is_allowed=True)

    @property
    def keeps_unbiased_variance(self) -> bool:
        """Whether it averages the unbiased variance; see `Policy`."""
        return self.unbiased

    @property
    def formula(self) -> str:
        """The two terms of the average; see `Policy`."""
        which = "unbiased" if self.unbiased else "biased"
        return f"{self.decay:g} · before + {1 - self.decay:.6g} · batch ({which} variance)"

    def weight_of_start(self, updates: int) -> float:
        """Return decay**updates; see `Policy.weight_of_start`."""
        return self.decay**updates

    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> AverageState:
        """Return mean 0 and variance 1; see `Policy.init`."""
        return AverageState(*initial_statistics(shape, dtype))

    def update(self, state: AverageState, mean: Any, variance: Any, count: Any) -> AverageState:
        """Return the averages after one more batch; see `Policy.update`."""
        dtype = state.mean.dtype
        count = spread_count(count, state.mean, dtype)
        batch_variance, more_than = _batch_variance(
            as_dtype(variance, dtype), count, unbiased=self.unbiased
        )
        new_mean = self._average(state.mean, as_dtype(mean, dtype))
        new_variance = self._average(state.variance, batch_variance)
        return AverageState(
            where_counted(count, new_mean, state.mean),
            where_counted(count, new_variance, state.variance, more_than=more_than),
        )

    def _average(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        return self.decay * old + (1 - self.decay) * new


@dataclass(frozen=True)
class DebiasedMovingAverage(Policy):
    """Exponential moving average whose start is corrected, for mean and variance alike.

    Implements: the bias correction of Kingma and Ba (arXiv 1412.6980, sec. 3), applied to the
    moving averages of sec. 3.1.

    The batches alone are averaged, with weights decay**age that add to one: after one batch the
    reading is that batch's statistics, and after many it is `ExponentialMovingAverage`'s.

    Args:
        decay: weight of the old value, in [0, 1).
        unbiased: average the unbiased variance; see `ExponentialMovingAverage`.

    Example:
        >>> policy = DebiasedMovingAverage(decay=0.9)
        >>> state = policy.update(policy.init([1]), mean=[10.0], variance=[4.0], count=60)
        >>> [value.numpy().round(4).tolist() for value in policy.read(state)]
        [[10.0], [4.0]]
    """

    decay: float = 0.99
    unbiased: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_decay("DebiasedMovingAverage", self.decay, one_is_allowed=False)

    @property
    def keeps_unbiased_variance(self) -> bool:
        """Whether it averages the unbiased variance; see `Policy`."""
        return self.unbiased

    def settled(self, statistics: Statistics, count: Any, batches: int = 1) -> DebiasedState:
        """Return a state all of whose weight lies on samples; see `Policy.settled`.

        As after one batch, the next one would push them out.
        """
        state = super().settled(statistics, count, batches)
        ones = tf.ones_like(state.mean_weight)
        return state._replace(mean_weight=ones, variance_weight=ones)

    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> DebiasedState:
        """Return mean 0 and variance 1, both of weight 0; see `Policy.init`."""
        zeros = tf.zeros(shape, dtype)
        return DebiasedState(*initial_statistics(shape, dtype), zeros, zeros)

    def update(self, state: DebiasedState, mean: Any, variance: Any, count: Any) -> DebiasedState:
        """Return the averages after one more batch; see `Policy.update`."""
        dtype = state.mean.dtype
        count = spread_count(count, state.mean, dtype)
        batch_variance, more_than = _batch_variance(
            as_dtype(variance, dtype), count, unbiased=self.unbiased
        )
        new_mean, mean_weight = self._average(
            state.mean, as_dtype(mean, dtype), state.mean_weight, count > 0
        )
        new_variance, variance_weight = self._average(
            state.variance, batch_variance, state.variance_weight, count > more_than
        )
        return DebiasedState(new_mean, new_variance, mean_weight, variance_weight)

    def _average(
        self, old: tf.Tensor, new: tf.Tensor, weight: tf.Tensor, present: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        new_weight = self.decay * weight + (1 - self.decay)
        # The average is stored corrected, so the old value weighs what stands behind it.
        share = (1 - self.decay) / new_weight
        return (
            tf.where(present, (1 - share) * old + share * new, old),
            tf.where(present, new_weight, weight),
        )
