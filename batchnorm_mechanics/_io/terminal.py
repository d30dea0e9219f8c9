"""What is shown in a terminal, without what would steer it.

A model's file names layers, an archive its arrays. Printed as they are, such names could clear the
screen, set the window's title, or paint over a verdict.
"""

import io
import re
import shutil
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

# Where nothing says how wide a terminal is: a notebook, a log.
_USUAL = 100, 24

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


def plain_text(show: Callable[[Console], None], width: int | None = None) -> str:
    """Return what is printed into a terminal, without colour, or spaces at the ends of lines.

    Args:
        show: prints into the console that it gets.
        width: in columns; by default the terminal's, or 100 where there is none.

    Example:
        >>> plain_text(lambda console: console.print("[bold]own"), width=20)
        'own'
    """
    out = io.StringIO()
    columns = width or shutil.get_terminal_size(_USUAL).columns
    show(Terminal(file=out, width=columns, color_system=None, highlight=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


class Shown:
    """A result that a notebook shows as `print` does, and a prompt in one line."""

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        return str(self).partition("\n")[0]

    def _repr_html_(self) -> str:
        # Here: a terminal needs none of it.
        from batchnorm_mechanics._io.html import preformatted

        return preformatted(str(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {harmless(self.summary)}>"
