"""Data from files: which arrays of which files, and what is wrong with them."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.doctor.files.models import first_line
from batchnorm_mechanics.doctor.files.stored import Piece, Stored, piece_of, pieces_in

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
    try:
        if path.suffix == ".npz" and not path.is_dir():
            inputs, labels = _from_archive(path, labels_name, caller)
        else:
            inputs = _from_files(path, "data", caller)
            labels = (
                None if labels_name is None else _from_files(Path(labels_name), "labels", caller)
            )
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
        raise _refusal(path, why, caller) from error
    if not isinstance(inputs, dict):
        return as_data(inputs, labels=labels, batch_size=batch_size, caller=caller)
    first, *others = inputs.values()
    checked = as_data(first, labels=labels, batch_size=batch_size, caller=caller)
    if any(len(other) != len(first) for other in others):
        rows = ", ".join(f"{name} has {len(part)} rows" for name, part in inputs.items())
        raise _refusal(path, f"{rows}; all inputs must have as many.", caller)
    return Data(inputs, checked.labels, checked.batch_size)


def _refusal(path: Path, why: str, caller: str, option: str = "data") -> InputError:
    return InputError(
        f"{caller}: `{option}` must be an .npz file, a .npy file or a folder of .npy files, with "
        f"numbers. Received: {option}={str(path)!r}. {why}"
    )


def _from_archive(path: Path, labels_name: str | None, caller: str) -> tuple[Any, Any]:
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
        if path.suffix != ".npy":
            path.stat()
            why = "Its name ends in none of these; save the array with numpy.save."
            raise _refusal(path, why, caller, option)
        return _array(piece_of(path), path, path.name, caller, option)
    paths = sorted(path.glob("*.npy"), key=lambda shard: _numbers_as_numbers(shard.name))
    if not paths:
        raise _refusal(path, "The folder holds no .npy file.", caller, option)
    pieces = []
    for shard in paths:
        try:
            pieces.append(piece_of(shard))
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
