"""Lines in a terminal: labels to the left, words wrapped, nothing wider than 80 columns."""

import re
import textwrap

from rich.console import Console
from rich.text import Text

WIDTH = 80
# Of the left column: a severity and a space.
LEFT = 9
# In a narrower terminal each label has a line of its own.
_NARROW, _INDENT = 60, 2


class Lines:
    """Lines in a console, in 80 columns at most, each without a space at its end."""

    def __init__(self, console: Console) -> None:
        self._console, self._width = console, min(console.width, WIDTH)

    def line(self, text: str | Text = "", style: str = "") -> None:
        """Print a line as it is, or several that are wrapped already."""
        text = Text(text, style) if isinstance(text, str) else text
        self._console.print(text, soft_wrap=True)

    def words(self, words: str, style: str = "") -> None:
        """Print words, wrapped."""
        self.line("\n".join(_wrapped(words, self._width)), style)

    def title(self, title: str) -> None:
        """Print what was examined; a measure and its number stay together."""
        whole = re.sub(r"(?<=[a-z]) (?=[\d-]|nan|inf)|(?<=\d) (?=sample)", "\xa0", title)
        self.line("\n".join(_wrapped(whole, self._width)).replace("\xa0", " "), "dim")

    def row(self, label: str, words: str, style: str = "") -> None:
        """Print words beside their label, or below it in a narrow terminal."""
        beside = self._width >= _NARROW
        indent = LEFT if beside else _INDENT
        line = Text(f"{label:<{indent}}" if beside or not label else f"{label}\n", "dim")
        wrapped = f"\n{'':{indent}}".join(_wrapped(words, self._width - indent))
        line.append(wrapped if beside or not label else f"{'':{indent}}{wrapped}", "not dim")
        if style:
            line.stylize(style)
        self.line(line)


def _wrapped(words: str, width: int) -> list[str]:
    """Return lines; a layer's path that is longer than one is cut behind a slash or a low line."""
    width = max(width, LEFT)
    lines: list[str] = []
    for line in textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False):
        rest = line
        while len(rest) > width:
            cut = 1 + max(rest.rfind(mark, 0, width) for mark in "/_") or width
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return lines
