"""Worker processes: how many, what a worker owes its parent, and how workers are ended."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from typing import Any

# What a process gets to end by itself, in seconds, before it is killed.
_GRACE = 5


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def behave_as_worker() -> None:
    """Make this process one that its parent can rely on; the first thing that a worker does.

    It leaves Ctrl-C to its parent, ends when the parent is gone, and keeps standard output, which
    belongs to the parent's results, free of what it prints itself: that goes to standard error.
    """
    # Ctrl-C reaches the whole group of processes; the parent answers it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)


def _end_with_parent() -> None:
    """End this process when the parent is gone, killed perhaps, and nobody listens any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def stop(processes: Iterable[Any]) -> None:
    """End processes of `multiprocessing`, by force if they do not listen; not started ones too."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    for process in started:
        process.join(timeout=_GRACE)
        if process.is_alive():
            process.kill()
            process.join()
