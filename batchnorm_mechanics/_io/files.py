"""Write a file whole or not at all, alone in its folder, and know a full disk when one is met."""

import contextlib
import errno
import glob
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

# Beside the file that is being written: the machine and the process that write it.
_PART = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<process>\d+)\.part")
# Those that this process is writing now: others of its own it could not take away when it failed.
_being_written: set[Path] = set()


class HeldError(Exception):
    """Another process works in a folder.

    Attributes:
        by: who that is, in words.
    """

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Have a file written beside its place, and put it there when it is whole and on the disk.

    Whatever ends the block, the old file is there or the new one. What a process that was killed
    has left is taken away by the next one that writes the same file.

    Args:
        path: of the file; one that is there is replaced in one step.

    Yields:
        A path in a folder of its own beside it, with the same ending, to write to.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with written_whole(path) as part:
        ...     _ = part.write_text("all of it")
        >>> path.read_text(), [found.name for found in path.parent.iterdir()]
        ('all of it', ['a.txt'])
    """
    path = path.absolute()
    _take_away_what_is_left(path)
    folder = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.part")
    folder.mkdir()
    _being_written.add(folder)
    try:
        part = folder / path.name
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _being_written.discard(folder)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that an interruption leaves either the old one or the new one."""
    with written_whole(path) as part:
        # A file's name can be bytes that are no UTF-8: they are written out.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def set_aside(path: Path) -> Path:
    """Give a damaged file, or folder, a name beside its own under which it is kept.

    Returns:
        The new path: `.damaged`, or `.damaged-2` and so on, after the name.
    """
    number, new = 1, path.with_name(f"{path.name}.damaged")
    while new.exists():
        number += 1
        new = path.with_name(f"{path.name}.damaged-{number}")
    return path.rename(new)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep all other processes out of a folder, of those that ask.

    The system frees the lock of a process that ends, however it ends.

    Args:
        folder: which exists.

    Raises:
        HeldError: another process is in it.
    """
    from filelock import FileLock, Timeout

    lock, holder = FileLock(folder / ".lock", blocking=False), folder / ".lock.json"
    try:
        lock.acquire()
    except Timeout as error:
        raise HeldError(_described(holder)) from error
    try:
        who = {"process": os.getpid(), "machine": _host(), "since": time.time()}
        write_atomically(holder, json.dumps(who))
        yield
    finally:
        # Whoever comes next writes its own; the work is done, even where this cannot be removed.
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def _described(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who["since"]))
        return f"process {who['process']} on {who['machine']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _host() -> str:
    return re.sub(r"\W", "-", platform.node()) or "here"


def _take_away_what_is_left(path: Path) -> None:
    """Remove what is left of this file by processes that were killed, or lost its folder."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        found = _PART.fullmatch(part.name)
        if found and found["host"] == _host() and part not in _being_written:
            process = int(found["process"])
            if process == os.getpid() or not _is_alive(process):
                shutil.rmtree(part, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _flush(folder: Path) -> None:
    """Have the name itself on the disk, too, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_out_of_space(error: BaseException) -> bool:
    """Return whether an error says, directly or by its cause, that a disk or quota is full.

    TensorFlow and HDF5 put the system's error into words, so the words count too.
    """
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or os.strerror(errno.ENOSPC) in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
