"""Write a file whole or not at all, and know a full disk when one is met."""

import errno
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that an interruption leaves either the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
