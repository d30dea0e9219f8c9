"""Listen to the batch norm layers of a model while it runs, and have them use the batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.core.moments import moments as batch_moments
from batchnorm_mechanics.doctor.structure.norms import Norm

# core divides by sqrt(variance + epsilon) and refuses an epsilon of 0, which Keras takes.
_LEAST_EPSILON = 1e-30


class Heard(NamedTuple):
    """What a layer was called with.

    Attributes:
        inputs: of the call, floating.
        mask: the one in force, or None.
        training: whether the layer was told to train, and is not frozen.
    """

    inputs: tf.Tensor
    mask: Any
    training: bool


@contextmanager
def listening(
    norms: tuple[Norm, ...], answer: Callable[[Norm, Heard], Any | None]
) -> Iterator[None]:
    """Have `answer` called in place of each layer, until the block ends.

    No statistic is ever updated: a layer that is told to train normalizes by the batch and no more.

    Args:
        norms: layers with weights.
        answer: takes the layer and the call; returns the layer's output, or None for what the
            layer computes by itself.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.doctor.structure.norms import norms_in
        >>> norm = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), norm])
        >>> with listening(norms_in(model), lambda norm, heard: print(norm.name, heard.training)):
        ...     _ = model(tf.zeros((1, 2)), training=True)
        bn True
    """
    own = [vars(norm.layer).get("call") for norm in norms]
    try:
        for norm in norms:
            norm.layer.call = _replacement(norm, norm.layer.call, answer)
        yield
    finally:
        for norm, call in zip(norms, own, strict=True):
            if call is not None:
                norm.layer.call = call  # what `accelerate` put there
            elif "call" in vars(norm.layer):
                del norm.layer.call  # the class's own shows again


def _replacement(
    norm: Norm, call: Callable[..., Any], answer: Callable[[Norm, Heard], Any | None]
) -> Callable[..., Any]:
    def replaced(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = tf.convert_to_tensor(inputs)
        if not tensor.dtype.is_floating:
            tensor = tf.cast(tensor, tf.float32)
        # Keras hands both over by name, whether the model's code did or not.
        heard = Heard(
            tensor,
            kwargs.get("mask"),
            bool(kwargs.get("training")) and bool(norm.layer.trainable),
        )
        output = answer(norm, heard)
        if output is not None:
            return output
        if heard.training:
            return by_batch(norm, heard)[0]
        return call(inputs, *args, **kwargs)

    return replaced


def axes_of(norm: Norm, rank: int) -> list[int]:
    """Return the axes that a layer reduces over for inputs of this rank."""
    return [axis for axis in range(rank) if axis != norm.layer.axis % rank]


def by_batch(norm: Norm, heard: Heard) -> tuple[tf.Tensor, core.Moments]:
    """Return what a layer gives when it normalizes by the batch, and the batch's moments."""
    layer = norm.layer
    moments = moments_of(norm, heard)
    outputs = core.normalize_with(
        heard.inputs,
        moments.mean,
        moments.variance,
        layer.gamma,
        layer.beta,
        axes=axes_of(norm, heard.inputs.shape.rank),
        epsilon=max(layer.epsilon, _LEAST_EPSILON),
    )
    return tf.cast(outputs, layer.compute_dtype), moments


def moments_of(norm: Norm, heard: Heard) -> core.Moments:
    """Return the moments of what a layer was called with, by the fastest kernel for them.

    Not by `core.normalize_batch`: no gradient is wanted, and tracing the parts of it that only a
    gradient needs takes longer than running a few batches, in a model of 50 layers.
    """
    x = heard.inputs
    axes = axes_of(norm, x.shape.rank)
    kernel = core.choose_kernel(x.shape.as_list(), x.dtype, axes, masked=heard.mask is not None)
    if kernel != "fused":
        return batch_moments(x, axes, mask=heard.mask)
    channels = norm.channels
    rows = tf.size(x) // channels
    _, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, [rows, 1, 1, channels]),
        scale=tf.ones(channels),
        offset=tf.zeros(channels),
        mean=[],
        variance=[],
    )
    count = tf.cast(rows, tf.float32)
    # One sample has variance 0, by this kernel too.
    return core.Moments(mean, unbiased * (count - 1) / count, tf.fill([channels], count))
