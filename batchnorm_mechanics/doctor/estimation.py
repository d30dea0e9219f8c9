"""New statistics for some layers of a model: one pass over data, and what becomes of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.changes import (
    Change,
    LayerChange,
    changed,
    undo_all,
    weights_of,
)
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.fitting import Fitting
from batchnorm_mechanics.doctor.measuring import Pool
from batchnorm_mechanics.doctor.model_runs import Runner, Said
from batchnorm_mechanics.doctor.norms import Norm, Vector
from batchnorm_mechanics.doctor.past import estimated_in, mark_estimated
from batchnorm_mechanics.statistics import Statistics

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


class Estimates(NamedTuple):
    """What a pass found.

    Attributes:
        by_name: moments of the inputs of the layers that were called, in the order of their first
            calls.
        left: the others, and why nothing is known of them.
        samples: samples of data.
    """

    by_name: Mapping[str, Pool]
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
    mean, variance = found.mean, _variance(norm, found, how.method)
    if how.blend is not None:
        mean = (1 - how.blend) * norm.mean + how.blend * mean
        variance = (1 - how.blend) * norm.variance + how.blend * variance
    values = _state_of(norm, mean, variance, found=found, method=how.method)
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


def _variance(norm: Norm, found: Pool, method: Method) -> Vector:
    if method == "average":
        return found.within / max(found.freedom, 1)
    # Each policy says which variance it keeps; Keras's layer keeps the biased one.
    unbiased = norm.is_ours and norm.policy.keeps_unbiased_variance
    return found.deviations / max(found.count - 1 if unbiased else found.count, 1)


def _state_of(
    norm: Norm, mean: Vector, variance: Vector, *, found: Pool, method: Method
) -> dict[str, Vector]:
    """Return all that a layer keeps of its statistics, so that training goes on from them."""
    moving = {"moving_mean": mean, "moving_variance": variance}
    if norm.renorm:
        stddev = np.sqrt(variance + norm.layer.epsilon)
        # Keras derives the moving variance from the first one with every step.
        return {**moving, "moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
    if not norm.is_ours:
        return moving
    batches = found.batches if method == "average" else 1
    state = norm.policy.settled(
        Statistics(tf.constant(mean), tf.constant(variance)), found.count, batches
    )
    rest = list(state._asdict().items())[2:]
    return moving | {name: np.asarray(value, np.float64) for name, value in rest}


def estimate(
    model: Any, wanted: Sequence[Norm], others: Sequence[Norm], data: Data, *, caller: str
) -> Estimates:
    """Run the data through the model in inference mode, and estimate the wanted layers' statistics.

    The wanted layers normalize by the batch, as in training; all others, and everything else such
    as dropout, run as in inference. No weight is changed. What comes after the last wanted layer
    is not computed.

    Args:
        model: with weights.
        wanted: layers to estimate.
        others: all other batch norm layers of the model.
        data: whose labels are not looked at.
        caller: the function to name in an error.

    Raises:
        InputError: the data do not fit the model, or give a statistic that is not finite.
    """
    names = [norm.name for norm in wanted]
    run = Runner(model, (*wanted, *others), heard=names, by_batch=names, outputs=False)
    fitting = Fitting(model, caller)
    channels = {norm.name: norm.channels for norm in wanted}
    found: dict[str, Pool] = {}
    for number, given in enumerate(_without_a_last_single(data)):
        inputs = fitting.checked(given)
        if fitting.bad:
            continue
        with fitting.explained(inputs):
            ran = run(inputs)
        for said in ran.calls:
            if not (np.isfinite(said.mean).all() and np.isfinite(said.variance).all()):
                raise InputError(_not_finite(said, number, caller))
            pool = found.setdefault(said.name, Pool(channels[said.name]))
            pool.add(said.count, said.mean, said.variance, said.non_finite)
    fitting.finish()
    # What one batch showed, another may have hidden in a loop.
    found = {name: found[name] for name in found if name not in run.in_loops}
    left = {name: run.reason_unheard(name) for name in names if name not in found}
    return Estimates(found, left, fitting.samples)


def _not_finite(said: Said, number: int, caller: str) -> str:
    bad = int((~(np.isfinite(said.mean) & np.isfinite(said.variance))).sum())
    return (
        f"{caller}: `data` must give finite statistics. Received: {bad} of {len(said.mean)} "
        f"channels not finite at the input of {said.name}, in batch {number + 1}, whose samples "
        "are finite. A layer before it makes NaN or overflows: `bnm doctor` says which."
    )


def _without_a_last_single(data: Data) -> Iterator[Any]:
    """Yield inputs, a last single row together with the batch before.

    Normalized by itself, one row of a dense layer is all zeros, whatever it holds.
    """
    held, held_rows = None, 0
    for inputs, _ in data:
        rows = int(tf.nest.flatten(inputs)[0].shape[0])
        if rows == 1 and held_rows > 1:
            yield tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), held, inputs)
            held, held_rows = None, 0
            continue
        if held is not None:
            yield held
        held, held_rows = inputs, rows
    if held is not None:
        yield held
