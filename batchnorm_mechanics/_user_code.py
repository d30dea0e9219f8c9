"""A user's own class, function or object, by `module:Name` or `path/to/file.py:Name`."""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from batchnorm_mechanics._exceptions import InputError


def find(spec: str, *, caller: str, argument: str) -> Any:
    """Import a module or file and return what it calls by that name.

    As for a script, the folder of a file comes first among the places from which it may import; for
    a module, the current folder does. A file is imported once, and anew after it has changed.

    Args:
        spec: `module:Name` or `path/to/file.py:Name`.
        caller: the function to name in an error.
        argument: its argument that holds the spec, likewise.

    Returns:
        The object of that name.

    Raises:
        InputError: the spec has another form, there is no such file, module or name, or importing
            it raises.

    Example:
        >>> find("fractions:Fraction", caller="doctor", argument="custom").__name__
        'Fraction'
    """

    def refusal(expectation: str, what: str) -> InputError:
        return InputError(
            f"{caller}: `{argument}` must {expectation}. Received: {argument}={spec!r}{what}"
        )

    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise refusal(
            "have the form module:Name or path/to/file.py:Name",
            ". Write the name of a class or function after a colon.",
        )
    is_file = where.endswith(".py")
    if is_file and not is_there(where):
        raise refusal(
            "name a file that exists", f". There is no {Path(where).absolute()}; check the path."
        )
    try:
        module = _from_file(Path(where).resolve()) if is_file else _from_module(where)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{where}.".startswith(f"{missing}."):
            raise refusal(
                "name a module that can be imported",
                f". There is no {missing!r} here or among the installed packages; for a file, "
                "write path/to/file.py:Name.",
            ) from error
        raise refusal(
            "be importable",
            f", whose import raised {type(error).__name__}: {error} ({_place(error)}). "
            "Repair it and try again.",
        ) from error
    if not hasattr(module, name):
        public = ", ".join(sorted(key for key in vars(module) if not key.startswith("_")))
        raise refusal(
            f"name something in {where}",
            f". It has no {name!r}; it has {public or 'no public names'}.",
        )
    return getattr(module, name)


def is_there(file: Path | str) -> bool:
    """Return whether there is a file of this name, which can be one that no file has."""
    try:
        return Path(file).is_file()
    except OSError:
        return False


def _from_file(path: Path) -> ModuleType:
    _put_first(path.parent)
    # Two files may have one name, one file may be named for several of its names, which then know
    # one another, and a model's file holds the name of the module.
    content = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()
    name = f"_bnm_user_{content[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _FromSource(name, str(path))
    found = importlib.util.spec_from_file_location(name, path, loader=loader)
    if found is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles what the file holds now.

    Bytecode that Python keeps is taken for that of a file which has changed within the same second,
    if it is as long.
    """

    def get_code(self, fullname: str) -> Any:
        """Return the code of the file, and keep none."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _from_module(name: str) -> ModuleType:
    _put_first(Path.cwd())
    return importlib.import_module(name)


# Where code lies that no user has written here: the standard library, what is installed, and ours.
_NOT_OWN = (
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(__file__).parent,
)
# Folders that were put among the places to import from.
_FOLDERS: set[str] = set()


def is_of_the_user(folder: str) -> bool:
    """Return whether a place to import from is the current folder, or one that `find` has added.

    Args:
        folder: an entry of `sys.path`.
    """
    return folder in _FOLDERS or Path(folder).resolve() == Path.cwd()


def _put_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        _FOLDERS.add(str(folder))


def own_place(error: BaseException) -> str | None:
    """Return the last line of code on the way to an error that is neither ours nor installed.

    Args:
        error: as it was caught.

    Returns:
        File, line and source, or None where there is no such line.

    Example:
        >>> try:
        ...     1 / 0
        ... except ZeroDivisionError as error:
        ...     print(own_place(error) is None)
        True
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_absolute() and not any(path.is_relative_to(place) for place in _NOT_OWN):
            where = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            return f"{where}, line {frame.lineno}: {frame.line}"
    return None


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"
