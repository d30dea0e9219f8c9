"""The contract of a statistics policy: pure functions over an explicit state."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from batchnorm_mechanics.core.axes import as_dtype


class Statistics(NamedTuple):
    """What inference normalizes with.

    Attributes:
        mean: in the shape of the kept axes.
        variance: likewise; the policy's documentation says whether biased or unbiased.
    """

    mean: tf.Tensor
    variance: tf.Tensor


class Policy(ABC):
    """How the moments of many batches become the statistics of inference.

    A policy is a frozen dataclass of settings with `init`, `update` and `read`. It holds no state:
    the state is a NamedTuple of tensors that the caller keeps, so that a layer can hold it in
    variables and a test can hold it in its hand.

    Every state begins with the fields `mean` and `variance`, which are at any time what inference
    should use; further fields count what stands behind them. A layer can therefore keep the two
    where Keras keeps `moving_mean` and `moving_variance`. Before the first update they are mean 0
    and variance 1, as in Keras: inference then returns its input, up to epsilon.

    A statistic with no sample behind it (`count` 0, as under an empty mask) leaves its part of the
    state as it was.

    `merge` is for batches that were seen apart, as on several machines. Where the order of batches
    counts, as it does in a moving average, there is no such thing, and `can_merge` says so.

    `init` and `update` are all that a new policy must have. What else a caller asks has an answer
    here that is right for many, and that a policy changes where it knows better.

    Attributes:
        decay: weight of the old value in the new one; None where no such number describes it.
    """

    # Any, since a policy that has one makes a field of it.
    decay: Any = None

    @property
    def keeps_unbiased_variance(self) -> bool:
        """Whether its variance is the unbiased one; the biased one, unless a policy says so."""
        return False

    @property
    def formula(self) -> str:
        """In short, how the new statistics come of the old ones and a batch's."""
        return repr(self)

    @abstractmethod
    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> Any:
        """Return the state before any batch, for statistics of this shape.

        Args:
            shape: shape of the kept axes.
            dtype: float32 or float64.

        Returns:
            A NamedTuple of tensors whose first fields are `mean` (0) and `variance` (1).
        """

    @abstractmethod
    def update(self, state: Any, mean: Any, variance: Any, count: Any) -> Any:
        """Return the state after one more batch.

        Args:
            state: the state so far.
            mean: batch mean, in the shape of the statistics.
            variance: biased batch variance, likewise.
            count: m', the samples behind each statistic of this batch, likewise or a scalar.

        Returns:
            The new state, of the same type, shapes and dtypes.
        """

    def read(self, state: Any) -> Statistics:
        """Return the statistics that inference should use: mean 0, variance 1 before any update.

        Args:
            state: as `init` or `update` returned it.

        Returns:
            The state's `mean` and `variance`.
        """
        return Statistics(state.mean, state.variance)

    @property
    def can_merge(self) -> bool:
        """Whether states of batches that were seen apart can be taken together by `merge`."""
        return type(self).merge is not Policy.merge

    def merge(self, state: Any, other: Any) -> Any:
        """Return the state after the batches of two states, as if one had seen them all.

        It does not matter in which order or by which pairs many are merged, up to rounding, and
        what `init` returns changes nothing.

        Args:
            state: after some batches.
            other: after others, in the same shape.

        Returns:
            The state after all of them, in the dtypes of `state`.

        Raises:
            TypeError: the policy cannot, for its statistics depend on the order of the batches.
        """
        raise TypeError(
            f"{type(self).__name__}.merge: `state` must be of a policy for which the order of "
            f"batches does not count. Received: policy={self!r}. Merge the batches' moments, and "
            "update one state by them; or use AverageOfBatches or PooledPopulation."
        )

    @property
    def renormalizes(self) -> bool:
        """Whether it corrects what a layer makes of a batch in training, by `correction`."""
        return False

    def correction(self, state: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
        """Return r and d, by which a layer makes x_hat * r + d of a batch's x_hat in training.

        Args:
            state: before the batch is taken in.
            mean: of the batch, in the shape of the statistics.
            variance: biased, likewise.

        Returns:
            Both in that shape, without a gradient: 1 and 0, unless a policy `renormalizes`.
        """
        del mean, variance
        return tf.ones_like(state.mean), tf.zeros_like(state.mean)

    def of_layer(self, epsilon: float) -> "Policy":
        """Return the policy as a layer of this epsilon has it: itself, unless that matters."""
        del epsilon
        return self

    def begun_at(self, state: Any, mean: Any, variance: Any) -> Any:
        """Return what `init` returned with another start, as a layer's initializers give it."""
        return state._replace(mean=mean, variance=variance)

    def weight_of_start(self, updates: int) -> float:
        """Return how much of the reading is still what the state began with.

        Args:
            updates: how many batches there were.

        Returns:
            A share of 1; 0, unless a policy says so: the first batch replaces the start.
        """
        return 1.0 if updates == 0 else 0.0

    def settled(self, statistics: Statistics, count: Any, batches: int = 1) -> Any:
        """Return a state that reads given statistics, from which training goes on.

        Args:
            statistics: mean and variance of a population, in the shape of the kept axes; the
                variance as the policy keeps it.
            count: samples behind each statistic, likewise or a scalar.
            batches: in how many batches they came.

        Returns:
            The state after one batch of so many samples and these statistics, unless a policy
            knows better.
        """
        mean, variance = (tf.convert_to_tensor(part) for part in statistics)
        state = self.init(np.shape(mean), mean.dtype)
        return self.update(state, mean, variance, count)._replace(mean=mean, variance=variance)

    def get_config(self) -> dict[str, Any]:
        """Return the settings, as Keras serialization wants them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the policy with these settings."""
        return cls(**config)


def initial_statistics(shape: Sequence[int], dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """Return mean 0 and variance 1, the reading of every policy before its first update."""
    return tf.zeros(shape, dtype), tf.ones(shape, dtype)


def spread_count(count: Any, like: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return a count, scalar or not, as one number for each statistic of `like`."""
    count = as_dtype(count, dtype)
    return count if count.shape == like.shape else tf.broadcast_to(count, tf.shape(like))
