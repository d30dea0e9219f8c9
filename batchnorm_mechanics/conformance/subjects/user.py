"""A user's own layer or function, found by `path/to/file.py:Name` or `package.module:Name`."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from batchnorm_mechanics._exceptions import InputError


def find(spec: str) -> Any:
    """Import a file or module and return what it calls by that name.

    As for a script, the folder of a file comes first among the places from which it may import; for
    a module, the current folder does.

    Args:
        spec: `path/to/file.py:Name` or `package.module:Name`.

    Returns:
        The object of that name.

    Raises:
        InputError: there is no such file, module or name, or importing it raises.

    Example:
        >>> find("fractions:Fraction").__name__
        'Fraction'
    """
    where, _, name = spec.rpartition(":")
    module = _from_file(spec, Path(where)) if where.endswith(".py") else _from_module(spec, where)
    try:
        return getattr(module, name)
    except AttributeError:
        public = sorted(key for key in vars(module) if not key.startswith("_"))
        raise InputError(
            f"conform: `subject` must name something in {where}. Received: subject={spec!r}. "
            f"It has no {name!r}; it has {', '.join(public) or 'no public names'}."
        ) from None


def _from_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(
            f"conform: `subject` must name a file that exists. Received: subject={spec!r}. "
            f"There is no {path.absolute()}; check the path."
        )
    path = path.resolve()
    _put_first(path.parent)
    # Two files may have one name, and each may be imported for several of its names.
    name = f"_bnm_subject_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise InputError(
            f"conform: `subject` must name a Python file. Received: subject={spec!r}. "
            "Give a file that ends in .py."
        )
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(spec, error) from error
    return module


def _from_module(spec: str, name: str) -> ModuleType:
    _put_first(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"conform: `subject` must name a module that can be imported. Received: "
                f"subject={spec!r}. There is no {error.name!r} here or among the installed "
                "packages; for a file, write path/to/file.py:Name."
            ) from error
        raise _import_failed(spec, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(spec, error) from error


def _put_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_failed(spec: str, error: BaseException) -> InputError:
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
    return InputError(
        f"conform: `subject` must be importable. Received: subject={spec!r}, whose import raised "
        f"{type(error).__name__}: {error} ({place}). Repair it and try again."
    )
