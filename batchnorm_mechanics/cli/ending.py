"""How a command ends: its exit codes, the signals that ask it to stop, and faults of ours."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# As POSIX, BSD's sysexits and `git` have them.
FAILED = 1
BAD_INPUT = 2
FAULT = 70
# By Ctrl-C; by another signal it is 128 and that signal's number.
INTERRUPTED = 130

# Ctrl-C, `kill`, a terminal that closes. Not every system has the last.
_STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# Long beside the time that tidying up takes, short beside a user's patience.
_SECONDS = 2.0

# Of what an exception says, which may hold a whole configuration.
_LONGEST = 200

_came: list[int] = []


@contextlib.contextmanager
def stopping_in_order() -> Iterator[None]:
    """Have every signal that asks to stop do what Ctrl-C does.

    By default some of them end a process at once, and temporary files stay behind. What is ignored
    outside, as by nohup or in the background of a script, stays ignored.
    """
    _came.clear()
    handled = [one for one in _STOPPING if signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code() -> int | None:
    """Return 128 and the number of the signal that came first, as POSIX has it, or None."""
    return 128 + _came[0] if _came else None


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    _came.append(number)
    if _insists():
        signal.setitimer(signal.ITIMER_REAL, _SECONDS, _SECONDS)
    raise KeyboardInterrupt


def _insists() -> bool:
    return hasattr(signal, "SIGALRM") and signal.getsignal(signal.SIGALRM) is _again


def _again(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def insisting() -> Iterator[None]:
    """Interrupt again and again what goes on although it was interrupted.

    TensorFlow loses an exception that comes while it builds a graph, and computes on. Only for work
    that tidies up faster than this comes again.

    Raises:
        KeyboardInterrupt: it was interrupted, whatever came of that.
    """
    came = len(_came)
    before = signal.signal(signal.SIGALRM, _again) if hasattr(signal, "SIGALRM") else None
    try:
        yield
    finally:
        if _insists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if len(_came) > came:
            raise KeyboardInterrupt


def told(fault: Exception) -> str:
    """Keep the traceback of a fault in a file, and return in one line what the user can do."""
    # Only here: no command waits for them that ends well.
    import tempfile
    import traceback

    try:
        # In its place at once, and named here alone: what there was room for helps, too.
        with tempfile.NamedTemporaryFile(
            "w", prefix="bnm-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.writelines(traceback.format_exception(fault))
        where = f"The traceback is in {file.name}"
    except OSError:
        where = "There is no room to keep the traceback"
    said = " ".join(str(fault).split())
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
    return (
        f"a fault of ours, not of what you gave: {type(fault).__name__}: {said}. {where}; please "
        "report it with the command. `bnm --debug ...` shows it here."
    )
