"""Batch renormalization, which also corrects what the layer does in training."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics.core.axes import as_dtype
from batchnorm_mechanics.core.moments import where_counted
from batchnorm_mechanics.core.renormalization import corrections
from batchnorm_mechanics.statistics.policy import (
    Policy,
    Statistics,
    initial_statistics,
    spread_count,
)


class RenormState(NamedTuple):
    """State of `Renormalization`, by Keras's names; all have the shape of the kept axes.

    Attributes:
        mean: what inference uses.
        variance: likewise, of `moving_stddev`: its square less epsilon.
        moving_stddev: average of the batches' standard deviations, epsilon within the root.
        renorm_mean: the average by which batches are corrected in training.
        renorm_stddev: likewise.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    moving_stddev: tf.Tensor
    renorm_mean: tf.Tensor
    renorm_stddev: tf.Tensor


class ScheduledRenormState(NamedTuple):
    """State of `Renormalization` with `steps`: that without, and how many batches there were."""

    mean: tf.Tensor
    variance: tf.Tensor
    moving_stddev: tf.Tensor
    renorm_mean: tf.Tensor
    renorm_stddev: tf.Tensor
    batches: tf.Tensor


@dataclass(frozen=True)
class Renormalization(Policy):
    """Normalize batches in training nearly as inference will, by moving statistics within bounds.

    Implements: Ioffe, arXiv 1702.03275, Alg. 1; `keras.layers.BatchNormalization(renorm=True)`.

    In training a layer with this policy gives gamma * (x_hat * r + d) + beta. x_hat is normalized
    by the batch; r and d, constants to gradients, take it to what the moving statistics would make
    of it, as far as their bounds allow. With r_max=1 and d_max=0 that is batch normalization.

    Args:
        decay: weight of the old value in the statistics of inference, in [0, 1]: Keras's
            `momentum`; the paper's 1 - alpha.
        renorm_decay: likewise in those that correct batches: Keras's `renorm_momentum`.
        r_max: the largest r, 1 or more; infinite for no bound.
        d_max: the largest d on both sides, 0 or more; infinite for no bound.
        r_min: the smallest r, in [0, 1]; by default 1/r_max, as in the paper. Keras's is 0.
        steps: None, or three numbers of batches: up to the first the bounds leave no room, as
            r_max=1 and d_max=0 do; from there they grow evenly, r's until the second and d's until
            the third. The paper has (5_000, 40_000, 25_000).
        epsilon: of the layer, which puts its own here.

    Example:
        >>> policy = Renormalization(decay=0.5, renorm_decay=0.5, epsilon=1.0)
        >>> state = policy.update(policy.init([1]), mean=[4.0], variance=[8.0], count=60)
        >>> state.moving_stddev.numpy().tolist(), state.variance.numpy().tolist()
        ([2.0], [3.0])
        >>> [value.numpy().tolist() for value in policy.correction(state, [4.0], [8.0])]
        [[1.5], [1.0]]
    """

    decay: float = 0.99
    renorm_decay: float = 0.99
    r_max: float = 3.0
    d_max: float = 5.0
    r_min: float | None = None
    steps: tuple[int, int, int] | None = None
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("decay", "renorm_decay"):
            self._check(name, 0 <= getattr(self, name) <= 1, "lie in [0, 1]", "0.99 is usual")
        self._check("r_max", self.r_max >= 1, "be 1 or more", "1 leaves r no room")
        self._check("d_max", self.d_max >= 0, "be 0 or more", "0 leaves d no room")
        self._check(
            "r_min", self.r_min is None or 0 <= self.r_min <= 1, "lie in [0, 1]", "None is 1/r_max"
        )
        self._check("epsilon", 0 < self.epsilon < math.inf, "be a positive number", "as the layer")
        if self.steps is None:
            return
        # A file's configuration brings a list.
        object.__setattr__(self, "steps", tuple(self.steps))
        first, *lasts = self.steps
        self._check(
            "steps",
            len(lasts) == 2 and 0 <= first < min(lasts) and self.r_max + self.d_max < math.inf,
            "be three numbers of batches, the first the least, beside bounds that are finite",
            "the paper has (5_000, 40_000, 25_000) with r_max=3.0 and d_max=5.0",
        )

    def _check(self, name: str, holds: bool, expectation: str, hint: str) -> None:
        if not holds:
            raise ValueError(
                f"Renormalization: `{name}` must {expectation}. Received: "
                f"{name}={getattr(self, name)!r}. Here {hint}."
            )

    @property
    def renormalizes(self) -> bool:
        """Whether it corrects batches, which it does; see `Policy`."""
        return True

    @property
    def formula(self) -> str:
        """The two terms of the average; see `Policy`."""
        return f"{self.decay:g} · before + {1 - self.decay:.6g} · batch (mean and deviation)"

    def of_layer(self, epsilon: float) -> "Renormalization":
        """Return the policy with a layer's epsilon; see `Policy`."""
        return dataclasses.replace(self, epsilon=epsilon)

    def weight_of_start(self, updates: int) -> float:
        """Return decay**updates; see `Policy.weight_of_start`."""
        return self.decay**updates

    def init(self, shape: Sequence[int], dtype: tf.DType = tf.float32) -> Any:
        """Return mean 0, variance and deviation 1, for both averages; see `Policy.init`."""
        zeros, ones = initial_statistics(shape, dtype)
        state = RenormState(zeros, ones, ones, zeros, ones)
        return state if self.steps is None else ScheduledRenormState(*state, zeros)

    def begun_at(self, state: Any, mean: Any, variance: Any) -> Any:
        """Return a state of both averages; a deviation begins without epsilon, as in Keras."""
        stddev = tf.sqrt(variance)
        return state._replace(
            mean=mean,
            variance=variance,
            moving_stddev=stddev,
            renorm_mean=mean,
            renorm_stddev=stddev,
        )

    def settled(self, statistics: Statistics, count: Any, batches: int = 1) -> Any:
        """Return a state that infers and corrects by given statistics; see `Policy.settled`."""
        mean, variance = (tf.convert_to_tensor(part) for part in statistics)
        start = self.init(np.shape(mean), mean.dtype)
        state = self.begun_at(start, mean, variance + self.epsilon)
        return state._replace(variance=variance)

    def correction(self, state: Any, mean: Any, variance: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return r and d of a batch; see `Policy.correction`."""
        dtype = state.mean.dtype
        mean, variance = as_dtype(mean, dtype), as_dtype(variance, dtype)
        return corrections(
            mean,
            tf.sqrt(variance + self.epsilon),
            state.renorm_mean,
            # Early in training the average may be 0, if it began there.
            tf.maximum(state.renorm_stddev, self.epsilon**0.5),
            **self._bounds(state),
        )

    def _bounds(self, state: Any) -> dict[str, Any]:
        r_min = 1 / self.r_max if self.r_min is None else self.r_min
        if self.steps is None:
            return {"r_min": r_min, "r_max": self.r_max, "d_max": self.d_max}
        first, last_of_r, last_of_d = self.steps
        of_r, of_d = (
            tf.clip_by_value((state.batches - first) / (last - first), 0, 1)
            for last in (last_of_r, last_of_d)
        )
        r_max = 1 + of_r * (self.r_max - 1)
        r_min = 1 / r_max if self.r_min is None else 1 + of_r * (r_min - 1)
        return {"r_min": r_min, "r_max": r_max, "d_max": of_d * self.d_max}

    def update(self, state: Any, mean: Any, variance: Any, count: Any) -> Any:
        """Return the averages after one more batch; see `Policy.update`."""
        dtype = state.mean.dtype
        count = spread_count(count, state.mean, dtype)
        mean, variance = as_dtype(mean, dtype), as_dtype(variance, dtype)
        stddev = tf.sqrt(variance + self.epsilon)
        moving_stddev = _average(state.moving_stddev, stddev, self.decay)
        values = {
            "mean": _average(state.mean, mean, self.decay),
            # Rounding may take it below 0.
            "variance": tf.nn.relu(moving_stddev * moving_stddev - self.epsilon),
            "moving_stddev": moving_stddev,
            "renorm_mean": _average(state.renorm_mean, mean, self.renorm_decay),
            "renorm_stddev": _average(state.renorm_stddev, stddev, self.renorm_decay),
        }
        if self.steps is not None:
            values["batches"] = state.batches + 1
        return state._replace(
            **{
                name: where_counted(count, value, getattr(state, name))
                for name, value in values.items()
            }
        )


def _average(old: tf.Tensor, new: tf.Tensor, decay: float) -> tf.Tensor:
    return decay * old + (1 - decay) * new
