"""Weights alone, from whatever file they lie in, put into the model that they are of."""

import itertools
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._user_code import is_there

# Of a TensorFlow checkpoint.
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_BESIDE = re.compile(r"optimizer/|keras_api/|save_counter|_CHECKPOINTABLE|.*\.OPTIMIZER_SLOT")
_NUMBERED = re.compile(r"(layer(?:_with_weights)?)-(\d+)")
_LAST = re.compile(r'^model_checkpoint_path: "(.+)"$', re.MULTILINE)
_MOST_SHOWN = 3

Shapes = tuple[tuple[int, ...], ...]


class MismatchError(Exception):
    """Weights are not those of a model; the message says which layers differ."""


def checkpoint_at(path: Path) -> Path | None:
    """Return the name by which TensorFlow reads a checkpoint, or None where there is none.

    Args:
        path: that name itself, its `.index` file, the folder in which `checkpoint` names the last
            one, or a SavedModel.
    """
    if path.suffix == ".index":
        path = path.with_suffix("")
    found = [path]
    named = path / "checkpoint"
    last = is_there(named) and _LAST.search(named.read_text(errors="replace"))
    if last:
        # Its own folder: a path that was stored elsewhere need not be there.
        found.append(path / Path(last[1]).name)
    found.append(path / "variables" / "variables")
    whole = (one for one in found if one.name and is_there(one.with_name(f"{one.name}.index")))
    return next(whole, None)


def put_weights(model: Any, path: Path) -> None:
    """Put the weights of a file into a model.

    Args:
        model: with weights of the same shapes.
        path: of a `.keras` file, an HDF5 file with weights or a whole model, of Keras 3 or older,
            or of a TensorFlow checkpoint.

    Raises:
        MismatchError: its layers or their weights differ from the model's.
    """
    found = checkpoint_at(path)
    if found is not None:
        _from_checkpoint(model, found)
    elif path.suffix == ".keras":
        model.load_weights(path)
    else:
        _from_hdf5(model, path)


def _from_hdf5(model: Any, path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        if _names(group, "layer_names") is not None:
            _from_layers(model, group)
            return
        held = _variables(file)
    with tempfile.TemporaryDirectory() as folder:
        # What the model's own file would hold says what is expected, and of which layer.
        own = Path(folder) / "own.weights.h5"
        model.save_weights(own)
        with h5py.File(own) as file:
            expected = _variables(file)
            names = {key: file[key].attrs.get("name", key) for key in expected}
    _compare(
        (f"the layer {names.get(key, key)!r}", held.get(key, ()), expected.get(key, ()))
        for key in (*expected, *(held.keys() - expected.keys()))
    )
    model.load_weights(path)


def _variables(file: Any) -> dict[str, Shapes]:
    """Return the shapes of the weights in each group of a file of Keras 3's form."""
    import h5py

    found = {}

    def visit(name: str, part: Any) -> None:
        if isinstance(part, h5py.Group) and name.rpartition("/")[2] == "vars" and len(part):
            numbers = sorted(part, key=lambda one: (len(one), one))
            found[name] = tuple(tuple(part[number].shape) for number in numbers)

    file.visititems(visit)
    # Of training, and not the model's.
    beside = ("optimizer/", "metrics/")
    return {name: shapes for name, shapes in found.items() if not name.startswith(beside)}


def _names(group: Any, attribute: str) -> list[str] | None:
    """Return names that an older Keras stored, in several attributes where they are many."""
    parts = [group.attrs[attribute]] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{attribute}{len(parts)}"])
    if not parts:
        return None
    return [
        name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part
    ]


def _from_layers(model: Any, group: Any) -> None:
    """Take the weights layer by layer, in order, as Keras before 3 stored them."""
    held = [
        (name, _names(group[name], "weight_names") or [])
        for name in _names(group, "layer_names") or []
    ]
    held = [(name, weights) for name, weights in held if weights]
    layers = [layer for layer in model.layers if layer.weights]
    # Frozen ones come last in it.
    own = [[*layer.trainable_weights, *layer.non_trainable_weights] for layer in layers]
    values = [[np.asarray(group[name][weight]) for weight in weights] for name, weights in held]
    _compare(
        (
            f"the layer {layer.name!r}" if layer else f"the file's {stored!r}",
            tuple(tuple(value.shape) for value in given),
            tuple(tuple(weight.shape) for weight in wanted),
        )
        for layer, stored, given, wanted in itertools.zip_longest(
            layers, [name for name, _ in held], values, own, fillvalue=()
        )
    )
    for weights, stored in zip(own, values, strict=True):
        for weight, value in zip(weights, stored, strict=True):
            weight.assign(value)


def _from_checkpoint(model: Any, path: Path) -> None:
    """Take the weights by the paths of attributes at which TensorFlow found them."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    shapes = reader.get_variable_to_shape_map()
    held = {key: tuple(shape) for key, shape in shapes.items() if not _BESIDE.match(key)}
    own = {key: _at(model, key.removesuffix(_VALUE).split("/")) for key in held}
    missing = {id(weight) for weight in model.weights} - {id(weight) for weight in own.values()}
    _compare(
        [
            *(
                (
                    _called(key, own[key]),
                    (held[key],),
                    () if (weight := own[key]) is None else (tuple(weight.shape),),
                )
                for key in sorted(held)
            ),
            *(
                (f"the weight {_without_model(weight)!r}", (), (tuple(weight.shape),))
                for weight in model.weights
                # Seeds of dropout are in no checkpoint, and make no difference.
                if id(weight) in missing and "seed" not in weight.path
            ),
        ]
    )
    known: Any = own
    for key, weight in known.items():
        weight.assign(reader.get_tensor(key))


def _called(key: str, weight: Any) -> str:
    if weight is None:
        return f"the file's {key.removesuffix(_VALUE)!r}"
    return f"the weight {_without_model(weight)!r}"


def _without_model(weight: Any) -> str:
    """Return a weight's path within the model, whose own name comes first in it."""
    return weight.path.partition("/")[2] or weight.path


def _at(model: Any, path: list[str]) -> Any | None:
    """Return the weight at a path of attributes, such as layer_with_weights-0/kernel, or None."""
    found = model
    for part in path:
        numbered = _NUMBERED.fullmatch(part)
        if numbered:
            layers = [
                one for one in getattr(found, "layers", ()) if one.weights or numbered[1] == "layer"
            ]
            found = layers[int(numbered[2])] if int(numbered[2]) < len(layers) else None
        elif isinstance(found, list | tuple) and part.isdigit():
            found = found[int(part)] if int(part) < len(found) else None
        elif isinstance(found, Mapping):
            found = found.get(part)
        else:
            found = getattr(found, part, None)
    return found if hasattr(found, "assign") else None


def _compare(rows: Iterable[tuple[str, Shapes, Shapes]]) -> None:
    """Say which layers' weights differ, if any do.

    Args:
        rows: for each layer what it is called, the shapes in the file, and those of the model.
    """
    wrong = [
        f"{name} has {_shown(held)}, where the model has {_shown(expected)}"
        for name, held, expected in rows
        if held != expected
    ]
    if wrong:
        more = len(wrong) - _MOST_SHOWN
        raise MismatchError(
            "; ".join(wrong[:_MOST_SHOWN]) + (f"; and {more:,} more" if more > 0 else "")
        )


def _shown(shapes: Shapes) -> str:
    return " and ".join(map(str, shapes)) if shapes else "nothing"
