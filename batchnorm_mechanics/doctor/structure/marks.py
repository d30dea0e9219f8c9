"""Which statistics were estimated anew since training, which no weight tells."""

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Mark:
    """What is known of a model as long as its weights are these.

    Attributes:
        layers: paths of layers whose statistics were estimated from data for these weights.
        weights: digest of all weights of the model.
    """

    layers: frozenset[str]
    weights: str


_MARKS: weakref.WeakKeyDictionary[Any, Mark] = weakref.WeakKeyDictionary()


def mark_estimated(model: Any, layers: Iterable[str]) -> None:
    """Note that the statistics of some layers are those of data for the weights as they are now.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.layers.Input((2,)), keras.layers.BatchNormalization(name="bn")]
        ... )
        >>> mark_estimated(model, ["bn"])
        >>> sorted(estimated_in(model))
        ['bn']
        >>> _ = model.layers[0].gamma.assign([2.0, 2.0])
        >>> sorted(estimated_in(model))
        []
    """
    _MARKS[model] = Mark(frozenset(layers), _digest(model))


def estimated_in(model: Any) -> frozenset[str]:
    """Return the layers whose statistics were estimated anew, if no weight has changed since."""
    mark = mark_of(model)
    return frozenset() if mark is None else mark.layers


def mark_of(model: Any) -> Mark | None:
    """Return a model's mark, or None where there is none that holds."""
    mark = _MARKS.get(model)
    return mark if mark is not None and mark.weights == _digest(model) else None


def put_mark(model: Any, mark: Mark) -> None:
    """Give a model that was loaded from a file the mark that the file holds."""
    _MARKS[model] = mark


def _digest(model: Any) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
