"""Several replicas on the processor of one machine, to see what a strategy makes of a batch."""

import contextlib
import functools
import logging
from collections.abc import Iterator

import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError

# What TensorFlow says of each eager step, which is slow and here is meant: a graph of so small a
# step takes longer to trace than the step to run.
_EAGERLY = "Using MirroredStrategy eagerly has significant overhead"


@functools.cache
def replicas_on_the_processor(count: int) -> tf.distribute.MirroredStrategy:
    """Return a strategy of this many replicas, each a logical device of the processor.

    Args:
        count: 2 or more.

    Returns:
        The strategy, the same for the same number. It adds on one device: TensorFlow's
        collectives, the default, take those of two strategies in one process for one another's.

    Raises:
        InputError: TensorFlow has begun to compute in this process, and has fewer devices.

    Example:
        >>> replicas_on_the_processor(2).num_replicas_in_sync
        2
    """
    have = make_logical_processors(count)
    if have < count:
        raise InputError(
            "conform: `replicas` needs a logical device for each replica, and TensorFlow takes no "
            f"more once it has begun to compute. Received: replicas={count}, devices={have}. Use "
            "the command `bnm conform --replicas`, or call "
            "tf.config.set_logical_device_configuration before anything is computed."
        )
    return tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(count)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def make_logical_processors(count: int) -> int:
    """Have TensorFlow take the processor for several devices, if it can still be told.

    It can be told until its first operation. What names no device runs on the first one.

    Args:
        count: how many are wanted.

    Returns:
        How many there are.
    """
    one = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(one) or ()) < count:
        # Once it has begun it says so by this error, and to no question.
        with contextlib.suppress(RuntimeError):
            tf.config.set_logical_device_configuration(
                one, [tf.config.LogicalDeviceConfiguration()] * count
            )
    return len(tf.config.list_logical_devices("CPU"))


@contextlib.contextmanager
def eager_steps() -> Iterator[None]:
    """Keep to itself what TensorFlow says of steps that a strategy runs eagerly."""
    logger = tf.get_logger()

    def is_other(record: logging.LogRecord) -> bool:
        return _EAGERLY not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
