"""The machine that measures: the same two cores for every library, and what they are."""

import importlib.metadata
import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly, one_dnn_is_on
from batchnorm_mechanics._workers import cores

THREADS = 2
ONE_DNN = "TF_ENABLE_ONEDNN_OPTS"
# What kernels are chosen by, and what makes the same code faster on another processor.
_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"),
)
# The peers that need not be installed, and what each needs.
_PEERS = {"tf_keras": ("tf_keras",), "torch": ("torch",), "flax": ("jax", "flax")}
_LIBRARIES = ("tensorflow", "keras", "tf_keras", "torch", "jax", "flax", "numpy")
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "TF_NUM_INTRAOP_THREADS": str(THREADS),
    "TF_NUM_INTEROP_THREADS": str(THREADS),
    "OMP_NUM_THREADS": str(THREADS),
}


def limit_process():
    """Give this process, and those that it starts, two cores of the processor and no accelerator.

    It must come before any library is imported: each counts the cores once, at its start. Where
    the system cannot tie a process to cores, the libraries' own settings remain, and JAX, which has
    none, uses what it likes.
    """
    os.environ.update(_ENVIRONMENT)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _separate_cores(sorted(os.sched_getaffinity(0))))


def _separate_cores(processors):
    """Choose processors that share no core, as far as there are such; siblings halve each other."""
    by_core = {}
    for processor in processors:
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        core = path.read_text(encoding="ascii") if path.exists() else str(processor)
        by_core.setdefault(core, processor)
    chosen = list(by_core.values())
    return (chosen + [one for one in processors if one not in chosen])[:THREADS]


def describe():
    """Return what measures: processor, cores in use, threads, memory, load, system and versions.

    It imports TensorFlow, which alone knows its kernels: call `limit_process` before.

    Returns:
        `processor`, `flags` (its instruction sets that matter here; none where the system does not
        tell), `cores`, `threads`, `memory_gb` (None where the system does not tell),
        `load` (how many processes ran in the last minute), `system`, `python`,
        `versions`, which has None for a library that is not installed, `onednn` (whether
        TensorFlow runs on oneDNN's kernels) and `onednn_set_by` (what decided that).
    """
    # Before the import, which is load of our own.
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    import_tensorflow_quietly()
    setting = os.environ.get(ONE_DNN)
    return {
        "processor": _processor(),
        "flags": flags(),
        "cores": cores(),
        "threads": THREADS,
        "memory_gb": _memory(),
        "load": load,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
        "onednn": one_dnn_is_on(),
        "onednn_set_by": f"{ONE_DNN}={setting}" if setting else "the processor",
    }


def facts(machine):
    """Return what `describe` found as three lines: hardware, kernels and versions."""
    installed = [f"{name} {one}" for name, one in machine["versions"].items() if one is not None]
    return [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gb']} GB; {machine['system']}",
        f"Instruction sets: {' '.join(machine['flags']) or 'not known'}; TensorFlow runs "
        f"{'with' if machine['onednn'] else 'without'} oneDNN, decided by "
        f"{machine['onednn_set_by']}",
        f"Python {machine['python']}, {', '.join(installed)}",
    ]


def missing_peers():
    """Return the peers that are not installed, without importing any."""
    return [peer for peer, needs in _PEERS.items() if not all(map(find_spec, needs))]


def versions():
    """Return the version of each library that takes part, None where it is not installed."""
    return {name: _version(name) for name in _LIBRARIES}


def _version(library):
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def flags(information=None):
    """Return the processor's instruction sets that matter to batch normalization.

    Args:
        information: as /proc/cpuinfo has it, which is read if this is None.

    Returns:
        Names as Linux has them, the older ones first; none where there is no such file.
    """
    if information is None:
        information = _cpu_information()
    found = re.search(r"^flags\s*: (.+)$", information, re.M)
    have = set(found[1].split()) if found else set()
    return [flag for flag in _FLAGS if flag in have]


def _processor():
    found = re.search(r"^model name\s*: (.+)$", _cpu_information(), re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cpu_information():
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _memory():
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
