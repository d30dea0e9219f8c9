"""A new model without the batch norms that a plan takes out; the old one stays as it is."""

import tempfile
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.folding.kinds import KINDS, Weights
from batchnorm_mechanics.doctor.folding.plan import Plan
from batchnorm_mechanics.doctor.structure.norms import nodes_in
from batchnorm_mechanics.doctor.structure.wiring import graph_of


def rewritten(model: Any, plan: Plan) -> Any:
    """Return a new model with the weights of a plan and copies of all others.

    Args:
        model: functional or sequential.
        plan: made for this model.

    Returns:
        A model of the same kind: sequential, or functional. Layers keep their names, settings,
        types of numbers and `trainable`; those with new weights have no regularizer or constraint,
        which were meant for the old ones.

    Raises:
        InputError: a layer cannot be made anew from its own configuration.
    """
    copies = _Copies(plan)
    new = copies.of(model)
    copies.fill()
    return new


class _Copies:
    """The copies of layers and models, each made once, so that what was shared is shared again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[int, tuple[Any, Any]] = {}

    def of(self, layer: Any) -> Any:
        if id(layer) not in self._made:
            graph = graph_of(layer)
            if graph is None:
                copy = self._of_a_layer(layer)
            elif isinstance(layer, keras.Sequential):
                copy = self._of_a_sequence(layer)
            else:
                copy = self._of_a_graph(graph)
            self._made[id(layer)] = (layer, copy)
        return self._made[id(layer)][1]

    def _of_a_layer(self, layer: Any) -> Any:
        # Its configuration holds Python code, which Keras runs only when it is told to; here the
        # function is at hand.
        if type(layer) is keras.layers.Lambda:
            return keras.layers.Lambda(
                layer.function,
                output_shape=layer._output_shape,
                mask=layer.mask,
                arguments=layer.arguments,
                name=layer.name,
                dtype=layer.dtype_policy,
                trainable=layer.trainable,
            )
        try:
            config = layer.get_config()
            if id(layer) in self._plan.weights:
                config |= _settings(config, self._plan.weights[id(layer)])
            return type(layer).from_config(config)
        except Exception as error:
            raise _cannot_be_copied(layer, error) from error

    def _of_a_sequence(self, model: Any) -> Any:
        layers = [self.of(layer) for layer in model._layers if self._stays(layer)]
        return keras.Sequential(layers, name=model.name)

    def _of_a_graph(self, graph: Any) -> Any:
        tensors: dict[int, Any] = {}
        for node in nodes_in(graph):
            layer = node.operation
            if node.is_input:
                outputs = self.of(layer).output
            elif self._stays(layer):
                positional, named = node.arguments.fill_in(tensors)
                outputs = self.of(layer)(*positional, **named)
            else:
                outputs = tensors[id(node.input_tensors[0])]
            for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = new
        inputs, outputs = (
            keras.tree.map_structure(lambda tensor: tensors[id(tensor)], structure)
            for structure in (graph.input, graph.output)
        )
        return keras.Model(inputs, outputs, name=graph.name)

    def _stays(self, layer: Any) -> bool:
        return id(layer) not in self._plan.folded

    def fill(self) -> None:
        """Give the copies their weights and flags."""
        made = list(self._made.values())
        # A model's flag is handed down to all in it, which come into their own after it.
        for model, copy in reversed([pair for pair in made if graph_of(pair[0]) is not None]):
            copy.trainable = model.trainable
        for layer, copy in made:
            if graph_of(layer) is not None or not isinstance(layer, keras.Layer):
                continue
            if id(layer) in self._plan.weights:
                _store(copy, self._plan.weights[id(layer)])
            try:
                _fill(layer, copy, with_weights=id(layer) not in self._plan.weights)
            except ValueError as error:
                raise _cannot_be_copied(layer, error) from error


def _fill(layer: Any, copy: Any, *, with_weights: bool) -> None:
    if with_weights:
        copy.set_weights(layer.get_weights())
    for old, new in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
        # Set where it is the same already, it would thaw single weights that are frozen.
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        _copy_state(old, new)


def _cannot_be_copied(layer: Any, error: Exception) -> InputError:
    # Keras puts the whole configuration before what happened.
    reason = (str(error).splitlines() or [type(error).__name__])[-1].rstrip(".")
    return InputError(
        "fold: `model` must consist of layers that Keras can copy by `get_config` and "
        f"`from_config`. Received: the layer {layer.name!r} of class {type(layer).__name__}, "
        f"which said: {reason}. Give it both methods."
    )


def _settings(config: dict[str, Any], weights: Weights) -> dict[str, Any]:
    """Return what changes in the configuration of a layer that takes a batch norm in."""
    unset = {name: None for name in config if name.endswith(("_regularizer", "_constraint"))}
    return {**unset, "use_bias": weights.has_bias}


def _store(layer: Any, weights: Weights) -> None:
    for name, kernel in zip(KINDS[type(layer)].kernels, weights.kernels, strict=True):
        getattr(layer, name).assign(_rounded(kernel, getattr(layer, name)))
    if weights.has_bias:
        layer.bias.assign(_rounded(weights.bias, layer.bias))


def _rounded(value: np.ndarray, variable: Any) -> np.ndarray:
    return value.astype(keras.backend.standardize_dtype(variable.dtype))


def _copy_state(layer: Any, copy: Any) -> None:
    """Copy what a preprocessing layer holds besides weights."""
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)
    elif hasattr(layer, "finalize_state") and layer.built:
        copy.finalize_state()
