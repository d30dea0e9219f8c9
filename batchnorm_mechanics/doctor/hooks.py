"""Listen to the batch norm layers of a model while it runs, and have them use the batch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.core.moments import moments as batch_moments
from batchnorm_mechanics.doctor.norms import Norm
from batchnorm_mechanics.layers.intercept import intercepted

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


class Raw(NamedTuple):
    """Moments of a batch as the kernel gives them; the host does the rest, in float64.

    Attributes:
        count: samples behind each statistic, a scalar.
        mean: shape (channels,).
        variance: likewise.
        fused: whether they are of TensorFlow's one kernel: the variance is then divided by
            count - 1, and the mean is right only where it is not many standard deviations.
    """

    count: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    fused: bool


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
        >>> from batchnorm_mechanics.doctor.norms import norms_in
        >>> norm = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), norm])
        >>> with listening(norms_in(model), lambda norm, heard: print(norm.name, heard.training)):
        ...     _ = model(tf.zeros((1, 2)), training=True)
        bn True
    """
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(intercepted(norm.layer, _answering(norm, answer)))
        yield


def _answering(norm: Norm, answer: Callable[[Norm, Heard], Any | None]) -> Callable[..., Any]:
    def answering(call: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
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
            return by_batch(norm, heard, exactly=True)[0]
        return call(inputs, *args, **kwargs)

    return answering


def axes_of(norm: Norm, rank: int) -> list[int]:
    """Return the axes that a layer reduces over for inputs of this rank."""
    return [axis for axis in range(rank) if axis != norm.layer.axis % rank]


def by_batch(norm: Norm, heard: Heard, *, exactly: bool) -> tuple[tf.Tensor, Raw]:
    """Return what a layer gives when it normalizes by the batch, and the batch's moments.

    Args:
        norm: the layer.
        heard: the call.
        exactly: right for any mean; otherwise for |mean| up to some 30 standard deviations. What
            exactness and gradients take is longer to trace than many a data set is to run.
    """
    layer, x = norm.layer, heard.inputs
    axes = axes_of(norm, x.shape.rank)
    settings: dict[str, Any] = {"axes": axes, "epsilon": max(layer.epsilon, _LEAST_EPSILON)}
    if exactly:
        outputs, moments = core.normalize_batch(
            x, layer.gamma, layer.beta, mask=heard.mask, **settings
        )
        raw = _raw(moments)
    elif _fits_fused(norm, heard):
        outputs, raw = _fused(norm, x, layer.gamma, layer.beta, settings["epsilon"])
    else:
        outputs, cache = core.forward(x, layer.gamma, layer.beta, mask=heard.mask, **settings)
        raw = Raw(tf.reduce_max(cache.count), cache.mean, cache.variance, fused=False)
    return tf.cast(outputs, layer.compute_dtype), raw


def moments_of(norm: Norm, heard: Heard, *, exactly: bool) -> Raw:
    """Return the moments of what a layer was called with; `exactly` as in `by_batch`."""
    x = heard.inputs
    if not exactly and _fits_fused(norm, heard):
        return _fused(norm, x, None, None, 1e-3)[1]
    return _raw(batch_moments(x, axes_of(norm, x.shape.rank), mask=heard.mask))


def _raw(moments: core.Moments) -> Raw:
    # In a mask, as many count in each channel.
    return Raw(tf.reduce_max(moments.count), moments.mean, moments.variance, fused=False)


def _fits_fused(norm: Norm, heard: Heard) -> bool:
    x = heard.inputs
    axes, masked = axes_of(norm, x.shape.rank), heard.mask is not None
    return core.choose_kernel(x.shape.as_list(), x.dtype, axes, masked=masked) == "fused"


def _fused(
    norm: Norm, x: tf.Tensor, gamma: Any, beta: Any, epsilon: float
) -> tuple[tf.Tensor, Raw]:
    """Normalize by one kernel, with as few operations around it as can be."""
    channels = norm.channels
    outputs, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x if x.shape.rank == 4 else tf.reshape(x, [-1, 1, 1, channels]),
        scale=tf.ones(channels) if gamma is None else tf.cast(gamma, tf.float32),
        offset=tf.zeros(channels) if beta is None else tf.cast(beta, tf.float32),
        mean=[],
        variance=[],
        epsilon=epsilon,
    )
    if x.shape.rank != 4:
        outputs = tf.ensure_shape(tf.reshape(outputs, tf.shape(x)), x.shape)
    # One sample has variance 0, by this kernel too.
    return outputs, Raw(tf.size(x) // channels, mean, unbiased, fused=True)
