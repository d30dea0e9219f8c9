"""Words for how many there are, and for lists that would be too long to read."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

# More names are not read.
NAMED = 4

T = TypeVar("T")


def counted(many: int, what: str) -> str:
    """Return so many of something in words.

    Example:
        >>> counted(1, "layer"), counted(2000, "layer")
        ('1 layer', '2,000 layers')
    """
    return f"{many:,} {what}{'' if many == 1 else 's'}"


def named(names: Sequence[str]) -> str:
    """Return names, the first ones in full.

    Example:
        >>> named(["a", "b"]), named(["bn"] * 6)
        ('a, b', 'bn, bn, bn, bn and 2 more layers')
    """
    more = len(names) - NAMED
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {counted(more, 'more layer')}" if more > 0 else shown


def together(pairs: Iterable[tuple[str, T]]) -> Iterable[tuple[str, list[T]]]:
    """Return, for each first part in the order of their coming, the second parts.

    Example:
        >>> list(together([("a", 1), ("b", 2), ("a", 3)]))
        [('a', [1, 3]), ('b', [2])]
    """
    found: dict[str, list[T]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found.items()
