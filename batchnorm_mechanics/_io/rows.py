"""Arrays whose rows are made when they are asked for, and not kept."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


class Rows:
    """What looks like an array along its first axis, and makes rows of it as they are needed.

    Args:
        make: returns the rows of a slice with start and stop.
        shape: of the whole.
        dtype: of what `make` returns.

    Example:
        >>> squares = Rows(lambda rows: np.arange(rows.start, rows.stop) ** 2, (5,), np.int64)
        >>> len(squares), squares[1:9].tolist()
        (5, [1, 4, 9, 16])
    """

    def __init__(
        self, make: Callable[[slice], np.ndarray], shape: tuple[int, ...], dtype: Any
    ) -> None:
        self._make = make
        self.shape = shape
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        return self._make(slice(start, max(start, stop)))[::step]


def first_rows(array: Any, many: int) -> Any:
    """Return the first rows of anything with rows, none of which is read yet."""
    if len(array) <= many:
        return array
    return Rows(lambda rows: np.asarray(array[rows]), (many, *array.shape[1:]), array.dtype)


def scaled(array: Any, factor: float, offset: float) -> Any:
    """Return factor times the numbers, plus the offset, as float32.

    Example:
        >>> scaled(np.array([[0], [255]], np.uint8), 1 / 255, 0.0)[:].tolist()
        [[0.0], [1.0]]
    """

    def made(rows: slice) -> np.ndarray:
        return np.asarray(array[rows]).astype(np.float32) * np.float32(factor) + np.float32(offset)

    return Rows(made, tuple(array.shape), np.float32)
