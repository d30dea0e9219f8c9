"""One layer at 40 shapes: ours, Keras's layer after `accelerate`, Keras's and torch's."""

import gc
import math

import keras
from contestants import entries
from problem import inference_mistake, make_problem, mistake
from turns import Job, Plan, timed
from worlds_record import (
    ACCELERATED,
    BOTH,
    BOTH_CALLS,
    FORWARD,
    INFERENCE,
    INFERENCE_CALLS,
    KERAS,
    OURS,
    TORCH,
    microseconds,
)

# Images of all sizes, sequences, rows and volumes; 1 to 2,048 channels; batches of one.
SHAPES = (
    *((1000, 1), (32, 64), (60, 100), (128, 256), (10_000, 4), (256, 256), (1024, 1024)),
    *((512, 2048), (100_000, 32), (16384, 1024)),
    *((2, 128, 48), (32, 128, 64), (2, 10200, 32)),
    *((64, 28, 28, 1), (32, 4, 4, 128), (1, 14, 14, 512), (1, 7, 7, 2048), (64, 28, 28, 3)),
    *((32, 8, 8, 128), (16, 64, 64, 4), (1, 112, 112, 32), (32, 31, 31, 16), (32, 28, 28, 24)),
    *((32, 14, 14, 96), (1, 224, 224, 16), (32, 7, 7, 512), (32, 62, 62, 8), (32, 60, 60, 16)),
    *((8, 19, 19, 728), (64, 28, 28, 64), (32, 7, 7, 2048), (32, 56, 56, 48), (64, 56, 56, 64)),
    *((256, 14, 14, 256), (64, 112, 112, 64)),
    *((2, 4, 8, 8, 16), (2, 4, 7, 7, 512), (4, 16, 16, 16, 32), (2, 8, 32, 32, 64)),
    (8, 16, 56, 56, 64),
)
QUICK_SHAPES = ((60, 100), (8, 14, 14, 32))
PLAN = Plan(least=7, most=15, seconds=6.0)
QUICK_PLAN = Plan(least=2, most=2, seconds=0.5)

# From here on a step takes so long that calling it from Python costs nothing beside it.
_CALLED_BELOW = 2**20


def measure(shapes, plan, report):
    """Yield for each shape what a record's part "layers" has of it.

    Args:
        shapes: channels last, ranks 2 to 5.
        plan: how long to measure each.
        report: told what is being done.
    """
    for number, shape in enumerate(shapes, 1):
        where = f"layer {number}/{len(shapes)} {shape}"
        report(f"{where}: compiling and checking")
        problem = make_problem(shape)
        yield measure_shape(
            problem, contestants(problem), plan, lambda text, w=where: report(f"{w}: {text}")
        )
        # A contestant's functions hold it and its tensors, gigabytes for the largest shapes.
        del problem
        keras.backend.clear_session()
        gc.collect()


def contestants(problem):
    """Return the contestants whose library is installed."""
    return [
        enter()
        for name, enter in entries(problem).items()
        if name in (OURS, ACCELERATED, KERAS) or name.startswith(TORCH)
    ]


def measure_shape(problem, contestants, plan, report):
    """Check what contestants compute, refuse those that are wrong, and time the others in turns."""
    refused = {}
    jobs = {}
    for contestant in contestants:
        wrong = mistake(problem, contestant.results(), unbiased=contestant.unbiased)
        wrong = wrong or inference_mistake(problem, contestant.inferred())
        if wrong is not None:
            refused[contestant.name] = wrong
        else:
            jobs[contestant.name] = _jobs(contestant, problem)
    report("timing")
    samples = timed(jobs, plan, ((KERAS, OURS), (KERAS, ACCELERATED)))
    return {
        "shape": list(problem.x.shape),
        "steps": problem.steps,
        "refused": refused,
        "microseconds": microseconds(samples),
    }


def _jobs(contestant, problem):
    kinds = {
        FORWARD: contestant.forward,
        BOTH: contestant.both,
        INFERENCE: contestant.inference,
    }
    # torch is called from Python in any case.
    if math.prod(problem.x.shape) < _CALLED_BELOW and not contestant.name.startswith(TORCH):
        kinds |= {BOTH_CALLS: contestant.calls, INFERENCE_CALLS: contestant.inference_calls}
    return {kind: Job(run, problem.steps) for kind, run in kinds.items()}
