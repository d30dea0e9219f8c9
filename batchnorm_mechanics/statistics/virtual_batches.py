"""One batch for the statistics made of the several over which gradients are gathered."""

import functools
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import tensorflow as tf

from batchnorm_mechanics.statistics.policy import Policy, Statistics
from batchnorm_mechanics.statistics.population import PooledPopulation, PopulationState

_POOL = PooledPopulation()
# What the state holds behind that of the policy within, and in float64 as the counts of others.
_PENDING = ("pending_mean", "pending_variance", "pending_count", "pending_batches")


class _Parts(NamedTuple):
    """A state taken apart: the policy's, the pool of the batches since, and their number."""

    settled: Any
    pool: PopulationState
    batches: tf.Tensor


@functools.cache
def _state_type(within: Any) -> Any:
    """Return the type of the state around a policy's, which it knows as `within`."""
    fields = namedtuple("VirtualState", [*within._fields, *_PENDING])
    return type("VirtualState", (fields,), {"__slots__": (), "within": within})


@dataclass(frozen=True)
class VirtualBatches(Policy):
    """Hand every so many batches on to another policy as one, merged exactly.

    Implements: Alg. 2 where the mini-batch of the optimizer is larger than what fits into memory:
    with `gradient_accumulation_steps=4`, Keras's optimizers take one step for four batches, in
    which a moving average would otherwise move four times, towards statistics of a quarter each.

    The mean and the variance of the batches in between are pooled (Chan, Golub and LeVeque), with
    what varies between them. Each batch is still normalized by itself: this is about what inference
    uses. Batches that wait when training ends are not in the statistics yet; they are saved with
    the layer, as an optimizer saves what it has gathered.

    Args:
        policy: the one that takes the virtual batches.
        batches: how many make one; an optimizer's `gradient_accumulation_steps`. A batch without
            samples is one of them, as it is for the optimizer.

    Example:
        >>> from batchnorm_mechanics import ExponentialMovingAverage
        >>> policy = VirtualBatches(ExponentialMovingAverage(decay=0.5), batches=2)
        >>> first = policy.update(policy.init([1]), mean=[1.0], variance=[0.0], count=1)
        >>> [value.numpy().tolist() for value in policy.read(first)]
        [[0.0], [1.0]]
        >>> second = policy.update(first, mean=[3.0], variance=[0.0], count=1)
        >>> [value.numpy().tolist() for value in policy.read(second)]
        [[1.0], [1.0]]
    """

    policy: Policy
    batches: int

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.policy, Policy):
            raise TypeError(
                "VirtualBatches: `policy` must be a statistics policy. Received: "
                f"policy={self.policy!r}. Pass for instance ExponentialMovingAverage()."
            )
        if isinstance(self.batches, bool) or not isinstance(self.batches, int) or self.batches < 1:
            raise ValueError(
                "VirtualBatches: `batches` must be an integer of 1 or more. Received: "
                f"batches={self.batches!r}. Pass the optimizer's gradient_accumulation_steps."
            )

    @property
    def decay(self) -> Any:
        """That of the policy within, for a virtual batch; see `Policy`."""
        return self.policy.decay

    @property
    def keeps_unbiased_variance(self) -> bool:
        """Whether the policy within does; see `Policy`."""
        return self.policy.keeps_unbiased_variance

    @property
    def formula(self) -> str:
        """That of the policy within, and how often; see `Policy`."""
        return f"{self.policy.formula}, once for {self.batches} batches as one"

    @property
    def renormalizes(self) -> bool:
        """Whether the policy within does, by its own state; see `Policy`."""
        return self.policy.renormalizes

    def correction(self, state: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
        """Return what the policy within returns, for each batch; see `Policy.correction`."""
        return self.policy.correction(_taken_apart(state).settled, mean, variance)

    def of_layer(self, epsilon: float) -> "VirtualBatches":
        """Return it around the policy within, as a layer of this epsilon has that; see `Policy`."""
        return replace(self, policy=self.policy.of_layer(epsilon))

    def begun_at(self, state: Any, mean: Any, variance: Any) -> Any:
        """Return what the policy within returns, with no batch waiting; see `Policy.begun_at`."""
        settled = _taken_apart(state).settled
        return _with_none_waiting(self.policy.begun_at(settled, mean, variance))

    def weight_of_start(self, updates: int) -> float:
        """Return what the policy within says of whole virtual batches; see `Policy`."""
        return self.policy.weight_of_start(updates // self.batches)

    def settled(self, statistics: Statistics, count: Any, batches: int = 1) -> Any:
        """Return what the policy within returns, with no batch waiting; see `Policy.settled`."""
        state = self.policy.settled(statistics, count, -(-batches // self.batches))
        return _with_none_waiting(state)

    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> Any:
        """Return the state of the policy within, with no batch waiting; see `Policy.init`."""
        return _with_none_waiting(self.policy.init(shape, dtype))

    def update(self, state: Any, mean: Any, variance: Any, count: Any) -> Any:
        """Return the state with one more batch waiting, or all of them taken; see `Policy`."""
        settled, pool, batches = _taken_apart(state)
        pool = _POOL.update(pool, mean, variance, count)
        batches += 1
        taken = _with_none_waiting(self.policy.update(settled, *pool))
        # Each channel has the same number, which says it for fields of any shape.
        full = tf.reduce_all(batches >= self.batches)
        waiting = (*settled, *pool, batches)
        return type(state)(
            *(tf.where(full, one, other) for one, other in zip(taken, waiting, strict=True))
        )

    def get_config(self) -> dict[str, Any]:
        """Return the settings, the policy within as Keras serializes it."""
        import keras

        return {
            "policy": keras.saving.serialize_keras_object(self.policy),
            "batches": self.batches,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the policy with these settings."""
        import keras

        policy = keras.saving.deserialize_keras_object(config["policy"])
        return cls(**{**config, "policy": policy})


def _with_none_waiting(state: Any) -> Any:
    shape = state.mean.shape
    none = tf.zeros(shape, tf.float64)
    return _state_type(type(state))(*state, *_POOL.init(shape, tf.float64), none)


def _taken_apart(state: Any) -> _Parts:
    within = type(state).within
    *pool, batches = state[len(within._fields) :]
    return _Parts(within(*state[: len(within._fields)]), PopulationState(*pool), batches)
