"""How fast the machine copies a tensor: the measure of what any layer could reach."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics.bench.machine import THREADS
from batchnorm_mechanics.bench.timing import Job

# A tensor that does not fit the cache is read twice and written once forward, and x and dy are each
# read twice and dx written once backward; a copy reads once and writes once.
COPIES_FORWARD = 1.5
COPIES_BACKWARD = 2.5
COPIES_BOTH = 4.0


class Copy:
    """Copies of one tensor into another, whose memory is there before and which stays readable.

    Args:
        source: what to copy.
        steps: copies a sample.
        threads: parts that are copied at the same time.
    """

    def __init__(self, source: NDArray[np.float32], steps: int, threads: int) -> None:
        self._source = source.reshape(-1)
        # Written once: memory that was never touched is not there yet.
        self.target = np.full_like(self._source, np.nan)
        self._steps = steps
        bounds = np.linspace(0, source.size, threads + 1).astype(int)
        self._parts = [slice(*pair) for pair in itertools.pairwise(bounds)]

    def run(self) -> None:
        """Copy; NumPy's copy runs outside the interpreter's lock, so the threads do overlap."""
        if len(self._parts) == 1:
            self._copy(self._parts[0])
            return
        with ThreadPoolExecutor(len(self._parts)) as pool:
            # The list raises what a thread raised.
            list(pool.map(self._copy, self._parts))

    def _copy(self, part: slice) -> None:
        for _ in range(self._steps):
            np.copyto(self.target[part], self._source[part])


def copy_jobs(source: NDArray[np.float32], steps: int) -> dict[str, dict[str, Job]]:
    """Return jobs that copy a tensor by one thread and by as many as the layers have.

    Example:
        >>> sorted(copy_jobs(np.zeros(9, np.float32), steps=2))
        ['copy, 1 thread', 'copy, 2 threads']
    """
    return {
        "copy, 1 thread": {"copy": Job(Copy(source, steps, 1).run, steps)},
        f"copy, {THREADS} threads": {"copy": Job(Copy(source, steps, THREADS).run, steps)},
    }
