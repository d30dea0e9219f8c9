"""`replace` puts another layer in the place of every batch norm of a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.words import counted, named
from batchnorm_mechanics._keras import direct_layers, exchange_layer, layers_by_path, layers_in
from batchnorm_mechanics.layers.accelerate import checked_layers_in
from batchnorm_mechanics.models.compiling import compile_like
from batchnorm_mechanics.models.model_copies import Edits, copied
from batchnorm_mechanics.models.norms import KINDS, norm_layers_in
from batchnorm_mechanics.models.wiring import graph_of


@dataclass(frozen=True, eq=False)
class Replaced:
    """What `replace` did to a model.

    Attributes:
        model: that has the new layers; the model itself where that is changed in its place.
        replaced: the new layers by the paths of the old ones.
        left: the path of each batch norm layer that stands as it was, and why.
        lost: what else of the model could not be taken along, in sentences.
    """

    model: Any
    replaced: Mapping[str, Any]
    left: Mapping[str, str]
    lost: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Replaced(replaced={list(self.replaced)}, left={dict(self.left)})"

    def __str__(self) -> str:
        """Return it in sentences."""
        total = len(self.replaced) + len(self.left)
        lines = [f"Replaced {len(self.replaced)} of {counted(total, 'batch norm layer')}."]
        by_reason: dict[str, list[str]] = {}
        for path, reason in self.left.items():
            by_reason.setdefault(reason, []).append(path)
        lines += [f"Left: {named(paths)}: {reason}." for reason, paths in by_reason.items()]
        if self.lost:
            lines.append(f"Not taken along: {'; '.join(text.rstrip('.') for text in self.lost)}.")
        return "\n".join(lines)


def replace(model: keras.Layer, new: Callable[[Any], Any]) -> Replaced:
    """Put another layer, made from it, in the place of every batch norm layer of a model.

    `bnm.from_keras` makes ours, `bnm.to_group_normalization` group normalization,
    `bnm.to_frozen_affine` a fixed scale and offset; any function from a layer to a layer will do.

    A functional or sequential model is built anew, with copies of all else, and stays as it was. A
    model with code of its own cannot be: its layers are exchanged in it. Where it is compiled, it
    is compiled again, with the optimizer's state for all weights that have the same names and
    shapes.

    Args:
        model: any Keras model, nested ones included; or a layer that holds some.
        new: takes a batch norm layer and returns the layer for its place; None, or the layer
            itself, to leave that as it is. What it refuses by a TypeError or ValueError is left,
            too. A layer without weights gets those of the old one that have the same names and
            shapes, such as gamma and beta.

    Returns:
        `Replaced`, with the model.

    Raises:
        TypeError: `model` is no Keras model or layer, or `new` returned something else.
        InputError: the model has no batch norm or is one, or a layer of it cannot be copied.

    Example:
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((4,)), layer, keras.layers.ReLU()])
        >>> done = replace(model, lambda layer: keras.layers.GroupNormalization(groups=2))
        >>> [(type(one).__name__, one.name) for one in done.model.layers][0]
        ('GroupNormalization', 'bn')
    """
    checked_layers_in(model, caller="replace")
    norms = layers_by_path(model, lambda layer: isinstance(layer, KINDS))
    if not norms or isinstance(model, KINDS):
        raise InputError(
            "replace: `model` must hold batch normalization. Received: "
            + ("a layer of it." if norms else "a model without.")
            + " Call `new` on a layer by yourself."
        )
    made, left = _made(norms, new)
    exchanged = {id(norms[path]): layer for path, layer in made.items()}
    bare = [path for path, layer in made.items() if not layer.built]
    if not made:
        return Replaced(model, MappingProxyType({}), MappingProxyType(left), ())
    if graph_of(model) is None:
        done, lost = model, _exchange(model, exchanged)
    else:
        done, lost = _anew(model, exchanged)
    present = {id(layer) for layer in layers_in(done)}
    for path in [path for path in made if id(made[path]) not in present]:
        left[path] = "what holds it keeps it where it cannot be exchanged"
        del made[path]
    for path in bare:
        if path in made:
            _take_weights(norms[path], made[path])
    if isinstance(model, keras.Model) and made:
        lost = [*lost, *compile_like(model, done)]
    in_order = {path: left[path] for path in norms if path in left}
    return Replaced(
        done, MappingProxyType(made), MappingProxyType(in_order), tuple(dict.fromkeys(lost))
    )


def _made(
    norms: Mapping[str, Any], new: Callable[[Any], Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the new layers, and why there is none for the others, by the paths of the old."""
    made: dict[str, Any] = {}
    left: dict[str, str] = {}
    for path, layer in norms.items():
        try:
            one = new(layer)
        except (TypeError, ValueError) as error:
            left[path] = f"`new` refused it ({first_line(error)})"
            continue
        if one is None or one is layer:
            left[path] = "`new` left it as it is"
            continue
        if not isinstance(one, keras.Layer):
            raise TypeError(
                "replace: `new` must return a Keras layer. Received: "
                f"new({path})={one!r}. Return None to leave the layer as it is."
            )
        one.name = layer.name
        made[path] = one
    return made, left


def _anew(model: Any, exchanged: dict[int, Any]) -> tuple[Any, list[str]]:
    """Build a graph anew; in copies of layers with code of their own, exchange."""
    new = copied(model, Edits(exchanged=exchanged), caller="replace")
    lost = list(new.lost)
    originals = {id(layer): layer for layer in layers_in(model)}
    for key, copies in new.of.items():
        original = originals.get(key)
        if original is None or key in exchanged or graph_of(original) is not None:
            continue
        within = layers_in(original)
        for copy in copies:
            pairs = zip(within, layers_in(copy), strict=True)
            inner = {id(twin): exchanged[id(one)] for one, twin in pairs if id(one) in exchanged}
            if inner:
                lost += _exchange(copy, inner)
    return new.model, lost


def _exchange(owner: Any, exchanged: dict[int, Any]) -> list[str]:
    """Exchange layers in what has code of its own, however deep; return what was lost."""
    lost: list[str] = []
    for holder in layers_in(owner):
        if graph_of(holder) is not None:
            continue
        for layer in list(direct_layers(holder)):
            if id(layer) in exchanged:
                one = exchanged[id(layer)]
                if exchange_layer(holder, layer, one) and layer.built and not one.built:
                    one.build(layer.get_build_config()["input_shape"])
            elif graph_of(layer) is not None and any(
                id(norm) in exchanged for norm in norm_layers_in(layer)
            ):
                inner, inner_lost = _anew(layer, exchanged)
                exchange_layer(holder, layer, inner)
                lost += inner_lost
    return lost


def _take_weights(old: Any, new: Any) -> None:
    """Give a layer that came without weights those of the old one that fit it by name."""
    given = {weight.name: weight for weight in old.weights}
    for weight in new.weights:
        held = given.get(weight.name)
        if held is not None and tuple(held.shape) == tuple(weight.shape):
            weight.assign(held)
