"""`join_replicas` has a model train on several devices or machines as it does on one."""

import inspect
import math
import random
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics._keras_training import (
    build_from,
    first_epoch,
    go_on_from_epoch,
    losses_reduced_by,
    merge_logs_by,
    several_steps_by,
    sum_gradients_first,
)
from batchnorm_mechanics.distribute.losses import loss_of_all_replicas
from batchnorm_mechanics.distribute.workers import (
    Joined,
    first_workers,
    joined_by,
    merge_logs,
    total,
)
from batchnorm_mechanics.layers.compiled import renew_compiled_functions

_CALLBACKS = keras.callbacks
# Two processes that write one file spoil it.
_WRITING = tuple(
    getattr(_CALLBACKS, name)
    for name in ("BackupAndRestore", "CSVLogger", "ModelCheckpoint", "RemoteMonitor", "TensorBoard")
)


def join_replicas(
    model: keras.Model, *, chief_only: Sequence[type[keras.callbacks.Callback]] = ()
) -> Joined:
    """Have a model train, in `fit`, on the devices of a strategy as it does on one, in place.

    Under `tf.distribute.MirroredStrategy`, and on several machines under
    `tf.distribute.MultiWorkerMirroredStrategy`, where Keras's `fit` fails. Each replica gets its
    part of every batch, which may be smaller than the others' or empty. The loss, with weights and
    masks, and the gradients are those of the whole batch, before they are clipped, gathered or
    found finite; Keras's mean of the replicas' means is not, unless all parts are alike.

    On several machines, each runs the same program, and TF_CONFIG tells it which one it is. Then:

    - every sample is in one part, once an epoch: of arrays by one order for all, of a `tf.data`
      dataset if it gives the same on every machine. One that shuffles needs a seed, and one that
      divides data itself says so by `AutoShardPolicy.OFF`.
    - the first worker, the chief, alone calls callbacks that write: `BackupAndRestore`,
      `ModelCheckpoint`, `CSVLogger`, `TensorBoard`, `RemoteMonitor`. What `BackupAndRestore` reads
      there, and the weights with which training begins, the chief sends to all. Other callbacks run
      everywhere, on the same logs at the end of an epoch; if one stops training there, all stop.
    - `evaluate` and `predict` must be called by all, too, and return the whole result to each.

    On one device nothing changes. Batch normalization by the whole batch is another matter:
    `synchronize`.

    Args:
        model: a Keras model that was made within `strategy.scope()`. It may be compiled later.
        chief_only: further classes of callbacks that write.

    Returns:
        How many processes and replicas train it together, and whether this one is the chief.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: it was made outside of a strategy's scope, or for another strategy; later, in
            `fit`, a loss that is one number for a whole batch, or data from a generator on several
            machines.

    Example:
        >>> with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        ...     model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        ...     model.compile("sgd", "mse")
        >>> join_replicas(model)
        Joined(workers=1, replicas=1, chief=True)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"join_replicas: `model` must be a Keras model. Received: model={model!r}.")
    strategy = model.distribute_strategy
    several = tf.distribute.MultiWorkerMirroredStrategy
    if not isinstance(strategy, (tf.distribute.MirroredStrategy, several)):
        raise ValueError(
            "join_replicas: `model` must be made within the scope of a MirroredStrategy or a "
            f"MultiWorkerMirroredStrategy. Received: a model of {type(strategy).__name__}. Make "
            "and compile it under `with strategy.scope():`."
        )
    joined = joined_by(strategy)
    if joined.replicas > 1:
        merge_logs_by(merge_logs, several)
        build_from(model, lambda batch: _as_whole(strategy, batch))
        several_steps_by(model, lambda step, data: _steps(step, data, model.steps_per_execution))
        training = _Training(model, joined, (*_WRITING, *chief_only))
        # Past Keras's own __setattr__, which would look whether they are to be tracked.
        for name in ("compute_loss", "fit", "evaluate", "predict"):
            vars(model)[name] = getattr(training, name)
        renew_compiled_functions(model)
    return joined


class _Training:
    """Stands in for the methods of a model by which it is trained.

    Attributes:
        model: the one.
        joined: who trains it.
        writing: the callbacks that are the chief's.
    """

    def __init__(self, model: keras.Model, joined: Joined, writing: tuple[type, ...]) -> None:
        self.model = model
        self.joined = joined
        self.writing = writing

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of all replicas, on each."""
        with losses_reduced_by(loss_of_all_replicas):
            return self._own("compute_loss")(*args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train, on all replicas."""
        given = self._given("fit", args, kwargs)
        if self.model.optimizer is not None:
            sum_gradients_first(self.model.optimizer, _total)
        if self.joined.workers > 1:
            given = _shared_data(self.model.distribute_strategy, given)
            given["callbacks"] = self._callbacks(given.get("callbacks"))
        return self._own("fit")(**given)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, on all replicas."""
        return self._own("evaluate")(**self._given("evaluate", args, kwargs))

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict, on all replicas."""
        return self._own("predict")(**self._given("predict", args, kwargs))

    def _own(self, name: str) -> Any:
        return getattr(type(self.model), name).__get__(self.model)

    def _given(self, name: str, args: Any, kwargs: Any) -> dict[str, Any]:
        """Return a method's arguments by their names; the chief alone shows progress."""
        given = dict(inspect.signature(self._own(name)).bind(*args, **kwargs).arguments)
        given |= given.pop("kwargs", {})
        if not self.joined.chief and given.get("verbose", "auto") == "auto":
            given["verbose"] = 0
        return given

    def _callbacks(self, given: Any) -> list[Any]:
        if isinstance(given, keras.callbacks.CallbackList):
            raise TypeError(
                "fit: `callbacks` must be a list of callbacks on several machines. Received: "
                f"callbacks={given!r}. Give what it holds."
            )
        callbacks = keras.tree.flatten(given or [])
        if not self.joined.chief:
            callbacks = [one for one in callbacks if not isinstance(one, self.writing)]
        return [*callbacks, _Agreement()]


class _Agreement(keras.callbacks.Callback):
    """Has all workers begin with what the chief has, and stop together. It comes last."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the weights and the epoch that the chief has read, or made."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        # Metrics are each replica's own until they are read, and begin with the epoch.
        variables = [one for one in variables if one.synchronization != "on_read"]
        epoch = tf.constant(first_epoch(self.model))
        values = [tf.convert_to_tensor(one) for one in variables]
        strategy = self.model.distribute_strategy
        epoch, *values = first_workers(strategy, [epoch, *values])
        go_on_from_epoch(self.model, int(epoch))
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop if any worker does; the others would wait for it."""
        (stopping,) = total(self.model.distribute_strategy, [float(self.model.stop_training)])
        self.model.stop_training = stopping > 0


def _total(gradients: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    if context is None or not gradients:
        return gradients
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def _steps(step: Callable[[Any], Any], iterator: Any, count: int) -> Any:
    """Take so many steps, or as many as there are data for, and return what the last returned."""

    def there_is_one_more(taken: tf.Tensor, batch: Any, _: Any) -> tf.Tensor:
        return (taken < count) & batch.has_value()

    def take(taken: tf.Tensor, batch: Any, _: Any) -> Any:
        outputs = step(batch.get_value())
        # The batch after the last is for the next execution.
        following = tf.cond(taken + 1 < count, iterator.get_next_as_optional, lambda: batch)
        return taken + 1, following, outputs

    outputs = step(iterator.get_next())
    start = tf.constant(1), iterator.get_next_as_optional(), outputs
    # One step after another: all exchange by the same collectives.
    return tf.while_loop(there_is_one_more, take, start, parallel_iterations=1)[2]


def _as_whole(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """Return the specification of a batch, of any size, from one that a strategy has divided."""

    def spec(values: Any) -> tf.TensorSpec:
        part = strategy.experimental_local_results(values)[0]
        return tf.TensorSpec([None, *part.shape[1:]], part.dtype)

    return keras.tree.map_structure(lambda one: None if one is None else spec(one), batch)


def _shared_data(strategy: tf.distribute.Strategy, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fit` with data that come in one order on all workers."""
    x = given.get("x")
    if isinstance(x, tf.distribute.DistributedDataset):
        return given
    if isinstance(x, tf.data.Dataset):
        _warn_of_another_order(strategy, x)
        return given
    if isinstance(x, keras.utils.PyDataset) or hasattr(x, "__next__") or inspect.isgenerator(x):
        raise ValueError(
            "fit: `x` must be arrays or a tf.data dataset on several machines. Received: "
            f"x={x!r}. Which part of it is whose could not be told."
        )
    given = _split(given)
    shuffle = given.pop("shuffle", True)
    # Every worker draws, so that what they draw next is the same if it was before.
    drawn = tf.constant(random.randrange(2**31))
    (seed,) = first_workers(strategy, [drawn])
    # Within a batch the order says no more than who gets what: "batch" changes nothing.
    if shuffle and shuffle != "batch":
        return _shuffled(given, int(seed))
    return {**given, "shuffle": False}


def _warn_of_another_order(strategy: tf.distribute.Strategy, data: tf.data.Dataset) -> None:
    """Warn where the first batch is not the same on all workers, which each take a part of it."""
    policy = data.options().experimental_distribute.auto_shard_policy
    if policy == tf.data.experimental.AutoShardPolicy.OFF:
        return
    first = next(iter(data), ())
    tensors = [one.numpy() for one in keras.tree.flatten(first) if isinstance(one, tf.Tensor)]
    # Text comes as objects, whose bytes are where they lie in memory.
    found = [b"\0".join(one.flat) if one.dtype == object else one.tobytes() for one in tensors]
    own = tf.constant(zlib.crc32(b"".join(found)), tf.int64)
    (of_chief,) = first_workers(strategy, [own])
    (others,) = total(strategy, [float(own != of_chief)])
    if others:
        warnings.warn(
            "fit: the first batch of `x` is not the same on all workers. Each takes its part of "
            "each batch: of an order that is a worker's own, some samples come twice in an epoch, "
            "and others never. Give `shuffle` a seed. If the data are each worker's own already, "
            "or in files that TensorFlow divides, say so by their options, or ignore this.",
            stacklevel=2,
        )


def _split(given: dict[str, Any]) -> dict[str, Any]:
    """Hold the last samples back for validation, as `fit` does itself."""
    part = given.pop("validation_split", None)
    if not part or given.get("validation_data") is not None:
        return given
    data = {name: given.get(name) for name in ("x", "y", "sample_weight")}
    size = math.floor(_size(data) * (1 - part))
    first, last = _rows(data, slice(size)), _rows(data, slice(size, None))
    held = [last["x"], last["y"]] + (
        [] if last["sample_weight"] is None else [last["sample_weight"]]
    )
    return {**given, **first, "validation_data": tuple(held)}


def _rows(data: Any, rows: slice) -> Any:
    return keras.tree.map_structure(lambda one: None if one is None else one[rows], data)


def _size(data: Any) -> int:
    return len(next(one for one in keras.tree.flatten(data) if one is not None))


def _shuffled(given: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the arguments with a dataset in place of arrays, in the same order everywhere."""
    names = ("x", "y", "sample_weight")
    found = [given.get(name) for name in names]
    rest = {name: value for name, value in given.items() if name not in (*names, "batch_size")}
    while len(found) > 1 and found[-1] is None:
        found.pop()
    arrays = keras.tree.map_structure(_as_tensor, keras.tree.lists_to_tuples(tuple(found)))
    size, steps = _size(arrays), given.get("steps_per_epoch")
    batch_size = given.get("batch_size") or (math.ceil(size / steps) if steps else 32)
    order = tf.data.Dataset.range(size).shuffle(size, seed=seed).batch(batch_size)
    both = tf.data.Dataset.zip((order, tf.data.Dataset.from_tensors(arrays).repeat()))
    data = both.map(
        lambda rows, whole: tf.nest.map_structure(lambda one: tf.gather(one, rows), whole)
    )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return {**rest, "x": data.with_options(options).prefetch(tf.data.AUTOTUNE), "shuffle": False}


def _as_tensor(array: Any) -> Any:
    """Return an array as Keras would take it; of numbers with a point, in its default type."""
    if array is None:
        return None
    tensor = tf.convert_to_tensor(array)
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
