"""What replicas that share a batch tell one another, so that each knows the whole batch's moments.

Each replica has a part of the batch and computes on it at the same time as the others. What is
exchanged is packed into one tensor: an exchange waits for the slowest, whatever its size.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from batchnorm_mechanics.core.moments import (
    Centered,
    Moments,
    join,
    merge_groups,
    where_counted,
)


class Exchange(Protocol):
    """How a replica hears of the others: each method is one collective.

    Attributes:
        index: which of the replicas this one is, from 0.
    """

    index: int | tf.Tensor

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        """Return the values of all replicas, by their index along a new first axis."""
        ...

    def add(self, value: tf.Tensor) -> tf.Tensor:
        """Return the sum of the values of all replicas."""
        ...


class Whole(NamedTuple):
    """A replica's part of a batch, with the mean of the whole batch taken away.

    Attributes:
        deviation: x - mean, in the shape of x and the statistics' dtype.
        mean: of the whole batch, with size 1 where an axis was reduced.
        variance: biased, likewise.
        count: m' of the whole batch, likewise.
    """

    deviation: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def merge_replicas(part: Moments, exchange: Exchange) -> Moments:
    """Return the moments of a batch from those of each replica's part, in one collective.

    Implements: the law of total variance, by counts: a part of twice the size counts twice.

    Args:
        part: the moments of this replica's part, in one dtype; the variance is biased. A part
            without samples has count 0, whatever else it says.
        exchange: with the other replicas.

    Returns:
        `Moments` of all parts together, the same on every replica.

    Numerics:
        What varies between the replicas comes of differences of their means as these are rounded:
        at a mean of 1e4 in float32 each is off by up to 5e-4. `normalize_together` does not round.

    Example:
        >>> class Alone:
        ...     index = 0
        ...     def gather(self, value):
        ...         return value[None]
        >>> part = Moments(tf.constant([1.5]), tf.constant([0.25]), tf.constant([2.0]))
        >>> merge_replicas(part, Alone()).variance.numpy().tolist()
        [0.25]
    """
    count, mean, variance = _gathered(exchange, part.count, part.mean, part.variance)
    return merge_groups(Moments(mean, variance, count))


def merge_parts(parts: Sequence[Moments], *, name: str | None = None) -> Moments:
    """Return the moments of a batch from those of its parts, where they lie side by side.

    As `merge_replicas`, but computed once, for all replicas; and where sizes are known when the
    graph is built, so is their sum, and nothing is left to choose at each step.

    Args:
        parts: of each replica, as `merge_replicas` takes one.
        name: of what is computed of all parts' values, or None.

    Example:
        >>> parts = [
        ...     Moments(tf.constant([mean]), tf.constant([0.25]), tf.constant([2.0]))
        ...     for mean in (1.5, 3.5)
        ... ]
        >>> [one.numpy().item() for one in merge_parts(parts)]
        [2.5, 1.25, 4.0]
    """
    packed = [_packed(part.count, part.mean, part.variance) for part in parts]
    count, mean, variance = tf.unstack(tf.stack(packed, name=name), axis=1)
    sizes = [tf.get_static_value(part.count) for part in parts]
    if all(size is not None for size in sizes):
        count = tf.constant(np.stack(sizes))
    merged = merge_groups(Moments(mean, variance, count))
    known = tf.get_static_value(count)
    return merged if known is None else merged._replace(count=tf.constant(known.sum(0)))


def take_together(part: Centered, variance: tf.Tensor, exchange: Exchange) -> Whole:
    """Take the whole batch's mean from a part in the place of its own, in one collective.

    The two numbers of the part's mean are exchanged as they are: in one, rounded, it would be off
    by 5e-4 of a standard deviation at a mean of 1e4.

    Args:
        part: what `center` made of this replica's part.
        variance: biased, of the part.
        exchange: with the other replicas.
    """
    count, mean, rest, variance = _gathered(exchange, part.count, part.shift, part.rest, variance)
    whole = join(Moments(mean, variance, count), rest)
    deviation = part.deviation + whole.apart[exchange.index]
    return Whole(deviation, whole.mean, whole.variance, whole.count)


def _gathered(exchange: Exchange, count: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
    """Return counts and values of all replicas."""
    return tf.unstack(exchange.gather(_packed(count, *values)), axis=1)


def _packed(count: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
    """Return a part in one tensor; where it has no samples, 0 and not NaN."""
    return tf.stack(
        [count, *(where_counted(count, value, tf.zeros_like(value)) for value in values)]
    )
