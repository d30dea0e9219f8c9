"""Batches of rows that lie in memory, named by their numbers."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, eq=False)
class RowBatches:
    """Batches whose rows lie in memory: a dataset that gives numbers, and the rows they stand for.

    `tf.data` shuffles and batches the numbers alone, which is next to nothing, and the compiled
    loop of `fit_compiled` takes the rows as it comes to them. Delivered as rows, each batch is
    copied twice before the loop sees it, which takes as long as a small network's training.

    Attributes:
        rows: a tensor or a structure of tensors with the same number of rows, such as
            (inputs, targets).
        numbers: a dataset of batches of row numbers, integers of shape (batch,).

    Raises:
        TypeError: `rows` is no structure of dense tensors, or `numbers` no dataset of integers.
        ValueError: there are no rows, their number differs, or `numbers` is not batched.

    Example:
        >>> x = tf.constant([[0.0], [10.0], [20.0]])
        >>> batches = RowBatches((x, 2 * x), tf.data.Dataset.range(3).batch(2))
        >>> [targets.numpy().ravel().tolist() for _, targets in batches.as_dataset()]
        [[0.0, 20.0], [40.0]]
    """

    rows: Any
    numbers: tf.data.Dataset

    def __post_init__(self) -> None:
        """Check what a compiled loop would compute nonsense from: it clips wrong numbers."""
        parts = tf.nest.flatten(self.rows)
        if not parts or not all(isinstance(part, tf.Tensor) for part in parts):
            raise TypeError(
                "RowBatches: `rows` must be a tensor or a structure of tensors. Received: "
                f"rows={_types(self.rows)}. Make tensors of arrays by tf.constant."
            )
        counts = {0 if part.shape.rank == 0 else part.shape[0] for part in parts}
        if len(counts) != 1 or 0 in counts:
            shapes = [tuple(part.shape) for part in parts]
            raise ValueError(
                "RowBatches: `rows` must have tensors with the same number of rows, at least one. "
                f"Received: rows of shapes {shapes}. Pass as many targets as inputs."
            )
        if not isinstance(self.numbers, tf.data.Dataset):
            raise TypeError(
                "RowBatches: `numbers` must be a tf.data.Dataset of row numbers. Received: "
                f"numbers={self.numbers!r}. Make one, as by tf.data.Dataset.range(rows).batch(32)."
            )
        spec = self.numbers.element_spec
        if not isinstance(spec, tf.TensorSpec) or not spec.dtype.is_integer:
            raise TypeError(
                "RowBatches: `numbers` must give integers, one tensor at a time. Received: "
                f"numbers={self.numbers!r}. Leave the rows to `rows`."
            )
        if spec.shape.rank != 1:
            raise ValueError(
                "RowBatches: `numbers` must be batched once. Received: "
                f"numbers={self.numbers!r}. Add .batch(32)."
            )

    def as_dataset(self) -> tf.data.Dataset:
        """Return the same batches as a dataset of rows, for `model.fit` and others."""
        return self.numbers.map(lambda numbers: gather(self.rows, numbers)).prefetch(
            tf.data.AUTOTUNE
        )

    def spec_of(self, numbers: Any) -> Any:
        """Return the structure of `tf.TensorSpec` of the batch that `numbers` stand for."""
        return tf.nest.map_structure(
            lambda part: tf.TensorSpec([*numbers.shape, *part.shape[1:]], part.dtype), self.rows
        )


def gather(rows: Any, numbers: tf.Tensor) -> Any:
    """Return the batch of the rows with these numbers, in the structure of `rows`."""
    return tf.nest.map_structure(lambda part: tf.gather(part, numbers), rows)


def _types(structure: Any) -> str:
    parts = sorted({type(part).__name__ for part in tf.nest.flatten(structure)})
    return f"{type(structure).__name__} of {', '.join(parts) or 'nothing'}"
