"""`bnm bench import`: how long processes take that import the package or run the command."""

import subprocess
import sys
from collections.abc import Callable, Iterator

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.timing import Job, interleave

_TIMEOUT = 120
_BNM = ("-m", "batchnorm_mechanics")
# By measure: ours, and what it is compared with.
MEASURES = {
    "import": {
        "import batchnorm_mechanics": ("-c", "import batchnorm_mechanics"),
        "bare Python": ("-c", "pass"),
        "import numpy": ("-c", "import numpy"),
    },
    "command": {
        "bnm --version": (*_BNM, "--version"),
        "bnm --help": (*_BNM, "--help"),
        "bare Python": ("-c", "pass"),
    },
    "first use": {
        "bnm.BatchNormalization": ("-c", "import batchnorm_mechanics as b; b.BatchNormalization"),
        "import keras": ("-c", "import keras"),
        "import tensorflow": ("-c", "import tensorflow"),
    },
}
QUICK_MEASURES = {name: MEASURES[name] for name in ("import", "command")}


def compare_start_up(
    measures: dict[str, dict[str, tuple[str, ...]]],
    *,
    repeats: int,
    report: Callable[[str], None],
) -> Iterator[Comparison]:
    """Time processes from their start to their end, in turns.

    Args:
        measures: like `MEASURES`: the arguments of Python for each contestant, ours first.
        repeats: samples of each.
        report: told what is being done.

    Yields:
        A comparison for each measure.

    Raises:
        FailureError: a process failed.
    """
    for measure, commands in measures.items():
        report(f"import, {measure}: timing, {repeats} repeats")
        jobs = {name: {"run": _process(name, command)} for name, command in commands.items()}
        samples = interleave(jobs, repeats=repeats)
        yield Comparison(
            part="import",
            case=measure,
            measure="process",
            ours=next(iter(commands)),
            samples={name: samples[name, "run"] for name in commands},
            how="a new process each, from start to end, files cached by the system",
        )


def _process(name: str, command: tuple[str, ...]) -> Job:
    def run() -> None:
        done = subprocess.run(
            [sys.executable, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise FailureError(
                f"bench: the process `{name}` ended with exit code {done.returncode}: "
                f"{lines[-1]}. Repair the installation and run `bnm bench import` again."
            )

    return Job(run)
