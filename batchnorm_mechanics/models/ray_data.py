"""A Dataset of Ray as data: columns become arrays, and its blocks are shards."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError

# As in an `.npz` file.
_INPUTS, _LABELS = "x", "y"


def is_ray_dataset(data: Any) -> bool:
    """Return whether these are a Dataset of Ray, without importing Ray.

    Example:
        >>> is_ray_dataset([1.0])
        False
    """
    of_ray = sys.modules.get("ray.data")
    return of_ray is not None and isinstance(data, of_ray.Dataset)


def batches_of(dataset: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yield (inputs, labels or None) of a Dataset's rows, a last smaller batch included."""
    for columns in dataset.iter_batches(batch_size=batch_size, batch_format="numpy"):
        yield of_columns(columns)


def of_columns(columns: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return inputs and labels from a batch of columns.

    Args:
        columns: arrays by name. `y` are labels; of the others `x`, the only one, or each for the
            model's input of that name. Lists in a table's rows are rows.

    Raises:
        InputError: the lists of a column are not of one length.

    Example:
        >>> inputs, labels = of_columns({"x": np.ones((2, 3)), "y": np.arange(2)})
        >>> inputs.shape, labels.tolist()
        ((2, 3), [0, 1])
        >>> of_columns({"a": np.zeros(1), "b": np.ones(1)})
        ({'a': array([0.]), 'b': array([1.])}, None)
    """
    arrays = {name: _rows_in(column, name) for name, column in columns.items()}
    inputs = {name: array for name, array in arrays.items() if name != _LABELS}
    if _INPUTS in inputs:
        inputs = {_INPUTS: inputs[_INPUTS]}
    only = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    return only, arrays.get(_LABELS)


def _rows_in(column: Any, name: str) -> Any:
    """Return a column as one array, also where each of its rows is an array."""
    if np.asarray(column).dtype.kind != "O":
        return column
    try:
        return np.stack([np.asarray(row) for row in column])
    except ValueError as error:
        raise InputError(
            "Shards: `parts` must hold columns whose rows are of one shape. "
            f"Received: the column {name} of a Ray Dataset: {error}. Pad them."
        ) from error


def blocks_of(dataset: Any) -> list[Any]:
    """Return a Dataset for each block of one, all of them read into the cluster's memory.

    How they are read is settled here: by workers that wait for one another's processors it could
    not be, later on.
    """
    whole = dataset.materialize()
    return whole.split(whole.num_blocks())
