"""A few samples of data, spread over all of them, to look at again."""

from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError

# Samples that are kept: the more, the less chance. As many as take the fewer bytes, but so many at
# least, on which a network for large images runs in seconds; and never more bytes than the other.
MOST_ROWS, _FEWEST_ROWS = 512, 128
_FEW_BYTES, _MOST_BYTES = 2**21, 2**28


class Sample:
    """Up to 512 rows of what it was shown, 128 of large ones, fewer where they would pass 256 MB.

    A reservoir (Vitter, 1985, algorithm R), seeded: the same data give the same sample.

    Example:
        >>> sample = Sample()
        >>> for batch in np.split(np.arange(1000.0).reshape(1000, 1), 10):
        ...     sample.add(batch)
        >>> sample.rows, sample.most, sample.take(np.array([0, 1])).shape
        (512, 100, TensorShape([2, 1]))
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.rows = 0
        self._batches = 0
        # Of each row that is kept, the batch that it came in.
        self._from = np.zeros(MOST_ROWS, int)
        self.most = 0  # rows in one batch
        self._offered = 0
        self._capacity = MOST_ROWS
        self._kept: Any = None
        self._rng = np.random.default_rng(0)

    def without(self, batches: Collection[int]) -> None:
        """Drop what came from these of the batches, by their numbers."""
        kept = np.flatnonzero(~np.isin(self._from[: self.rows], list(batches)))
        if len(kept) < self.rows:
            self._kept = tf.nest.map_structure(lambda part: part[kept], self._kept)
            self.rows = len(kept)

    def add(self, inputs: Any) -> None:
        """Show it a batch: an array or tensor, or a structure of them.

        Raises:
            InputError: a part of it is sparse or ragged.
        """
        for part in tf.nest.flatten(inputs):
            if isinstance(part, tf.RaggedTensor | tf.SparseTensor):
                raise InputError(
                    "diagnose: `data` must be dense. Received: batches with a "
                    f"{type(part).__name__}. Make them dense, as tf.sparse.to_dense and "
                    "RaggedTensor.to_tensor do."
                )
        arrays = tf.nest.map_structure(np.asarray, inputs)
        parts = tf.nest.flatten(arrays)
        rows = len(parts[0])
        self.most = max(self.most, rows)
        self._batches += 1
        if self._kept is None:
            width = sum(part.nbytes // max(len(part), 1) for part in parts)
            enough = max(_FEWEST_ROWS, _FEW_BYTES // max(width, 1))
            self._capacity = min(MOST_ROWS, enough, max(2, _MOST_BYTES // max(width, 1)))
            self._kept = tf.nest.map_structure(
                lambda part: np.zeros((self._capacity, *part.shape[1:]), part.dtype), arrays
            )
        kept = tf.nest.flatten(self._kept)
        if any(part.shape[1:] != place.shape[1:] for part, place in zip(parts, kept, strict=True)):
            return  # padded to another length, for instance; one tensor cannot hold both
        for row in range(rows):
            self._offered += 1
            place = self._offered - 1
            if place >= self._capacity:
                place = int(self._rng.integers(self._offered))
            if place < self._capacity:
                for part, into in zip(parts, kept, strict=True):
                    into[place] = part[row]
                self._from[place] = self._batches - 1
        self.rows = min(self._offered, self._capacity)

    def take(self, rows: np.ndarray) -> Any:
        """Return these rows as a batch of tensors."""
        return tf.nest.map_structure(lambda part: tf.convert_to_tensor(part[rows]), self._kept)
