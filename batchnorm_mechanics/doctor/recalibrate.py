"""`recalibrate` estimates the statistics of batch norm layers anew, from data."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.changes import Change
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, as_data
from batchnorm_mechanics.doctor.estimation import How, Method, estimate_anew
from batchnorm_mechanics.doctor.model_runs import build
from batchnorm_mechanics.doctor.norms import KINDS, Norm, norms_in

FROZEN = "it is frozen"
# What decides which statistics a layer needs; a subclass with its own may need others.
_DECIDING = ("call", "_moments")


def recalibrate(  # noqa: PLR0913 - three of them choose layers and data, which nothing else can
    model: Any,
    data: Any,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    method: Method = "pooled",
    sequential: bool = False,
    blend: float | None = None,
    layers: Sequence[str] | None = None,
    include_frozen: bool = False,
) -> Change:
    """Estimate the moving statistics of a model's batch norm layers anew from data, in place.

    Implements: Alg. 2, l. 8 to 10, with every weight as it is.

    The model runs once over the data in inference mode, so dropout is off; only the layers that
    are estimated normalize by the batch, as they do in training. Gamma, beta, and all weights of
    other layers stay. What Keras's `fit` does with `use_ema`, weight averaging, fine-tuning or a
    few steps at momentum 0.99 leaves statistics that belong to other weights: this makes them
    belong to these.

    Args:
        model: any Keras model with batch normalization, Keras's or ours: functional, sequential,
            subclassed, nested.
        data: a `tf.data.Dataset` of batches, an array, a list or dict of arrays, or a tuple
            (inputs, labels); labels are not looked at. Some thousand samples do.
        batch_size: for arrays; like that of training, at least 16 or so: what a layer normalizes
            by in training depends on it.
        method: "pooled" takes mean and biased variance of all samples, as if in one batch.
            "average" takes the mean of the batches' means and of their unbiased variances, as
            the paper does, weighted by samples and by degrees of freedom.
        sequential: estimate one layer after another, in the order of their calls, each from inputs
            that the final statistics of those before it give in inference. The statistics are then
            exactly the moments of what the layers get in inference; it takes a pass over the data,
            up to that layer, for each. Of a layer called twice, the calls see batch statistics.
        blend: b in (0, 1] moves the statistics towards those of the data, for another domain:
            (1 - b) * old + b * new, for the mean and for the variance alike, as the moving average
            does. (The variance of a mixture of both domains would be larger by
            b * (1 - b) * the squared distance of the means.)
        layers: names of the layers, as in `Diagnosis.norms`; by default all.
        include_frozen: estimate layers with `trainable=False`, too.

    Returns:
        `Change`: what was changed and what was left, with `undo()`.

    Raises:
        InputError: an argument cannot be used; the model has no layer to estimate; the data do not
            fit the model, are empty, give a statistic that is not finite, or have one sample
            behind each statistic (m' of 1). The model is then as it was, and so it is after any
            other exception.

    Numerics:
        Moments of a batch are float32 at least, in two passes, and err by some 1e-7 of themselves,
        or 1e-5 where a batch has 100,000 samples a channel; at a mean of 10,000 standard deviations
        the mean errs by 1e-3 of one. Batches are merged in float64, and the result is rounded once.
        Memory does not grow with the data.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.BatchNormalization()])
        >>> change = recalibrate(model, keras.ops.array([[1.0, 10.0], [3.0, 30.0]]))
        >>> model.layers[0].moving_mean.numpy().tolist()
        [2.0, 20.0]
        >>> model.layers[0].moving_variance.numpy().tolist()
        [1.0, 100.0]
        >>> change.undo()
        >>> model.layers[0].moving_mean.numpy().tolist()
        [0.0, 0.0]
    """
    how = How("recalibrate", method, sequential, blend)
    check_model(model, caller="recalibrate")
    how.check()
    data = as_data(data, batch_size=batch_size, caller="recalibrate")
    build(model, data, caller="recalibrate")
    norms = norms_in(model)
    chosen, left = _choose(norms, layers, include_frozen=include_frozen)
    change = estimate_anew(model, data, norms, dict.fromkeys(chosen, ()), how)
    return replace(change, left=MappingProxyType({**left, **change.left}))


def check_model(model: Any, *, caller: str) -> None:
    """Refuse what is no Keras model."""
    if not isinstance(model, keras.Layer):
        raise InputError(
            f"{caller}: `model` must be a Keras model. Received: model={model!r}. "
            "Load a file with keras.models.load_model."
        )


def _choose(
    norms: Sequence[Norm], layers: Sequence[str] | None, *, include_frozen: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the layers to estimate, and why the others are left."""
    names = [norm.name for norm in norms]
    if not norms:
        raise InputError(
            "recalibrate: `model` must have batch normalization. Received: a model without. "
            "There is nothing to recalibrate."
        )
    for name in [layers] if isinstance(layers, str) else layers or ():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1) or names[:1]
            raise InputError(
                "recalibrate: `layers` must name batch norm layers of the model. "
                f"Received: {name!r}. Did you mean {close[0]!r}?"
            )
    chosen, left = [], {}
    for norm in norms:
        if layers is not None and norm.name not in layers:
            continue
        reason = _reason_to_leave(norm.layer, include_frozen=include_frozen)
        if reason is None:
            chosen.append(norm.name)
        else:
            left[norm.name] = reason
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise InputError(
            "recalibrate: `layers` must leave a layer to recalibrate. "
            f"Received: {reasons or 'no name'}. "
            "Pass include_frozen=True for frozen layers, and at least one name in `layers`."
        )
    return chosen, left


def _reason_to_leave(layer: Any, *, include_frozen: bool) -> str | None:
    if not layer.trainable and not include_frozen:
        return FROZEN
    base = next(kind for kind in KINDS if isinstance(layer, kind))
    for method in _DECIDING:
        if getattr(type(layer), method, None) is not getattr(base, method, None):
            return f"its class, {type(layer).__name__}, has its own `{method}`"
    return None
