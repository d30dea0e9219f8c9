"""What we need of Keras that is not public, each with what it is needed for.

Nothing else in the package takes a name with a leading underscore from a Keras object. A release
of Keras that changes one fails one test of `tests/test_keras.py`, which says what no longer works.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """Where a tensor of a functional graph comes from.

    Attributes:
        operation: the layer or operation that made it.
        node: its record of the call.
        position: which of the outputs of that call the tensor is.
    """

    operation: Any
    node: Any
    position: int


def layers_in(model: Any, *, itself: bool = True) -> list[Any]:
    """Return a model's layers, however deep, those in lists and cells included, each once.

    `model.layers` is public and holds those alone that lie on top.

    Args:
        model: a model or layer.
        itself: whether it is one of them, the first.

    Example:
        >>> import keras
        >>> inner = keras.Sequential([keras.layers.ReLU(name="relu")], name="inner")
        >>> model = keras.Sequential([inner, inner], name="outer")
        >>> [layer.name for layer in layers_in(model)]
        ['outer', 'inner', 'relu']
    """
    # A layer that holds itself is in Keras's list twice.
    layers = dict.fromkeys(model._flatten_layers(include_self=True, recursive=True))
    return [layer for layer in layers if itself or layer is not model]


def direct_layers(layer: Any) -> list[Any]:
    """Return what a model or layer tracks as its own layers, in its order, repeated ones too."""
    return layer._layers


def exchange_layer(owner: Any, old: Any, new: Any) -> bool:
    """Put another layer where a layer holds one as its own: in its attributes, lists and dicts.

    Setting the attribute is public, and refused once the owner is built; it would leave the old
    one tracked, too.

    Args:
        owner: the layer that holds it.
        old: the layer to take out.
        new: the layer to put there.

    Returns:
        Whether it was found there; where not, nothing is changed.
    """
    found = False
    for name, value in list(vars(owner).items()):
        if name != "_layers" and (other := _exchanged(value, old, new)) is not None:
            found = True
            vars(owner)[name] = other
    if found:
        owner._tracker.replace_tracked_value("layers", old, new)
    return found


def _exchanged(value: Any, old: Any, new: Any) -> Any | None:
    """Return what stands for an attribute's value with another layer in it; None if it is as is."""
    if value is old:
        return new
    # Past TensorFlow's own wrappers, and past Keras's lists and dicts, which are locked likewise.
    held = getattr(value, "__wrapped__", value)
    if isinstance(held, list | dict):
        kind: Any = list if isinstance(held, list) else dict
        pairs = enumerate(held) if isinstance(held, list) else held.items()
        others = {key: _exchanged(part, old, new) for key, part in pairs}
        others = {key: other for key, other in others.items() if other is not None}
        for key, other in others.items():
            kind.__setitem__(held, key, other)
        return value if others else None
    if isinstance(held, tuple) and any(part is old for part in held):
        parts = [new if part is old else part for part in held]
        return type(held)(*parts) if hasattr(held, "_fields") else type(held)(parts)
    return None


def layers_by_path(model: Any, wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Return layers of a model, however deep, by the paths at which it holds them, each once.

    Args:
        model: a model or layer.
        wanted: whether a layer is one of them.

    Returns:
        Layers by paths such as "encoder/bn_1", in the order in which the model tracks them; of
        several with one path, the second is "encoder/bn_1 (2)".

    Example:
        >>> import keras
        >>> inner = keras.Sequential([keras.layers.ReLU(name="relu")], name="inner")
        >>> model = keras.Sequential([inner, keras.layers.ReLU(name="relu")], name="outer")
        >>> list(layers_by_path(model, lambda layer: layer.name == "relu"))
        ['inner/relu', 'relu']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    paths = [(model.name, model)] if wanted(model) else []
    for path, layer in itertools.chain(paths, _walk(model, "", frozenset())):
        if not wanted(layer) or id(layer) in seen:
            continue
        seen.add(id(layer))
        numbered = itertools.chain([path], (f"{path} ({number})" for number in itertools.count(2)))
        found[next(one for one in numbered if one not in found)] = layer
    return found


def _walk(layer: Any, prefix: str, seen: frozenset[int]) -> Iterator[tuple[str, Any]]:
    """Yield the paths of all layers below one, those that it holds more than once too."""
    import keras

    if id(layer) in seen:
        return
    # A sequential model holds, besides its layers, the functional one that Keras makes of them.
    children = layer.layers if isinstance(layer, keras.Sequential) else direct_layers(layer)
    for child in children:
        if isinstance(child, keras.Layer):
            path = f"{prefix}{child.name}"
            yield path, child
            yield from _walk(child, f"{path}/", seen | {id(layer)})


def own_variables(layer: Any) -> list[Any]:
    """Return the variables of a layer itself, trainable ones first, without those of its layers.

    `layer.weights` is public and goes into the layers that a layer holds.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_state(layer: Any) -> list[Any]:
    """Return what a layer itself changes when it is called: statistics, counters, seeds, states.

    `layer.non_trainable_variables` is public and holds frozen weights too, which do not change.
    """
    import keras

    seeds = [generator.state for generator in layer._seed_generators]
    # Of a stateful recurrent layer; Keras does not count them among its variables.
    carried = getattr(layer, "states", None) if getattr(layer, "stateful", False) else None
    return [*layer._non_trainable_variables, *seeds, *keras.tree.flatten(carried or [])]


def has_mask(tensor: Any) -> bool:
    """Return whether a tensor of a functional graph comes with a mask, as behind `Masking`."""
    return getattr(tensor, "_keras_mask", None) is not None


def with_mask_of(array: Any, other: Any) -> Any:
    """Return an array as a tensor with the mask that another tensor carries, if any.

    A layer takes its mask from the tensor, where nobody hands one over.
    """
    import keras

    new = keras.ops.convert_to_tensor(array)
    if has_mask(other):
        new._keras_mask = other._keras_mask
    return new


def filled_in(node: Any, tensors: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with which a call of a functional graph calls its layer.

    Args:
        node: the call.
        tensors: by id of each symbolic tensor that it takes, what stands for it.
    """
    return node.arguments.fill_in(tensors)


def draws_at_random(layer: Any) -> bool:
    """Return whether a layer draws numbers at random when it trains, as dropout does."""
    return bool(layer._seed_generators) and takes_training(layer)


def recomputes(layer: Any, size: int) -> bool:
    """Return whether a layer was made in a `RematScope` that has it computed again.

    Args:
        layer: any layer; the scope is noted when it is made.
        size: of its largest output, for one sample.
    """
    scope = layer._remat_mode
    if scope is None:
        return False
    named = scope.mode == "list_of_layers" and layer.name in scope.layer_names
    large = scope.mode == "larger_than" and size > scope.output_size_threshold
    return scope.mode == "full" or named or large


def is_autocast(variable: Any) -> bool:
    """Return whether a layer casts a variable to its compute dtype where it uses it."""
    return variable._autocast


def takes_training(model: Any) -> bool:
    """Return whether a model's `call` has an argument `training`, which a caller may then give."""
    return model._call_has_training_arg


def functional_of(layer: Any) -> Any | None:
    """Return the functional graph that a model is, or that Keras made of a sequence, or None."""
    import keras

    graph = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else layer
    return graph if isinstance(graph, keras.Model) and hasattr(graph, "_nodes_by_depth") else None


def nodes_in(graph: Any) -> tuple[Any, ...]:
    """Return the calls of which a functional graph consists, in an order in which they can run."""
    by_depth = graph._nodes_by_depth
    return tuple(node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth])


def origin_of(tensor: Any) -> Origin:
    """Return where a tensor of a functional graph comes from."""
    operation, number, position = tensor._keras_history
    return Origin(operation, operation._inbound_nodes[number], position)


def as_graph_inputs(graph: Any, tensors: Any) -> list[Any]:
    """Return inputs in the order and shapes of a graph's own, as `predict` makes them.

    A dict is sorted by the names of the inputs; a last axis of 1 is added or dropped.

    Raises:
        ValueError: they do not fit.
    """
    return graph._standardize_inputs(tensors)


def output_shape_of(layer: Any) -> Any:
    """Return the `output_shape` that a Lambda layer was given, which its configuration encodes."""
    return layer._output_shape
