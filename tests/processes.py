"""Start the command as a shell would, to interrupt it, and see that nothing of it is left."""

import os
import signal
import subprocess


def start(arguments, **options):
    """Start a command in a process group of its own, with its output to be read."""
    # A shell starts background jobs with SIGINT ignored, and so would be our child in one.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **(heeding | options),
    )


def group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
