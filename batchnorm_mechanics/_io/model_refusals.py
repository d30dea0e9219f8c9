"""What can be no model's file, and what is said of one that holds none that can be loaded."""

import functools
import re
import stat
import zipfile
from pathlib import Path

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.model_config import Refused
from batchnorm_mechanics._io.model_weights import checkpoint_at

HDF5_SUFFIXES = (".h5", ".hdf5")
BUILD = "--build path/to/file.py:function names what makes the model that they go into."
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Keras's words, of its own format and of the one before it.
_UNKNOWN = re.compile(
    r"Could not locate (?P<kind>class|function) '(?P<name>[^']+)'"
    r"|Unknown (?P<old_kind>[a-z ]+): '(?P<old_name>[^']+)'"
)
_UNSAFE = ("arbitrary code", "safe_mode")
_DAMAGED = "It is damaged or cut off; copy or save it anew."
# HDF5's word for a file that ends too early.
_CUT_OFF = "truncated file"


def refused_by_list(path: Path, refused: Refused, caller: str) -> InputError:
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


def no_model(path: Path, why: str, caller: str) -> InputError:
    return InputError(
        f"{caller}: `model` must be a .keras or .h5 file with a whole model. "
        f"Received: model={str(path)!r}. {why}"
    )


def check_is_model_file(path: Path, *, trust: bool, is_built: bool, caller: str) -> bool:
    """Refuse what can hold no model, before anything slow; return whether it is a SavedModel."""
    refuse = functools.partial(no_model, path, caller=caller)
    if checkpoint_at(path) is not None:
        if is_built:
            return False
        if not (path / "saved_model.pb").is_file():
            raise refuse(f"It is a checkpoint, which holds weights alone: {BUILD}")
        if not trust:
            raise refuse(
                "It is a SavedModel, which holds functions that run. If you know who made it, say "
                f"--trust; or take its weights alone: {BUILD}"
            )
        return True
    try:
        mode = path.stat().st_mode
        start = b""
        # Opening a named pipe would wait for whoever writes to it.
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                start = file.read(8)
    except FileNotFoundError as error:
        raise refuse("There is no such file; check the path.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise refuse(f"It cannot be opened: {why}.") from error
    if stat.S_ISDIR(mode):
        raise refuse("It is a folder; save the model with model.save(...).")
    fault = _fault(path, start) if stat.S_ISREG(mode) else "It is no regular file."
    if fault is not None:
        raise refuse(fault)
    return False


def _fault(path: Path, start: bytes) -> str | None:
    """Say why a file cannot hold a model; None if it may."""
    if path.suffix not in {".keras", *HDF5_SUFFIXES}:
        return "Its name must end in .keras or .h5, by which Keras knows the format."
    if not start:
        return "It is empty."
    is_zip, is_hdf5 = start.startswith(_ZIP), start == _HDF5
    if path.suffix in HDF5_SUFFIXES:
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


def refusal_of(path: Path, error: Exception, caller: str) -> InputError:
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
        return no_model(path, f"It holds weights alone: {BUILD}", caller)
    if isinstance(error, zipfile.BadZipFile) or _CUT_OFF in text:
        return no_model(path, _DAMAGED, caller)
    return no_model(path, f"It cannot be loaded ({first_line(error)}).", caller)
