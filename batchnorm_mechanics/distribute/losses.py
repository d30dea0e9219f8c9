"""The loss of a batch that replicas share, as one replica that has all of it computes it."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from batchnorm_mechanics.distribute.replicas import Replicas, replicas_here


def loss_of_all_replicas(
    plain: Callable[..., Any],
    values: Any,
    sample_weight: Any = None,
    mask: Any = None,
    reduction: str | None = "sum_over_batch_size",
    dtype: Any = None,
) -> Any:
    """Reduce the losses of all replicas' samples to one number, by how many there are in all.

    Keras takes each replica's mean, and then the mean of these: where parts differ in size, or in
    what a mask leaves of them, samples of a small part count more, and nothing is right of a part
    without samples.

    Args:
        plain: reduces the same arguments on one replica.
        values: the loss of each of this replica's samples, or of each of their steps in time.
        sample_weight: the weight of each, or None.
        mask: which of them count, or None.
        reduction: as in `keras.losses.Loss`.
        dtype: of the result.

    Returns:
        The loss of the whole batch divided by the number of replicas, which is what Keras takes a
        replica's share for: it multiplies by it again where it shows the loss. Its gradient is that
        of this replica's samples; summed over the replicas, that of the whole batch.

    Raises:
        ValueError: the loss is one number already.
    """
    replicas = replicas_here()
    if replicas is None or reduction in (None, "none"):
        return plain(values, sample_weight, mask, reduction, dtype)
    values = tf.convert_to_tensor(values, dtype)
    if values.shape.rank == 0:
        raise ValueError(
            "join_replicas: a loss must give one value for each sample. Received: a loss that "
            "gives one number. How many samples it stands for cannot be told, and so not what it "
            "is on all replicas; leave the mean over samples to Keras."
        )
    total = tf.reduce_sum(plain(values, sample_weight, mask, "sum", dtype))
    # Numbers of samples are beyond float16.
    wide = tf.float64 if total.dtype == tf.float64 else tf.float32
    count = tf.cast(_divisor(plain, values, sample_weight, mask, reduction, dtype), wide)
    return tf.cast(_shared(tf.cast(total, wide), count, reduction, replicas), total.dtype)


def _divisor(
    plain: Callable[..., Any],
    values: tf.Tensor,
    sample_weight: Any,
    mask: Any,
    reduction: str | None,
    dtype: Any,
) -> tf.Tensor:
    """Return what Keras divides the sum of losses by, of this replica."""
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        ones = tf.ones_like(sample_weight, dtype)
        return tf.reduce_sum(plain(ones, sample_weight, mask, "sum", dtype))
    if mask is not None:
        return tf.reduce_sum(plain(tf.ones_like(values), None, mask, "sum", dtype))
    return tf.size(values)


def _shared(
    total: tf.Tensor, count: tf.Tensor, reduction: str | None, replicas: Replicas
) -> tf.Tensor:
    """Return the loss of the whole batch, divided by the number of replicas, by one collective."""

    # The gradient of a collective is another one, which would bring what is known here already.
    @tf.custom_gradient
    def share(total: tf.Tensor) -> Any:
        whole, divisor = tf.unstack(replicas.add(tf.stack([total, count])))
        if reduction == "sum":
            divisor = tf.ones_like(divisor)
        mean = tf.math.divide_no_nan(whole, divisor)
        return mean / replicas.count, lambda slope: tf.math.divide_no_nan(slope, divisor)

    return share(total)
