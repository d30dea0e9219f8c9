"""The machine that measures: the same two cores for every library, and what they are."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from batchnorm_mechanics._processes import cores

THREADS = 2
_LIBRARIES = ("tensorflow", "keras", "tf_keras", "torch", "jax", "flax", "numpy")
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "TF_NUM_INTRAOP_THREADS": str(THREADS),
    "TF_NUM_INTEROP_THREADS": str(THREADS),
    "OMP_NUM_THREADS": str(THREADS),
}


def limit_process() -> None:
    """Give this process, and those that it starts, two cores of the processor and no accelerator.

    It must come before any library is imported: each counts the cores once, at its start. Where
    the system cannot tie a process to cores, the libraries' own settings remain, and JAX, which has
    none, uses what it likes.
    """
    os.environ.update(_ENVIRONMENT)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _separate_cores(sorted(os.sched_getaffinity(0))))


def _separate_cores(processors: list[int]) -> list[int]:
    """Choose processors that share no core, as far as there are such; siblings halve each other."""
    by_core: dict[str, int] = {}
    for processor in processors:
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        core = path.read_text(encoding="ascii") if path.exists() else str(processor)
        by_core.setdefault(core, processor)
    chosen = list(by_core.values())
    return (chosen + [one for one in processors if one not in chosen])[:THREADS]


def describe() -> dict[str, Any]:
    """Return what measures: processor, cores in use, threads, memory, load, system and versions.

    Returns:
        `processor`, `cores`, `threads`, `memory_gb` (None where the system does not tell),
        `load` (how many processes ran in the last minute), `system`, `python` and
        `versions`, which has None for a library that is not installed.

    Example:
        >>> describe()["threads"]
        2
    """
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": THREADS,
        "memory_gb": _memory(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def version(library: str) -> str | None:
    """Return the version of a library, None if it is not installed.

    Example:
        >>> version("no-such-library") is None
        True
    """
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
