"""Time contestants in turns, so that whatever else the machine does meets all of them alike."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from worlds_record import ratio

# Threads of one library may spin for a while after its call, and would share the cores with the
# next contestant.
_PAUSE = 0.01
# Where a ratio is below 1, up to as many times the repeats are taken before it is recorded.
_LONGER = 3


@dataclass(frozen=True)
class Job:
    """Something to time: `run` takes `steps` steps and returns when they are done."""

    run: Callable[[], object]
    steps: int = 1


@dataclass(frozen=True)
class Plan:
    """How long to measure one case.

    Attributes:
        least: repeats in any case.
        most: repeats, where no ratio is below 1.
        seconds: what the repeats beyond `least` may take in all.
    """

    least: int
    most: int
    seconds: float


def timed(jobs, plan, pairs):
    """Return samples of each job, in seconds a step, by contestant and kind.

    Args:
        jobs: by contestant and kind, as `interleave` takes them.
        plan: how long to measure.
        pairs: (theirs, ours): if theirs took less than ours in the median of a kind, more repeats
            are taken, for both sides alike, and all samples are kept.

    Returns:
        {contestant: {kind: [seconds a step, one for each repeat]}}.
    """
    # A collection of the last case's tensors in the middle of a sample would be its time.
    gc.collect()
    found = {name: {kind: [] for kind in kinds} for name, kinds in jobs.items()}
    _add(found, jobs, plan.least)
    round_ = sum(
        statistics.median(samples) * jobs[name][kind].steps
        for name, kinds in found.items()
        for kind, samples in kinds.items()
    )
    wanted = min(plan.most, max(plan.least, math.floor(plan.seconds / round_)))
    _add(found, jobs, wanted - plan.least)
    if _falls_behind(found, pairs):
        more = min((_LONGER - 1) * wanted, math.floor(plan.seconds / round_))
        _add(found, jobs, more)
    return found


def _add(found, jobs, repeats):
    if repeats < 1:
        return
    # Go on in the turn where the last block of repeats ended.
    names = list(jobs)
    done = max((len(one) for kinds in found.values() for one in kinds.values()), default=0)
    first = done % max(1, len(names))
    order = names[first:] + names[:first]
    samples = interleave({name: jobs[name] for name in order}, repeats=repeats)
    for (name, kind), more in samples.items():
        found[name][kind] += more


def _falls_behind(found, pairs):
    return any(
        ratio(found[theirs][kind], found[ours][kind]).median < 1
        for theirs, ours in pairs
        if theirs in found and ours in found
        for kind in found[ours]
    )


def interleave(contestants, *, repeats, clock=time.perf_counter, pause=time.sleep):
    """Time the jobs of all contestants once in each repeat.

    The order is rotated by one from repeat to repeat, so that each contestant is first, second and
    so on equally often. Each job runs once before, untimed: that compiles it and fills its caches.

    Args:
        contestants: the jobs of each, by a name such as "forward".
        repeats: how often.
        clock: returns seconds.
        pause: waits for as many seconds; called before each contestant.

    Returns:
        By contestant and job the seconds of a step, one for each repeat.

    Raises:
        ValueError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(
            f"interleave: `repeats` must be 1 or more. Received: repeats={repeats!r}. "
            "A median needs a sample; 9 give a spread too."
        )
    for jobs in contestants.values():
        for job in jobs.values():
            job.run()
    samples = {(name, kind): [] for name, jobs in contestants.items() for kind in jobs}
    names = list(contestants)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            pause(_PAUSE)
            for kind, job in contestants[name].items():
                started = clock()
                job.run()
                samples[name, kind].append((clock() - started) / job.steps)
    return samples
