"""A strategy of two replicas on the processor, and what becomes of a batch that they share."""

import functools

import numpy as np
import tensorflow as tf

from batchnorm_mechanics.distribute.replicas import EXCHANGE


@functools.cache
def strategy():
    """Return the one strategy of a test run, which takes a while to make.

    It adds gradients on one device. TensorFlow's collectives, the default, fail on a processor in a
    loop such as that of `steps_per_execution`, whatever the model, and those of two strategies in
    one process take one another for their own.
    """
    by = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=by)


def spread(parts):
    """Return a value that is each replica's own, from one part for each."""
    return strategy().experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def on_replicas(function, *arguments, graph=False):
    """Run a function on both replicas, on a part of each argument; return what each gave.

    Eagerly, for a graph takes longer to trace than all of these functions to run.
    """

    def run(*values):
        return strategy().run(function, args=values)

    results = (tf.function(run, autograph=False) if graph else run)(*map(spread, arguments))
    local = [strategy().experimental_local_results(one) for one in tf.nest.flatten(results)]
    # One tensor that is both replicas' comes once.
    local = [one * 2 if len(one) == 1 else one for one in local]
    return [tf.nest.pack_sequence_as(results, [one[k] for one in local]) for k in range(2)]


def exchanges(function, *arguments):
    """Return how often replicas wait for one another when both run a function in a graph."""

    def run(*values):
        return strategy().run(function, args=values)

    graph = tf.function(run, autograph=False).get_concrete_function(*map(spread, arguments)).graph
    names = [operation.name.split("/")[-1] for operation in graph.get_operations()]
    return sum(name.startswith(EXCHANGE) for name in names)


def halves(array, axis=0, at=None):
    """Return an array in two parts along an axis, by default the second the larger one."""
    size = array.shape[axis]
    return np.split(array, [size // 2 if at is None else at], axis)
