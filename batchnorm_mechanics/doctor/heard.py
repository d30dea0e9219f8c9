"""What one call of a batch norm layer gets, and what it gives when it normalizes by the batch."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.core.moments import moments as batch_moments
from batchnorm_mechanics.models.norms import Norm

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


class Said(NamedTuple):
    """What one call of a layer says of its input: tensors in the graph, float64 numbers outside.

    Attributes:
        count: samples behind each statistic; 0 where a mask lets nothing count.
        mean: of the batch, of shape (channels,).
        variance: likewise, biased.
        non_finite: how many values are NaN or infinite, likewise; 0 unless they are counted.
        largest: of |input|, for a float16 input, which can overflow; else 0.
    """

    count: Any
    mean: Any
    variance: Any
    non_finite: Any
    largest: Any


def on_host(said: Said) -> Said:
    """Return what was said in float64 numbers, whichever kernel said it."""
    count, mean, variance, non_finite, largest = (
        np.zeros(()) if part is None else np.asarray(part) for part in said
    )
    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    if count.dtype.kind == "i":
        # Of `_fused`. One sample has variance 0, by that kernel too.
        count = count / mean.size
        variance *= (count - 1) / count
    # In a mask, as many count in each channel.
    count, bad = float(np.max(count)), np.broadcast_to(non_finite, mean.shape)
    return Said(count, mean, variance, bad.astype(np.float64), float(largest))


def axes_of(norm: Norm, x: tf.Tensor) -> list[int]:
    """Return the axes of an input that a layer reduces over."""
    rank = x.shape.rank
    return [axis for axis in range(rank) if axis != norm.layer.axis % rank]


def by_batch(norm: Norm, heard: Heard, *, exactly: bool) -> tuple[tf.Tensor, core.Moments]:
    """Return what a layer gives when it normalizes by the batch, and the batch's moments.

    One of batch renormalization corrects that by its averages, as it does in training.

    Args:
        norm: the layer.
        heard: the call.
        exactly: right for any mean; otherwise for |mean| up to some 30 standard deviations. What
            exactness and gradients take is longer to trace than many a data set is to run.
    """
    layer, x = norm.layer, heard.inputs
    settings = {"axes": axes_of(norm, x), "epsilon": max(layer.epsilon, _LEAST_EPSILON)}
    if norm.renorm:
        x_hat, moments = core.normalize_batch(x, mask=heard.mask, **settings)
        r, d = norm.correction(moments.mean, moments.variance)
        outputs = core.renormalize(x_hat, r, d, layer.gamma, layer.beta, axes=settings["axes"])
    elif exactly:
        outputs, moments = core.normalize_batch(
            x, layer.gamma, layer.beta, mask=heard.mask, **settings
        )
    elif fits_fused(norm, heard):
        outputs, moments = _fused(norm, x, layer.gamma, layer.beta, settings["epsilon"])
    else:
        outputs, cache = core.forward(x, layer.gamma, layer.beta, mask=heard.mask, **settings)
        moments = core.Moments(cache.mean, cache.variance, cache.count)
    return tf.cast(outputs, layer.compute_dtype), moments


def moments_of(norm: Norm, heard: Heard, *, exactly: bool) -> core.Moments:
    """Return the moments of what a layer was called with; `exactly` as in `by_batch`."""
    if not exactly and fits_fused(norm, heard):
        return _fused(norm, heard.inputs, None, None, 1e-3)[1]
    return batch_moments(heard.inputs, axes_of(norm, heard.inputs), mask=heard.mask)


def fits_fused(norm: Norm, heard: Heard) -> bool:
    """Return whether the one kernel that does all is the fastest for a call."""
    x, axes, masked = heard.inputs, axes_of(norm, heard.inputs), heard.mask is not None
    return core.choose_kernel(x.shape.as_list(), x.dtype, axes, masked=masked) == "fused"


def _fused(
    norm: Norm, x: tf.Tensor, gamma: Any, beta: Any, epsilon: float
) -> tuple[tf.Tensor, core.Moments]:
    """Normalize by one kernel, with as few operations around it as can be.

    Its mean is right only where that is not many standard deviations. The variance is the unbiased
    one, and the count the number of values in all channels, an integer: `on_host` goes on from
    there.
    """
    channels = norm.channels
    outputs, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x if x.shape.rank == 4 else tf.reshape(x, [-1, 1, 1, channels]),
        scale=np.ones(channels, "f4") if gamma is None else tf.cast(gamma, tf.float32),
        offset=np.zeros(channels, "f4") if beta is None else tf.cast(beta, tf.float32),
        mean=[],
        variance=[],
        epsilon=epsilon,
    )
    if x.shape.rank != 4:
        outputs = tf.ensure_shape(tf.reshape(outputs, tf.shape(x)), x.shape)
    return outputs, core.Moments(mean, unbiased, tf.size(x))
