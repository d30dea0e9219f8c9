"""A strategy of two replicas on the processor, and what becomes of a batch that they share."""

import functools

import numpy as np
import tensorflow as tf

COLLECTIVES = ("CollectiveReduceV2", "CollectiveReduceV3", "CollectiveGatherV2")


@functools.cache
def strategy():
    """Return the one strategy of a test run, which takes a while to make."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


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
    return [tf.nest.pack_sequence_as(results, [one[k] for one in local]) for k in range(2)]


def collectives(function, *arguments):
    """Return how many collectives a replica takes part in when both run a function in a graph."""

    def run(*values):
        return strategy().run(function, args=values)

    graph = tf.function(run, autograph=False).get_concrete_function(*map(spread, arguments)).graph
    found = sum(operation.type in COLLECTIVES for operation in graph.get_operations())
    assert found % 2 == 0
    return found // 2


def halves(array, axis=0, at=None):
    """Return an array in two parts along an axis, by default the second the larger one."""
    size = array.shape[axis]
    return np.split(array, [size // 2 if at is None else at], axis)
