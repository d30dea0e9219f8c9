"""Run notebooks: python notebooks/run.py [NAME ...], all of them without a name.

Each script becomes `build/notebooks/NAME.ipynb` with its outputs. One that is there already is kept
if it was made of the same script, package, versions and kernels.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import psutil
from filelock import FileLock
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

from batchnorm_mechanics._io.files import write_atomically

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem: path for path in sorted(Path(__file__).parent.glob("[0-9]*.py"))}
MADE = ROOT / "build" / "notebooks"

# What hangs is stopped. What a cell costs is measured in seconds of the processor, which a machine
# that does other things gives it, too.
CELL_TIMEOUT = 300
CPU_SECONDS = "cpu_seconds"
# Each starts TensorFlow, which takes 700 MB and all processors for some seconds.
AT_A_TIME = 2
MADE_OF = "made_of"
# TensorFlow says a dozen lines about the machine when it is imported, whatever its log level; and
# the kernel one about its ports.
QUIETLY = (
    "--IPKernelApp.log_level=ERROR",
    "--IPKernelApp.exec_lines=from batchnorm_mechanics import _tensorflow",
    "--IPKernelApp.exec_lines=_tensorflow.import_tensorflow_quietly()",
    "--IPKernelApp.exec_lines=del _tensorflow",
)


def fingerprint(script: Path) -> str:
    """Return a digest of all that the outputs of a notebook depend on."""
    digest = hashlib.sha256()
    package = sorted((ROOT / "batchnorm_mechanics").rglob("*"))
    sources = [path for path in package if path.is_file() and path.suffix != ".pyc"]
    for path in (script, Path(__file__), ROOT / "requirements-dev.lock", *sources):
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    # TensorFlow has two sets of kernels, which differ in the last digits.
    kernels = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    digest.update(f"{sys.version} {kernels}".encode())
    return digest.hexdigest()


def run(name: str) -> str:
    """Make one notebook unless it is there, and return a line on it; one process at a time."""
    MADE.mkdir(parents=True, exist_ok=True)
    made, current = MADE / f"{name}.ipynb", fingerprint(SCRIPTS[name])
    with FileLock(MADE / f".{name}.lock"):
        if made.exists() and _read(made).metadata.get(MADE_OF) == current:
            return f"{name}: as it was"
        start = time.monotonic()
        notebook = jupytext.read(SCRIPTS[name], fmt="py:percent")
        _execute(notebook)
        notebook.metadata[MADE_OF] = current
        write_atomically(made, nbformat.writes(notebook) + "\n")
        return f"{name}: {time.monotonic() - start:.0f} s"


def _read(made: Path) -> nbformat.NotebookNode:
    return nbformat.read(made, as_version=4)


def _execute(notebook: nbformat.NotebookNode) -> None:
    # Of this checkout, whatever is installed.
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    with tempfile.TemporaryDirectory() as folder:  # What a notebook writes goes with it.
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            # On a busy machine TensorFlow alone takes a minute to start.
            startup_timeout=CELL_TIMEOUT,
            kernel_name="python3",
            store_widget_state=False,
            coalesce_streams=True,
            extra_arguments=[*QUIETLY],
            resources={"metadata": {"path": folder}},
            on_cell_execute=lambda cell, cell_index: _note_seconds(client, cell, -1),
            on_cell_executed=lambda cell, cell_index, execute_reply: _note_seconds(client, cell, 1),
        )
        client.execute(env=environment)


def _note_seconds(client: NotebookClient, cell: nbformat.NotebookNode, sign: int) -> None:
    """Add the kernel's seconds so far, with a sign, to what a cell has noted."""
    times = psutil.Process(client.km.provisioner.pid).cpu_times()
    noted = cell.metadata.get(CPU_SECONDS, 0.0)
    cell.metadata[CPU_SECONDS] = round(noted + sign * (times.user + times.system), 2)


def _told(name: str) -> tuple[str, bool]:
    try:
        return run(name), True
    except (CellControlSignal, DeadKernelError) as error:
        return f"{name}: {error}", False


def main() -> int:
    """Run what is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*SCRIPTS, []], metavar="NAME")
    names = parser.parse_args().names or [*SCRIPTS]
    good = True
    # Processes, since each run has an event loop with signals of its own.
    with ProcessPoolExecutor(min(AT_A_TIME, len(names))) as pool:
        for told, went_well in pool.map(_told, names):
            print(told, file=sys.stdout if went_well else sys.stderr, flush=True)
            good &= went_well
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
