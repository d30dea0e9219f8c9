"""Samples and labels, from whatever file, folder or function a user names."""

import contextlib
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io import tables
from batchnorm_mechanics._io.arrays import (
    Packed,
    Piece,
    Stored,
    check_unpacked,
    piece_of,
    pieces_in,
)
from batchnorm_mechanics._io.images import classes_of, image_files, images
from batchnorm_mechanics._io.model_archives import TooLargeError
from batchnorm_mechanics._io.rows import first_rows, scaled
from batchnorm_mechanics._io.user_data import from_function, is_function

# Names of arrays in a file.
_INPUTS, _LABELS = "x", "y"
_FRACTION = re.compile(r"([-+]?[\d.]+(?:e[-+]?\d+)?)(?:/([\d.]+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """Which data are read, and how.

    Attributes:
        labels_name: of an `.npz` file or table, the name of its array of labels, `y` where there
            is one; of others, a `.npy` file or folder of such with the labels.
        batch_size: of a dataset that is cut to `samples`.
        samples: how many to take at most, the first ones.
        scale: by what to multiply, such as "1/255", and what to add then: "1/127.5,-1".
        takes: the shapes of one sample, by the names of the model's inputs.
        most: how many bytes a compressed `.npz` file may unpack to; None for 10 times its own size
            and 100 MiB.
        caller: the function to name in an error.
    """

    labels_name: str | None = None
    batch_size: int = 32
    samples: int | None = None
    scale: str | None = None
    takes: tables.Shapes = field(default_factory=dict)
    most: int | None = None
    caller: str = "doctor"


class Read(NamedTuple):
    """What was read.

    Attributes:
        inputs: an array, several by the names of a model's inputs, or a dataset.
        labels: likewise, or None.
        note: what of the file that is, in words; empty where nothing was chosen.
    """

    inputs: Any
    labels: Any
    note: str


def read_data(path: Path | str, **options: Any) -> Read:
    """Read samples and labels; rows of arrays and images are read when they are needed.

    Args:
        path: of an `.npz` file with an array `x`, or one array for each input of the model by its
            name; of a `.npy` file; of a folder of `.npy` files, taken in the order of their names,
            numbers in them as numbers; of a folder of images, whose subfolders are the labels; of
            a Parquet or TFRecord file, or a folder of them; or `path/to/file.py:function`, which
            returns arrays, pairs of inputs and labels, a generator of batches, a `tf.data.Dataset`
            or a `keras.utils.PyDataset`. A compressed `.npz` file is read into memory, and so are
            tables.
        **options: of `Wanted`.

    Raises:
        InputError: there is no such file, it is damaged, empty, larger than it may be, or holds
            other things than numbers.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.npz"
        >>> np.savez(path, x=np.full((5, 2), 255), y=np.arange(5))
        >>> read = read_data(path, samples=2, scale="1/255")
        >>> read.inputs[:].tolist(), read.labels[:].tolist()
        ([[1.0, 1.0], [1.0, 1.0]], [0, 1])
    """
    wanted = Wanted(**options)
    scale, samples, caller = wanted.scale, wanted.samples, wanted.caller
    numbers = None if scale is None else _scale(scale, caller)
    if is_function(path):
        if numbers is not None:
            raise InputError(
                f"{caller}: `scale` must go with a file of data. Received: scale={scale!r} with "
                f"data={str(path)!r}. Scale them in that function."
            )
        return Read(*from_function(str(path), samples, wanted.batch_size, caller), "")
    path = Path(path)
    source = _Source(path, "data", caller)
    with source.named():
        read = source.read(wanted)
    inputs, labels, note = read
    if labels is None and wanted.labels_name is not None:
        given = _Source(Path(wanted.labels_name), "labels", caller)
        with given.named():
            labels = given.from_files()
    parts = inputs if isinstance(inputs, dict) else {_INPUTS: inputs}
    _check_rows(parts if labels is None else {**parts, "labels": labels}, path, caller)
    if samples is not None:
        parts = {name: first_rows(part, samples) for name, part in parts.items()}
        labels = None if labels is None else first_rows(labels, samples)
    if numbers is not None:
        parts = {name: scaled(part, *numbers) for name, part in parts.items()}
    return Read(parts if isinstance(inputs, dict) else parts[_INPUTS], labels, note)


def _scale(text: str, caller: str) -> tuple[float, float]:
    """Return the factor and the offset that were written."""
    found = [_FRACTION.fullmatch(part.strip()) for part in text.split(",")]
    try:
        numbers = [float(one[1]) / float(one[2] or 1) for one in found if one]
    except (ValueError, ZeroDivisionError):
        numbers = []
    if len(numbers) != len(found) or len(numbers) > 2 or not numbers[0]:
        raise InputError(
            f"{caller}: `scale` must be a factor, and what to add after it. Received: "
            f"scale={text!r}. For instance --scale 1/255, or --scale 1/127.5,-1."
        )
    return numbers[0], numbers[1] if len(numbers) == 2 else 0.0


def _check_rows(parts: dict[str, Any], path: Path, caller: str) -> None:
    rows = {name: len(part) for name, part in parts.items()}
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


@dataclass(frozen=True)
class _Source:
    """A file or folder with data.

    Attributes:
        path: of it.
        option: by which it was given, "data" or "labels", for the message of an error.
        caller: the function to name there.
    """

    path: Path
    option: str
    caller: str

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name it if it cannot be read."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            # Not a list of types: one wrong bit makes zipfile and NumPy raise any of theirs.
            strerror = getattr(error, "strerror", None)
            why = f"It cannot be read ({strerror or first_line(error)})."
            if isinstance(error, FileNotFoundError):
                why = f"There is no {error.filename or self.path}; check the path."
            elif isinstance(error, TooLargeError):
                why = f"{error}. If you know who made it, allow that many: --max-size."
            elif isinstance(error, zipfile.BadZipFile):
                why = "It is no .npz file, or it is damaged or cut off."
            raise self._refusal(why) from error

    def read(self, wanted: Wanted) -> Read:
        """Return what is there, by the kind that its name says it is."""
        is_folder = self.path.is_dir()
        if self.path.suffix == ".npz" and not is_folder:
            return Read(*self.from_archive(wanted), "")
        for suffixes in (tables.PARQUET, tables.TF_RECORD):
            paths = self._shards(suffixes) if is_folder else [self.path]
            if paths and paths[0].suffix.lower() in suffixes:
                return self.from_table(paths, wanted)
        if is_folder and not self._shards((".npy",)):
            found = image_files(self.path)
            if found:
                return self.from_images(found, wanted.takes)
        return Read(self.from_files(), None, "")

    def _shards(self, suffixes: Sequence[str]) -> list[Path]:
        """Return the files of a folder with such names, in the order of the numbers in them."""
        found = [path for path in self.path.iterdir() if path.suffix.lower() in suffixes]
        return sorted(found, key=lambda shard: _numbers_as_numbers(shard.name))

    def from_table(self, paths: list[Path], wanted: Wanted) -> Read:
        """Return columns of Parquet or TFRecord files."""
        for path in paths:
            self._check_regular(path)
        if paths[0].suffix.lower() in tables.PARQUET:
            columns = tables.from_parquet(paths, wanted.samples, self.caller)
        else:
            columns = tables.from_tf_record(paths, wanted.samples)
        return Read(*tables.chosen(columns, wanted.labels_name, wanted.takes, self.caller))

    def from_images(self, found: list[Path], takes: tables.Shapes) -> Read:
        """Return images in the size that the model takes, and the numbers of their subfolders."""
        classes = classes_of(found, self.path)
        labels, note = None, ""
        if classes:
            names = [path.relative_to(self.path).parts[0] for path in found]
            labels = np.array([classes.index(name) for name in names], np.int32)
            note = f"labels by folder: {', '.join(classes)}"
        shape = next(iter(takes.values()), None)
        return Read(images(found, shape, caller=self.caller), labels, note)

    def from_archive(self, wanted: Wanted) -> tuple[Any, Any]:
        """Return samples, by name if there are several arrays of them, and labels or None."""
        labels_name = wanted.labels_name
        self._check_regular(self.path)
        # Before anything is read: what is no archive says so in other words than a missing one.
        with self.path.open("rb"):
            pieces = pieces_in(self.path)
        held = ", ".join(pieces) or "nothing"
        if labels_name is not None and labels_name not in pieces:
            raise InputError(
                f"{self.caller}: `labels` must name an array in {str(self.path)!r}. "
                f"Received: labels={labels_name!r}. It holds {held}."
            )
        labels = pieces.pop(labels_name or _LABELS, None)
        inputs = {_INPUTS: pieces[_INPUTS]} if _INPUTS in pieces else pieces
        if not inputs:
            raise self._refusal(f"It holds {held}: name the array of samples {_INPUTS!r}.")
        check_unpacked((*inputs.values(), labels), self.path, wanted.most)
        arrays = {name: self._array(piece, name) for name, piece in inputs.items()}
        return (
            arrays.get(_INPUTS, arrays),
            None if labels is None else self._array(labels, labels_name or _LABELS),
        )

    def from_files(self) -> Any:
        """Return the array of a .npy file, or of those of a folder together."""
        if not self.path.is_dir():
            self._check_regular(self.path)
            if self.path.suffix != ".npy":
                why = "Its name ends in none of these; save the array with numpy.save."
                raise self._refusal(why)
            return self._array(piece_of(self.path), self.path.name)
        paths = self._shards((".npy",))
        if not paths:
            raise self._refusal("The folder holds no .npy file, and none of the others.")
        pieces: list[Piece] = []
        for shard in paths:
            try:
                self._check_regular(shard)
                pieces.append(piece_of(shard))
            except InputError:
                raise
            except (OSError, ValueError) as error:
                why = f"Its file {shard.name} cannot be read ({first_line(error)})."
                raise self._refusal(why) from error
            first, last = pieces[0], pieces[-1]
            if not last.shape or (last.shape[1:], last.dtype) != (first.shape[1:], first.dtype):
                raise self._refusal(
                    f"{paths[0].name} is {first.dtype} of shape {first.shape}, and {shard.name} "
                    f"{last.dtype} of shape {last.shape}; all but the first size must agree."
                )
        self._check_numbers(pieces[0].dtype, paths[0].name)
        return Stored(pieces)

    def _array(self, found: Piece | Packed, name: str) -> Any:
        self._check_numbers(found.dtype, name)
        if not found.shape:
            why = f"{name} is a single number; the first axis is that of the samples."
            raise self._refusal(why)
        return Stored([found]) if isinstance(found, Piece) else found.read()

    def _check_regular(self, path: Path) -> None:
        # Opening a named pipe would wait for whoever writes to it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise self._refusal("It is no regular file.")
        if not path.stat().st_size:
            raise self._refusal("It is empty.")

    def _check_numbers(self, dtype: np.dtype, name: str) -> None:
        if dtype.kind not in "fiub":
            raise self._refusal(f"{name} has dtype {dtype}; save it as float32 or integers.")

    def _refusal(self, why: str) -> InputError:
        # Labels have a file of their own only beside samples that are no archive.
        kinds = (
            "an .npz, .npy, .parquet or .tfrecord file, a folder of such or of images, or "
            "path/to/file.py:function"
            if self.option == "data"
            else "a .npy file or a folder of .npy files, with numbers"
        )
        return InputError(
            f"{self.caller}: `{self.option}` must be {kinds}. "
            f"Received: {self.option}={str(self.path)!r}. {why}"
        )


def _numbers_as_numbers(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that puts shard_10 after shard_9."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
