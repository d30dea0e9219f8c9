"""Batch normalization in the replica context of a strategy, for every layer that is put there.

It stands before the layers, which call it, and knows no Keras. Outside of a strategy, and where it
has one replica, what is built is `core.normalize_batch` and nothing else.
"""

import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._tensorflow import inside_a_graph_of_the_replica
from batchnorm_mechanics.core.axes import TensorLike

# The name of what is computed of all replicas' values, to be counted in a graph.
EXCHANGE = "exchange_between_replicas"


class Replicas:
    """The replicas that compute one step together, as `core.Exchange` wants them.

    Attributes:
        index: which of them this one is.
        count: how many there are.
    """

    def __init__(self, context: tf.distribute.ReplicaContext) -> None:
        """Keep the context of this replica."""
        self._context = context
        self.index = context.replica_id_in_sync_group
        self.count = context.num_replicas_in_sync
        # In one process the replicas' tensors lie side by side in one graph and need no collective
        # of TensorFlow's. Those are numbered as a graph runs, and wait for one another for ever
        # where an optimizer has some within a condition, as Keras's LossScaleOptimizer does.
        self._in_one_graph = (
            isinstance(context.strategy, tf.distribute.MirroredStrategy)
            and not tf.__internal__.distribute.strategy_supports_no_merge_call()
        )

    def add(self, value: tf.Tensor) -> tf.Tensor:
        """Return the sum over the replicas, by one collective."""
        if self._in_one_graph:
            return self._meet(tf.add_n, value)
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        """Return the values of all replicas, along a new first axis, by one collective.

        Between processes as a sum in which each replica fills its own place: TensorFlow's
        `all_gather` is two collectives, the first for the sizes. Adding zeros rounds nothing.
        """
        if self._in_one_graph:
            return self._meet(tf.stack, value)
        around = [[self.index, self.count - 1 - self.index], *([[0, 0]] * value.shape.rank)]
        whole = self.add(tf.pad(value[None], around))
        return tf.ensure_shape(whole, [self.count, *value.shape])

    def merge(self, part: core.Moments) -> core.Moments:
        """Return the moments of all replicas' parts together, by one collective."""
        if not self._in_one_graph:
            return core.merge_replicas(part, self)

        def together(strategy: tf.distribute.Strategy, *values: Any) -> core.Moments:
            local = zip(*map(strategy.experimental_local_results, values), strict=True)
            return core.merge_parts([core.Moments(*one) for one in local], name=EXCHANGE)

        return self._context.merge_call(together, args=part)

    def _meet(self, function: Callable[..., tf.Tensor], value: tf.Tensor) -> tf.Tensor:
        """Compute a function of all replicas' values once, for all of them."""

        def together(strategy: tf.distribute.Strategy, values: Any) -> tf.Tensor:
            return function(strategy.experimental_local_results(values), name=EXCHANGE)

        return self._context.merge_call(together, args=(value,))


def replicas_here() -> Replicas | None:
    """Return the replicas of the step that is being computed; None where there is just one.

    None, too, outside of `strategy.run`, where a call belongs to no replica.

    Example:
        >>> replicas_here() is None
        True
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return Replicas(context)


def on_each_replica(value: Any) -> tuple[Any, ...]:
    """Return the variables that a variable is, one for each replica; itself without a strategy.

    Example:
        >>> len(on_each_replica(tf.Variable(1.0)))
        1
    """
    if isinstance(value, tf.distribute.DistributedValues):
        strategy: Any = getattr(value, "distribute_strategy", tf.distribute.get_strategy())
        return strategy.experimental_local_results(value)
    return (value,)


def normalize_batch(
    x: tf.Tensor,
    gamma: TensorLike,
    beta: TensorLike,
    *,
    correction: Callable[[tf.Tensor, tf.Tensor], tuple[Any, Any]] | None = None,
    **options: Any,
) -> tuple[tf.Tensor, core.Moments]:
    """Normalize this replica's part of a batch, and return the moments of all parts together.

    Implements: Alg. 1; with a correction, that of arXiv 1702.03275.

    Args:
        x: this replica's part; all of the batch outside of a strategy.
        gamma: as in `core.normalize_batch`.
        beta: likewise.
        correction: returns r and d for the mean and variance that x_hat was made with, this part's
            or, synchronized, the whole batch's. None for r = 1 and d = 0.
        **options: `synchronized`, whether to normalize by the statistics of all parts, and not by
            this one's; `moments_are_wanted`, whether the moments will be used: where not, they may
            be this part's, and are not exchanged for their own sake; and the further arguments of
            `core.normalize_batch`.

    Returns:
        y and the batch's moments, as `core.normalize_batch` does. They are the same on every
        replica, so that what is made of them alike stays alike.

    Raises:
        ValueError: as `core.normalize_batch`, but that a part may be empty where there are several;
            or `synchronized` where replicas cannot wait for one another.
    """
    if correction is None:
        outputs, batch, _ = _normalize(x, gamma, beta, **options)
        return outputs, batch
    # In the statistics' dtype: x_hat is not yet the output, which is rounded once.
    wide = tf.cast(x, core.statistics_dtype(x))
    x_hat, batch, own = _normalize(wide, None, None, **options)
    r, d = (tf.cast(part, wide.dtype) for part in correction(own.mean, own.variance))
    outputs = core.renormalize(x_hat, r, d, gamma, beta, axes=options["axes"])
    return tf.cast(outputs, x.dtype), batch


def _normalize(
    x: tf.Tensor,
    gamma: TensorLike,
    beta: TensorLike,
    *,
    synchronized: bool,
    moments_are_wanted: bool = True,
    **options: Any,
) -> tuple[tf.Tensor, core.Moments, core.Moments]:
    """Return also the moments by which this part was normalized."""
    exchange = replicas_here()
    if exchange is None:
        outputs, batch = core.normalize_batch(x, gamma, beta, **options)
        return outputs, batch, batch
    nested = inside_a_graph_of_the_replica()
    if synchronized:
        if nested:
            raise ValueError(
                "BatchNormalization: `synchronized` must be False inside a loop, a condition or a "
                "tf.function that a replica runs. Received: synchronized=True. TensorFlow's "
                "replicas cannot wait for one another there; let strategy.run be called on the "
                "whole step, and the layer outside of loops."
            )
        options.pop("kernel", None)
        outputs, batch = core.normalize_together(x, gamma, beta, exchange=exchange, **options)
        return outputs, batch, batch
    outputs, part = _normalize_part(x, gamma, beta, **options)
    if not moments_are_wanted:
        return outputs, part, part
    if nested:
        warnings.warn(
            "BatchNormalization: the statistics of this layer stay each replica's own. It runs "
            "inside a loop, a condition or a tf.function that a replica runs, where TensorFlow's "
            "replicas cannot exchange anything; saved is the first replica's share.",
            stacklevel=2,
        )
        return outputs, part, part
    return outputs, exchange.merge(part), part


def _normalize_part(
    x: tf.Tensor, gamma: TensorLike, beta: TensorLike, *, axes: Any, **options: Any
) -> tuple[tf.Tensor, core.Moments]:
    """Normalize by the statistics of this part, which may be empty, as of an uneven last batch."""
    sizes = [x.shape[axis] for axis in axes]
    if 0 in sizes:
        outputs = core.normalize_with(x, 0.0, 1.0, gamma, beta, axes=axes)
        none = tf.zeros_like(tf.reduce_sum(tf.cast(outputs, core.statistics_dtype(x)), axes))
        return outputs, core.Moments(none, none, none)
    if None in sizes:
        # A kernel makes 0 * NaN of no samples, which would be in the sum of all replicas.
        present = tf.size(x) > 0
        gamma, beta = (
            value if value is None else _with_gradient_where(present, value)
            for value in (gamma, beta)
        )
    return core.normalize_batch(x, gamma, beta, axes=axes, **options)


def _with_gradient_where(present: tf.Tensor, value: TensorLike) -> tf.Tensor:
    """Return a value whose gradient is 0 where nothing is present, whatever comes back."""

    @tf.custom_gradient
    def guarded(value: tf.Tensor) -> Any:
        return tf.identity(value), lambda slope: tf.where(present, slope, tf.zeros_like(slope))

    return guarded(tf.convert_to_tensor(value))
