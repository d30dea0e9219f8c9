"""The package's parts import one another in one direction only (see CONTRIBUTING.md)."""

import graphlib
import sys
from pathlib import Path

import pytest
from imports import PACKAGE, imported_names, module_of, part_of

ROOT = Path(__file__).parents[1] / PACKAGE

# Each part may import the rows before its own; parts of one row may not import one another.
ORDER = (
    ("core",),
    ("statistics",),
    ("distribute",),
    ("layers",),
    ("models",),
    ("tracing", "conformance", "studies", "doctor", "folding", "comparison", "porting"),
    ("explorer",),
    ("cli",),
)
RANK = {part: rank for rank, row in enumerate(ORDER) for part in row}
MAY_IMPORT_REFERENCE = {"conformance", "tracing"}
MAY_IMPORT_EVERYTHING = {"__init__", "__main__"}
MAX_LINES = 400


def refusal(importer: str, imported: str) -> str | None:
    """Say why a part may not import a dotted name; None if it may."""
    top = imported.partition(".")[0]
    if importer == "reference" and top not in {"numpy", PACKAGE, *sys.stdlib_module_names}:
        return "reference may import NumPy alone"
    if importer == "core" and top == "keras":
        return "core knows no Keras"
    if top != PACKAGE or importer in MAY_IMPORT_EVERYTHING:
        return None

    target = part_of(imported)
    if target == importer:
        return None
    if importer.startswith("_"):
        may = target == "_exceptions" or (importer == "_io" and target.startswith("_"))
        return None if may else f"{importer} may import nothing but _exceptions"
    if importer == "reference":
        return "reference may import NumPy alone"
    if target.startswith("_") and not target.startswith("__"):
        return None
    if target == "reference":
        return (
            None
            if importer in MAY_IMPORT_REFERENCE
            else "only what judges by the oracle may import reference"
        )
    if target not in RANK:
        if importer == "cli":
            return None
        return "import it from the part that defines it, not from the package"
    if RANK[target] < RANK[importer]:
        return None
    return f"{importer} stands before or beside {target}"


def circle(sources: dict[str, str]) -> list[str]:
    """Return modules that import one another in a circle, wherever the imports stand, or none."""
    modules = {module_of(path)[0] for path in sources}
    imports: dict[str, set[str]] = {}
    for path, source in sources.items():
        module, is_package = module_of(path)
        names = [name for _, name in imported_names(source, module, is_package=is_package)]
        # Of `from a import b`, the module b where there is one, else a.
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        imports[module] = found & modules - {module}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def violations(sources: dict[str, str]) -> list[str]:
    """Check sources, given by their paths relative to the package, and list what is wrong."""
    found = []
    for path, source in sorted(sources.items()):
        names = list(Path(path).with_suffix("").parts)
        is_package = names[-1] == "__init__"
        if is_package and len(names) > 1:
            names.pop()
        importer = names[0]
        module = ".".join([PACKAGE, *([] if importer == "__init__" else names)])

        if "utils" in names:
            found.append(f"{path}: name it after what it holds, not utils")
        lines = len(source.splitlines())
        if lines > MAX_LINES:
            found.append(f"{path}: {lines} lines, more than {MAX_LINES}")
        if importer not in RANK and importer != "reference" and not importer.startswith("_"):
            found.append(f"{path}: {importer} has no place in the order")
            continue
        for line, imported in imported_names(source, module, is_package=is_package):
            reason = refusal(importer, imported)
            if reason:
                found.append(f"{path}:{line}: imports {imported}: {reason}")
    return found


def test_the_package_keeps_the_order():
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in ROOT.rglob("*.py")
    }
    assert sources
    assert violations(sources) == []
    assert circle(sources) == []


def test_a_circle_of_modules_is_found_wherever_its_imports_stand():
    sources = {
        "tracing/__init__.py": "from batchnorm_mechanics.tracing.record import Trace",
        "tracing/record.py": "def show():\n    from batchnorm_mechanics.tracing import text",
        "tracing/text.py": "from batchnorm_mechanics.tracing.figures import shown",
        "tracing/figures.py": "import batchnorm_mechanics.tracing.record",
    }
    names = [name.rpartition(".")[2] for name in circle(sources)]
    assert sorted(set(names)) == ["figures", "record", "text"]


def test_what_is_imported_twice_is_no_circle():
    sources = {
        "core/__init__.py": "from batchnorm_mechanics.core import axes, moments",
        "core/axes.py": "",
        "core/moments.py": "from batchnorm_mechanics.core import axes",
    }
    assert circle(sources) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/axes.py", "import batchnorm_mechanics.layers.layer"),
        ("core/axes.py", "from batchnorm_mechanics import statistics"),
        ("core/axes.py", "from ..statistics import policy"),
        ("core/axes.py", "from .. import statistics"),
        ("core/__init__.py", "from ..statistics.policy import Policy"),
        ("core/axes.py", "def f():\n    from batchnorm_mechanics.cli import main"),
        ("core/axes.py", "if TYPE_CHECKING:\n    import batchnorm_mechanics.tracing"),
        ("core/axes.py", "importlib.import_module('batchnorm_mechanics.layers')"),
        ("core/axes.py", "import keras"),
        ("core/axes.py", "from keras import ops"),
        ("core/axes.py", "import batchnorm_mechanics as bnm"),
        ("statistics/policy.py", "from batchnorm_mechanics.layers import BatchNormalization"),
        ("layers/layer.py", "from batchnorm_mechanics import BatchNormalization"),
        ("layers/layer.py", "from batchnorm_mechanics import __version__"),
        ("layers/layer.py", "from batchnorm_mechanics.tracing import record"),
        ("tracing/tracer.py", "from batchnorm_mechanics.doctor import probe"),
        ("distribute/executors.py", "from batchnorm_mechanics.doctor import data"),
        ("studies/train.py", "from batchnorm_mechanics.tracing import tracer"),
        ("distribute/replicas.py", "from batchnorm_mechanics.layers import BatchNormalization"),
        ("studies/deep/train.py", "from ...doctor import probe"),
        ("doctor/probe.py", "from batchnorm_mechanics.explorer import page"),
        ("explorer/page.py", "from batchnorm_mechanics.cli import main"),
        ("layers/layer.py", "from batchnorm_mechanics import reference"),
        ("explorer/page.py", "from batchnorm_mechanics.reference import forward"),
        ("cli/trace.py", "import batchnorm_mechanics.reference"),
        ("reference.py", "import tensorflow as tf"),
        ("reference.py", "from batchnorm_mechanics.core import axes"),
        ("reference.py", "from . import core"),
        ("reference.py", "from batchnorm_mechanics import _version"),
        ("_version.py", "from batchnorm_mechanics.core import axes"),
        ("_version.py", "from . import _other"),
        ("_io/data.py", "from batchnorm_mechanics.doctor import data"),
        ("core/utils.py", ""),
        ("core/utils/text.py", ""),
        ("helpers.py", ""),
        ("helpers/text.py", ""),
        ("core/axes.py", "x = 1\n" * (MAX_LINES + 1)),
    ],
)
def test_a_violation_is_found(path, source):
    assert len(violations({path: source})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from batchnorm_mechanics.cli import main\nfrom . import reference"),
        ("__main__.py", "from batchnorm_mechanics.cli import main"),
        ("core/axes.py", "from . import moments\nfrom .moments import mean\nimport tensorflow"),
        ("core/__init__.py", "from . import axes\nfrom .axes import reduction_axes"),
        ("core/axes.py", "from batchnorm_mechanics._version import __version__"),
        ("core/axes.py", "from .. import _version"),
        ("_user_code.py", "from batchnorm_mechanics._exceptions import InputError"),
        ("_io/model_files.py", "from batchnorm_mechanics._user_code import find"),
        ("statistics/policy.py", "from ..core import axes\nimport keras"),
        ("layers/layer.py", "from batchnorm_mechanics import core, distribute, statistics"),
        ("tracing/tracer.py", "from batchnorm_mechanics.layers import BatchNormalization"),
        ("conformance/judge.py", "from batchnorm_mechanics import reference"),
        ("explorer/page.py", "from batchnorm_mechanics import tracing, doctor"),
        ("cli/trace.py", "from batchnorm_mechanics import __version__, explorer, studies"),
        ("reference.py", "from __future__ import annotations\nimport math\nimport numpy as np"),
        ("core/axes.py", "x = 1\n" * MAX_LINES),
        ("core/axes.py", "import batchnorm_mechanics_other\nimport keras_other"),
    ],
)
def test_an_allowed_import_passes(path, source):
    assert violations({path: source}) == []
