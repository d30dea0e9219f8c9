"""Mistakes of the moving statistics: how they move, what inference makes of them, what is saved."""

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from batchnorm_mechanics.conformance.mistakes import (
    Kind,
    Mistake,
    Moments,
    Pair,
    Seen,
    blend,
    right_intake,
    right_update,
)
from batchnorm_mechanics.conformance.mistakes.batch import STD_FOR_VARIANCE

_forward = partial(Mistake.of, "forward")
_statistics = partial(Mistake.of, "statistics")
_inference = partial(Mistake.of, "inference")


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

STATISTICS: tuple[Mistake, ...] = (
    _statistics(
        "moving statistics never updated",
        update=_only(mean=False, variance=False),
    ),
    _statistics("moving variance never updated", update=_only(mean=True, variance=False)),
    _statistics("moving mean never updated", update=_only(mean=False, variance=True)),
    _statistics(
        "momentum reversed against the declared convention",
        decay=lambda decay: 1 - decay,
    ),
    *(
        _statistics(
            f"momentum {value:g} used whatever is set",
            decay=lambda decay, value=value: value,
        )
        for value in _DECAYS
    ),
    _statistics(f"{STD_FOR_VARIANCE}, in the moving average", intake=_root),
    _statistics(
        "moving variance takes deviations from the moving mean",
        intake=_from_moving_mean,
    ),
    _statistics(
        "moving variance takes in the other variance than elsewhere (biased or unbiased)",
        intake=_other_variance,
    ),
    _statistics("moving variance multiplied by (m'-1)/m'", intake=_by_less_than_batch),
    _statistics(
        "mean and variance exchanged in the moving statistics",
        intake=lambda batch, unbiased, old: Pair(*reversed(right_intake(batch, unbiased, old))),
    ),
    _statistics("moving statistics updated twice for each batch", update=_twice),
    _statistics(
        "moving statistics replaced by those of the last batch",
        decay=lambda decay: 0.0,
    ),
    _statistics(
        "batches averaged with equal weights instead of by momentum",
        update=_cumulative,
    ),
    _statistics("new value added without its weight 1 - momentum", update=_added),
    _statistics(
        "a batch without samples taken in as mean 0 and variance 0",
        update=_unguarded,
    ),
    _statistics("statistics updated in inference", moves_in_inference=True),
)


def _only_in_inference(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return old if seen.training else right_update(old, taken, decay, seen)


EXCHANGED = _forward(
    "training and inference exchanged",
    training=lambda batch, old, new: old,
    inference=lambda moving, batch: batch,
    update=_only_in_inference,
    moves_in_inference=True,
)

INFERENCE: tuple[Mistake, ...] = (
    _inference("batch statistics used in inference", inference=lambda moving, batch: batch),
    _inference(
        "moving mean and variance exchanged",
        inference=lambda moving, batch: Pair(moving.variance, moving.mean),
    ),
    _inference(
        "moving variance taken for a standard deviation",
        inference=lambda moving, batch: moving._replace(variance=moving.variance**2),
    ),
    _inference(
        "moving statistics ignored in inference: mean 0 and variance 1 used",
        inference=lambda moving, batch: Pair(
            tf.zeros_like(moving.mean), tf.ones_like(moving.variance)
        ),
    ),
    _inference(
        "moving mean ignored in inference",
        inference=lambda moving, batch: moving._replace(mean=tf.zeros_like(moving.mean)),
    ),
    _inference(
        "moving variance ignored in inference",
        inference=lambda moving, batch: moving._replace(variance=tf.ones_like(moving.variance)),
    ),
    _inference(
        "batch mean with moving variance used in inference",
        inference=lambda moving, batch: Pair(batch.mean, moving.variance),
    ),
)


def _lost(what: str, kind: Kind, **changes: Any) -> Mistake:
    """Return a mistake that only saving and loading can have made."""
    name = f"not restored by saving and loading: {what}"
    return Mistake.of(kind, name, reloaded=True, **changes)


RELOADED: tuple[Mistake, ...] = (
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
