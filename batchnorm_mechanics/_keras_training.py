"""What we need of Keras's private parts to train, and to tell how a model was trained.

As in `_keras`, to which nothing else in the package adds.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any


def compile_arguments(model: Any) -> dict[str, Any]:
    """Return the very objects that a model was compiled with.

    `model.get_compile_config()` is public and gives their settings, from which those that Keras
    does not know cannot be made again.
    """
    return dict(model._compile_config.config)


def compiled_loss(model: Any) -> Any | None:
    """Return the loss that a model was compiled with, as one function of labels and outputs.

    `model.compute_loss` is public, and adds what the layers add. None where there is none.
    """
    return getattr(model, "_compile_loss", None)


def averages_of(optimizer: Any) -> Iterable[tuple[Any, Any]]:
    """Return each weight that an optimizer trains with its average, None where it keeps none."""
    return zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )


def trained_by(optimizer: Any) -> list[Any]:
    """Return the weights for which an optimizer was made, none before it is built.

    `optimizer.variables` is public and holds what it keeps for them, not which they are.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "_trainable_variables", ()))


def batches_seen(optimizer: Any) -> Any:
    """Return the variable in which an optimizer counts batches.

    `optimizer.iterations` is public and counts updates: of gradients that are gathered from
    several batches, it counts one.
    """
    return optimizer._iterations


# Who reduces the losses that are being computed, in place of Keras. Each replica of a strategy has
# a thread of its own, and so this of its own.
_reducer: ContextVar[Callable[..., Any] | None] = ContextVar("reducer", default=None)


@contextlib.contextmanager
def losses_reduced_by(reducer: Callable[..., Any]) -> Iterator[None]:
    """Have a function make one number of the losses of all samples, in place of Keras's means.

    Keras divides what a replica has by what that replica has; nothing public stands between.

    Args:
        reducer: takes what `keras.losses` reduces by, a function of the losses, the weights of
            samples, the mask, the kind of reduction and the type; and then these.
    """
    import keras.src.losses.loss as module

    if not hasattr(module.reduce_weighted_values, "within"):
        plain = module.reduce_weighted_values

        def reduce(
            values: Any,
            sample_weight: Any = None,
            mask: Any = None,
            reduction: str | None = "sum_over_batch_size",
            dtype: Any = None,
        ) -> Any:
            ours = _reducer.get()
            if ours is None:
                return plain(values, sample_weight, mask, reduction, dtype)
            return ours(plain, values, sample_weight, mask, reduction, dtype)

        vars(reduce)["within"] = plain
        module.reduce_weighted_values = reduce
    token = _reducer.set(reducer)
    try:
        yield
    finally:
        _reducer.reset(token)


def sum_gradients_first(optimizer: Any, total: Callable[[list[Any]], list[Any]]) -> None:
    """Have an optimizer begin with gradients that are summed over replicas, for good.

    Keras sums last: what it clips and gathers before, and finds finite or not when it scales the
    loss, is each replica's own, and one that takes another branch leaves the others waiting.

    Args:
        optimizer: any, also one that scales the loss.
        total: takes the gradients of this replica, and returns those of all.
    """
    if "apply" in vars(optimizer):
        return
    apply = optimizer.apply

    def summed(grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        sums = iter(total([one for one in grads if one is not None]))
        return apply([None if one is None else next(sums) for one in grads], trainable_variables)

    # Past Keras's own __setattr__, which would look whether it is to be tracked.
    vars(optimizer)["apply"] = summed
    vars(getattr(optimizer, "inner_optimizer", optimizer))["_all_reduce_sum_gradients"] = list


def merge_logs_by(merge: Callable[[Any, Any], Any], workers: type) -> None:
    """Have what a step returns merged by a function, where a strategy has several processes.

    Keras asks such a strategy for a mean along the first axis of numbers that have none.

    Args:
        merge: takes what the step returned and the strategy.
        workers: the class of the strategy.
    """
    import keras.src.backend.tensorflow.trainer as module

    if hasattr(module.reduce_per_replica, "within"):
        return
    plain = module.reduce_per_replica

    def reduce(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction == "auto" and isinstance(strategy, workers):
            return merge(values, strategy)
        return plain(values, strategy, reduction)

    vars(reduce)["within"] = plain
    module.reduce_per_replica = reduce


def build_from(model: Any, first: Callable[[Any], Any]) -> None:
    """Have a model build itself from what a function makes of a batch, for good.

    Keras takes the mean of all replicas' parts, whose sizes may differ, and fails where they lie
    in several processes, which have no mean of a tuple.

    Args:
        model: made within the scope of a strategy.
        first: takes a batch as a strategy divides it, and returns one of its shape.
    """

    def build(iterator: Any = None, data_batch: Any = None) -> None:
        for _, _, batches in iterator or ():
            data_batch = first(next(batches))
            break
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    vars(model)["_maybe_symbolic_build"] = build


def several_steps_by(model: Any, run: Callable[[Callable[[Any], Any], Any], Any]) -> None:
    """Have a function run the steps of one execution, for good, where there are several.

    Keras calls a compiled step within a condition within a loop, where TensorFlow loses arguments
    of the step on the way ("You must feed a value for placeholder") if replicas exchange anything
    by collectives in it.

    Args:
        model: made within the scope of a strategy.
        run: takes a step, which is a function of a batch, and an iterator.
    """

    def make(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        import keras.src.backend.tensorflow.trainer as module
        import tensorflow as tf

        plain = type(model)._make_function(model, step)
        if model.steps_per_execution == 1 or model.run_eagerly:
            return plain
        strategy = model.distribute_strategy

        @model._autoconvert_optionals
        def one(batch: Any) -> Any:
            outputs = strategy.run(step, args=(batch,))
            return module.reduce_per_replica(outputs, strategy, "auto")

        @tf.function(reduce_retracing=True, autograph=False)
        def several(iterator: Any) -> Any:
            return run(one, iterator)

        def execute(iterator: Any) -> Any:
            divided = isinstance(iterator, tf.distribute.DistributedIterator)
            return several(iterator) if divided else plain(iterator)

        return execute

    vars(model)["_make_function"] = make


def first_epoch(model: Any) -> int:
    """Return the epoch that `BackupAndRestore` tells `fit` to go on from, 0 where it says none."""
    return model._initial_epoch or 0


def go_on_from_epoch(model: Any, epoch: int) -> None:
    """Tell `fit` to go on from an epoch, as `BackupAndRestore` does."""
    model._initial_epoch = epoch or None
