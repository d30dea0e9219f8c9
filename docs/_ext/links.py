"""Links that lead to the same page whether it is read in the repository or on the site."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

# Code in fences, code in a line, and links, whichever begins first.
_PARTS = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)[ ]*$|`[^`\n]+`)"
    r"|(?P<open>\]\()(?P<target>[^)\s]+)(?P<close>\))",
    flags=re.M | re.S,
)


def moved(text: str, path: str, name: str, *, pages: Mapping[str, str]) -> str:
    """Return a page's text with its links as they are on the site.

    A link to a file of the repository that is no page there is left to lead to nothing, so that the
    build fails by its name.

    Args:
        text: Markdown.
        path: where the page is in the repository.
        name: where it is on the site.
        pages: for each page of the repository that is on the site, where it is there.

    Example:
        >>> pages = {"docs/a.md": "a.md", "SECURITY.md": "deep/security.md"}
        >>> moved("[s](../SECURITY.md#b)", "docs/a.md", "a.md", pages=pages)
        '[s](deep/security.md#b)'
        >>> moved("`[s](../SECURITY.md)`", "docs/a.md", "a.md", pages=pages)
        '`[s](../SECURITY.md)`'
    """

    def there(target: str) -> str:
        file, mark, anchor = target.partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return target
        source = os.path.normpath(Path(path).parent / file)
        if source not in pages:
            return target
        return os.path.relpath(pages[source], Path(name).parent) + mark + anchor

    return outside_code(text, there)


def outside_code(text: str, changed: Callable[[str], str]) -> str:
    """Change the targets of links, and leave alone what looks like one in code."""

    def replaced(found: re.Match[str]) -> str:
        if found["code"] is not None:
            return found[0]
        return f"{found['open']}{changed(found['target'])}{found['close']}"

    return _PARTS.sub(replaced, text)
