"""`diagnose`: what batch norm does wrong in a model, from its weights, its graph, and data."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.checks.data import check_data
from batchnorm_mechanics.doctor.checks.gaps import Gap, gaps_of
from batchnorm_mechanics.doctor.checks.graph import check_graph
from batchnorm_mechanics.doctor.checks.roots import ordered
from batchnorm_mechanics.doctor.checks.weights import check_weights
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.doctor.findings import Diagnosis, Finding
from batchnorm_mechanics.doctor.probing.probe import Measured, measure
from batchnorm_mechanics.doctor.rules import chosen
from batchnorm_mechanics.doctor.structure.norms import Norm, norms_in

_TOLD_BY_TRAINING = ("BN106", "BN110")


def diagnose(
    model: Any,
    data: Any = None,
    *,
    labels: Any = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    select: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> Diagnosis:
    """Find what batch norm does wrong in a model, and say why.

    The weights and the graph are looked at first, then what data say: they go through the model
    once, as in `predict`, and 128 of them a few times more. Nothing of the model changes.

    Args:
        model: any Keras model: functional, sequential, subclassed, nested.
        data: a `tf.data.Dataset` of batches, of inputs or (inputs, labels); an array of samples; a
            tuple (inputs, labels); a list or dict of arrays for several inputs; or None.
        labels: an array, for `data` without: class numbers, one-hot rows, or what the model's loss
            takes.
        batch_size: for arrays; best that of training, which BN206 judges.
        select: codes to look for, or beginnings of codes as "BN1"; none means all.
        ignore: likewise, taken away from those.

    Returns:
        `Diagnosis`; without layers and findings where the model has no batch norm. Its `measures`
        are "gap", the largest of a layer, which is NaN where statistics are; and with labels
        "loss", if the model is compiled, and "accuracy".

    Raises:
        TypeError: `model` is no Keras model.
        InputError: the model has no weights yet; the data do not fit it, are empty, or hold NaN; or
            a code fits no rule.

    Numerics:
        Moments are merged in float64. Thresholds are derived in each rule's story.

    Example:
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((3,)), layer])
        >>> _ = layer.moving_variance.assign([1.0, -2.0, 1.0])
        >>> diagnosis = diagnose(model)
        >>> [(found.code, found.layer, found.channels) for found in diagnosis.findings]
        [('BN102', 'bn', (1,))]
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"diagnose: `model` must be a Keras model. Received: model={model!r}. "
            "Pass a keras.Model; what tf_keras or another library makes is none."
        )
    wanted = chosen(tuple(select), tuple(ignore))
    batches = None
    if data is not None:
        batches = as_data(data, labels=labels, batch_size=batch_size, caller="diagnose")
    _check_built(model, batches)
    norms = norms_in(model)
    if not norms:
        return Diagnosis(model.name, (), ())
    findings = [*check_weights(model, norms), *check_graph(model, norms)]
    order = [norm.name for norm in norms]
    if batches is None:
        return _diagnosis(model, norms, findings, wanted, order)
    measured = measure(model, norms, batches)
    findings = [
        *_weighed(findings, gaps_of(norms, measured)),
        *check_data(model, norms, measured),
    ]
    order.sort(
        key=lambda name: measured.norms[name].order if name in measured.norms else len(order)
    )
    return _diagnosis(model, norms, findings, wanted, order, measured)


def _weighed(findings: list[Finding], gaps: Mapping[str, Gap]) -> list[Finding]:
    """Make a note of what only the optimizer tells of statistics that suit the data.

    Nothing in a file says that statistics were estimated anew since.
    """

    def weigh(found: Finding) -> Finding:
        gap = gaps.get(found.layer)
        if found.code not in _TOLD_BY_TRAINING or gap is None or not gap.suits:
            return found
        evidence = {**found.evidence, "gap": gap.layer}
        return dataclasses.replace(found, severity="note", evidence=evidence)

    return [weigh(found) for found in findings]


def _check_built(model: Any, data: Data | None) -> None:
    """See that the model has weights; a model of one's own gets them by its first batch."""
    if model.built and model.variables:
        return
    for inputs, _ in data or ():
        model(inputs, training=False) if model._call_has_training_arg else model(inputs)
        return
    if not model.built:
        raise InputError(
            f"diagnose: `model` must have weights. Received: model={model.name!r}, which is not "
            "built. Call it on data once, or pass `data`."
        )


def _diagnosis(
    model: Any,
    norms: tuple[Norm, ...],
    findings: list[Finding],
    wanted: frozenset[str],
    order: list[str],
    measured: Measured | None = None,
) -> Diagnosis:
    # Causes are named although they are not asked for: an effect without its cause would mislead.
    kept = [found for found in ordered(findings, order) if found.code in wanted]
    measures: dict[str, float] = {}
    if measured is not None:
        gaps = gaps_of(norms, measured).values()
        known = not any(np.isnan(gap.channels).any() for gap in gaps)
        # The largest of the others would look like health where statistics are not numbers.
        measures = {"gap": max((gap.layer for gap in gaps), default=0.0) if known else math.nan}
        measures |= measured.scores
    return Diagnosis(
        model=model.name,
        norms=tuple(norm.name for norm in norms),
        findings=tuple(kept),
        samples=measured.samples if measured else 0,
        measures=MappingProxyType(measures),
    )
