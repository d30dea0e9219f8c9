"""Numbers that a command line names: written out, or in a file."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import Packed, Piece, piece_of, pieces_in

# A trace holds about a dozen copies of its input.
MOST_NUMBERS = 20_000_000


def read_array(path: Path, *, option: str, key: str | None = None) -> np.ndarray:
    """Read numbers from a .npy, .npz or .csv file.

    Args:
        path: of the file.
        option: that named it, for the message of an error.
        key: name of the array in an .npz file that holds several.

    Returns:
        The array; float32 from a CSV file, whose text has no type.

    Raises:
        InputError: there is no such file, it holds no array of real numbers, or too many.
    """
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise InputError(
            f"trace: `{option}` must name a .npy, .npz or .csv file. Received: "
            f"{option}={str(path)!r}. Save the array with numpy.save."
        )
    if key is not None and path.suffix.lower() != ".npz":
        raise InputError(
            f"trace: `key` must go with an .npz file. Received: key={key!r} with "
            f"{option}={str(path)!r}. Leave it out."
        )
    try:
        found = readers[path.suffix.lower()](path, option, key)
        # How large it is is known before memory is asked for.
        _check(found, path, option)
        return found if isinstance(found, np.ndarray) else found.read()
    except InputError:
        raise
    except Exception as error:
        # Not a list of types: one wrong bit makes zipfile and NumPy raise any of theirs.
        what, remedy = str(error), "Save the array anew with numpy.save; objects are not read."
        if isinstance(error, OSError) and error.strerror:
            what, remedy = error.strerror, "Name a file that is there and that you may read."
        raise InputError(
            f"trace: `{option}` must name a file with an array of numbers. Received: "
            f"{option}={str(path)!r} ({' '.join(what.split())}). {remedy}"
        ) from error


def _check(array: Piece | Packed | np.ndarray, path: Path, option: str) -> None:
    received = f"Received: {option}={str(path)!r}"
    if array.dtype.kind not in ("fiub" if option == "mask" else "fiu"):
        raise InputError(
            f"trace: `{option}` must hold real numbers. {received} with dtype {array.dtype}. "
            "Save it as float32, float64 or integers."
        )
    if not array.size:
        raise InputError(
            f"trace: `{option}` must hold at least one number. {received} of shape "
            f"{array.shape}. An empty batch has no mean."
        )
    if array.size > MOST_NUMBERS:
        raise InputError(
            f"trace: `{option}` must hold at most {MOST_NUMBERS:,} numbers. {received} with "
            f"{array.size:,}. Trace a few batches of it."
        )


def _npy(path: Path, option: str, key: str | None) -> Piece:
    del option, key
    return piece_of(path)


def _npz(path: Path, option: str, key: str | None) -> Piece | Packed:
    found = pieces_in(path)
    if key is None and len(found) == 1:
        return next(iter(found.values()))
    if key is None or key not in found:
        raise InputError(
            f"trace: `key` must name one of the arrays in {option}={str(path)!r}. Received: "
            f"key={key!r}. It holds {', '.join(found) or 'none'}."
        )
    return found[key]


def _csv(path: Path, option: str, key: str | None) -> np.ndarray:
    del key
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    # A header is a first line without any number; a line with some is data, or a mistake.
    if lines and not any(_is_number(cell) for cell in lines[0]):
        lines = lines[1:]
    for number, line in enumerate(lines, start=1):
        if len(line) != len(lines[0]):
            raise InputError(
                f"trace: `{option}` must have as many cells in each line. Received: "
                f"{option}={str(path)!r}, whose row {number} has {len(line)} and the first "
                f"{len(lines[0])}. Fill the gaps or cut the row."
            )
        wrong = [cell for cell in line if not _is_number(cell)]
        if wrong:
            raise InputError(
                f"trace: `{option}` must hold numbers alone. Received: {option}={str(path)!r}, "
                f"whose row {number} has {wrong[0]!r}. Only the first line may be words."
            )
    # What float32 cannot hold is infinite, which the trace shows.
    with np.errstate(over="ignore"):
        return np.array([[float(cell) for cell in line] for line in lines], np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_parameter(text: str, *, option: str) -> Any:
    """Return gamma, beta, a mean or a variance as it was written: a number, numbers, or a file.

    Args:
        text: such as "2", "1,2,3" or "gamma.npy".
        option: that held it, for the message of an error.

    Returns:
        A float, a list of floats or an array.

    Raises:
        InputError: it is none of these.

    Example:
        >>> read_parameter("2", option="gamma"), read_parameter("1, 2.5", option="gamma")
        (2.0, [1.0, 2.5])
    """
    if Path(text).suffix.lower() in {".npy", ".npz"}:
        return read_array(Path(text), option=option)
    cells = text.split(",")
    if not all(_is_number(cell) for cell in cells):
        raise InputError(
            f"trace: `{option}` must be a number, numbers with commas between, or a .npy file. "
            f"Received: {option}={text!r}. For instance --{option} 1,2,3."
        )
    numbers = [float(cell) for cell in cells]
    return numbers[0] if len(numbers) == 1 else numbers
