"""`recalibrate` estimates the statistics of batch norm layers anew, from one pass over data."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.calls import Runner, build
from batchnorm_mechanics.doctor.changes import Change, LayerChange, changed, undo_all, weights_of
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, Data, as_data, without_a_last_single
from batchnorm_mechanics.doctor.fitting import Fitting
from batchnorm_mechanics.doctor.norms import KINDS, Norm, Vector, norms_in
from batchnorm_mechanics.doctor.past import estimated_in, mark_estimated
from batchnorm_mechanics.doctor.pools import Pools, pools_of
from batchnorm_mechanics.statistics import Statistics

Method = Literal["pooled", "average"]
METHODS: tuple[Method, ...] = ("pooled", "average")
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
        only: names of the layers, as in `Diagnosis.norms`; by default all.
        include_frozen: estimate layers with `trainable=False`, too.
        call: how to run a model that is not called with a batch alone, such as
            `lambda gan, z: gan.generator(z)`: a function of the model and a batch of the data.
        samples: how many to take at most, the first ones; by default all.

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
    check_model(model, caller="recalibrate")
    how = How("recalibrate", method, sequential, blend)
    data = as_data(data, batch_size=batch_size, call=call, samples=samples, caller="recalibrate")
    build(model, data, caller="recalibrate")
    norms = norms_in(model)
    chosen, left = _choose(norms, only, include_frozen=include_frozen)
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
    if not layer.trainable and not include_frozen:
        return "it is frozen"
    base = next(kind for kind in KINDS if isinstance(layer, kind))
    for method in _DECIDING:
        if getattr(type(layer), method, None) is not getattr(base, method, None):
            return f"its class, {type(layer).__name__}, has its own `{method}`"
    return None


@dataclass(frozen=True)
class How:
    """How statistics are estimated, and for whom.

    Attributes:
        caller: the function to name in an error.
        method, sequential, blend: as in `recalibrate`.
        without_odd: whether batches are left out that make most of a layer's variance.
    """

    caller: str
    method: Method = "pooled"
    sequential: bool = False
    blend: float | None = None
    without_odd: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.method not in METHODS:
            raise InputError(
                f"{self.caller}: `method` must be 'pooled' or 'average'. "
                f"Received: method={self.method!r}. Leave it out for 'pooled'."
            )
        blend: Any = self.blend
        is_number = isinstance(blend, int | float) and not isinstance(blend, bool)
        if blend is not None and not (is_number and 0 < blend <= 1):
            raise InputError(
                f"{self.caller}: `blend` must lie in (0, 1]. Received: blend={blend!r}. "
                "It is the weight of the new statistics; leave it out to replace the old ones."
            )

    @property
    def replaces(self) -> bool:
        """Whether nothing of the old statistics is left in the new ones."""
        return self.blend is None or self.blend == 1

    def __str__(self) -> str:
        words = {
            "pooled": "moments of all samples pooled",
            "average": "moments of batches averaged",
        }
        return (
            words[self.method]
            + (", layer by layer" if self.sequential else "")
            + ("" if self.blend is None else f", blended in by {self.blend:g}")
        )


class Estimates(NamedTuple):
    """What a pass found.

    Attributes:
        by_name: moments of the inputs of the layers that were called, in the order of their first
            calls.
        left: the others, and why nothing is known of them.
        samples: samples of data.
    """

    by_name: Mapping[str, Pools]
    left: Mapping[str, str]
    samples: int


def estimate_anew(
    model: Any,
    data: Data,
    norms: Sequence[Norm],
    channels: Mapping[str, tuple[int, ...]],
    how: How,
) -> Change:
    """Estimate statistics of some layers, or of some of their channels, anew.

    Args:
        model: with weights.
        data: whose labels are not looked at.
        norms: all batch norm layers of the model.
        channels: by the names of the layers to estimate; none means all channels of a layer.
        how: to do it.

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
        found = estimate(model, norms, channels, data, how)
        if not how.sequential:
            apply(found.by_name)
        else:
            for name in found.by_name:
                apply(estimate(model, norms, [name], data, how).by_name)
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
    if norm.renorm:
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


def estimate(
    model: Any, norms: Sequence[Norm], names: Collection[str], data: Data, how: How
) -> Estimates:
    """Run the data through the model in inference mode, and estimate statistics of some layers.

    These layers normalize by the batch, as in training; all others, and everything else such as
    dropout, run as in inference. No weight is changed. What comes after the last of them is not
    computed.

    Args:
        model: with weights.
        norms: all its batch norm layers.
        names: of those to estimate.
        data: whose labels are not looked at.
        how: to do it.

    Raises:
        InputError: the data do not fit the model, or give a statistic that is not finite.
    """
    run = Runner(model, tuple(norms), heard=names, by_batch=names, outputs=False, call=data.call)
    fitting = Fitting(model, how.caller, is_called_otherwise=data.call is not None)
    pools = pools_of(norms)
    for number, (_, _, ran) in enumerate(run.over(without_a_last_single(data), fitting)):
        for (name, _), said in ran.calls.items():
            finite = np.isfinite(said.mean) & np.isfinite(said.variance)
            if not finite.all():
                raise InputError(
                    f"{how.caller}: `data` must give finite statistics. "
                    f"Received: {(~finite).sum()} of {len(finite)} channels not finite at the "
                    f"input of {name}, in batch {number + 1}, whose samples are finite. A layer "
                    "before it makes NaN or overflows: `bnm doctor` says which."
                )
        for name, calls in ran.by_layer.items():
            pools[name].add(calls)
    # What one batch showed, another may have hidden in a loop.
    found = {
        name: pools[name].settle(with_odd=not how.without_odd)
        for name in run.dtypes
        if name not in run.in_loops
    }
    return Estimates(
        found,
        {name: run.reason_unheard(name) for name in names if name not in found},
        fitting.samples,
    )
