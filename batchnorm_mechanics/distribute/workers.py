"""The processes that train one model together, and what the first of them tells the others."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# Collectives know these types; each holds all numbers of what is packed into it.
_PACKED = (tf.float32, tf.float64, tf.int64)


@dataclass(frozen=True)
class Joined:
    """Who trains a model together.

    Attributes:
        workers: how many processes.
        replicas: how many devices in all of them, each with its part of a batch.
        chief: whether this process is the one that writes files.
    """

    workers: int
    replicas: int
    chief: bool


def joined_by(strategy: tf.distribute.Strategy) -> Joined:
    """Return who computes together under a strategy.

    Example:
        >>> joined_by(tf.distribute.MirroredStrategy(["CPU:0"]))
        Joined(workers=1, replicas=1, chief=True)
    """
    replicas = strategy.num_replicas_in_sync
    local = len(strategy.extended.worker_devices)
    return Joined(replicas // local, replicas, bool(strategy.extended.should_checkpoint))


def first_workers(strategy: tf.distribute.Strategy, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the values that the first worker gives here, on every worker.

    Each worker calls it at the same time, with values of the same shapes and types: it is one
    collective for each of three types, in which all others give zeros.

    Args:
        strategy: of several processes.
        values: numbers of any type.

    Returns:
        The values, in their order and their types, exactly.
    """
    packed = {kind: [one for one in values if _kind(one) == kind] for kind in _PACKED}
    merged = {kind: iter(_sent(strategy, kind, of)) for kind, of in packed.items() if of}
    return [next(merged[_kind(one)]) for one in values]


def total(strategy: tf.distribute.Strategy, values: Sequence[float]) -> list[float]:
    """Return the sums of numbers over all workers, which call it at the same time."""
    sums = _added(strategy, tf.constant(values, tf.float64))
    # What a worker gives, each of its devices does.
    return [float(one) / len(strategy.extended.worker_devices) for one in sums]


def merge_logs(values: object, strategy: tf.distribute.Strategy) -> object:
    """Return the mean over replicas of what each returned, numbers by one collective together.

    Args:
        values: any structure of tensors, or of each replica's tensors.
        strategy: that ran the replicas.
    """
    flat = tf.nest.flatten(values)
    first = [strategy.experimental_local_results(one)[0] for one in flat]
    numbers = [at for at, one in enumerate(first) if one.shape.rank == 0]

    def packed(*ones: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.cast(one, tf.float64) for one in ones])

    if numbers:
        together = strategy.run(packed, args=[flat[at] for at in numbers])
        means = tf.unstack(strategy.reduce("MEAN", together, axis=None), len(numbers))
        for at, mean in zip(numbers, means, strict=True):
            first[at] = tf.cast(mean, first[at].dtype)
    return tf.nest.pack_sequence_as(values, first)


def _kind(value: tf.Tensor) -> tf.DType:
    if not value.dtype.is_floating:
        return tf.int64
    return tf.float64 if value.dtype == tf.float64 else tf.float32


def _sent(
    strategy: tf.distribute.Strategy, kind: tf.DType, values: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    whole = tf.concat([tf.reshape(tf.cast(one, kind), [-1]) for one in values], 0)
    parts = tf.split(
        _added(strategy, whole, only_the_first=True), [one.shape.num_elements() for one in values]
    )
    return [
        tf.cast(tf.reshape(part, one.shape), one.dtype)
        for part, one in zip(parts, values, strict=True)
    ]


def _added(
    strategy: tf.distribute.Strategy, given: tf.Tensor, only_the_first: bool = False
) -> tf.Tensor:
    """Return the sum of what all replicas of all workers give, or what the first one does."""
    return _adder(strategy, given.dtype, only_the_first)(given)


# As a graph: of a collective that is in none TensorFlow complains, and of one that is traced anew
# for each length.
@functools.lru_cache(maxsize=12)
def _adder(strategy: tf.distribute.Strategy, kind: tf.DType, only_the_first: bool) -> Any:
    def on_replica(given: tf.Tensor) -> tf.Tensor:
        which = tf.distribute.get_replica_context().replica_id_in_sync_group
        wanted = tf.equal(which, 0) | (not only_the_first)
        return tf.where(wanted, given, tf.zeros_like(given))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], kind)])
    def add(given: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_replica, args=(given,)), axis=None)

    return add
