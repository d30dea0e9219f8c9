"""A training step on two replicas: ours and Keras's layer, synchronized and not, in turns.

Run as: python benchmarks/replicas.py, which writes benchmarks/records/replicas.json

The replicas are two logical devices of one processor, so a step is judged by the processor's
seconds and not by the clock: what else the machine does would be in the latter. What passes between
the replicas is counted as well, for on real devices each exchange waits for the slowest.
"""

import json
import resource
import statistics
import sys
from pathlib import Path

import numpy as np
from hardware import describe, limit_process

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference
from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.distribute.replicas import EXCHANGE

RECORD = Path(__file__).parent / "records" / "replicas.json"
SHAPES = ((64, 100), (1024, 1024), (32, 28, 28, 32))
ROUNDS, SECONDS = 9, 0.4


def layers():
    """Return the contestants, which are made under the strategy."""
    import keras

    theirs = keras.layers.BatchNormalization
    return {
        "Keras": theirs(),
        "ours": bnm.BatchNormalization(),
        "Keras, synchronized": theirs(synchronized=True),
        "ours, synchronized": bnm.BatchNormalization(synchronized=True),
    }


def step_of(strategy, layer, x):
    """Return a function that takes one step, and how often its replicas exchange something."""
    import tensorflow as tf

    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(x, 2)[context.replica_id_in_sync_group])
    )

    def one(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * y * 0.5)
        return y, tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])

    @tf.function(autograph=False)
    def step(x):
        return strategy.run(one, args=(x,))

    operations = step.get_concrete_function(halves).graph.get_operations()
    collectives = sum(operation.type == "CollectiveReduceV2" for operation in operations) // 2
    ours = sum(operation.name.split("/")[-1].startswith(EXCHANGE) for operation in operations)
    return lambda: step(halves), collectives + ours


def refuse_mistakes(strategy, name, layer, step, x):
    """Refuse a contestant that computes something else than it should."""
    axes = list(range(x.ndim - 1))
    outputs = np.concatenate(strategy.experimental_local_results(step()[0]))
    parts = [x] if "synchronized" in name else np.split(x, 2)
    expected = [reference.forward(part, None, None, axes, layer.epsilon)[0] for part in parts]
    error = np.max(np.abs(outputs - np.concatenate(expected)))
    if not error < 1e-4:
        raise SystemExit(f"refused {name} at {x.shape}: off by {error:.2g}")


def processor_seconds(run, steps):
    """Return what a step takes of all cores."""

    def used():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    start = used()
    for _ in range(steps):
        run()
    return (used() - start) / steps


def measure(strategy, shape):
    """Return seconds and exchanges of each contestant at a shape."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    runs, exchanges = {}, {}
    with strategy.scope():
        contestants = layers()
        for layer in contestants.values():
            layer.build(shape)
    for name, layer in contestants.items():
        runs[name], exchanges[name] = step_of(strategy, layer, x)
        refuse_mistakes(strategy, name, layer, runs[name], x)
    steps = max(3, int(SECONDS / processor_seconds(runs["Keras"], 5)))
    samples = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            samples[name].append(processor_seconds(run, steps))
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(values),
            "least": 1e3 * min(values),
            "exchanges": exchanges[name],
        }
        for name, values in samples.items()
    }


def main():
    """Measure, and write the record."""
    limit_process()
    import tensorflow as tf

    one = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(one, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    record = {"machine": describe(), "processor_milliseconds": {}}
    for shape in SHAPES:
        record["processor_milliseconds"][str(shape)] = found = measure(strategy, shape)
        for name, figures in found.items():
            print(
                f"{shape!s:18} {name:20} {figures['milliseconds']:8.2f} ms of processor time, "
                f"{figures['exchanges']} exchanges",
                file=sys.stderr,
            )
    write_atomically(RECORD, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
