"""`recalibrate` estimates the statistics of batch norm layers anew, from one pass over data."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.distribute.executors import Workers, executor_of
from batchnorm_mechanics.doctor.calls import build
from batchnorm_mechanics.doctor.changes import Change, LayerChange, changed, undo_all, weights_of
from batchnorm_mechanics.doctor.estimating import How, Method, estimate
from batchnorm_mechanics.doctor.pools import Pools
from batchnorm_mechanics.doctor.shards import cut, hosted
from batchnorm_mechanics.layers.freeze import follows_batches
from batchnorm_mechanics.models.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.models.mark import estimated_in, mark_estimated
from batchnorm_mechanics.models.norms import KINDS, Norm, Vector, norms_in
from batchnorm_mechanics.statistics import Statistics

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
    only: Sequence[str] | None = None,
    include_frozen: bool = False,
    call: Callable[[Any, Any], Any] | None = None,
    samples: int | None = None,
    executor: Any = None,
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
        data: a `tf.data.Dataset` of batches, an array, a list or dict of arrays, a tuple
            (inputs, labels), or `bnm.Shards` of these; labels are not looked at. Some thousand
            samples do.
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
        only: names of the layers, as in `Diagnosis.norms`; by default all.
        include_frozen: estimate layers with `trainable=False`, too.
        call: how to run a model that is not called with a batch alone, such as
            `lambda gan, z: gan.generator(z)`: a function of the model and a batch of the data.
        samples: how many to take at most, the first ones; by default all.
        executor: "ray", an address as "ray://host:10001", or a `bnm.RayExecutor`: shards of the
            data go to Ray's actors, which hold the model, and their moments come back. The
            statistics do not depend on their number, nor on any that die. By default, this
            process.

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
        Memory does not grow with the data. Elsewhere, shards are merged in their order, which
        changes the last bits of a float64.

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
    check_model(model, caller="recalibrate")
    how = How("recalibrate", method, sequential, blend)
    place = executor_of(executor, caller="recalibrate")
    data = as_data(data, batch_size=batch_size, call=call, samples=samples, caller="recalibrate")
    build(model, data, caller="recalibrate")
    norms = norms_in(model)
    chosen, left = _choose(norms, only, include_frozen=include_frozen)
    data = cut(data, place)
    with hosted(model, place) as workers:
        change = estimate_anew(model, data, norms, dict.fromkeys(chosen, ()), how, workers)
    return replace(change, left=MappingProxyType({**left, **change.left}))


def check_model(model: Any, *, caller: str) -> None:
    """Refuse what is no Keras model."""
    if not isinstance(model, keras.Layer):
        raise InputError(
            f"{caller}: `model` must be a Keras model. Received: model={model!r}. "
            "Load a file with keras.models.load_model."
        )


def _choose(
    norms: Sequence[Norm], only: Sequence[str] | None, *, include_frozen: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the layers to estimate, and why the others are left."""
    names = [norm.name for norm in norms]
    if not norms:
        raise InputError(
            "recalibrate: `model` must have batch normalization. Received: a model without. "
            "There is nothing to recalibrate."
        )
    for name in [only] if isinstance(only, str) else only or ():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1) or names[:1]
            raise InputError(
                "recalibrate: `only` must name batch norm layers of the model. "
                f"Received: {name!r}. Did you mean {close[0]!r}?"
            )
    chosen, left = [], {}
    for norm in norms:
        if only is not None and norm.name not in only:
            continue
        reason = _reason_to_leave(norm.layer, include_frozen=include_frozen)
        if reason is None:
            chosen.append(norm.name)
        else:
            left[norm.name] = reason
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise InputError(
            "recalibrate: `only` must leave a layer to recalibrate. "
            f"Received: {reasons or 'no name'}. "
            "Pass include_frozen=True for frozen layers, and at least one name in `only`."
        )
    return chosen, left


def _reason_to_leave(layer: Any, *, include_frozen: bool) -> str | None:
    if not follows_batches(layer) and not include_frozen:
        return "it is frozen"
    base = next(kind for kind in KINDS if isinstance(layer, kind))
    for method in _DECIDING:
        if getattr(type(layer), method, None) is not getattr(base, method, None):
            return f"its class, {type(layer).__name__}, has its own `{method}`"
    return None


def estimate_anew(
    model: Any,
    data: Data,
    norms: Sequence[Norm],
    channels: Mapping[str, tuple[int, ...]],
    how: How,
    workers: Workers | None = None,
) -> Change:
    """Estimate statistics of some layers, or of some of their channels, anew.

    Args:
        model: with weights.
        data: whose labels are not looked at.
        norms: all batch norm layers of the model.
        channels: by the names of the layers to estimate; none means all channels of a layer.
        how: to do it.
        workers: with the model, to do it; None for this process.

    Raises:
        InputError: as `recalibrate`. After any exception the model is as it was.
    """
    by_name = {norm.name: norm for norm in norms}
    marked = estimated_in(model)
    changes: list[LayerChange] = []

    def apply(found: Mapping[str, Pools]) -> None:
        # All are known to be good before the first is changed.
        values = {
            name: _new_values(by_name[name], of_layer, channels[name], how)
            for name, of_layer in found.items()
        }
        changes.extend(changed(name, by_name[name].layer, new) for name, new in values.items())

    try:
        found = estimate(model, norms, channels, data, how, workers)
        if not how.sequential:
            apply(found.by_name)
        else:
            for name in found.by_name:
                apply(estimate(model, norms, [name], data, how, workers).by_name)
    except BaseException:
        undo_all(changes)
        raise
    if how.replaces:
        whole = {
            change.name
            for change in changes
            if len(channels[change.name]) in (0, by_name[change.name].channels)
        }
        mark_estimated(model, marked | whole)
    order = list(by_name)
    in_order = tuple(sorted(changes, key=lambda change: order.index(change.name)))
    done = "were left out" if how.without_odd else "are in these statistics: look at the data"
    odd = ((name, pools.what_is_odd) for name, pools in found.by_name.items())
    notes = tuple(f"{name}: {words}, and {done}." for name, words in odd if words)
    return Change(in_order, MappingProxyType(dict(found.left)), found.samples, str(how), notes)


def _new_values(norm: Norm, found: Pools, channels: tuple[int, ...], how: How) -> dict[str, Vector]:
    """Return the new values of a layer's weights by their names, checked."""
    if found.freedom < 1:
        raise InputError(
            f"{how.caller}: `data` must have two samples behind each statistic of a batch. "
            f"Received: one in every batch, at the input of {norm.name}. Make the batches larger."
        )
    mean, variance = found.together.mean, _variance(norm, found, how.method)
    if how.blend is not None:
        mean = (1 - how.blend) * norm.mean + how.blend * mean
        variance = (1 - how.blend) * norm.variance + how.blend * variance
    chosen: Any = list(channels) or ...
    values: dict[str, Vector] = {}
    for name, value in _state_of(norm, mean, variance, found=found, method=how.method).items():
        weight = weights_of(norm.layer)[name]
        values[name] = np.array(keras.ops.convert_to_numpy(weight), np.float64)
        values[name][chosen] = value[chosen]
        with np.errstate(over="ignore"):
            rounded = values[name].astype(norm.layer.moving_mean.dtype)
        if not np.isfinite(rounded[chosen]).all():
            raise InputError(
                f"{how.caller}: `data` must give statistics that the layer can hold. "
                f"Received: {name} of {norm.name} not finite in {rounded.dtype}. "
                + (
                    "Leave out `blend`, which keeps what is not finite."
                    if how.blend is not None
                    else "Give the layer a wider dtype."
                )
            )
    return values


def _variance(norm: Norm, found: Pools, method: Method) -> Vector:
    if method == "average":
        return np.sum([call.within for call in found.calls], axis=0) / found.freedom
    # Each policy says which variance it keeps; Keras's layer keeps the biased one.
    unbiased = norm.is_ours and norm.policy.keeps_unbiased_variance
    together = found.together
    return together.deviations / max(together.count - 1 if unbiased else together.count, 1)


def _state_of(
    norm: Norm, mean: Vector, variance: Vector, *, found: Pools, method: Method
) -> dict[str, Vector]:
    """Return all that a layer keeps of its statistics, so that training goes on from them."""
    moving = {"moving_mean": mean, "moving_variance": variance}
    if norm.renorm and not norm.is_ours:
        stddev = np.sqrt(variance + norm.layer.epsilon)
        # Keras derives the moving variance from the first one with every step.
        return {**moving, "moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
    if not norm.is_ours:
        return moving
    batches = sum(call.batches for call in found.calls) if method == "average" else 1
    state = norm.policy.settled(
        Statistics(tf.constant(mean), tf.constant(variance)), found.together.count, batches
    )
    rest = list(state._asdict().items())[2:]
    return moving | {name: np.asarray(value, np.float64) for name, value in rest}
