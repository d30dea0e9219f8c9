"""What many replicas and many samples cost: bytes, collectives, time and rounding, as a record.

Run as: python benchmarks/scale.py, which writes benchmarks/records/scale.json, and then
        python benchmarks/worlds.py figures --write

Two things are measured: an all-reduce between two worker processes on this machine's loopback, by
size, and the error of pooled statistics over a thousand million samples of 1,024 workers. The rest
is arithmetic, by the formulas of `docs/how/scale.md`: `page` makes its tables of the record.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import worlds_page
from hardware import describe, limit_process

from batchnorm_mechanics._io.files import write_atomically

RECORD = Path(__file__).parent / "records" / "scale.json"
NETWORKS = {"ResNet-50": "ResNet50", "EfficientNet-B0": "EfficientNetB0"}
REPLICAS = (2, 8, 64, 1024)
# What one replica sends for a channel, in float32: count, both parts of the mean and variance; and
# the two sums of the backward pass.
FORWARD, BACKWARD, FLOAT = 4, 2, 4
# A cluster's network, assumed: seconds for a message, and bytes in a second (10 Gbit/s).
ASSUMED = {"latency": 50e-6, "bandwidth": 1.25e9}
SIZES = (256, 4096, 65536, 1048576, 4194304)
REPEATS, ROUNDS = 20, 7
WORKERS, BATCHES, BATCH = 1024, 1000, 1000
MEANS = (0.0, 1e2, 1e4)
_UNIT = 2.0**-53
_LIMIT = 300


def channels_of(name):
    """Return the channels of each batch norm of a network of Keras's, in its order."""
    import keras

    model = getattr(keras.applications, name)(weights=None)
    norms = (keras.layers.BatchNormalization,)
    return [int(layer.gamma.shape[0]) for layer in model.layers if isinstance(layer, norms)]


def ring(replicas, payload, network, *, rounds):
    """Return bytes that each replica sends, and the seconds, for a collective around a ring.

    Args:
        replicas: how many.
        payload: bytes of all that is put together.
        network: with `latency` and `bandwidth`.
        rounds: 1 for an all-gather; 2 for an all-reduce, which goes around twice.
    """
    steps = rounds * (replicas - 1)
    sent = steps * payload / replicas
    return sent, steps * network["latency"] + sent / network["bandwidth"]


def step(channels, replicas, network, *, gather=False):
    """Return bytes sent and seconds for all synchronized layers of a network in a training step.

    Args:
        channels: of each layer.
        replicas: how many.
        network: as for `ring`.
        gather: whether the forward exchange is an all-gather, and not, as TensorFlow has one
            collective for it, the all-reduce of what is zero but for each replica's own place.
    """
    forward, backward = FLOAT * FORWARD, FLOAT * BACKWARD
    pairs = []
    for each in channels:
        whole = forward * each * replicas
        pairs.append(ring(replicas, whole, network, rounds=1 if gather else 2))
        pairs.append(ring(replicas, backward * each, network, rounds=2))
    return tuple(map(sum, zip(*pairs, strict=True)))


def bound(depth, mean, variance):
    """Return how far pooled mean and variance may be off after so many merges one upon another.

    In float64; `mean` is the largest of a part in size. Each merge rounds the mean four times, and
    the squares six times; what a mean is off by enters the squares between two parts.
    """
    off = 4 * depth * _UNIT * abs(mean)
    squares = 6 * depth * _UNIT * variance
    return off, squares + 4 * np.sqrt(depth * variance) * off + off**2


def pooled(mean, seed=0, *, workers=WORKERS, batches=BATCHES, batch=BATCH):
    """Return how far the doctor's pools are off, over all samples of all workers.

    Each worker pools its batches as they come; the workers' pools are joined one after another.
    Batches are drawn by their moments, which is all that a pool sees of them.

    Returns:
        Relative to the standard deviation of the samples, and to their variance: the errors of the
        mean and of the variance, beside their bounds.
    """
    from batchnorm_mechanics.doctor.pools import Pool

    rng = np.random.default_rng(seed)
    # A worker has data of its own: its mean is off by a standard deviation.
    centres = mean + rng.normal(size=workers)
    means = centres + rng.normal(size=(batches, workers)) / np.sqrt(batch)
    variances = rng.chisquare(batch - 1, (batches, workers)) / batch
    # A channel for each worker: they pool side by side.
    side_by_side, nothing = Pool(workers), np.zeros(workers)
    for of_mean, of_variance in zip(means, variances, strict=True):
        side_by_side.add(float(batch), of_mean, of_variance, nothing)
    whole = Pool(1)
    for worker in range(workers):
        whole.join(_of_one(side_by_side, worker))
    exact = means.astype(np.longdouble)
    true_mean = exact.mean()
    true_variance = (variances.astype(np.longdouble) + (exact - true_mean) ** 2).mean()
    scale = float(true_variance)
    off = bound(batches + workers, np.max(np.abs(means)), scale)
    return {
        "mean": float(abs(whole.mean[0] - true_mean)) / np.sqrt(scale),
        "mean_bound": off[0] / np.sqrt(scale),
        "variance": float(abs(whole.variance[0] - true_variance)) / scale,
        "variance_bound": off[1] / scale,
        "samples": workers * batches * batch,
    }


def _of_one(side_by_side, worker):
    """Return the pool of one worker."""
    from batchnorm_mechanics.doctor.pools import Pool

    pool = Pool(1, side_by_side.count, side_by_side.freedom, side_by_side.batches)
    pool.counts = dict(side_by_side.counts)
    for name, value in vars(side_by_side).items():
        if isinstance(value, np.ndarray):
            setattr(pool, name, value[..., worker : worker + 1].copy())
    return pool


def loopback():
    """Return seconds of an all-reduce between two processes, by bytes: medians and the least."""
    ports = []
    for _ in range(2):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            ports.append(taken.getsockname()[1])
    addresses = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, "worker"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    try:
        first, _ = (process.communicate(timeout=_LIMIT)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return json.loads(first.splitlines()[-1])


def work():
    """Time all-reduces as one of two workers, and print what came of it."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = {}
    for size in SIZES:
        value = tf.ones([size // FLOAT])

        @tf.function(autograph=False)
        def several(value):
            def one(value):
                context = tf.distribute.get_replica_context()
                for _ in range(REPEATS):
                    # Halved, so that two of them are what there was, and each waits for the last.
                    value = context.all_reduce(tf.distribute.ReduceOp.SUM, 0.5 * value)
                return value

            return strategy.run(one, args=(value,))

        if not np.all(several(value).numpy() == 1):
            raise SystemExit("refused: an all-reduce gave something else than the sum")
        taken = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            several(value).numpy()
            taken.append((time.perf_counter() - start) / REPEATS)
        found[str(size)] = {"median": statistics.median(taken), "least": min(taken)}
    print(json.dumps(found))


def network_of(measured):
    """Return latency and bandwidth by the least times: of two replicas, which send two messages.

    Args:
        measured: by size, as `loopback` returns it.
    """
    least = {int(size): one["least"] for size, one in measured.items()}
    quickest, largest = min(least, key=least.__getitem__), max(least)
    return {
        "latency": least[quickest] / 2,
        "bandwidth": (largest - quickest) / (least[largest] - least[quickest]),
    }


def page(record):
    """Return what stands in `docs/how/scale.md`, of the record.

    Args:
        record: as `main` writes it.
    """
    here = network_of(record["loopback"])
    networks = {"loopback": here, "network": ASSUMED}
    rows = []
    for name, channels in record["channels"].items():
        for replicas in REPLICAS:
            sent, _ = step(channels, replicas, here)
            less, _ = step(channels, replicas, here, gather=True)
            times = [step(channels, replicas, each)[1] for each in networks.values()]
            gathered = step(channels, replicas, ASSUMED, gather=True)[1]
            rows.append(
                [
                    f"{name}, {replicas:,}",
                    f"{2 * len(channels)}",
                    f"{sent / 1e6:,.2f}",
                    f"{less / 1e6:,.2f}",
                    *(f"{1e3 * seconds:,.0f}" for seconds in (*times, gathered)),
                ]
            )
    header = [
        "network, replicas",
        "collectives",
        "MB sent by each",
        "by an all-gather",
        "ms on loopback",
        "ms on 10 Gbit/s",
        "by an all-gather",
    ]
    measured = [
        [f"{int(size):,}", f"{1e3 * one['least']:.2f}", f"{1e3 * one['median']:.2f}"]
        for size, one in record["loopback"].items()
    ]
    errors = [
        [
            f"{float(mean):,.0f}",
            *(f"{one[key]:.1e}" for key in ("mean", "mean_bound", "variance", "variance_bound")),
        ]
        for mean, one in record["pooled"].items()
    ]
    samples = next(iter(record["pooled"].values()))["samples"]
    machine = record["machine"]
    return "\n".join(
        [
            f"An all-reduce between two processes on one machine ({machine['processor']}, "
            f"{machine['cores']} cores, a load of {machine['load']:.0f} beside it), in float32:",
            "",
            *worlds_page.grid(["bytes", "ms, the least", "ms, the median"], measured),
            "",
            f"From the least times a message takes {1e6 * here['latency']:,.0f} µs, and "
            f"{here['bandwidth'] / 1e6:,.0f} MB pass in a second. By that, and by the network that "
            f"is assumed ({1e6 * ASSUMED['latency']:.0f} µs, "
            f"{ASSUMED['bandwidth'] / 1e6:,.0f} MB/s), a training step exchanges for its batch "
            "norms:",
            "",
            *worlds_page.grid(header, rows),
            "",
            f"Pooled over {samples:,} samples of {WORKERS:,} workers, relative to their standard "
            "deviation and to their variance:",
            "",
            *worlds_page.grid(
                ["mean", "error of the mean", "bound", "error of the variance", "bound"], errors
            ),
        ]
    )


def main():
    """Measure, and write the record."""
    limit_process()
    record = {
        "machine": describe(),
        "loopback": loopback(),
        "channels": {name: channels_of(model) for name, model in NETWORKS.items()},
        "pooled": {str(mean): pooled(mean) for mean in MEANS},
    }
    write_atomically(RECORD, json.dumps(record, indent=1) + "\n")
    print(page(record))


if __name__ == "__main__":
    work() if sys.argv[1:] == ["worker"] else main()
