"""Models from files, safely, and back into files, whole or not at all."""

import contextlib
import itertools
import logging
import os
import re
import stat
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.files import is_out_of_space, written_whole
from batchnorm_mechanics._io.model_archives import (
    TooLargeError,
    UnsoundError,
    allowance,
    read_hdf5,
    read_keras,
    weights_up_to,
)
from batchnorm_mechanics._io.model_config import Refused, check_config
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics._user_code import find, is_of_the_user

_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES = (".h5", ".hdf5")
_SHORT_NAMES = ("mse", "mae", "mape", "msle", "MSE", "MAE", "MAPE", "MSLE", "bce", "BCE")
# Keras's words, of its own format and of the one before it.
_UNKNOWN = re.compile(
    r"Could not locate (?P<kind>class|function) '(?P<name>[^']+)'"
    r"|Unknown (?P<old_kind>[a-z ]+): '(?P<old_name>[^']+)'"
)
_ADVICE = ("No training configuration found", "compiled metrics have yet to be built")
_UNSAFE = ("arbitrary code", "safe_mode")
_DAMAGED = "It is damaged or cut off; copy or save it anew."
# HDF5's word for a file that ends too early.
_CUT_OFF = "truncated file"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
# Of a reason that another library gives, which may hold a whole configuration.
_LONGEST = 160


def load_model(
    path: Path,
    *,
    trust: bool = False,
    custom: Sequence[str] = (),
    most: int | None = None,
    caller: str = "doctor",
) -> Any:
    """Load a model without running code that its file holds, or names.

    Args:
        path: of a `.keras` file, or of an `.h5` file with a whole model.
        trust: load Python code from the file too, as a `Lambda` layer holds it, and call whatever
            of Keras's the file names.
        custom: classes and functions that the model needs, each as `module:Name` or
            `path/to/file.py:Name`; these are imported, so they run.
        most: how many bytes the file may unpack to, and its weights may take; None for 10 times
            its own size and 100 MiB.
        caller: the function to name in an error.

    Returns:
        The model, compiled as it was when it was saved; a warning says so where it cannot be.

    Raises:
        InputError: there is no such file, it is damaged, too large or no model, holds or names code
            that is not trusted, or needs classes that are not there.

    Example:
        >>> import keras, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> keras.Sequential([keras.layers.Input((2,)), keras.layers.BatchNormalization()]).save(
        ...     folder / "model.keras"
        ... )
        >>> len(load_model(folder / "model.keras").weights)
        4
    """
    _check_is_model_file(path, caller)
    # Only here: a mistyped path is told at once, and not after the seconds that this takes.
    import_tensorflow_quietly()
    import keras

    from batchnorm_mechanics.doctor.past import read_mark

    # Keras stores such a loss in an HDF5 file by this name, and does not find it again by it.
    short = _SHORT_NAMES if path.suffix in _HDF5_SUFFIXES else ()
    objects = {name: keras.losses.get(name) for name in short} | {
        spec.rpartition(":")[2]: find(spec, caller=caller, argument="custom") for spec in custom
    }
    most = allowance(path, most)
    try:
        config, compiled = _looked_through(path, most)
        known = {*objects, *keras.saving.get_custom_objects()}
        if not trust:
            check_config(config, custom=known)
        with _without_advice_to_compile(), weights_up_to(most), _installed_modules_alone():
            model = keras.saving.load_model(
                path,
                custom_objects=objects,
                compile=trust or _can_be_compiled(compiled, known),
                safe_mode=not trust,
            )
        read_mark(model, path)
    except Refused as refused:
        raise _refused(path, refused, caller) from refused
    except UnsoundError as error:
        remedy = "It was not written by Keras; save the model anew."
        if isinstance(error, TooLargeError):
            remedy = "If you know who made it, allow that many: --max-size."
        raise _no_model(path, f"{error}. {remedy}", caller) from error
    except Exception as error:
        # Not a list of types: one wrong bit makes zipfile, HDF5 and Keras raise any of theirs.
        raise _refusal(path, error, caller) from error
    if not isinstance(model, keras.Model):
        raise _no_model(path, f"It holds a {type(model).__name__}.", caller)
    return model


def _looked_through(path: Path, most: int) -> tuple[Any, Any]:
    """Return the configurations of the model in a file and of its training."""
    if path.suffix in _HDF5_SUFFIXES:
        return read_hdf5(path, most)
    config = read_keras(path, most)
    compiled = config.pop("compile_config", None) if isinstance(config, dict) else None
    return config, compiled


def _can_be_compiled(config: Any, known: Collection[str]) -> bool:
    """Return whether a model can be compiled as it was, and warn if not: it is a model without."""
    try:
        check_config(config, custom=known)
    except Refused as refused:
        at = f" at {refused.place}" if refused.place else ""
        brings = "--trust" if refused.unknown is None else f"--custom module:{refused.unknown}"
        warnings.warn(
            f"The model is not compiled as it was, since that names {refused.what}{at}; {brings} "
            "brings it.",
            stacklevel=3,
        )
        return False
    return True


@contextlib.contextmanager
def _installed_modules_alone() -> Iterator[None]:
    """Keep modules that lie in the current folder, or beside a user's code, from being imported.

    What the user named has been imported before.
    """
    before = sys.path.copy()
    sys.path[:] = [folder for folder in before if not is_of_the_user(folder)]
    try:
        yield
    finally:
        sys.path[:] = before


def _refused(path: Path, refused: Refused, caller: str) -> InputError:
    received = f"Received: model={str(path)!r}"
    if refused.is_code:
        return InputError(
            f"{caller}: `model` must hold no Python code unless it is trusted. {received}, which "
            f"holds some at {refused.place}, as a Lambda layer does. "
            "If you know who made it, say --trust: the code then runs."
        )
    if refused.unknown is not None:
        # Nothing else can be the name of a class, and a file may hold anything in its place.
        name = refused.unknown if refused.unknown.isidentifier() else "Name"
        return InputError(
            f"{caller}: `model` must need nothing but Keras, or what `custom` names. "
            f"{received}, which needs {refused.what} at {refused.place}. "
            f"Say where it is: --custom module:{name} or --custom path/to/file.py:{name}."
        )
    return InputError(
        f"{caller}: `model` must be made of Keras's layers and elementwise functions unless it is "
        f"trusted. {received}, which has at {refused.place} {refused.what}. "
        "If you know who made it, say --trust: whatever it names is then called."
    )


def _no_model(path: Path, why: str, caller: str) -> InputError:
    return InputError(
        f"{caller}: `model` must be a .keras or .h5 file with a whole model. "
        f"Received: model={str(path)!r}. {why}"
    )


def _check_is_model_file(path: Path, caller: str) -> None:
    try:
        mode = path.stat().st_mode
        start = b""
        # Opening a named pipe would wait for whoever writes to it.
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                start = file.read(8)
    except FileNotFoundError as error:
        raise _no_model(path, "There is no such file; check the path.", caller) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _no_model(path, f"It cannot be opened: {why}.", caller) from error
    if stat.S_ISDIR(mode):
        raise _no_model(path, "It is a folder; save the model with model.save(...).", caller)
    fault = _fault(path, start) if stat.S_ISREG(mode) else "It is no regular file."
    if fault is not None:
        raise _no_model(path, fault, caller)


def _fault(path: Path, start: bytes) -> str | None:
    """Say why a file cannot hold a model; None if it may."""
    if path.suffix not in {".keras", *_HDF5_SUFFIXES}:
        return "Its name must end in .keras or .h5, by which Keras knows the format."
    if not start:
        return "It is empty."
    is_zip, is_hdf5 = start.startswith(_ZIP), start == _HDF5
    if path.suffix in _HDF5_SUFFIXES:
        if is_zip:
            return "It is a zip archive: name it .keras."
        return None if is_hdf5 else "It is no HDF5 file."
    if is_hdf5:
        return "It is an HDF5 file: name it .h5."
    if not is_zip:
        return "It is no zip archive, as a .keras file is."
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:
        # Not a list of types: a wrong byte in its directory makes zipfile raise any of its own.
        return _DAMAGED
    return None if "config.json" in names else "It is a zip archive without a model in it."


@contextlib.contextmanager
def _without_advice_to_compile() -> Iterator[None]:
    """Hold back lines that Keras logs of an `.h5` file: that it is not compiled, or its metrics.

    The model is none the worse here.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in _ADVICE)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _refusal(path: Path, error: Exception, caller: str) -> InputError:
    text = str(error)
    unknown = _UNKNOWN.search(text)
    if any(word in text for word in _UNSAFE):
        return InputError(
            f"{caller}: `model` must hold no Python code unless it is trusted. Received: "
            f"model={str(path)!r}, which holds some, as a Lambda layer does. "
            "If you know who made it, say --trust: the code then runs."
        )
    if unknown:
        name = unknown["name"] or unknown["old_name"]
        kind = unknown["kind"] or unknown["old_kind"]
        # A registered name is Package>Name; only the last part can be imported.
        name = name.rpartition(">")[2]
        return InputError(
            f"{caller}: `model` must need nothing but Keras, or what `custom` names. Received: "
            f"model={str(path)!r}, which needs the {kind} {name!r}. "
            f"Say where it is: --custom module:{name} or --custom path/to/file.py:{name}."
        )
    if "No model config found" in text:
        return _no_model(
            path, "It holds weights alone; load them into a model and save that.", caller
        )
    if isinstance(error, zipfile.BadZipFile) or _CUT_OFF in text:
        return _no_model(path, _DAMAGED, caller)
    return _no_model(path, f"It cannot be loaded ({first_line(error)}).", caller)


def first_line(error: BaseException) -> str:
    """Return an error's type and the line of it that says what is wrong, shortened.

    Example:
        >>> first_line(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    # Keras prints some lines in bold, whatever they are printed to.
    lines = [line.strip() for line in _STYLE.sub("", str(error)).splitlines() if line.strip()]
    # TensorFlow says what is wrong after a whole traceback, and before it names the node.
    told = [before for before, node in itertools.pairwise(lines) if node.startswith("[[{{node")]
    line = (told or lines or [""])[0]
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()}..."
    return f"{type(error).__name__}: {line}".rstrip(": ")


def check_out(out: Path, model: Path, *, caller: str) -> None:
    """Refuse a place for a new model before any work is done for it.

    Args:
        out: where the new model shall go.
        model: the file that it is made from, which is never written to.
        caller: the function to name in an error.

    Raises:
        InputError: `out` does not end in `.keras`, is the model itself or a folder, or lies in a
            folder that is not there or not writable.
    """

    def refuse(expectation: str, what: str) -> InputError:
        return InputError(f"{caller}: `out` must {expectation}. Received: out={str(out)!r}. {what}")

    if out.suffix != ".keras":
        raise refuse("end in .keras", "Keras knows the format by that.")
    try:
        if out.is_dir():
            raise refuse("be a file", "It is a folder; add a name.")
        if not out.absolute().parent.is_dir():
            raise refuse("lie in a folder that exists", "Make the folder first.")
        if not os.access(out.absolute().parent, os.W_OK):
            raise refuse("lie in a folder that can be written", "Choose another.")
        if out.exists() and model.exists() and out.samefile(model):
            raise refuse("be another file than the model", "The input is never written to.")
    except OSError as error:
        raise refuse("be a file that there can be", f"{error.strerror}.") from error


def save_model(model: Any, path: Path, *, caller: str = "repair") -> None:
    """Save a model so that, whatever happens, there is a whole file or none.

    Args:
        model: any Keras model that can be saved.
        path: of a `.keras` file; one that is there is replaced in one step.
        caller: the function to name in an error.

    Raises:
        InputError: the disk is full, or the file cannot be written.
    """
    # Here: it takes TensorFlow.
    from batchnorm_mechanics.doctor.past import write_mark

    try:
        with written_whole(path) as part:
            model.save(part)
            write_mark(model, part)
    except Exception as error:
        if is_out_of_space(error):
            raise InputError(
                f"{caller}: `out` must be on a disk with room. Received: out={str(path)!r}, whose "
                "disk is full. Nothing was written; make room or choose another."
            ) from error
        if isinstance(error, OSError):
            raise InputError(
                f"{caller}: `out` must be a file that can be written. Received: "
                f"out={str(path)!r} ({error.strerror or error}). Name one in a folder of yours."
            ) from error
        raise
