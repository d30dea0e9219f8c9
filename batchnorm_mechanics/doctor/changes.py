"""What was changed in a model, layer by layer, and the way back."""

import math
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._io.terminal import Shown

Values = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class LayerChange:
    """What was changed in one layer.

    Attributes:
        name: path of the layer in the model.
        layer: the layer itself.
        before: the old values: arrays by the names of weights, and settings such as "momentum".
        after: the new ones, as the layer holds them, by the same names.
        weights: the variables concerned, by name.
    """

    name: str
    layer: Any
    before: Values
    after: Values
    weights: Mapping[str, Any]

    def undo(self) -> None:
        """Put the old values back."""
        _assign(self.layer, self.before)

    @property
    def is_rebuilt(self) -> bool:
        """Whether the layer has other variables now than those that were changed."""
        now = weights_of(self.layer)
        return any(now.get(name) is not weight for name, weight in self.weights.items())


def changed(name: str, layer: Any, values: Values) -> LayerChange:
    """Change a layer, and return what was changed.

    Args:
        name: path of the layer in the model.
        layer: with weights.
        values: arrays by the names of weights, rounded once to their types; others are settings.
    """
    names = tuple(values)
    concerned = {name: weight for name, weight in weights_of(layer).items() if name in values}
    before = _read(layer, names)
    try:
        _assign(layer, values)
    except BaseException:
        _assign(layer, before)
        raise
    return LayerChange(name, layer, before, _read(layer, names), MappingProxyType(concerned))


def undo_all(changes: Iterable[LayerChange]) -> None:
    """Put all old values back, the last change first."""
    for change in reversed(tuple(changes)):
        change.undo()


def weights_of(layer: Any) -> dict[str, Any]:
    """Return a layer's variables by name."""
    return {weight.name: weight for weight in layer.weights}


def _read(layer: Any, names: Iterable[str]) -> Values:
    weights = weights_of(layer)
    return MappingProxyType(
        {
            name: keras.ops.convert_to_numpy(weights[name]).copy()
            if name in weights
            else getattr(layer, name)
            for name in names
        }
    )


def _assign(layer: Any, values: Values) -> None:
    weights = weights_of(layer)
    for name, value in values.items():
        if name in weights:
            weights[name].assign(value)
        else:
            setattr(layer, name, value)


@dataclass(frozen=True, eq=False, repr=False)
class Change(Shown):
    """What `recalibrate` or `repair` changed in a model.

    Attributes:
        layers: what was changed, layer by layer, in the order of the model.
        left: batch norm layers that were left as they are, and why.
        samples: how many samples of data stand behind it.
        how: how the statistics were estimated, in words; "" where they were not.
        notes: what else is to be known of the data, in sentences.
    """

    layers: tuple[LayerChange, ...]
    left: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    samples: int = 0
    how: str = ""
    notes: tuple[str, ...] = ()

    def undo(self) -> None:
        """Put the old weights and settings back, bit for bit; doing it again changes nothing.

        Raises:
            InputError: a layer was rebuilt since, so that the variables are others now. Nothing is
                changed then.
        """
        rebuilt = [change.name for change in self.layers if change.is_rebuilt]
        if rebuilt:
            raise InputError(
                "Change.undo: the layers must still have the weights that were changed. "
                f"Received: layers built anew since: {', '.join(rebuilt)}. "
                "Load the model from its file."
            )
        undo_all(self.layers)

    def as_json(self) -> dict[str, Any]:
        """Return the change as JSON can hold it."""
        return {
            "how": self.how,
            "samples": self.samples,
            "left": dict(self.left),
            "notes": list(self.notes),
            "layers": [
                {
                    "layer": change.name,
                    "changed": {
                        name: {"before": plain(old), "after": plain(change.after[name])}
                        for name, old in change.before.items()
                    },
                }
                for change in self.layers
            ],
        }

    def __str__(self) -> str:
        kept = ", ".join(f"{name} ({reason})" for name, reason in self.left.items())
        moves, ratios = (
            {change.name: size(change) for change in self.layers if name in change.before}
            for name, size in (
                ("moving_mean", _move_of_mean),
                ("moving_variance", _ratio_of_variance),
            )
        )
        return "\n".join(
            (
                f"{len(self.layers)} layers changed"
                + (f": {self.how}, from {self.samples:,} samples" if self.how else ""),
                f"Largest move of a mean: {_largest(moves, '{:.3g} standard deviations')}",
                f"Largest change of a variance: {_largest(ratios, '{:.3g} times')}",
                f"Left as they are: {kept or 'none'}",
                "`undo()` puts the old values back.",
            )
        )


def joined(changes: Iterable[LayerChange]) -> tuple[LayerChange, ...]:
    """Return changes made one after another with one record for each layer."""
    by_layer: dict[int, list[LayerChange]] = {}
    for change in changes:
        by_layer.setdefault(id(change.layer), []).append(change)
    return tuple(
        LayerChange(
            of_one[0].name,
            of_one[0].layer,
            _first_of(change.before for change in of_one),
            _first_of(change.after for change in reversed(of_one)),
            _first_of(change.weights for change in of_one),
        )
        for of_one in by_layer.values()
    )


def _first_of(values: Iterable[Values]) -> Values:
    """Return, by name, what stands in the first of several that has it."""
    return dict(ChainMap(*map(dict, values)))


def _move_of_mean(change: LayerChange) -> NDArray[Any]:
    old, new = _pair(change, "moving_mean")
    variance = np.asarray(change.after.get("moving_variance", 1.0), np.float64)
    return np.abs(new - old) / np.sqrt(variance + 1e-12)


def _ratio_of_variance(change: LayerChange) -> NDArray[Any]:
    old, new = _pair(change, "moving_variance")
    with np.errstate(divide="ignore", invalid="ignore"):
        # Below 0 there is no ratio: NaN, which comes out as "not finite before".
        return np.exp(np.abs(np.log(new / old)))


def _pair(change: LayerChange, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    before, after = change.before[name], change.after[name]
    return np.asarray(before, np.float64), np.asarray(after, np.float64)


def _largest(sizes: Mapping[str, NDArray[Any]], form: str) -> str:
    worst, where = -1.0, "none"
    for name, of_channels in sizes.items():
        sortable = np.where(np.isfinite(of_channels), of_channels, np.inf)
        channel = int(sortable.argmax())
        if sortable[channel] > worst:
            worst = float(sortable[channel])
            words = form.format(worst) if math.isfinite(worst) else "unusable before"
            where = f"{words}, {name} channel {channel} of {len(sortable)}"
    return where
