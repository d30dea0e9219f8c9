"""Processes that import the package, run the command or the studies, from start to end."""

import subprocess
import sys
import tempfile
import time

from runner import Runner

BNM = ("-m", "batchnorm_mechanics")
# Ours, and what each is compared with: nothing, NumPy, and TensorFlow, which ours must import.
COMMANDS = {
    "python": ("-c", "pass"),
    "import numpy": ("-c", "import numpy"),
    "import batchnorm_mechanics": ("-c", "import batchnorm_mechanics"),
    "bnm --version": (*BNM, "--version"),
    "bnm --help": (*BNM, "--help"),
    "import tensorflow": ("-c", "import tensorflow"),
    "bnm.BatchNormalization": ("-c", "import batchnorm_mechanics as b; b.BatchNormalization"),
}
SEEDS = 2


def reproduce(loops):
    """Return the seconds that runs of a study take side by side, the report included."""
    seconds = 0.0
    for _ in range(loops):
        # A folder that has results already is not run again.
        with tempfile.TemporaryDirectory() as folder:
            command = [*BNM, "reproduce", "keras-916", "--quick"]
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *command, "--seeds", str(SEEDS), "--out", folder],
                capture_output=True,
                text=True,
                check=False,
            )
            seconds += time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stderr)
    return seconds


def main():
    """Time every command; each value is a process of its own already."""
    runner = Runner(processes=1, values=3)
    for name, arguments in COMMANDS.items():
        runner.command(f"command: {name}", *arguments)
    runner.time(f"command: bnm reproduce, {SEEDS} seeds", reproduce)
    runner.finish()


if __name__ == "__main__":
    main()
