"""`bnm bench layer`: one batch norm layer, in training mode, ours beside every library's."""

import dataclasses
import gc
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import keras

from batchnorm_mechanics.bench.contestant import Contestant
from batchnorm_mechanics.bench.copying import (
    COPIES_BACKWARD,
    COPIES_BOTH,
    COPIES_FORWARD,
    copy_jobs,
)
from batchnorm_mechanics.bench.peers import missing_peers
from batchnorm_mechanics.bench.problem import Problem, make_problem, mistake
from batchnorm_mechanics.bench.record import Comparison, spread
from batchnorm_mechanics.bench.tensorflow_layer import TensorFlowLayer
from batchnorm_mechanics.bench.timing import Job, Samples, interleave
from batchnorm_mechanics.layers import BatchNormalization

Shape = tuple[int, ...]
Report = Callable[[str], None]

OURS = "ours"
BOTH, FORWARD, BACKWARD = "forward + backward", "forward", "backward"
CALLS = "forward + backward, called from Python"
SIZES = "forward + backward by batch size"
LIMIT = "two passes over memory"
SHAPES: tuple[Shape, ...] = (
    (60, 100),
    (256, 256),
    (1024, 1024),
    (16384, 1024),
    (32, 7, 7, 512),
    (64, 28, 28, 64),
    (64, 56, 56, 64),
    (256, 14, 14, 256),
    (64, 112, 112, 64),
)
QUICK_SHAPES: tuple[Shape, ...] = ((60, 100), (8, 14, 14, 32))
# One size of batch after the other, with the study's channels.
BATCHES: tuple[Shape, ...] = ((60, 100), (600, 100), (6000, 100), (60_000, 100))
_BY_SIZE = (OURS, "Keras", "torch")


def compare_layers(
    shapes: tuple[Shape, ...], *, repeats: int, report: Report, calls: bool = True
) -> Iterator[Comparison]:
    """Time all layers at each shape.

    Args:
        shapes: channels last, of rank 2 or 4.
        repeats: samples of each.
        report: told what is being done.
        calls: whether to time calls from Python too.

    Yields:
        For each shape what `compare` returns.
    """
    for shape in shapes:
        problem = make_problem(shape)
        contestants = [enter() for enter in entries(problem).values()]
        yield from compare(problem, contestants, repeats=repeats, report=report, calls=calls)
        # Contestants hold a dozen tensors of the shape each, some of them in cycles.
        del contestants
        gc.collect()


def compare_batches(
    shapes: tuple[Shape, ...], *, repeats: int, report: Report
) -> Iterator[Comparison]:
    """Time how a step grows with the batch: ours, Keras's and torch's layers.

    Args:
        shapes: of batches (n, channels).
        repeats: samples of each.
        report: told what is being done.

    Yields:
        For each shape a comparison of forward and backward together.
    """
    for shape in shapes:
        problem = make_problem(shape)
        entrants = entries(problem)
        contestants = [entrants[name]() for name in _BY_SIZE if name in entrants]
        both, *_ = compare(problem, contestants, repeats=repeats, report=report)
        yield dataclasses.replace(both, measure=SIZES, case=f"batch of {shape[0]:,}")


def entries(problem: Problem) -> dict[str, Callable[[], Contestant]]:
    """Return by name what sets up each contestant whose library is installed, ours first."""
    absent = missing_peers()
    entrants: dict[str, Callable[[], Contestant]] = {
        f"{name}{suffix}": partial(
            TensorFlowLayer, f"{name}{suffix}", kind, problem, jit_compile=jit_compile
        )
        for name, kind in ((OURS, BatchNormalization), ("Keras", keras.layers.BatchNormalization))
        for suffix, jit_compile in (("", False), (", XLA", True))
    }
    if "tf_keras" not in absent:
        entrants["tf_keras"] = partial(_tf_keras, problem)
    if "torch" not in absent:
        from batchnorm_mechanics.bench.torch_layer import TorchLayer

        layouts = {"torch": True}
        if problem.x.ndim == 4:
            layouts = {"torch, channels last": True, "torch, channels first": False}
        for name, last in layouts.items():
            entrants[name] = partial(TorchLayer, name, problem, channels_last=last)
    if "flax" not in absent:
        from batchnorm_mechanics.bench.flax_layer import FlaxLayer

        entrants["flax"] = partial(FlaxLayer, "flax", problem)
    return entrants


def _tf_keras(problem: Problem) -> Contestant:
    # No dependency, also not of an extra: it is measured where it happens to be installed.
    tf_keras = importlib.import_module("tf_keras")

    # It takes the fused kernel's variance at rank 4, and the biased one elsewhere.
    return TensorFlowLayer(
        "tf_keras",
        tf_keras.layers.BatchNormalization,
        problem,
        unbiased=problem.x.ndim == 4,
    )


def compare(
    problem: Problem,
    contestants: list[Contestant],
    *,
    repeats: int,
    report: Report,
    calls: bool = False,
) -> list[Comparison]:
    """Check what contestants compute, refuse those that are wrong, and time the others in turns.

    Args:
        problem: of all of them.
        contestants: set up for it.
        repeats: samples of each.
        report: told what is being done.
        calls: whether to time calls from Python too.

    Returns:
        Three comparisons: forward and backward together, forward, and backward, which is the
        difference of the two in each repeat. With `calls`, and where a sample is a chain of steps,
        a fourth one: forward and backward together, with a call from Python for each step.
    """
    calls = calls and problem.steps > 1
    refused: dict[str, str] = {}
    jobs: dict[str, Mapping[str, Job]] = {}
    for contestant in contestants:
        report(f"layer {problem.x.shape}: compiling and checking {contestant.name}")
        wrong = mistake(problem, contestant.results(), unbiased=contestant.unbiased)
        if wrong is not None:
            refused[contestant.name] = wrong
            continue
        jobs[contestant.name] = {
            FORWARD: Job(contestant.forward, problem.steps),
            BOTH: Job(contestant.both, problem.steps),
            **({CALLS: Job(contestant.calls, problem.steps)} if calls else {}),
        }
    copies = copy_jobs(problem.x, problem.steps)
    report(f"layer {problem.x.shape}: timing, {repeats} repeats")
    samples = interleave({**jobs, **copies}, repeats=repeats)
    fastest = min((samples[name, "copy"] for name in copies), key=lambda one: spread(one).median)
    common: dict[str, Any] = {
        "part": "layer",
        "case": str(problem.x.shape),
        "ours": OURS,
        "refused": refused,
        "limit": LIMIT,
    }
    found = [
        Comparison(
            measure=measure,
            samples=found,
            how=_how(problem),
            # Where tensors fit the cache, memory is no limit.
            floor=[copies * one for one in fastest] if exceeds_cache(problem.x.shape) else None,
            **common,
        )
        for measure, found, copies in (
            (BOTH, _of(samples, list(jobs), BOTH), COPIES_BOTH),
            (FORWARD, _of(samples, list(jobs), FORWARD), COPIES_FORWARD),
            (BACKWARD, _backward(samples, list(jobs)), COPIES_BACKWARD),
        )
    ]
    if calls:
        called = _of(samples, list(jobs), CALLS)
        how = f"{problem.steps} calls a sample, each fed with the one before"
        found.append(Comparison(measure=CALLS, samples=called, how=how, **common))
    return found


def exceeds_cache(shape: Shape) -> bool:
    """Return whether a float32 tensor is larger than what the caches of two cores hold.

    Example:
        >>> exceeds_cache((64, 56, 56, 64)), exceeds_cache((1024, 1024))
        (True, False)
    """
    return 4 * math.prod(shape) > 50e6


def _of(samples: Samples, names: list[str], kind: str) -> dict[str, list[float]]:
    return {name: samples[name, kind] for name in names}


def _backward(samples: Samples, names: list[str]) -> dict[str, list[float]]:
    return {
        name: [
            both - forward
            for both, forward in zip(samples[name, BOTH], samples[name, FORWARD], strict=True)
        ]
        for name in names
    }


def _how(problem: Problem) -> str:
    if problem.steps == 1:
        return "one step a sample"
    return f"{problem.steps} steps a sample, each fed with the one before"
