"""The peak of memory of one training step, each layer in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.timing import rotations

LAYERS = ("ours", "Keras")
SHAPE = (64, 56, 56, 64)
QUICK_SHAPE = (32, 28, 28, 64)
_TIMEOUT = 300


def compare_memory(
    shape: tuple[int, ...], *, repeats: int, report: Callable[[str], None]
) -> Iterator[Comparison]:
    """Measure the layers' peaks of memory.

    Args:
        shape: of the input.
        repeats: processes of each layer.
        report: told what is being done.

    Yields:
        One comparison, in bytes above what the process held with the inputs ready and the step
        compiled.

    Raises:
        FailureError: a process failed.
    """
    samples: dict[str, list[float]] = {name: [] for name in LAYERS}
    for number, order in enumerate(rotations(list(LAYERS), repeats), start=1):
        for name in order:
            report(f"layer {shape}: memory of {name}, {number} of {repeats}")
            samples[name].append(peak(name, shape))
    yield Comparison(
        part="layer",
        case=str(shape),
        measure="peak memory",
        ours=LAYERS[0],
        samples=samples,
        unit="bytes",
        how="three steps forward and backward in a process of its own, above its inputs",
    )


def peak(name: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that steps of a layer take at their peak, measured in a new process.

    Args:
        name: one of `LAYERS`.
        shape: of the input.

    Raises:
        FailureError: the process failed.
    """
    request = json.dumps({"layer": name, "shape": shape})
    command = [sys.executable, "-m", "batchnorm_mechanics.bench.memory_probe", request]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(name, f"it took longer than {_TIMEOUT} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _failure(name, lines[-1])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer["bytes"]


def _failure(name: str, reason: str) -> FailureError:
    return FailureError(
        f"bench: the process that measures the memory of {name} failed: {reason}. "
        "Run `bnm bench layer` again with more memory free."
    )
