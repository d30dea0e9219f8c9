"""The mistakes of replicas that share a batch: where each goes by its own part."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.mistakes import (
    Mistake,
    Pair,
    Seen,
    Triple,
    blend,
    right_update,
    table,
)
from batchnorm_mechanics.conformance.mistakes.arithmetic import where

_APART: Mapping[str, Mapping[str, Any]] = {
    "a mask switches synchronization off: each replica goes by its own part": {
        "synchronizes": lambda synchronized, masked: synchronized and not masked,
        "merges": lambda synchronized, masked: not (synchronized and masked),
    },
    "not synchronized: each replica goes by its own part": {
        "synchronizes": lambda synchronized, masked: False,
        "merges": lambda synchronized, masked: not synchronized,
    },
    "each replica keeps moving statistics of its own part": {
        "merges": lambda synchronized, masked: False
    },
    "each replica normalizes by its own part": {"synchronizes": lambda synchronized, masked: False},
}


def _poisoned(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    new = right_update(old, taken, decay, seen)
    return Pair(*(where(seen.count > 0, value, np.full(value.shape, np.nan)) for value in new))


def _poisoned_slopes(slopes: Triple, prediction: Any) -> Triple:
    """Return the gradients with 0 * NaN in gamma's, where there are no samples."""
    if prediction.material.xs[0].size:
        return slopes
    return slopes._replace(dgamma=np.full_like(slopes.dgamma, np.nan))


def _taken_in(old: Pair, taken: Pair, decay: float, seen: Seen) -> Pair:
    return Pair(*(blend(*both, decay) for both in zip(old, taken, strict=True)))


_OF_NOTHING: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "NaN where that is empty": {"update": _poisoned, "slopes": _poisoned_slopes},
    "mean 0 and variance 0 where that is empty": {"update": _taken_in},
}


def _all() -> Iterator[Mistake]:
    yield from table("forward", _APART)
    for name, apart in _APART.items():
        # Merged, the statistics are of samples wherever they are.
        for of_nothing, changes in _OF_NOTHING.items() if "merges" in apart else ():
            mistake = Mistake.of("forward", f"{name}, {of_nothing}", **apart, **changes)
            yield replace(mistake, goes_further=True)


SHARING = tuple(_all())
