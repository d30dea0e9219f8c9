"""The package's floors, drawn and listed from the imports in its code."""

import ast
import graphlib
import html
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import batchnorm_mechanics

# At the end: the folders there are named like modules of Python's own.
sys.path.append(str(Path(__file__).parents[2] / "tests"))
from imports import PACKAGE, imported_names, module_of, part_of

_ROOT = Path(batchnorm_mechanics.__file__).parent
_ENTRANCES = {"__init__", "__main__"}
_BOX, _STEP, _WIDTH = (190, 56), (214, 112), 860


@dataclass
class Part:
    """A folder or a file at the top of the package.

    Attributes:
        modules: how many there are in it.
        lines: of all of them.
        says: the first line of its docstring.
        imports: how often it imports each other part.
    """

    modules: int = 0
    lines: int = 0
    says: str = ""
    imports: Counter[str] = field(default_factory=Counter)


def pages() -> dict[str, str]:
    """Return what the page of the floors takes in: the picture and the table."""
    parts = parts_of({path.relative_to(_ROOT).as_posix(): _read(path) for path in _sources()})
    return {"floors.svg.txt": picture(parts), "floors.table.txt": table(parts)}


def _sources() -> list[Path]:
    return sorted(_ROOT.rglob("*.py"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def parts_of(sources: Mapping[str, str]) -> dict[str, Part]:
    """Return the parts of a package by name.

    Args:
        sources: code by its path in the package.

    Example:
        >>> code = "from batchnorm_mechanics.core import axes"
        >>> parts = parts_of({"core/axes.py": "", "layers/layer.py": code})
        >>> parts["layers"].imports
        Counter({'core': 1})
    """
    parts: dict[str, Part] = defaultdict(Part)
    for path, source in sources.items():
        module, is_package = module_of(path)
        name = part_of(module)
        part = parts[name]
        part.modules += 1
        part.lines += len(source.splitlines())
        if is_package or "/" not in path:
            part.says = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        for _, imported in imported_names(source, module, is_package=is_package):
            if imported.partition(".")[0] == PACKAGE and part_of(imported) != name:
                part.imports[part_of(imported)] += 1
    return {name: part for name, part in parts.items() if name not in _ENTRANCES}


def floors_of(parts: Mapping[str, Part]) -> list[list[str]]:
    """Return the floors from the lowest: a part stands above all that it imports.

    Small things, whose names begin with an underscore, stand on none.
    """
    graph = {name: set(part.imports) & _rooms(parts) for name, part in parts.items()}
    rank: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        rank[name] = 1 + max((rank[below] for below in graph[name]), default=-1)
    floors: list[list[str]] = [[] for _ in range(1 + max(rank.values()))]
    for name in sorted(_rooms(parts), key=lambda name: ("reference" not in graph[name], name)):
        floors[rank[name]].append(name)
    # What nothing stands on but its own visitors comes to the left, below them.
    floors[0].sort(key=lambda name: name != "reference")
    return floors


def _rooms(parts: Mapping[str, Part]) -> set[str]:
    return {name for name in parts if not name.startswith("_")}


def stairs(parts: Mapping[str, Part]) -> set[tuple[str, str]]:
    """Return the imports that no way over other parts replaces: those that the picture shows."""
    rooms = _rooms(parts)
    below: dict[str, set[str]] = {}

    def all_below(name: str) -> set[str]:
        if name not in below:
            direct = set(parts[name].imports) & rooms
            below[name] = direct.union(*map(all_below, direct))
        return below[name]

    return {
        (name, to)
        for name in rooms
        for to in set(parts[name].imports) & rooms
        if not any(to in all_below(over) for over in set(parts[name].imports) & rooms)
    }


def picture(parts: Mapping[str, Part]) -> str:
    """Return the picture as SVG, in the colours of the page that it stands in."""
    floors = floors_of(parts)
    height = len(floors) * _STEP[1] + 70
    places = {}
    for rank, floor in enumerate(floors):
        y = (len(floors) - 1 - rank) * _STEP[1] + _BOX[1] / 2 + 2
        # The oracle stands apart, as it does in the code.
        beside = [name for name in floor if name != "reference"]
        for index, name in enumerate(beside):
            places[name] = (_WIDTH / 2 + (index - (len(beside) - 1) / 2) * _STEP[0], y)
        if "reference" in floor:
            places["reference"] = (_WIDTH / 2 - 1.5 * _STEP[0], y)
    lines = [_stair(places[name], places[to]) for name, to in sorted(stairs(parts))]
    boxes = [_box(name, parts[name], *place) for name, place in places.items()]
    small = [name for name in parts if name.startswith("_")]
    return "\n".join(
        [
            f'<svg class="floors" viewBox="0 0 {_WIDTH} {height}" role="img"'
            ' aria-labelledby="floors-title">',
            '<title id="floors-title">The parts of the package, each above those that it imports;'
            " the table below has all imports</title>",
            '<defs><marker id="floors-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
            *lines,
            *boxes,
            f'<rect class="ground" x="2" y="{height - 62}" width="{_WIDTH - 4}" height="58"'
            ' rx="6"/>',
            f'<text class="name" x="{_WIDTH / 2}" y="{height - 40}">small things that every part'
            " may import</text>",
            f'<text x="{_WIDTH / 2}" y="{height - 18}">{html.escape(" · ".join(small))}</text>',
            "</svg>",
        ]
    )


def _stair(above: tuple[float, float], below: tuple[float, float]) -> str:
    top, end = above[1] + _BOX[1] / 2, below[1] - _BOX[1] / 2 - 2
    bend = min(_STEP[1] - _BOX[1], end - top) * 0.6
    return (
        f'<path class="stair" d="M{above[0]:g} {top:g}C{above[0]:g} {top + bend:g} '
        f'{below[0]:g} {end - bend:g} {below[0]:g} {end:g}" marker-end="url(#floors-tip)"/>'
    )


def _box(name: str, part: Part, x: float, y: float) -> str:
    width, height = _BOX
    kind = "room alone" if name == "reference" else "room"
    size = f"{part.modules} modules" if part.modules > 1 else "1 module"
    return (
        f'<g class="{kind}"><title>{html.escape(part.says)}</title>'
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}"'
        f' rx="6"/><text class="name" x="{x:g}" y="{y - 4:g}">{name}</text>'
        f'<text x="{x:g}" y="{y + 17:g}">{size}, {part.lines:,} lines</text></g>'
    )


def table(parts: Mapping[str, Part]) -> str:
    """Return all parts in Markdown, from the top, with what each imports and how often."""
    floors = floors_of(parts)
    ordered = [name for floor in reversed(floors) for name in floor]
    ordered += [name for name in parts if name.startswith("_")]
    rows = [
        "| part | what it is | modules | lines | imports |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for name in ordered:
        part = parts[name]
        imports = ", ".join(
            f"{to} {count}" for to, count in sorted(part.imports.items()) if to in _rooms(parts)
        )
        says = part.says.replace("|", "\\|")
        rows.append(f"| `{name}` | {says} | {part.modules} | {part.lines:,} | {imports} |")
    return "\n".join(rows) + "\n"
