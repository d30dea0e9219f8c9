"""Data from files: which arrays of which files, and what is wrong with them."""

import contextlib
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import Piece, Stored, piece_of, pieces_in
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.doctor.model_files import first_line

_INPUTS, _LABELS = "x", "y"


def load_data(
    path: Path,
    *,
    labels_name: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    caller: str = "doctor",
) -> Data:
    """Return the data of a file or folder; rows are read when they are needed.

    Args:
        path: of an `.npz` file with an array `x`, or one array for each input of the model by its
            name; of a `.npy` file; or of a folder of `.npy` files, taken in the order of their
            names, numbers in them as numbers. A compressed `.npz` file is read into memory.
        labels_name: of an `.npz` file, the name of its array of labels, `y` where there is one; of
            others, a `.npy` file or folder of such with the labels.
        batch_size: how many rows to take at a time.
        caller: the function to name in an error.

    Raises:
        InputError: there is no such file, it is damaged, empty, or holds other things than numbers.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.npz"
        >>> np.savez(path, x=np.zeros((5, 2)), y=np.arange(5))
        >>> [len(labels) for _, labels in load_data(path, batch_size=2)]
        [2, 2, 1]
    """
    inputs, labels = _read(path, labels_name, caller)
    parts = inputs if isinstance(inputs, dict) else {_INPUTS: inputs}
    if labels is not None:
        parts = {**parts, "labels": labels}
    _check_rows({name: len(part) for name, part in parts.items()}, path, caller)
    if not isinstance(inputs, dict):
        return as_data(inputs, labels=labels, batch_size=batch_size, caller=caller)
    first = next(iter(inputs.values()))
    checked = as_data(first, labels=labels, batch_size=batch_size, caller=caller)
    return Data(inputs, checked.labels, checked.batch_size)


def _check_rows(rows: dict[str, int], path: Path, caller: str) -> None:
    if not all(rows.values()):
        raise InputError(
            f"{caller}: `data` must hold at least one sample. Received: data={str(path)!r}, "
            f"whose {next(name for name, many in rows.items() if not many)} has none. "
            "The first axis is that of the samples."
        )
    if len(set(rows.values())) > 1:
        held = ", ".join(f"{name} has {many:,} rows" for name, many in rows.items())
        raise InputError(
            f"{caller}: `data` must hold as many rows of each array as of the others. "
            f"Received: data={str(path)!r}, where {held}. Give arrays of the same samples."
        )


def _read(path: Path, labels_name: str | None, caller: str) -> tuple[Any, Any]:
    if path.suffix == ".npz" and not path.is_dir():
        with _named(path, "data", caller):
            return _from_archive(path, labels_name, caller)
    with _named(path, "data", caller):
        inputs = _from_files(path, "data", caller)
    if labels_name is None:
        return inputs, None
    with _named(Path(labels_name), "labels", caller):
        return inputs, _from_files(Path(labels_name), "labels", caller)


@contextlib.contextmanager
def _named(path: Path, option: str, caller: str) -> Iterator[None]:
    """Name the file, and the option that it was given by, if it cannot be read."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # Not a list of types: one wrong bit makes zipfile and NumPy raise any of theirs.
        strerror = getattr(error, "strerror", None)
        why = f"It cannot be read ({strerror or first_line(error)})."
        if isinstance(error, FileNotFoundError):
            why = f"There is no {error.filename or path}; check the path."
        elif isinstance(error, zipfile.BadZipFile):
            why = "It is no .npz file, or it is damaged or cut off."
        raise _refusal(path, why, caller, option) from error


def _refusal(path: Path, why: str, caller: str, option: str = "data") -> InputError:
    # Labels have a file of their own only beside samples that are no archive.
    archive = "an .npz file, " if option == "data" else ""
    return InputError(
        f"{caller}: `{option}` must be {archive}a .npy file or a folder of .npy files, with "
        f"numbers. Received: {option}={str(path)!r}. {why}"
    )


def _check_regular(path: Path, option: str, caller: str) -> None:
    # Opening a named pipe would wait for whoever writes to it.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _refusal(path, "It is no regular file.", caller, option)
    if not path.stat().st_size:
        raise _refusal(path, "It is empty.", caller, option)


def _from_archive(path: Path, labels_name: str | None, caller: str) -> tuple[Any, Any]:
    _check_regular(path, "data", caller)
    # Before anything is read: what is no archive says so in other words than a missing one.
    with path.open("rb"):
        pieces = pieces_in(path)
    held = ", ".join(pieces) or "nothing"
    if labels_name is not None and labels_name not in pieces:
        raise InputError(
            f"{caller}: `labels` must name an array in {str(path)!r}. "
            f"Received: labels={labels_name!r}. It holds {held}."
        )
    labels = pieces.pop(labels_name or _LABELS, None)
    inputs = {_INPUTS: pieces[_INPUTS]} if _INPUTS in pieces else pieces
    if not inputs:
        why = f"It holds {held}: name the array of samples {_INPUTS!r}."
        raise _refusal(path, why, caller)
    arrays = {name: _array(piece, path, name, caller) for name, piece in inputs.items()}
    return (
        arrays.get(_INPUTS, arrays),
        None if labels is None else _array(labels, path, labels_name or _LABELS, caller),
    )


def _from_files(path: Path, option: str, caller: str) -> Any:
    if not path.is_dir():
        _check_regular(path, option, caller)
        if path.suffix != ".npy":
            why = "Its name ends in none of these; save the array with numpy.save."
            raise _refusal(path, why, caller, option)
        return _array(piece_of(path), path, path.name, caller, option)
    paths = sorted(path.glob("*.npy"), key=lambda shard: _numbers_as_numbers(shard.name))
    if not paths:
        raise _refusal(path, "The folder holds no .npy file.", caller, option)
    pieces = []
    for shard in paths:
        try:
            _check_regular(shard, option, caller)
            pieces.append(piece_of(shard))
        except InputError:
            raise
        except (OSError, ValueError) as error:
            why = f"Its file {shard.name} cannot be read ({first_line(error)})."
            raise _refusal(path, why, caller, option) from error
        first, last = pieces[0], pieces[-1]
        if not last.shape or (last.shape[1:], last.dtype) != (first.shape[1:], first.dtype):
            why = (
                f"{paths[0].name} is {first.dtype} of shape {first.shape}, and {shard.name} "
                f"{last.dtype} of shape {last.shape}; all but the first size must agree."
            )
            raise _refusal(path, why, caller, option)
    _check_numbers(pieces[0].dtype, path, paths[0].name, caller, option)
    return Stored(pieces)


def _numbers_as_numbers(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that puts shard_10 after shard_9."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _array(
    found: Piece | np.ndarray, path: Path, name: str, caller: str, option: str = "data"
) -> Any:
    _check_numbers(found.dtype, path, name, caller, option)
    if not found.shape:
        why = f"{name} is a single number; the first axis is that of the samples."
        raise _refusal(path, why, caller, option)
    return Stored([found]) if isinstance(found, Piece) else found


def _check_numbers(dtype: np.dtype, path: Path, name: str, caller: str, option: str) -> None:
    if dtype.kind not in "fiub":
        why = f"{name} has dtype {dtype}; save it as float32 or integers."
        raise _refusal(path, why, caller, option)
