"""Data for a model, batch by batch, whatever they come as; never all of them at once."""

import contextlib
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io import arrays as in_files
from batchnorm_mechanics._io.arrays import Packed, Piece, Stored, piece_of
from batchnorm_mechanics._io.model_archives import TooLargeError
from batchnorm_mechanics.doctor.model_files import first_line

DEFAULT_BATCH_SIZE = 32

_FORMS = {
    "data": "an array, a tuple (inputs, labels), a list or dict of arrays for several inputs, a "
    "tf.data.Dataset or a keras.utils.PyDataset",
    "labels": "numbers, in an array or in a list or dict of arrays for several outputs",
}
# NumPy's letters for them; inputs may be text besides, for a model that takes it.
_NO_NUMBERS = "OcMm"
_NUMBERS = (bool, int, float, np.number)
_ADVICE = (
    (type(None), ". Pass samples."),
    ((str, bytes, os.PathLike), ". np.load reads a file, and so does `bnm doctor`."),
    (_NUMBERS, " with numbers in it. Make an array of it with np.asarray."),
    (tf.RaggedTensor, ". Its rows are of several lengths: pad them with .to_tensor()."),
    (tf.SparseTensor, ". Make it dense with tf.sparse.to_dense."),
)
_MOST_SHAPES = 4
# Names of arrays in a file.
_INPUTS, _LABELS = "x", "y"


@dataclass(frozen=True, eq=False)
class Data:
    """Batches of inputs, with labels or without, that can be gone through again and again.

    Attributes:
        source: a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, or an array or structure
            of arrays with one number of rows, memory-mapped ones included.
        labels: an array or structure of arrays of as many rows, or None. A dataset has its own.
        batch_size: of the arrays; a dataset has its own.
    """

    source: Any
    labels: Any = None
    batch_size: int = DEFAULT_BATCH_SIZE

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, labels or None), a last smaller batch included."""
        if isinstance(self.source, tf.data.Dataset):
            yield from (_parted(batch, tuple) for batch in self.source)
        elif isinstance(self.source, keras.utils.PyDataset):
            # As Keras reads them, a list is a tuple here.
            for number in range(self.source.num_batches or 0):
                yield _parted(self.source[number], (tuple, list))
        else:
            for start in range(0, self.rows or 0, self.batch_size):
                rows = slice(start, start + self.batch_size)
                yield _rows_of(self.source, rows), _rows_of(self.labels, rows)

    @property
    def rows(self) -> int | None:
        """How many samples there are, or None where only a dataset's end will tell."""
        if isinstance(self.source, tf.data.Dataset | keras.utils.PyDataset):
            return None
        return len(tf.nest.flatten(self.source)[0])


def _parted(batch: Any, kinds: Any) -> tuple[Any, Any]:
    """Return inputs and labels of a batch, without the weights of its samples."""
    inputs, labels, *_ = (*batch, None) if isinstance(batch, kinds) else (batch, None)
    return inputs, labels


def _rows_of(arrays: Any, rows: slice) -> Any:
    return tf.nest.map_structure(
        lambda part: None if part is None else np.asarray(part[rows]), arrays
    )


def as_data(
    data: Any, *, labels: Any = None, batch_size: int = DEFAULT_BATCH_SIZE, caller: str
) -> Data:
    """Return data in one form, or say what is wrong with them.

    Args:
        data: `Data`; a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, of inputs,
            (inputs, labels) or (inputs, labels, weights); an array of samples; a tuple of such; or
            a list or dict of arrays for several inputs. Weights of samples are not used.
        labels: an array, a list of numbers, or a list or dict of arrays for several outputs; for
            `data` that are arrays without.
        batch_size: for arrays.
        caller: the function to name in an error.

    Raises:
        InputError: they are none of these, empty, without an end, of unequal numbers of rows, not
            batched, or the batch size is below 1. A dataset of a generator does not tell that it
            has no end.

    Example:
        >>> data = as_data((np.zeros((5, 2)), [0, 1, 1, 0, 1]), batch_size=3, caller="diagnose")
        >>> [(inputs.shape, labels.tolist()) for inputs, labels in data]
        [((3, 2), [0, 1, 1]), ((2, 2), [0, 1])]
    """
    if isinstance(data, Data):
        return data
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(
            f"{caller}: `batch_size` must be an integer of 1 or more. "
            f"Received: batch_size={batch_size!r}. Leave it out for {DEFAULT_BATCH_SIZE}."
        )
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return Data(_ending(data, caller))
    weights = None
    if isinstance(data, tuple) and len(data) in {2, 3} and labels is None:
        data, labels, weights = (*data, None) if len(data) == 2 else data
    data = _arrays(data, "data", caller)
    labels = _arrays(_one_array(labels), "labels", caller)
    arrays = [
        part if hasattr(part, "shape") else np.asarray(part)
        for part in tf.nest.flatten((data, labels, _one_array(weights)))
        if part is not None
    ]
    shapes = [tuple(part.shape) for part in arrays]
    rows = {shape[:1] for shape in shapes}
    if len(rows) != 1 or rows <= {(), (0,)}:
        more = len(shapes) - _MOST_SHAPES
        raise InputError(
            f"{caller}: `data` must hold at least one sample, and as many labels as samples. "
            f"Received: arrays of shapes {shapes[:_MOST_SHAPES]}"
            + (f" and {more:,} more" if more > 0 else "")
            + ". The first axis is that of the samples."
        )
    return Data(data, labels, batch_size)


def _ending(data: Any, caller: str) -> Any:
    """Return a dataset that is batched and has an end, as far as it tells."""
    if isinstance(data, keras.utils.PyDataset):
        endless = data.num_batches is None
        remedy = "Give it a `num_batches`"
    else:
        endless = data.cardinality() == tf.data.INFINITE_CARDINALITY
        remedy = "Add .take(n), with n batches"
        parts = tf.nest.flatten(data.element_spec)
        if any(isinstance(part, tf.TensorSpec) and part.shape.rank == 0 for part in parts):
            raise InputError(
                f"{caller}: `data` must be batched. Received: data={data!r}. Add .batch(32)."
            )
    if endless:
        raise InputError(
            f"{caller}: `data` must have an end. Received: data={data!r}, which repeats for ever. "
            f"{remedy}."
        )
    return data


def _one_array(labels: Any) -> Any:
    """Return lists of numbers as an array; a list of arrays is one for each output."""
    if isinstance(labels, list | tuple) and labels:
        leaves = tf.nest.flatten(labels)
        if all(isinstance(leaf, _NUMBERS) for leaf in leaves):
            try:
                return np.asarray(labels)
            except ValueError:
                return labels  # rows of unequal lengths, which the caller refuses
    return labels


def _arrays(given: Any, argument: str, caller: str) -> Any:
    """Return a structure of arrays, of which rows can be taken, or say what is none.

    An array stays what it is: it may be a file that is mapped into memory.
    """
    for part in tf.nest.flatten(given):
        if part is None and argument == "labels":
            continue
        advice = _why_no_array(part, _NO_NUMBERS if argument == "data" else _NO_NUMBERS + "SU")
        if advice:
            kind = type(given if isinstance(part, _NUMBERS) else part)
            module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            raise InputError(
                f"{caller}: `{argument}` must be {_FORMS[argument]}. "
                f"Received: {argument} of type {module}{kind.__qualname__}{advice}"
            )
    return given


def _why_no_array(part: Any, forbidden: str) -> str:
    """Return the rest of a sentence that says why rows of it cannot be taken, or nothing."""
    for kinds, advice in _ADVICE:
        if isinstance(part, kinds):
            return advice
    if type(part).__module__.startswith("scipy.sparse"):
        return ". Make it dense with .toarray()."
    if not hasattr(part, "shape") or not hasattr(part, "__getitem__"):
        return (
            ". Make arrays of its batches with np.concatenate, or a dataset with "
            "tf.data.Dataset.from_generator."
        )
    if not len(part.shape):
        return ""  # a single number has no rows, which the caller says
    try:
        dtype = np.asarray(part[:1]).dtype
    except (RuntimeError, TypeError, ValueError) as error:
        return f", of which NumPy says: {' '.join(str(error).split())[:200]}"
    # NumPy has TensorFlow's text as objects.
    kind = "S" if isinstance(part, tf.Tensor) and part.dtype == tf.string else dtype.kind
    if kind in forbidden:
        return f" and dtype {dtype}. Make it one of numbers, as .astype('float32') does."
    return ""


def load_data(
    path: Path,
    *,
    labels_name: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    most: int | None = None,
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
        most: how many bytes a compressed `.npz` file may unpack to; None for 10 times its own size
            and 100 MiB.
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
    source = _Source(path, "data", caller)
    with source.named():
        if path.suffix == ".npz" and not path.is_dir():
            inputs, labels = source.from_archive(labels_name, most)
        else:
            inputs, labels = source.from_files(), None
    if labels is None and labels_name is not None:
        given = _Source(Path(labels_name), "labels", caller)
        with given.named():
            labels = given.from_files()
    parts = inputs if isinstance(inputs, dict) else {_INPUTS: inputs}
    _check_rows(parts if labels is None else {**parts, "labels": labels}, path, caller)
    return as_data(inputs, labels=labels, batch_size=batch_size, caller=caller)


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

    def from_archive(self, labels_name: str | None, most: int | None) -> tuple[Any, Any]:
        """Return samples, by name if there are several arrays of them, and labels or None."""
        self._check_regular(self.path)
        # Before anything is read: what is no archive says so in other words than a missing one.
        with self.path.open("rb"):
            pieces = in_files.pieces_in(self.path)
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
        in_files.check_unpacked((*inputs.values(), labels), self.path, most)
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
        paths = in_files.shards_in(self.path)
        if not paths:
            raise self._refusal("The folder holds no .npy file.")
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
        archive = "an .npz file, " if self.option == "data" else ""
        return InputError(
            f"{self.caller}: `{self.option}` must be {archive}a .npy file or a folder of .npy "
            f"files, with numbers. Received: {self.option}={str(self.path)!r}. {why}"
        )
