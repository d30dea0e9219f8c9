"""Data for a model, batch by batch, whatever they come as; never all of them at once."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.data_files import read_data
from batchnorm_mechanics.models.ray_data import batches_of, is_ray_dataset

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


@dataclass(frozen=True, eq=False)
class Shards:
    """Data in parts, each of which is read by the process that goes through it, when it does.

    Args:
        parts: each a path as `bnm doctor --data` takes it; a function without arguments that
            returns arrays, a tuple (inputs, labels) or a `tf.data.Dataset` of batches; arrays; or
            a Ray Dataset.
            A last, smaller batch of a part stays one: parts of whole batches have none.

    Raises:
        InputError: there are none.

    Example:
        >>> shards = Shards([lambda: np.ones((2, 1)), lambda: np.zeros((3, 1))])
        >>> data = as_data(shards, batch_size=2, caller="recalibrate")
        >>> [len(inputs) for inputs, _ in data]
        [2, 2, 1]
    """

    parts: Sequence[Any]

    def __post_init__(self) -> None:
        """Refuse what is no sequence, or empty."""
        parts: Any = self.parts
        if isinstance(parts, str | bytes) or not isinstance(parts, Sequence) or not parts:
            raise InputError(
                "Shards: `parts` must be a list of at least one path, function or array. "
                f"Received: parts={parts!r}. Pass one for each shard."
            )


@dataclass(frozen=True, eq=False)
class Data:
    """Batches of inputs, with labels or without, that can be gone through again and again.

    Attributes:
        source: a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, `Shards`, or an array or
            structure of arrays with one number of rows, memory-mapped ones included.
        labels: an array or structure of arrays of as many rows, or None. A dataset has its own.
        batch_size: of the arrays; a dataset has its own.
        note: what was taken of a file, in words.
        call: how the model is run on a batch, a function of both that returns outputs; None for
            `model(inputs)`.
        samples: how many are taken at most, the first ones; None for all.
        before: how many batches came before, in a part of data.
    """

    source: Any
    labels: Any = None
    batch_size: int = DEFAULT_BATCH_SIZE
    note: str = ""
    call: Callable[[Any, Any], Any] | None = None
    samples: int | None = None
    before: int = 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, labels or None), a last smaller batch included."""
        if self.samples is None:
            yield from self._all()
            return
        left = self.samples
        for inputs, labels in self._all():
            # Sparse ones have no `len`.
            rows = int(tf.nest.flatten(inputs)[0].shape[0])
            few = slice(0, left)
            whole = rows <= left
            yield (inputs, labels) if whole else (_rows_of(inputs, few), _rows_of(labels, few))
            left -= rows
            if left <= 0:
                return

    def _all(self) -> Iterator[tuple[Any, Any]]:
        if isinstance(self.source, tf.data.Dataset):
            yield from (_parted(batch, tuple) for batch in self.source)
        elif isinstance(self.source, keras.utils.PyDataset):
            # As Keras reads them, a list is a tuple here.
            for number in range(self.source.num_batches or 0):
                yield _parted(self.source[number], (tuple, list))
        elif isinstance(self.source, Shards):
            for part in self.source.parts:
                yield from _opened(part, self.batch_size)
        else:
            for start in range(0, self.rows or 0, self.batch_size):
                rows = slice(start, start + self.batch_size)
                yield _rows_of(self.source, rows), _rows_of(self.labels, rows)

    @property
    def rows(self) -> int | None:
        """How many samples there are, or None where only a dataset's end will tell."""
        if isinstance(self.source, tf.data.Dataset | keras.utils.PyDataset | Shards):
            return None
        rows = len(tf.nest.flatten(self.source)[0])
        return rows if self.samples is None else min(rows, self.samples)

    def between(self, start: int, stop: int) -> "Data":
        """Return some rows of arrays, read into memory."""
        rows = slice(start, stop)
        return replace(self, source=_rows_of(self.source, rows), labels=_rows_of(self.labels, rows))


def _opened(part: Any, batch_size: int) -> Iterable[tuple[Any, Any]]:
    """Return the batches of a part of `Shards`."""
    if is_ray_dataset(part):
        return batches_of(part, batch_size)
    if isinstance(part, str | os.PathLike):
        read = read_data(os.fspath(part), batch_size=batch_size, caller="Shards")
        part = read.inputs if read.labels is None else (read.inputs, read.labels)
    elif callable(part) and not hasattr(part, "shape"):
        part = part()
    return as_data(part, batch_size=batch_size, caller="Shards")


def without_a_last_single(data: Data) -> Iterator[tuple[Any, None]]:
    """Yield inputs, without labels, a last single row together with the batch before.

    Normalized by itself, one row of a dense layer is all zeros, whatever it holds.
    """
    held, held_rows = None, 0
    for inputs, _ in data:
        rows = int(tf.nest.flatten(inputs)[0].shape[0])
        if rows == 1 and held_rows > 1:
            yield tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), held, inputs), None
            held, held_rows = None, 0
            continue
        if held is not None:
            yield held, None
        held, held_rows = inputs, rows
    if held is not None:
        yield held, None


def _parted(batch: Any, kinds: Any) -> tuple[Any, Any]:
    """Return inputs and labels of a batch, without the weights of its samples."""
    inputs, labels, *_ = (*batch, None) if isinstance(batch, kinds) else (batch, None)
    return inputs, labels


def _rows_of(arrays: Any, rows: slice) -> Any:
    return tf.nest.map_structure(
        lambda part: None if part is None else np.asarray(part[rows]), arrays
    )


def as_data(
    data: Any,
    *,
    labels: Any = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    call: Callable[[Any, Any], Any] | None = None,
    samples: int | None = None,
    caller: str,
) -> Data:
    """Return data in one form, or say what is wrong with them.

    Args:
        data: `Data`; a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, of inputs,
            (inputs, labels) or (inputs, labels, weights); an array of samples; a tuple of such; a
            list or dict of arrays for several inputs; `Shards`; or a Ray Dataset, with columns as
            an `.npz` file has arrays. Weights of samples are not used.
        labels: an array, a list of numbers, or a list or dict of arrays for several outputs; for
            `data` that are arrays without.
        batch_size: for arrays.
        call: how the model is run on a batch.
        samples: how many to take at most.
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
    if call is not None and not callable(call):
        raise InputError(
            f"{caller}: `call` must be a function of the model and a batch that returns outputs. "
            f"Received: call={call!r}. Leave it out where `model(batch)` does."
        )
    if samples is not None and (isinstance(samples, bool) or samples < 1):
        raise InputError(
            f"{caller}: `samples` must be an integer of 1 or more. "
            f"Received: samples={samples!r}. Leave it out for all."
        )
    found = _as_data(data, labels, batch_size, caller)
    if call is None and samples is None:
        return found
    return replace(found, call=call, samples=samples)


def check_batch_size(batch_size: Any, *, caller: str) -> None:
    """Refuse what is no integer of 1 or more."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(
            f"{caller}: `batch_size` must be an integer of 1 or more. "
            f"Received: batch_size={batch_size!r}. Leave it out for {DEFAULT_BATCH_SIZE}."
        )


def _as_data(data: Any, labels: Any, batch_size: int, caller: str) -> Data:
    if isinstance(data, Data):
        return data
    check_batch_size(batch_size, caller=caller)
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return Data(_ending(data, caller))
    if is_ray_dataset(data):
        data = Shards((data,))
    if isinstance(data, Shards):
        return Data(data, None, batch_size)
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
    path: Path | str,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    caller: str = "doctor",
    **options: Any,
) -> Data:
    """Return the data of a file or folder; rows are read when they are needed.

    Args:
        path: as `_io.data_files.read_data` takes it.
        batch_size: how many rows to take at a time.
        caller: the function to name in an error.
        **options: further ones of `read_data`.

    Raises:
        InputError: there is no such file, it is damaged, empty, or holds other things than numbers.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.npz"
        >>> np.savez(path, x=np.zeros((5, 2)), y=np.arange(5))
        >>> [len(labels) for _, labels in load_data(path, batch_size=2)]
        [2, 2, 1]
    """
    inputs, labels, note = read_data(path, batch_size=batch_size, caller=caller, **options)
    data = as_data(inputs, labels=labels, batch_size=batch_size, caller=caller)
    return replace(data, note=note)
