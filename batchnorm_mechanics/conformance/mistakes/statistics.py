"""Mistakes of the moving statistics: how they move, what inference makes of them, what is saved."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from batchnorm_mechanics.conformance.mistakes.forward import STD_FOR_VARIANCE
from batchnorm_mechanics.conformance.mistakes.hypothesis import Hypothesis, Kind, mistake
from batchnorm_mechanics.conformance.steps import (
    Moments,
    Pair,
    Seen,
    blend,
    right_intake,
    right_update,
)


def _root(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    taken = right_intake(batch, unbiased, old)
    return taken._replace(variance=tf.sqrt(taken.variance))


def _from_moving_mean(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    taken = right_intake(batch, unbiased, old)
    return taken._replace(variance=taken.variance + (batch.mean - old.mean) ** 2)


def _only(*, mean: bool, variance: bool) -> Callable[..., Pair]:
    def update(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
        new = right_update(old, taken, decay, seen)
        return Pair(new.mean if mean else old.mean, new.variance if variance else old.variance)

    return update


def _twice(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return right_update(right_update(old, taken, decay, seen), taken, decay, seen)


def _unguarded(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return Pair(blend(old.mean, taken.mean, decay), blend(old.variance, taken.variance, decay))


def _cumulative(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return right_update(old, taken, seen.number / (seen.number + 1), seen)


def _added(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return Pair(decay * old.mean + taken.mean, decay * old.variance + taken.variance)


def _other_variance(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    return right_intake(batch, not unbiased, old)


def _by_less_than_batch(batch: Moments, unbiased: bool, old: Pair) -> Pair:
    return Pair(batch.mean, batch.variance * (batch.count - 1) / batch.count)


def _forgotten(moving: Pair) -> Pair:
    return Pair(tf.zeros_like(moving.mean), tf.ones_like(moving.variance))


def _forgotten_variance(moving: Pair) -> Pair:
    return moving._replace(variance=tf.ones_like(moving.variance))


_DECAYS = (0.99, 0.9, 0.999)
_EPSILONS = (1e-3, 1e-5)

STATISTICS: tuple[Hypothesis, ...] = (
    mistake(
        "moving statistics never updated",
        "statistics",
        update=_only(mean=False, variance=False),
    ),
    mistake("moving variance never updated", "statistics", update=_only(mean=True, variance=False)),
    mistake("moving mean never updated", "statistics", update=_only(mean=False, variance=True)),
    mistake(
        "momentum reversed against the declared convention",
        "statistics",
        decay=lambda decay: 1 - decay,
    ),
    *(
        mistake(
            f"momentum {value:g} used whatever is set",
            "statistics",
            decay=lambda decay, value=value: value,
        )
        for value in _DECAYS
    ),
    mistake(f"{STD_FOR_VARIANCE}, in the moving average", "statistics", intake=_root),
    mistake(
        "moving variance takes deviations from the moving mean",
        "statistics",
        intake=_from_moving_mean,
    ),
    mistake(
        "moving variance takes in the other variance than elsewhere (biased or unbiased)",
        "statistics",
        intake=_other_variance,
    ),
    mistake("moving variance multiplied by (m'-1)/m'", "statistics", intake=_by_less_than_batch),
    mistake(
        "mean and variance exchanged in the moving statistics",
        "statistics",
        intake=lambda batch, unbiased, old: Pair(*reversed(right_intake(batch, unbiased, old))),
    ),
    mistake("moving statistics updated twice for each batch", "statistics", update=_twice),
    mistake(
        "moving statistics replaced by those of the last batch",
        "statistics",
        decay=lambda decay: 0.0,
    ),
    mistake(
        "batches averaged with equal weights instead of by momentum",
        "statistics",
        update=_cumulative,
    ),
    mistake("new value added without its weight 1 - momentum", "statistics", update=_added),
    mistake(
        "a batch without samples taken in as mean 0 and variance 0",
        "statistics",
        update=_unguarded,
    ),
    mistake("statistics updated in inference", "statistics", moves_in_inference=True),
)


def _only_in_inference(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return old if seen.training else right_update(old, taken, decay, seen)


EXCHANGED = mistake(
    "training and inference exchanged",
    "forward",
    training=lambda batch, old, new: old,
    inference=lambda moving, batch: batch,
    update=_only_in_inference,
    moves_in_inference=True,
)

INFERENCE: tuple[Hypothesis, ...] = (
    mistake(
        "batch statistics used in inference", "inference", inference=lambda moving, batch: batch
    ),
    mistake(
        "moving mean and variance exchanged",
        "inference",
        inference=lambda moving, batch: Pair(moving.variance, moving.mean),
    ),
    mistake(
        "moving variance taken for a standard deviation",
        "inference",
        inference=lambda moving, batch: moving._replace(variance=moving.variance**2),
    ),
    mistake(
        "moving statistics ignored in inference: mean 0 and variance 1 used",
        "inference",
        inference=lambda moving, batch: Pair(
            tf.zeros_like(moving.mean), tf.ones_like(moving.variance)
        ),
    ),
    mistake(
        "moving mean ignored in inference",
        "inference",
        inference=lambda moving, batch: moving._replace(mean=tf.zeros_like(moving.mean)),
    ),
    mistake(
        "moving variance ignored in inference",
        "inference",
        inference=lambda moving, batch: moving._replace(variance=tf.ones_like(moving.variance)),
    ),
    mistake(
        "batch mean with moving variance used in inference",
        "inference",
        inference=lambda moving, batch: Pair(batch.mean, moving.variance),
    ),
)


def _lost(what: str, kind: Kind, **changes: Any) -> Hypothesis:
    """Return a mistake that only saving and loading can have made."""
    name = f"not restored by saving and loading: {what}"
    return Hypothesis(name, kind, MappingProxyType(changes), reloaded=True)


RELOADED: tuple[Hypothesis, ...] = (
    *(
        _lost(
            f"epsilon, which is {value:g} again",
            "forward",
            epsilon=lambda epsilon, value=value: value,
        )
        for value in _EPSILONS
    ),
    *(
        _lost(
            f"momentum, whose old value weighs {value:g} again",
            "statistics",
            decay=lambda decay, value=value: value,
        )
        for value in _DECAYS
    ),
    _lost("the moving statistics, which are 0 and 1 again", "statistics", stored=_forgotten),
    _lost("the moving variance, which is 1 again", "statistics", stored=_forgotten_variance),
    _lost("gamma", "forward", affine=lambda x, gamma, beta, _: x + beta),
    _lost("beta", "forward", affine=lambda x, gamma, beta, _: gamma * x),
    _lost("gamma and beta", "forward", affine=lambda x, gamma, beta, _: x),
)
