"""Batches of a dataset, many to a block: what a compiled loop goes through at once.

The order of the batches and what is in each stay those of the dataset. A dataset is iterated
exactly as often as `fit` would: one more look at its first batch would make a shuffled dataset
shuffle once more, and so give another order from then on.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from batchnorm_mechanics.training.rows import RowBatches

# Measured on MNIST in batches of 60: blocks of 17 to 35 MB come fastest. One block of an epoch's
# 172 MB takes twice as long, since each new one is memory that the system must first hand out.
BLOCK_BYTES = 2**25

# A block with fewer batches than this share of the full length is not filled up to it: copying
# the filling would cost more than to run its batches one at a time.
_SMALLEST_SHARE = 1 / 8


@dataclass(frozen=True)
class Block:
    """Batches of one shape, stacked, of which those from `start` to `stop` are to be run.

    Attributes:
        batches: the dataset's structure, with a leading axis for the batches.
        start: the first batch that counts.
        stop: one more than the last.
        is_rest: whether this is one batch of another shape than those before it.
        rows: None, or what the batches are the row numbers of.
    """

    batches: Any
    start: int
    stop: int
    is_rest: bool = False
    rows: Any = None


# From the structure of one batch's shapes and types, and the steps of an epoch if they are known,
# to how many batches a full block has.
ChooseLength = Callable[[Any, int | None], int]


def even_length(batch: Any, steps: int | None) -> int:
    """Return how many batches to put into a block.

    As many as fit in `BLOCK_BYTES`, but so that the blocks of an epoch are about equally long.

    Args:
        batch: structure of `tf.TensorSpec` or tensors, with known shapes.
        steps: batches of an epoch, or None if unknown.

    Example:
        >>> batch = tf.TensorSpec((60, 784)), tf.TensorSpec((60, 10))
        >>> even_length(batch, 916), even_length(batch, 5), even_length(batch, None)
        (153, 5, 176)
    """
    bytes_of_batch = sum(
        math.prod(tensor.shape) * tensor.dtype.size
        for tensor in tf.nest.flatten(batch)
        if tensor is not None
    )
    most = max(1, BLOCK_BYTES // max(1, bytes_of_batch))
    if not steps:
        return most
    return math.ceil(steps / math.ceil(steps / most))


class Batches:
    """The batches of a dataset, epoch by epoch, as `fit` would take them."""

    def __init__(
        self,
        dataset: tf.data.Dataset | RowBatches,
        *,
        steps: int | None,
        choose_length: ChooseLength,
    ) -> None:
        """Begin nothing yet.

        Args:
            dataset: of batches; components are dense tensors whose first axis is the samples. Or
                batches of rows in memory.
            steps: batches of an epoch, going on through the data from epoch to epoch; or None to
                begin the dataset anew with each epoch and go to its end.
            choose_length: says how many batches a full block has.
        """
        self._in_memory = dataset if isinstance(dataset, RowBatches) else None
        self._dataset = dataset.numbers if isinstance(dataset, RowBatches) else dataset
        self._steps = steps
        self._choose_length = choose_length
        self._stream: _Stacked | _Collected | None = None
        self.cardinality = _known(self._dataset)

    def epoch(self) -> Iterator[Block]:
        """Yield the blocks of one epoch.

        With `steps`, an epoch has fewer if the data ends in it; the next one begins anew.
        """
        fresh = self._stream is None or self._steps is None
        if fresh:
            self._stream = self._open()
        left = self._steps
        while left is None or left > 0:
            block = self._next(left)
            if block is None and not fresh and left == self._steps:
                # The last epoch took exactly what there was.
                fresh, self._stream = True, self._open()
                continue
            if block is None:
                self._stream = None
                self._end_pass()
                return
            if left is not None:
                left -= block.stop - block.start
            yield block if self._in_memory is None else replace(block, rows=self._in_memory.rows)

    def _end_pass(self) -> None:
        """Shuffle as often as `fit` does, for its order of the data in the next epoch.

        Where Keras knows how many batches there are, it opens the data again at the end of each
        epoch, and once more when the next one begins: each opening draws from the shuffle's seeds.
        """
        if self._steps is None and self.cardinality is not None:
            iter(self._dataset)

    def _next(self, most: int | None) -> Block | None:
        return None if self._stream is None else self._stream.next(most)

    def _open(self) -> "_Stacked | _Collected":
        steps = self._steps or self.cardinality
        spec = self._dataset.element_spec

        def length_of(batch: Any) -> int:
            # Row numbers weigh little; what they stand for sets how often Python hears of it.
            rows = batch if self._in_memory is None else self._in_memory.spec_of(batch)
            return self._choose_length(rows, steps)

        if all(part.shape.is_fully_defined() for part in _parts(spec)):
            return _Stacked(self._dataset, length_of(spec))
        return _Collected(self._dataset, length_of)


class _Stacked:
    """Blocks that `tf.data` stacks, for batches whose size is known beforehand."""

    def __init__(self, dataset: tf.data.Dataset, length: int) -> None:
        self._iterator = iter(dataset.batch(length).prefetch(1))
        self._length = length
        self._block: Block | None = None

    def next(self, most: int | None) -> Block | None:
        """Return a block of at most `most` batches, or None at the end."""
        block = self._block
        if block is None:
            batches = next(self._iterator, None)
            if batches is None:
                return None
            count = int(_parts(batches)[0].shape[0])
            block = Block(_filled(batches, count, self._length), 0, count)
        stop = block.stop if most is None else min(block.stop, block.start + most)
        # What an epoch leaves of a block is the beginning of the next one.
        self._block = None if stop == block.stop else Block(block.batches, stop, block.stop)
        return Block(block.batches, block.start, stop)


class _Collected:
    """Blocks collected here, for batches whose size is known only when they come.

    A block ends where the next batch has another shape, as a last smaller one.
    """

    def __init__(self, dataset: tf.data.Dataset, length_of: Callable[[Any], int]) -> None:
        self._iterator = iter(dataset.prefetch(2))
        self._length_of = length_of
        self._waiting: list[Any] = []
        self._usual: list[tuple[int, ...]] | None = None

    def next(self, most: int | None) -> Block | None:
        """Return a block of at most `most` batches, or None at the end."""
        first = self._take()
        if first is None:
            return None
        length, shapes = self._length_of(first), _shapes(first)
        collected = [first]
        while len(collected) < (length if most is None else min(length, most)):
            batch = self._take()
            if batch is None:
                break
            if _shapes(batch) != shapes:
                self._waiting.insert(0, batch)
                break
            collected.append(batch)
        count = len(collected)
        if 1 < count < length * _SMALLEST_SHARE:
            self._waiting[:0] = collected[1:]
            collected, count = collected[:1], 1
        batches = tf.nest.map_structure(_stack, *collected)
        self._usual = self._usual or shapes
        filled = batches if count == 1 else _filled(batches, count, length)
        return Block(filled, 0, count, is_rest=count == 1 and shapes != self._usual)

    def _take(self) -> Any:
        return self._waiting.pop(0) if self._waiting else next(self._iterator, None)


def _known(dataset: tf.data.Dataset) -> int | None:
    """Return the number of batches, or None if it is unknown or infinite."""
    count = int(dataset.cardinality())
    return count if count >= 0 else None


def _parts(structure: Any) -> list[Any]:
    """Return the tensors, or their specs, of a structure that may hold None."""
    parts = itertools.chain(tf.nest.flatten(structure))
    return [part for part in parts if part is not None and not isinstance(part, tf.NoneTensorSpec)]


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in _parts(batch)]


def _stack(*tensors: Any) -> Any:
    return None if tensors[0] is None else tf.stack(tensors)


def _filled(batches: Any, count: int, length: int) -> Any:
    """Add zeros after the batches, so that a shorter block needs no compilation of its own."""
    if count == length:
        return batches

    def fill(tensor: Any) -> Any:
        if tensor is None:
            return None
        filling = tf.zeros((length - count, *tensor.shape[1:]), tensor.dtype)
        return tf.concat([tensor, filling], axis=0)

    return tf.nest.map_structure(fill, batches)
