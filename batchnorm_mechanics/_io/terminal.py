"""What is shown in a terminal, without what would steer it.

A model's file names layers, an archive its arrays. Printed as they are, such names could clear the
screen, set the window's title, or paint over a verdict.
"""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

# Control characters but for tab and newline, those of eight bits too, those that turn the direction
# of what is written after them, and halves of characters: bytes of a name that are no UTF-8.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    r"""Return a text with its control characters written out.

    Example:
        >>> print(harmless("own\x1b[31m"))
        own\x1b[31m
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


class Terminal(Console):
    """A console that shows control characters of a text, and obeys none of them."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as a console does; its own commands are no text."""
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROLS.search(segment.text):
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)
