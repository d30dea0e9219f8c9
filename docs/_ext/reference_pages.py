"""A page for each part of the package: its public names, and what they take and return."""

import importlib
import inspect
import re
from collections import defaultdict
from typing import Any

import batchnorm_mechanics
from batchnorm_mechanics import reference as oracle

_PACKAGE = batchnorm_mechanics.__name__
# What a reader looks for, by the part of the package that has it.
_TITLES = {
    "core": "Functions of tensors",
    "statistics": "Statistics policies",
    "layers": "The layer",
    "distribute": "Replicas and workers",
    "models": "Models and data",
    "tracing": "Tracing",
    "conformance": "Judging an implementation",
    "doctor": "Diagnosis and repair",
    "folding": "Folding",
    "comparison": "Two models compared",
    "porting": "Porting",
    "explorer": "The explorer",
}
_HEAD = """\
# Reference

`import batchnorm_mechanics as bnm` has all of these names; TensorFlow is imported when one is first
used. `bnm.__version__` is the version, a string.

"""


def pages() -> dict[str, str]:
    """Return the pages by name: the list of names, and one for each part."""
    parts = defaultdict(list)
    for name in batchnorm_mechanics.__all__:
        found = getattr(batchnorm_mechanics, name)
        if hasattr(found, "__module__"):
            parts[found.__module__.split(".")[1]].append(name)
    ordered = {part: parts[part] for part in [*_TITLES, *sorted(parts)] if part in parts}
    titles = {part: _TITLES.get(part, part) for part in ordered}
    made = {f"{part}.rst": _page(titles[part], names) for part, names in ordered.items()}
    made["oracle.rst"] = _oracle()
    rows = ["| name | what it does |", "| --- | --- |"]
    for part, names in ordered.items():
        rows.append(f"| **[{titles[part]}]({part}.rst)** | |")
        rows += [f"| [`bnm.{name}`](#{_PACKAGE}.{name}) | {_summary(name)} |" for name in names]
    rows.append("| **[The oracle](oracle.rst)** | the same again in NumPy's float64 |")
    tree = "\n\n```{toctree}\n:hidden:\n\n" + "\n".join([*ordered, "oracle"]) + "\n```\n"
    made["index.md"] = _HEAD + "\n".join(rows) + tree
    return made


def _page(title: str, names: list[str]) -> str:
    parts = [title, "=" * len(title), "", f".. currentmodule:: {_PACKAGE}", ""]
    for name in names:
        parts += _directive(name, getattr(batchnorm_mechanics, name))
    public = {getattr(batchnorm_mechanics, name) for name in batchnorm_mechanics.__all__}
    records: dict[str, type] = {}
    for name in names:
        _collect(getattr(batchnorm_mechanics, name), records, public)
    if records:
        parts += ["What they take and return", "-" * 25, ""]
        for path, record in records.items():
            parts += _directive(path, record)
    return "\n".join(parts)


def _directive(name: str, found: Any) -> list[str]:
    if not inspect.isclass(found):
        return [f".. autofunction:: {name}", ""]
    lines = [f".. autoclass:: {name}", "   :members:"]
    # A tuple's own docstrings of its fields say their number; ours stand under Attributes.
    if fields := getattr(found, "_fields", ()):
        lines.append(f"   :exclude-members: {', '.join(fields)}")
    return [*lines, ""]


def _collect(found: Any, records: dict[str, type], public: set[Any]) -> None:
    """Add what the signature of a name says, what that holds, and so on, where it is ours."""
    members = [found]
    if inspect.isclass(found):
        shown = (member for name, member in vars(found).items() if not name.startswith("_"))
        # A property's, and a cached one's, annotations are its function's.
        members += [getattr(one, "fget", getattr(one, "func", one)) for one in shown]
    known = vars(importlib.import_module(found.__module__))
    for member in members:
        hints = getattr(member, "__annotations__", {}).values()
        for word in re.findall(r"\w+", " ".join(map(_names, hints))):
            kind = known.get(word)
            ours = inspect.isclass(kind) and kind.__module__.startswith(f"{_PACKAGE}.")
            if ours and kind not in public and not word.startswith("_"):
                path = f"{kind.__module__}.{kind.__qualname__}"
                if path not in records:
                    records[path] = kind
                    _collect(kind, records, public)


def _names(hint: Any) -> str:
    """Return the text of an annotation."""
    return hint.__name__ if inspect.isclass(hint) else str(hint)


def _oracle() -> str:
    title = "The oracle"
    names = [
        name
        for name, found in vars(oracle).items()
        if inspect.isfunction(found) and not name.startswith("_")
    ]
    head = [title, "=" * len(title), "", f".. automodule:: {oracle.__name__}", ""]
    return "\n".join(
        [*head, *(line for name in names for line in _directive(name, getattr(oracle, name)))]
    )


def _summary(name: str) -> str:
    line = (inspect.getdoc(getattr(batchnorm_mechanics, name)) or "").splitlines()[0]
    return line.replace("|", "\\|")
