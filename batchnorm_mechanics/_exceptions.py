"""The two ways in which a command ends badly, and what may be shown of another library's errors."""

import itertools
import re

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
# Of a reason that another library gives, which may hold a whole configuration.
_LONGEST = 160


class InputError(ValueError):
    """What a user gave cannot be used; the message says what was expected and what to do."""


class FailureError(RuntimeError):
    """Work failed through no fault of its input; the message says how, and what is kept."""


def first_line(error: BaseException) -> str:
    """Return an error's type and the line of it that says what is wrong, shortened.

    Example:
        >>> first_line(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    # Keras prints some lines in bold, whatever they are printed to.
    lines = [line.strip() for line in _STYLE.sub("", str(error)).splitlines() if line.strip()]
    # TensorFlow says what is wrong after a whole traceback, and before it names the node.
    told = [before for before, node in itertools.pairwise(lines) if node.startswith("[[{{node")]
    line = (told or lines or [""])[0]
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()}..."
    return f"{type(error).__name__}: {line}".rstrip(": ")
