"""Our docstrings as Sphinx reads them: bars are bars, and a section may stand in one line."""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

_IN_ONE_LINE = re.compile(r"(Args|Implements|Numerics|Raises|Returns): (\S.*)")
_OBJECT = re.compile(r"<(?:[^<>]|<[^<>]*>)*>")
_CODE = re.compile(r"``.*?``|`[^`]*`")


def readable(lines: list[str]) -> list[str]:
    r"""Return a docstring's lines in reStructuredText.

    Example:
        >>> readable(["Args: x,", "    and y.", "Returns: |x|"])
        ['', '**Args**: x,', 'and y.', '', '**Returns**: \\|x\\|']
    """
    made: list[str] = []
    inside = example = False
    for line in lines:
        found = _IN_ONE_LINE.fullmatch(line)
        if found is not None:
            made += ["", f"**{found[1]}**: {_escaped(found[2])}"]
            inside = True
            continue
        inside = inside and bool(line.strip())
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        shown = line if example else _escaped(line)
        made.append(shown.lstrip() if inside else shown)
    return made


def _escaped(line: str) -> str:
    """Escape bars outside code, where they would name a substitution."""
    parts, end = [], 0
    for found in _CODE.finditer(line):
        parts += [line[end : found.start()].replace("|", r"\|"), found[0]]
        end = found.end()
    return "".join([*parts, line[end:].replace("|", r"\|")])


def _change(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list) -> None:
    lines[:] = readable(lines)


def _without_objects(*event: Any) -> tuple[str, str] | None:
    """Leave out defaults that are no Python, such as how a dataclass makes one."""
    signature, returned = event[-2:]
    return (_OBJECT.sub("...", signature), returned or "") if signature else None


def _is_left_out(*event: Any) -> bool | None:
    """Leave out modules that a class holds: they would say where they lie on this machine."""
    return True if inspect.ismodule(event[3]) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Read docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", _change, priority=400)
    app.connect("autodoc-process-signature", _without_objects)
    app.connect("autodoc-skip-member", _is_left_out)
    return {"parallel_read_safe": True}
