"""`diagnose`: what batch norm does wrong in a model, and what explains what."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.distribute.executors import executor_of
from batchnorm_mechanics.doctor.calls import build
from batchnorm_mechanics.doctor.causes import ordered
from batchnorm_mechanics.doctor.findings import Diagnosis, Finding, milder
from batchnorm_mechanics.doctor.gaps import Gap
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.doctor.rule import Case
from batchnorm_mechanics.doctor.rules import RULES, chosen
from batchnorm_mechanics.doctor.shards import cut, hosted
from batchnorm_mechanics.models.data import DEFAULT_BATCH_SIZE, as_data
from batchnorm_mechanics.models.norms import held, norms_in


def diagnose(  # noqa: PLR0913 - what, by what, in search of what, and where
    model: Any,
    data: Any = None,
    *,
    labels: Any = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    select: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    call: Callable[[Any, Any], Any] | None = None,
    executor: Any = None,
) -> Diagnosis:
    """Find what batch norm does wrong in a model, and say why.

    The weights and the graph are looked at first, then what data say: they go through the model
    once, as in `predict`, and some hundred a few times more. Nothing of the model changes.

    Args:
        model: any Keras model: functional, sequential, subclassed, nested.
        data: a `tf.data.Dataset` of batches, of inputs or (inputs, labels); an array of samples; a
            tuple (inputs, labels); a list or dict of arrays for several inputs; or None.
        labels: an array, for `data` without: class numbers, one-hot rows, or what the model's loss
            takes.
        batch_size: for arrays; best that of training, which BN206 judges.
        select: codes to look for, or beginnings of codes as "BN1"; none means all.
        ignore: likewise, taken away from those.
        call: how to run a model that is not called with a batch alone, such as
            `lambda gan, z: gan.generator(z)`: a function of the model and a batch that returns
            outputs. The mode is not its business.
        executor: as in `recalibrate`: where the pass over the data is made. What is then asked of
            a few samples is asked here.

    Returns:
        `Diagnosis`; without layers and findings where the model has no batch norm. Its `measures`
        are "gap", the largest of a layer that could be heard, which is NaN where statistics are;
        "output_change", how far the outputs with batch statistics are from those in inference, in
        spreads of the output and beyond chance, and "predictions_changed", the part of samples
        whose largest output is another one; and with labels "loss", if the model is compiled, and
        "accuracy", both also "_by_batch", which is with batch statistics.

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
        batches = as_data(data, labels=labels, batch_size=batch_size, call=call, caller="diagnose")
    build(model, batches, caller="diagnose")
    norms = norms_in(model)
    if not norms:
        return Diagnosis(model.name, (), ())
    place = executor_of(executor, caller="diagnose")
    measured = None
    if batches is not None:
        batches = cut(batches, place)
        with hosted(model, place) as workers:
            measured = measure(model, norms, batches, workers)
    case = Case(model, tuple(map(held, norms)), measured)
    names = tuple(norm.name for norm in norms)
    # Causes are named although they are not asked for: an effect without its cause would mislead.
    found = tuple(one for one in findings_of(case) if one.code in wanted)
    if measured is None:
        return Diagnosis(model.name, names, found)
    return Diagnosis(
        model.name,
        names,
        found,
        samples=measured.samples,
        measures=MappingProxyType(
            _largest(case.gaps) | measured.effects.on_output | dict(measured.scores)
        ),
        unseen=MappingProxyType(dict(measured.unseen) | _unclear(case.gaps)),
    )


def findings_of(case: Case) -> tuple[Finding, ...]:
    """Return what all rules find, with roots, in the order in which a reader wants it."""
    found = [by_effect(one, case) for rule in RULES.values() for one in rule.check(case)]
    # Layers that data say nothing of come last.
    order = list(dict.fromkeys((*case.gaps, *(norm.name for norm in case.norms))))
    before = ordered(found, order)
    last = [one for rule in RULES.values() for one in rule.check_last(case, before)]
    return ordered([*found, *last], order) if last else before


def by_effect(found: Finding, case: Case) -> Finding:
    """Return a finding that is no louder than what it does to the outputs, if that is known."""
    effects = None if case.measured is None else case.measured.effects
    if effects is None or effects.relative is None or not RULES[found.code].parts_modes:
        return found
    severity = milder(found.severity, effects.severity)
    if severity == found.severity:
        return found
    return replace(found, severity=severity, evidence={**found.evidence, **effects.on_output})


def _largest(gaps: Mapping[str, Gap]) -> dict[str, float]:
    """Return the gap of the model: the largest of a layer; none if no layer was heard."""
    if not gaps:
        return {}
    # The largest of the others would look like health where statistics are not numbers.
    known = not any(np.isnan(gap.channels).any() for gap in gaps.values())
    return {"gap": max(gap.layer for gap in gaps.values()) if known else math.nan}


def _unclear(gaps: Mapping[str, Gap]) -> dict[str, str]:
    """Return the layers of which data say too little, and why."""
    return {
        name: "its statistics may be off, and "
        + ("one batch is" if gap.batches == 1 else f"{gap.batches} batches are")
        + " too few to tell"
        for name, gap in gaps.items()
        if gap.is_unclear
    }
