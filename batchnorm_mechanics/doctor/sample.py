"""A few samples of data, spread over all of them, and the ways to look at them again."""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import draws_at_random, layers_by_path, layers_in, own_state
from batchnorm_mechanics.doctor.calls import Call, Runner
from batchnorm_mechanics.doctor.pools import Pool, Pools, pools_of
from batchnorm_mechanics.layers.intercept import intercepted

Rows = NDArray[np.int_]
# The outputs of a model, float64, each with the samples on its first axis.
Heads = list[NDArray[np.float64]]

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

    def join(self, other: "Sample") -> None:
        """Take in what another sample was shown, as if it had come after.

        Of both, as many rows are kept as a sample of all would have of each, by chance.
        """
        batches, self._batches = self._batches, self._batches + other._batches
        self.most = max(self.most, other.most)
        if not other.rows:
            return
        if self._kept is None:
            # What comes from another process may be memory that can only be read.
            self._kept = tf.nest.map_structure(np.copy, other._kept)
            self._capacity, self._offered = other._capacity, other._offered
            self.rows, self._from = other.rows, other._from + batches
            return
        mine, theirs = tf.nest.flatten(self._kept), tf.nest.flatten(other._kept)
        if any(a.shape[1:] != b.shape[1:] for a, b in zip(mine, theirs, strict=True)):
            return  # as in `add`
        offered = self._offered + other._offered
        if offered > self._capacity:
            ours = self._rng.hypergeometric(self._offered, other._offered, self._capacity)
            stay = np.sort(self._rng.permutation(self.rows)[:ours])
            come = np.sort(self._rng.permutation(other.rows)[: self._capacity - ours])
        else:
            stay, come = np.arange(self.rows), np.arange(other.rows)
        both = np.concatenate((self._from[stay], other._from[come] + batches))
        for part, of_other in zip(mine, theirs, strict=True):
            joined = np.concatenate((part[stay], of_other[come]))
            part[: len(joined)] = joined
        self._from[: len(both)] = both
        self._offered, self.rows = offered, len(both)

    def take(self, rows: Rows) -> Any:
        """Return these rows as a batch of tensors."""
        return tf.nest.map_structure(lambda part: tf.convert_to_tensor(part[rows]), self._kept)


class Batch(NamedTuple):
    """A batch of data.

    Attributes:
        scale: of what the first layer gets of it.
        number: how many batches came before.
        row: how many samples came before.
        inputs: of the model.
    """

    scale: float
    number: int
    row: int
    inputs: Any


class Again:
    """A few samples once more, for what is asked only where something is wrong.

    Args:
        run: the model at inference.
        trained: names of the layers that normalize by the batch in training.
        sample: the samples.
        widest: the batch in which the first layer's variance was largest.
        restart: puts back seeds, and states that the model carries on.

    Attributes:
        model, norms: those that run.
        sample, widest, restart: as given.
        calls: those that normalize by the batch in training, in their order, once `train` has run.
    """

    def __init__(
        self,
        run: Runner,
        trained: Collection[str],
        sample: Sample,
        widest: Batch,
        restart: Callable[[], None],
    ) -> None:
        self.model, self.norms = run.model, run.norms
        self.sample, self.widest, self.restart = sample, widest, restart
        self.calls: list[Call] = []
        self._run, self._trained = run, frozenset(trained)
        # A few batches: to trace the model once more would take longer.
        self._training = run.otherwise(by_batch=trained, eagerly=True)
        self._own = pools_of(self.norms)

    def predict(self, rows: Rows) -> Heads:
        """Return what the model gives at inference for these rows of the sample, in one batch."""
        return _heads(self._run(self.sample.take(rows)).outputs)

    def train(self, rows: Rows) -> Heads:
        """Return likewise with batch norm alone in training mode."""
        self._training.by_batch = self._trained
        ran = self._training(self.sample.take(rows))
        for name, said in ran.by_layer.items():
            self._own[name].add(said)
        self.calls = [call for call in ran.calls if call.name in self._trained]
        return _heads(ran.outputs)

    def switched(self, rows: Rows, calls: Collection[Call]) -> Heads:
        """Return likewise with these calls of batch norm layers alone in training mode."""
        self._training.by_batch = frozenset(calls)
        return _heads(self._training(self.sample.take(rows)).outputs)

    def plainly(self, rows: Rows) -> Heads:
        """Return what a user gets who says nothing of a mode."""
        call, inputs = self._run.call, self.sample.take(rows)
        return _heads(self.model(inputs) if call is None else call(self.model, inputs))

    @property
    def fixed_size(self) -> int | None:
        """The size of a batch where the model's inputs, if it is called on those, state one."""
        inputs = (getattr(self.model, "inputs", None) or ()) if self._run.call is None else ()
        return max({part.shape[0] for part in inputs} - {None}, default=None)

    def own(self) -> dict[str, Pools]:
        """Return what layers got in training mode so far."""
        return {name: pools.settle() for name, pools in self._own.items()}

    def noisy(self) -> dict[str, "Noisy"]:
        """Return what layers get in training mode with dropout and noise on, behind any of it."""
        random = layers_by_path(self.model, draws_at_random)
        if not random or not self.sample.rows:
            return {}
        before: list[str] = []
        behind: dict[str, tuple[str, ...]] = {}

        def switched_on(path: str, call: Any, *args: Any, **kwargs: Any) -> Any:
            before.append(path)
            return call(*args, **{**kwargs, "training": True})

        pools = pools_of(self.norms)
        run = self._run.otherwise(by_batch=self._trained, eagerly=True)
        run.on_call = lambda call: behind.setdefault(call.name, tuple(before))
        with kept(self.model), ExitStack() as stack:
            for path, layer in random.items():
                stack.enter_context(intercepted(layer, functools.partial(switched_on, path)))
            for name, said in run(self._all()).by_layer.items():
                pools[name].add(said)
        return {
            name: Noisy(tuple(dict.fromkeys(behind[name])), tuple(pools[name].settle().calls))
            for name in behind
            if behind[name]
        }

    def with_epsilon(self, epsilon: float) -> dict[str, Pool]:
        """Return what layers get in inference if all had this epsilon."""
        pools = pools_of(self.norms)
        before = {norm.name: norm.layer.epsilon for norm in self.norms}
        try:
            for norm in self.norms:
                norm.layer.epsilon = epsilon
            with kept(self.model):
                ran = self._run.otherwise(eagerly=True)(self._all())
        finally:
            for norm in self.norms:
                norm.layer.epsilon = before[norm.name]
        for name, said in ran.by_layer.items():
            pools[name].add(said)
        return {name: pools[name].settle().together for name in ran.by_layer}

    def odd_row(self) -> int:
        """Return which sample of the data makes most of the widest batch's variance."""
        inputs, name = self.widest.inputs, next(iter(self._run.dtypes))
        everything = np.arange(len(tf.nest.flatten(inputs)[0]))

        def scale_without(rows: Rows) -> float:
            left = np.setdiff1d(everything, rows)
            part = tf.nest.map_structure(lambda part: tf.gather(part, left), inputs)
            return pools_of(self.norms)[name].add(self._run(part).by_layer[name])

        rows = everything
        with kept(self.model):
            while len(rows) > 1:
                rows = min(np.array_split(rows, 2), key=scale_without)
        return self.widest.row + int(rows[0])

    def _all(self) -> Any:
        return self.sample.take(np.arange(self.sample.rows))


def _heads(outputs: Any) -> Heads:
    """Return the floating outputs of a model."""
    parts = [np.asarray(part) for part in tf.nest.flatten(outputs)]
    return [part.astype(np.float64) for part in parts if part.dtype.kind not in "iub"]


class Noisy(NamedTuple):
    """What a layer gets in training behind dropout or noise.

    Attributes:
        behind: paths of the layers that make it.
        calls: moments of what each of its calls gets.
    """

    behind: tuple[str, ...]
    calls: tuple[Pool, ...]


@contextmanager
def kept(model: Any) -> Iterator[Callable[[], None]]:
    """Put the states of a model's layers back in the end: seeds, and what recurrent layers carry.

    Weights that are frozen are no state: no run moves them, and they may be many.

    Args:
        model: any Keras model, which is run in the block.

    Yields:
        What puts them back within the block, too.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dropout(0.5)])
        >>> seed = model.layers[0].seed_generator.state
        >>> before = seed.numpy()
        >>> with kept(model):
        ...     _ = model(np.ones((1, 2)), training=True)
        >>> bool((seed.numpy() == before).all())
        True
    """
    states = {id(state): state for layer in layers_in(model) for state in own_state(layer)}
    before = [(state, keras.ops.convert_to_numpy(state)) for state in states.values()]

    def put_back() -> None:
        for state, value in before:
            if not np.array_equal(keras.ops.convert_to_numpy(state), value, equal_nan=True):
                state.assign(value)

    try:
        yield put_back
    finally:
        put_back()
