"""Data for a model, batch by batch, whatever they come as; never all of them at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError

DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Data:
    """Batches of inputs, with labels or without, that can be gone through again and again.

    Attributes:
        source: a `tf.data.Dataset` of batches, or an array or structure of arrays with one number
            of rows, memory-mapped ones included.
        labels: arrays of as many rows, or None. A dataset has its own.
        batch_size: of the arrays; a dataset has its own.
    """

    source: Any
    labels: Any = None
    batch_size: int = DEFAULT_BATCH_SIZE

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, labels or None), a last smaller batch included."""
        if isinstance(self.source, tf.data.Dataset):
            for batch in self.source:
                inputs, labels, *_ = (*batch, None) if isinstance(batch, tuple) else (batch, None)
                yield inputs, labels
            return
        for start in range(0, self.rows or 0, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield (
                tf.nest.map_structure(lambda part, rows=rows: np.asarray(part[rows]), self.source),
                None if self.labels is None else np.asarray(self.labels[rows]),
            )

    @property
    def rows(self) -> int | None:
        """How many samples there are, or None where only a dataset's end will tell."""
        if isinstance(self.source, tf.data.Dataset):
            return None
        return len(tf.nest.flatten(self.source)[0])


def as_data(
    data: Any, *, labels: Any = None, batch_size: int = DEFAULT_BATCH_SIZE, caller: str
) -> Data:
    """Return data in one form, or say what is wrong with them.

    Args:
        data: `Data`; a `tf.data.Dataset` of batches, of inputs or (inputs, labels); an array of
            samples; a tuple (inputs, labels); or a list or dict of arrays for several inputs.
        labels: an array, for `data` that are arrays without.
        batch_size: for arrays.
        caller: the function to name in an error.

    Raises:
        InputError: they are empty, of unequal numbers of rows, not batched, or the batch size is
            below 1.
    """
    if isinstance(data, Data):
        return data
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(
            f"{caller}: `batch_size` must be an integer of 1 or more. "
            f"Received: batch_size={batch_size!r}. Leave it out for {DEFAULT_BATCH_SIZE}."
        )
    if isinstance(data, tf.data.Dataset):
        parts = tf.nest.flatten(data.element_spec)
        if any(isinstance(part, tf.TensorSpec) and part.shape.rank == 0 for part in parts):
            raise InputError(
                f"{caller}: `data` must be batched. Received: data={data!r}. Add .batch(32)."
            )
        return Data(data)
    if isinstance(data, tuple) and len(data) == 2 and labels is None:
        data, labels = data
    arrays = [
        part if hasattr(part, "shape") else np.asarray(part)
        for part in tf.nest.flatten((data, labels))
        if part is not None
    ]
    rows = [part.shape[0] if len(part.shape) else None for part in arrays]
    if len(set(rows)) != 1 or not rows[0]:
        shapes = [tuple(part.shape) for part in arrays]
        raise InputError(
            f"{caller}: `data` must hold at least one sample, and as many labels as samples. "
            f"Received: arrays of shapes {shapes}. The first axis is that of the samples."
        )
    if not hasattr(data, "shape"):
        # An array stays what it is: it may be a file that is mapped into memory.
        data = tf.nest.map_structure(
            lambda part: part if hasattr(part, "shape") else np.asarray(part), data
        )
    return Data(data, labels, batch_size)
