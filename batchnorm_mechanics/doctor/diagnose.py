"""`diagnose`: what batch norm does wrong in a model, from its weights, its graph, and data."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.doctor.checks.data import check_data
from batchnorm_mechanics.doctor.checks.gaps import Gap, gaps_of
from batchnorm_mechanics.doctor.checks.graph import check_graph
from batchnorm_mechanics.doctor.checks.roots import ordered
from batchnorm_mechanics.doctor.checks.weights import check_weights
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, as_data
from batchnorm_mechanics.doctor.findings import Diagnosis, Finding
from batchnorm_mechanics.doctor.probing.probe import measure
from batchnorm_mechanics.doctor.probing.running import build
from batchnorm_mechanics.doctor.rules import chosen
from batchnorm_mechanics.doctor.structure.norms import norms_in

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
        are "gap", the largest of a layer that could be heard, which is NaN where statistics are;
        and with labels "loss", if the model is compiled, and "accuracy".

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
    wanted = chosen(select, ignore, caller="diagnose")
    batches = None
    if data is not None:
        batches = as_data(data, labels=labels, batch_size=batch_size, caller="diagnose")
    build(model, batches, caller="diagnose")
    norms = norms_in(model)
    if not norms:
        return Diagnosis(model.name, (), ())
    findings = [*check_weights(model, norms), *check_graph(model, norms)]
    order = [norm.name for norm in norms]
    if batches is None:
        return Diagnosis(model.name, tuple(order), _kept(findings, wanted, order))
    measured = measure(model, norms, batches)
    gaps = gaps_of(norms, measured)
    findings = [*_weighed(findings, gaps), *check_data(norms, measured, gaps)]
    called = sorted(order, key=lambda name: list(gaps).index(name) if name in gaps else len(gaps))
    return Diagnosis(
        model=model.name,
        norms=tuple(order),
        findings=_kept(findings, wanted, called),
        samples=measured.samples,
        measures=MappingProxyType(_gap_of_all(gaps) | dict(measured.scores)),
        unseen=measured.unseen,
    )


def _kept(findings: list[Finding], wanted: frozenset[str], order: list[str]) -> tuple[Finding, ...]:
    # Causes are named although they are not asked for: an effect without its cause would mislead.
    return tuple(found for found in ordered(findings, order) if found.code in wanted)


def _gap_of_all(gaps: Mapping[str, Gap]) -> dict[str, float]:
    """Return the largest gap of a layer; NaN where statistics are, nothing if none was heard."""
    if not gaps:
        return {}
    # The largest of the others would look like health where statistics are not numbers.
    known = not any(np.isnan(gap.channels).any() for gap in gaps.values())
    return {"gap": max(gap.layer for gap in gaps.values()) if known else math.nan}


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
