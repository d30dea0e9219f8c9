"""A mark of ours on a model: which statistics were estimated anew, which no weight tells.

A model has it at hand, and its file has it too: Keras leaves alone what it does not know there.
"""

import hashlib
import json
import weakref
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._io.json import NewerError, check_format

_MEMBER = "batchnorm_mechanics.json"
# Of that member; the first ones did not say so. tests/formats keeps a file of each version.
_FORMAT = 1


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


def write_mark(model: Any, path: Path) -> None:
    """Add to a `.keras` file which statistics were estimated anew, if any were.

    Args:
        model: the one that the file holds.
        path: of the file, not yet in its place: `save_model` puts it there when it is whole.
    """
    mark = mark_of(model)
    if mark is not None:
        known = {"format": _FORMAT, "estimated": sorted(mark.layers), "weights": mark.weights}
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(known))


def read_mark(model: Any, path: Path) -> None:
    """Give a model that was loaded from a file the mark in it, if there is one.

    It holds as long as the weights are those that it was made for.

    Raises:
        ValueError: what stands there is no mark.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            return
        known = json.loads(archive.read(_MEMBER))
    if not isinstance(known, dict):
        raise ValueError(f"{_MEMBER} in it is damaged")
    try:
        check_format(known, _FORMAT)
    except NewerError as error:
        raise ValueError(f"{_MEMBER} in it was {error}") from error
    if not {"estimated", "weights"} <= known.keys():
        raise ValueError(f"{_MEMBER} in it is damaged")
    put_mark(model, Mark(frozenset(known["estimated"]), known["weights"]))


def _digest(model: Any) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
