"""What the package's modules import, read from their code."""

import ast
from pathlib import Path

PACKAGE = "batchnorm_mechanics"


def part_of(module: str) -> str:
    """Return the part of the package that a dotted module name belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imported_names(source: str, module: str, *, is_package: bool) -> list[tuple[int, str]]:
    """List (line, dotted name) of all that a module imports, wherever in it the import stands.

    `from a import b` gives `a.b`: whether b is a module or a name in a does not matter here.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                names = module.split(".")
                up = node.level - 1 if is_package else node.level
                anchor = ".".join(names[: len(names) - up])
                base = f"{anchor}.{base}" if base else anchor
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            target = node.args[0]
            if name in {"import_module", "__import__"} and isinstance(target, ast.Constant):
                found.append((node.lineno, str(target.value)))
    return found


def module_of(path: str) -> tuple[str, bool]:
    """Return the dotted name of a source by its path, and whether it is a package's own."""
    names = [PACKAGE, *Path(path).with_suffix("").parts]
    is_package = names[-1] == "__init__"
    return ".".join(names[:-1] if is_package else names), is_package
