"""Time contestants in turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

# Threads of one library may spin for a while after its call, and would share the cores with the
# next contestant.
_PAUSE = 0.01


@dataclass(frozen=True)
class Job:
    """Something to time: `run` takes `steps` steps and returns when they are done."""

    run: Callable[[], object]
    steps: int = 1


Samples = dict[tuple[str, str], list[float]]
Name = TypeVar("Name", bound=str)


def interleave(
    contestants: Mapping[str, Mapping[str, Job]],
    *,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> Samples:
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

    Example:
        >>> found = interleave({"ours": {"sum": Job(lambda: sum(range(9)))}}, repeats=3)
        >>> [len(samples) for samples in found.values()]
        [3]
    """
    if repeats < 1:
        raise ValueError(
            f"interleave: `repeats` must be 1 or more. Received: repeats={repeats!r}. "
            "A median needs a sample; 9 give a spread too."
        )
    for jobs in contestants.values():
        for job in jobs.values():
            job.run()
    samples: Samples = {(name, kind): [] for name, jobs in contestants.items() for kind in jobs}
    for order in rotations(list(contestants), repeats):
        for name in order:
            pause(_PAUSE)
            for kind, job in contestants[name].items():
                started = clock()
                job.run()
                samples[name, kind].append((clock() - started) / job.steps)
    return samples


def rotations(names: list[Name], repeats: int) -> Iterator[list[Name]]:
    """Yield the order of each repeat: every one begins one name further on.

    Example:
        >>> list(rotations(["a", "b"], 3))
        [['a', 'b'], ['b', 'a'], ['a', 'b']]
    """
    for repeat in range(repeats):
        first = repeat % len(names) if names else 0
        yield names[first:] + names[:first]
