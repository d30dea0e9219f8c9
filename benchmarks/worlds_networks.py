"""Steps of whole networks: with Keras's batch norm, after `accelerate`, and without batch norm."""

import gc
import math
import time

import keras
import numpy as np
from networks import NETWORKS
from worlds_record import ACCELERATED, KERAS, PREDICT, TRAIN, WITHOUT, microseconds
from worlds_timing import Plan, timed

import batchnorm_mechanics as bnm
from batchnorm_mechanics.bench.model import disagreement
from batchnorm_mechanics.bench.timing import Job
from batchnorm_mechanics.bench.without_batch_norm import without_batch_norm

PLAN = Plan(least=9, most=21, seconds=30.0)
QUICK_PLAN = Plan(least=2, most=2, seconds=0.5)
# A sample is as many steps as take about so long; a single short one would show the clock and the
# scheduler more than the network.
_SAMPLE = 0.1
_MOST_STEPS = 50


def named(wanted):
    """Return the networks whose names have one of the texts in them."""
    return [one for one in NETWORKS if any(text in one.name for text in wanted)]


def measure(networks, plan, report):
    """Yield for each network what a record's part "networks" has of it.

    Args:
        networks: some of `networks.NETWORKS`.
        plan: how long to measure each.
        report: told what is being done.
    """
    for number, network in enumerate(networks, 1):
        where = f"network {number}/{len(networks)} {network.name}"
        yield measure_network(network, plan, lambda text, where=where: report(f"{where}: {text}"))
        keras.backend.clear_session()
        gc.collect()


def measure_network(network, plan, report):
    """Check that acceleration changes no result, else refuse it, and time all in turns.

    The first two networks begin with the same weights. The third, whose batch norms pass their
    input on, computes something else: no batch norm can be faster than none.
    """
    report("compiling and checking")
    keras.utils.set_random_seed(0)
    theirs, ours = network.make(network.classes), network.make(network.classes)
    ours.set_weights(theirs.get_weights())
    accelerated = bnm.accelerate(ours)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(network.inputs, np.float32)
    y = rng.integers(0, network.classes, network.labels)
    wrong = disagreement(theirs, ours, x, y)
    refused = {} if wrong is None else {ACCELERATED: wrong}
    models = {KERAS: theirs, ACCELERATED: ours, WITHOUT: without_batch_norm(theirs)}
    calls = {
        name: {
            TRAIN: lambda model=model: model.train_on_batch(x, y),
            PREDICT: lambda model=model: model.predict_on_batch(x),
        }
        for name, model in models.items()
        if name not in refused
    }
    steps = {kind: _steps(call) for kind, call in calls[KERAS].items()}
    report(f"timing, {' and '.join(map(str, steps.values()))} steps a sample")
    jobs = {
        name: {kind: Job(_repeated(call, steps[kind]), steps[kind]) for kind, call in kinds.items()}
        for name, kinds in calls.items()
    }
    samples = timed(jobs, plan, ((KERAS, ACCELERATED),))
    return {
        "network": network.name,
        "batch_norms": accelerated.count + len(accelerated.left),
        "accelerated": accelerated.count,
        "parameters": theirs.count_params(),
        "steps": steps,
        "refused": refused,
        "microseconds": microseconds(samples),
    }


def _steps(call):
    call()
    start = time.perf_counter()
    call()
    return max(1, min(_MOST_STEPS, math.ceil(_SAMPLE / (time.perf_counter() - start))))


def _repeated(call, steps):
    def run():
        for _ in range(steps):
            call()

    return run
