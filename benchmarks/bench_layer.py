"""One layer: ours, Keras's, torch's and flax's, and the copies of memory that none can be below.

What `worlds.py` compares in turns, at more shapes, is here timed in processes of its own, so that
`pyperf compare_to` can compare it with another version of the package.
"""

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hardware import THREADS, missing_peers
from problem import inference_mistake, make_problem, mistake, steps_between_looks
from runner import Runner

SHAPES = ((60, 100), (32, 7, 7, 512), (64, 56, 56, 64))
KINDS = {
    "training": ("ours", "Keras", "torch", "flax"),
    "inference": ("ours", "Keras", "torch"),
}
# A tensor that does not fit the cache is read twice and written once forward, and x and dy are each
# read twice and dx written once backward; a copy reads once and writes once.
COPIES = {"training": 4, "inference": 1}


def steps(loops, shape, name, kind):
    """Return the seconds that a contestant takes, once it has been seen to compute the problem."""
    contestant = _set_up(shape, name)
    run = {"training": contestant.both, "inference": contestant.inference}[kind]
    start = time.perf_counter()
    for _ in range(loops):
        run()
    return time.perf_counter() - start


@functools.cache
def _set_up(shape, name):
    from contestants import entries

    problem = make_problem(shape)
    contestant = entries(problem)[named_in_layout(name, shape)]()
    wrong = mistake(problem, contestant.results(), unbiased=contestant.unbiased)
    if name in KINDS["inference"]:
        wrong = wrong or inference_mistake(problem, contestant.inferred())
    if wrong is not None:
        raise SystemExit(f"refused {name} at {shape}: {wrong}")
    return contestant


def named_in_layout(name, shape):
    return f"{name}, channels last" if name == "torch" and len(shape) > 2 else name


def copies(loops, shape, count):
    """Return the seconds that copying a tensor takes, by as many threads as the layers have."""
    source = np.ones(shape, np.float32)
    # Written once: memory that was never touched is not there yet.
    target = np.full_like(source, np.nan)
    start = time.perf_counter()
    for _ in range(loops * count):
        copy(source, target)
    return time.perf_counter() - start


def copy(source, target):
    """Copy an array in parts at the same time: NumPy copies outside the interpreter's lock."""
    parts = zip(np.array_split(target, THREADS), np.array_split(source, THREADS), strict=True)
    with ThreadPoolExecutor(THREADS) as pool:
        # The list raises what a thread raised.
        list(pool.map(lambda pair: np.copyto(*pair), parts))


def exceeds_cache(shape):
    """Return whether a float32 tensor is larger than what the caches of two cores hold."""
    return 4 * np.prod(shape) > 50e6


def main():
    """Time what is installed."""
    runner = Runner(processes=2, values=5)
    for shape in SHAPES:
        for kind, names in KINDS.items():
            for name in [one for one in names if one not in missing_peers()]:
                runner.time(
                    f"layer {shape}, {kind}: {name}",
                    steps,
                    *(shape, name, kind),
                    inner_loops=steps_between_looks(shape),
                )
            if exceeds_cache(shape):
                # No layer can be faster than its passes over memory.
                runner.time(f"layer {shape}, {kind}: limit", copies, shape, COPIES[kind])
    runner.finish()


if __name__ == "__main__":
    main()
