"""Two Keras models with one graph: which weights and settings of theirs differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._keras import own_variables
from batchnorm_mechanics.comparison.calls import Calls, Stage
from batchnorm_mechanics.comparison.layouts import distance
from batchnorm_mechanics.comparison.ran import root_mean_square
from batchnorm_mechanics.models.norms import KINDS

# Settings that change what a layer computes, and are no weights.
_SETTINGS = (
    "activation",
    "axis",
    "center",
    "data_format",
    "dilation_rate",
    "epsilon",
    "groups",
    "padding",
    "pool_size",
    "scale",
    "strides",
    "use_bias",
)


@dataclass(frozen=True)
class Change:
    """A weight or a setting that differs.

    Attributes:
        layer: path in A.
        what: name of the weight or setting, as "moving_mean".
        words: how far it differs.
        is_norm: whether the layer is batch norm.
        relative: of a weight, root mean square of the difference to that of A's; None of a setting.
    """

    layer: str
    what: str
    words: str
    is_norm: bool
    relative: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "layer": self.layer,
            "what": self.what,
            "words": self.words,
            "relative": plain(self.relative),
        }


def paired(a: Calls, b: Calls) -> list[tuple[Stage, Stage]] | None:
    """Return the calls of two models side by side where they have one graph, or None."""
    if a.form != b.form:
        return None
    pairs = list(zip(a.stages, b.stages, strict=True))
    shapes = ([tuple(one.shape) for one in stage.weights] for pair in pairs for stage in pair)
    return pairs if all(one == other for one, other in zip(shapes, shapes, strict=True)) else None


def changes_of(pairs: list[tuple[Stage, Stage]]) -> tuple[Change, ...]:
    """Return what differs between layers, each pair of layers once, in the order of the graph."""
    seen: set[tuple[int, int]] = set()
    found: list[Change] = []
    for one, other in pairs:
        key = id(one.operation), id(other.operation)
        if key not in seen and isinstance(one.operation, keras.Layer):
            found += [*_settings(one, other), *_weights(one, other)]
        seen.add(key)
    return tuple(found)


def _settings(one: Stage, other: Stage) -> Iterator[Change]:
    is_norm = isinstance(one.operation, KINDS)
    for name in _SETTINGS:
        a, b = (getattr(stage.operation, name, None) for stage in (one, other))
        a, b = (getattr(value, "__name__", value) for value in (a, b))
        if isinstance(a, keras.Layer) or isinstance(b, keras.Layer) or plain(a) == plain(b):
            continue
        # An axis counted from the end is the same one counted from the start.
        if name == "axis" and is_norm and _axis(one) == _axis(other):
            continue
        yield Change(one.name, name, f"{_short(b)} in B and {_short(a)} in A", is_norm)


def _axis(stage: Stage) -> Any:
    axis = stage.operation.axis
    axis = axis[0] if isinstance(axis, list | tuple) else axis
    return axis % len(stage.node.input_tensors[0].shape)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _weights(one: Stage, other: Stage) -> Iterator[Change]:
    a, b = one.weights, other.weights
    is_norm = isinstance(one.operation, KINDS)
    own = {id(weight) for weight in own_variables(one.operation)}
    for first, second in zip(a, b, strict=True):
        if "float" not in keras.backend.standardize_dtype(first.dtype):
            continue
        x, y = (np.asarray(keras.ops.convert_to_numpy(w), np.float64) for w in (first, second))
        gap, size = distance(y, x), root_mean_square(x)
        if gap == 0:
            continue
        relative = gap / size if size else float("inf")
        name = first.name if id(first) in own else first.path.partition("/")[2]
        words = f"differs by {relative:.2g} of its size" if size else "differs, and is 0 in A"
        yield Change(one.name, name, words, is_norm, relative)
