"""New statistics for some layers of a model: from estimates to weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.probing.pooling import Pool
from batchnorm_mechanics.doctor.repairing.change import (
    Change,
    LayerChange,
    changed,
    undo_all,
    weights_of,
)
from batchnorm_mechanics.doctor.repairing.estimate import Estimates, estimate
from batchnorm_mechanics.doctor.structure.marks import estimated_in, mark_estimated
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import AverageOfBatches
from batchnorm_mechanics.statistics.moving_average import DebiasedState

Method = Literal["pooled", "average"]
METHODS: tuple[Method, ...] = ("pooled", "average")


@dataclass(frozen=True)
class How:
    """How statistics are estimated, and for whom.

    Attributes:
        caller: the function to name in an error.
        method, sequential, blend: as in `recalibrate`.
    """

    caller: str
    method: Method = "pooled"
    sequential: bool = False
    blend: float | None = None

    def check(self) -> None:
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
        how: checked.

    Raises:
        InputError: as `recalibrate`. After any exception the model is as it was.
    """
    by_name = {norm.name: norm for norm in norms}
    marked = estimated_in(model)
    changes: list[LayerChange] = []

    def run(wanted: Sequence[str]) -> Estimates:
        others = [norm for norm in norms if norm.name not in wanted]
        chosen = [by_name[name] for name in wanted]
        return estimate(model, chosen, others, data, caller=how.caller)

    def apply(found: Mapping[str, Pool]) -> None:
        # All are known to be good before the first is changed.
        values = {
            name: _new_values(by_name[name], of_layer, channels[name], how)
            for name, of_layer in found.items()
        }
        for name, new in values.items():
            changes.append(changed(name, by_name[name].layer, new))

    try:
        found = run(tuple(channels))
        if not how.sequential:
            apply(found.by_name)
        else:
            for name in found.by_name:
                apply(run((name,)).by_name)
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
    return Change(in_order, MappingProxyType(dict(found.left)), found.samples, str(how))


def _new_values(norm: Norm, found: Pool, channels: tuple[int, ...], how: How) -> dict[str, Vector]:
    """Return the new values of a layer's weights by their names, checked."""
    if found.freedom < 1:
        raise InputError(
            f"{how.caller}: `data` must have two samples behind each statistic of a batch. "
            f"Received: one in every batch, at the input of {norm.name}. Make the batches larger."
        )
    mean, variance = found.mean, _variance(norm.layer, found, how.method)
    if how.blend is not None:
        mean = (1 - how.blend) * norm.mean + how.blend * mean
        variance = (1 - how.blend) * norm.variance + how.blend * variance
    values = {
        "moving_mean": mean,
        "moving_variance": variance,
        **_rest(norm, mean, variance, found),
    }
    if how.method == "average" and "degrees_of_freedom" in values:
        values["degrees_of_freedom"] = np.full(norm.channels, found.freedom)
    if channels:
        values = {name: _only(channels, norm, name, value) for name, value in values.items()}
    for name, value in values.items():
        with np.errstate(over="ignore"):
            rounded = value.astype(norm.layer.moving_mean.dtype)
        if not np.isfinite(rounded[list(channels)] if channels else rounded).all():
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


def _only(channels: tuple[int, ...], norm: Norm, name: str, new: Vector) -> Vector:
    old = np.asarray(keras.ops.convert_to_numpy(weights_of(norm.layer)[name]), np.float64).copy()
    old[list(channels)] = new[list(channels)]
    return old


def _variance(layer: Any, found: Pool, method: Method) -> Vector:
    if method == "average":
        return found.within / max(found.freedom, 1)
    policy = layer.policy if isinstance(layer, BatchNormalization) else None
    # Each policy says which variance it keeps; Keras's layer keeps the biased one.
    unbiased = isinstance(policy, AverageOfBatches) or getattr(policy, "unbiased", False)
    return found.deviations / max(found.count - 1 if unbiased else found.count, 1)


def _rest(norm: Norm, mean: Vector, variance: Vector, found: Pool) -> dict[str, Vector]:
    """Return what a layer keeps besides mean and variance, so that training goes on from them."""
    layer = norm.layer
    if norm.renorm:
        stddev = np.sqrt(variance + layer.epsilon)
        # Keras derives the moving variance from the first one with every step.
        return {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
    if not isinstance(layer, BatchNormalization):
        return {}
    start = layer.policy.init((norm.channels,))
    state = layer.policy.update(start, mean, found.deviations / found.count, found.count)
    if isinstance(state, DebiasedState):
        # All of the weight lies on samples; as after one batch, the next would push them out.
        ones = tf.ones_like(state.mean_weight)
        state = state._replace(mean_weight=ones, variance_weight=ones)
    return {
        name: np.asarray(value, np.float64) for name, value in list(state._asdict().items())[2:]
    }
