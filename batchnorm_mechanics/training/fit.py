"""`fit_compiled`: what `model.fit` does, with one return to Python for many steps."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics.training.blocks import Batches
from batchnorm_mechanics.training.checks import (
    check_count,
    check_dataset,
    check_model,
    check_not_empty,
)
from batchnorm_mechanics.training.loop import CompiledLoop, loops_of
from batchnorm_mechanics.training.rows import RowBatches

_FIT, _EVALUATE = "fit_compiled", "evaluate_compiled"


def fit_compiled(
    model: keras.Model,
    dataset: tf.data.Dataset | RowBatches,
    *,
    epochs: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.CallbackList | None = None,
    validation_data: tf.data.Dataset | RowBatches | None = None,
    steps_per_epoch: int | None = None,
    jit_compile: bool = True,
) -> keras.callbacks.History:
    """Train a compiled model as `model.fit` does, faster where a step is small.

    A step of a small model takes less time than the return to Python after it. Here the model's
    own `train_step` runs in one compiled function over a block of many batches, and `test_step`
    likewise. Batches, their order, and the results to rounding are those of `fit`; optimizer,
    loss, metrics, weights of losses and samples, schedules, regularizers, dropout and callbacks
    keep their meaning. Compiled functions are kept with the model: another call with batches of
    the same shape compiles nothing, until `model.compile` is called again.

    Args:
        model: functional, sequential or subclassed, and compiled. Its own `jit_compile` and
            `steps_per_execution` are not used.
        dataset: of batches as `fit` takes them: inputs, (inputs, targets) or (inputs, targets,
            sample weights), each a structure of dense tensors. Data that lie in memory go faster as
            `RowBatches`. A last smaller batch is trained on too. Each different shape is compiled
            once. (In the losses of single outputs such a batch counts by its samples; `fit` counts
            it there like a whole one.)
        epochs: how many.
        callbacks: those of Keras. Callbacks of batches are called once a block (blocks have 32 MB),
            as with `steps_per_execution`; there, too, `model.stop_training` is obeyed and Ctrl-C
            ends training, with the model as the last block left it. There is no progress bar
            unless a `keras.callbacks.ProgbarLogger` is passed.
        validation_data: a dataset like `dataset`, evaluated after each epoch.
        steps_per_epoch: batches of an epoch; the next epoch then goes on in the data where the
            last one ended. None goes through all of the data in each epoch.
        jit_compile: whether XLA compiles the loops. False for a model that XLA cannot compile; it
            still saves the returns to Python.

    Returns:
        The `History`, with logs by epoch as `fit` gives them.

    Raises:
        TypeError: `model` is no Keras model, or a dataset is none of dense tensors.
        ValueError: the model is not compiled, runs eagerly, is on several replicas, or cannot be
            compiled by XLA; a dataset is empty, not batched, endless without `steps_per_epoch`, of
            unknown rank, or not of the shapes that the model was built for; a number is below 1.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> x = keras.random.normal((70, 3))
        >>> dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(20)
        >>> history = fit_compiled(model, dataset, epochs=2)
        >>> history.history["loss"][1] < history.history["loss"][0]
        True
        >>> int(model.optimizer.iterations)  # three batches of 20 and one of 10, twice
        8
    """
    check_model(model, caller=_FIT)
    check_count(epochs, "epochs", caller=_FIT)
    if steps_per_epoch is not None:
        check_count(steps_per_epoch, "steps_per_epoch", caller=_FIT)
    check_dataset(dataset, "dataset", model=model, endless=steps_per_epoch is not None, caller=_FIT)
    if validation_data is not None:
        check_dataset(validation_data, "validation_data", model=model, endless=False, caller=_FIT)

    loops = loops_of(model, jit_compile=jit_compile)
    batches = Batches(dataset, steps=steps_per_epoch, choose_length=loops.train.length)
    hooks: Any = (
        callbacks
        if isinstance(callbacks, keras.callbacks.CallbackList)
        else keras.callbacks.CallbackList(
            list(callbacks or ()),
            add_history=True,
            model=model,
            epochs=epochs,
            steps=steps_per_epoch or batches.cardinality,
            verbose=0,
        )
    )
    model.stop_training = False
    hooks.on_train_begin()
    logs: dict[str, Any] | None = None
    # Another first epoch is what `BackupAndRestore` leaves to go on from.
    for epoch in range(model._initial_epoch or 0, epochs):
        model.reset_metrics()
        hooks.on_epoch_begin(epoch)
        logs = _train_epoch(model, loops.train, batches, hooks, steps_per_epoch)
        if validation_data is not None:
            measured = _evaluate(
                model, validation_data, loops.test, "validation_data", callbacks=hooks
            )
            logs.update({f"val_{name}": value for name, value in measured.items()})
        hooks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if model.optimizer is not None:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    hooks.on_train_end(logs)
    return model.history


def evaluate_compiled(
    model: keras.Model, dataset: tf.data.Dataset | RowBatches, *, jit_compile: bool = True
) -> dict[str, float]:
    """Evaluate a compiled model as `model.evaluate` does, in the loop that `fit_compiled` uses.

    Args:
        model: compiled.
        dataset: of batches.
        jit_compile: whether XLA compiles the loop.

    Returns:
        The loss and the metrics, by name.

    Raises:
        TypeError, ValueError: as for `fit_compiled`.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.ReLU()])
        >>> model.compile(loss="mse")
        >>> ones = tf.ones((50, 3))
        >>> dataset = tf.data.Dataset.from_tensor_slices((ones, 3 * ones)).batch(20)
        >>> evaluate_compiled(model, dataset)
        {'loss': 4.0}
    """
    check_model(model, caller=_EVALUATE)
    check_dataset(dataset, "dataset", model=model, endless=False, caller=_EVALUATE)
    loop = loops_of(model, jit_compile=jit_compile).test
    callbacks = keras.callbacks.CallbackList(model=model, verbose=0)
    return _evaluate(model, dataset, loop, "dataset", callbacks=callbacks)


def _train_epoch(
    model: keras.Model,
    loop: CompiledLoop,
    batches: Batches,
    callbacks: keras.callbacks.CallbackList,
    wanted: int | None,
) -> dict[str, Any]:
    done, logs = 0, {}
    for block in batches.epoch():
        callbacks.on_train_batch_begin(done)
        logs = loop.run(block)
        done += block.stop - block.start
        callbacks.on_train_batch_end(done - 1, logs)
        if model.stop_training:
            break
    check_not_empty(done, "dataset", caller=_FIT)
    if wanted is not None and done < wanted and not model.stop_training:
        warnings.warn(
            f"fit_compiled: the data ended after {done} of the {wanted} steps of an epoch. "
            "Add .repeat() to the dataset.",
            stacklevel=3,
        )
    return _numbers(logs)


def _evaluate(
    model: keras.Model,
    dataset: tf.data.Dataset | RowBatches,
    loop: CompiledLoop,
    name: str,
    *,
    callbacks: keras.callbacks.CallbackList,
) -> dict[str, float]:
    batches = Batches(dataset, steps=None, choose_length=loop.length)
    model.reset_metrics()
    callbacks.on_test_begin()
    done, logs = 0, {}
    for block in batches.epoch():
        callbacks.on_test_batch_begin(done)
        logs = loop.run(block)
        done += block.stop - block.start
        callbacks.on_test_batch_end(done - 1, logs)
    check_not_empty(done, name, caller=_FIT if name == "validation_data" else _EVALUATE)
    numbers = _numbers(logs)
    callbacks.on_test_end(numbers)
    return numbers


def _numbers(logs: dict[str, Any]) -> dict[str, Any]:
    """Return logs as Keras hands them to callbacks: numbers where there is one."""
    return {
        name: float(value) if tf.convert_to_tensor(value).shape.rank == 0 else value
        for name, value in logs.items()
    }
