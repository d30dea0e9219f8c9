"""What a subject is not made for, which is no failure unless it is required."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.record import CaseResult

_DTYPES = ("float64", "float32", "bfloat16", "float16")
# What can be required, in the order in which it is said.
WORDS = (
    "axes",
    "ranks",
    *_DTYPES,
    "training",
    "inference",
    "statistics",
    "gradients",
    "masks",
    "saving",
)


@dataclass(frozen=True)
class Limit:
    """Something that a subject does not take.

    Attributes:
        what: a word of `WORDS`, or "" for what has none.
        words: what it takes instead, or that it has none.
        cases: how many cases were not judged for it.
        reason: what the subject says or raises, where there is one answer.
    """

    what: str
    words: str
    cases: int = 0
    reason: str | None = None


def find_limits(
    cases: Sequence[CaseResult], abilities: Sequence[str] | None = None
) -> tuple[Limit, ...]:
    """Return what a subject does not take, from the cases that were not judged for it."""
    return ()


def required(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is required, by words of `WORDS`.

    Args:
        wanted: the words, or a text that has them with commas between them.

    Raises:
        InputError: there is no such word.

    Example:
        >>> required("axes, float64")
        ('axes', 'float64')
    """
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    words = tuple(dict.fromkeys(part.strip().lower() for part in parts))
    for word in words:
        if word not in WORDS:
            close = difflib.get_close_matches(word, WORDS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(WORDS)}."
            raise InputError(
                "conform: `require` must be words for what a subject must take. "
                f"Received: require={word!r}. {hint}"
            )
    return words
