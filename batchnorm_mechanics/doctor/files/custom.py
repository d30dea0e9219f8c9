"""A user's own classes and functions, which a model's file names but does not hold."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from batchnorm_mechanics._exceptions import InputError


def find(spec: str, *, caller: str) -> Any:
    """Import a module or file and return what it calls by that name.

    Args:
        spec: `module:Name`, looked for in the current folder first, or `path/to/file.py:Name`.
        caller: the function to name in an error.

    Returns:
        The class or function.

    Raises:
        InputError: there is no such module, file or name, or importing it raises.

    Example:
        >>> find("fractions:Fraction", caller="doctor").__name__
        'Fraction'
    """
    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise _refusal(caller, spec, "", "Write module:Name or path/to/file.py:Name.")
    module = _module(where, spec, caller)
    if not hasattr(module, name):
        public = ", ".join(sorted(key for key in vars(module) if not key.startswith("_")))
        raise _refusal(caller, spec, "", f"{where} has no {name!r}; it has {public or 'nothing'}.")
    return getattr(module, name)


def _module(where: str, spec: str, caller: str) -> ModuleType:
    path = Path(where)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise _refusal(caller, spec, "", f"There is no file {where}.")
    # As for a script: what lies beside it can be imported.
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _run(path.resolve()) if is_file else importlib.import_module(where)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{where}.".startswith(f"{missing}."):
            raise _refusal(caller, spec, "", f"There is no module {missing!r}.") from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        raised = f", whose import raised {type(error).__name__}: {error}"
        place = f"It happened in {last.filename}, line {last.lineno}."
        raise _refusal(caller, spec, raised, place) from error


def _run(path: Path) -> ModuleType:
    """Import a file once, under a name that no module of Python's has."""
    name = f"_bnm_custom_{path.stem}_{abs(hash(path)):x}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _refusal(caller: str, spec: str, raised: str, what: str) -> InputError:
    return InputError(
        f"{caller}: `custom` must name a class or function that can be imported. "
        f"Received: custom={spec!r}{raised}. {what}"
    )
