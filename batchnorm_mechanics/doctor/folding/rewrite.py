"""A new model without the batch norms that a plan takes out; the old one stays as it is."""

from typing import Any, NamedTuple

import keras
import numpy as np

from batchnorm_mechanics.doctor.folding.kinds import KINDS, Weights
from batchnorm_mechanics.doctor.folding.plan import Plan
from batchnorm_mechanics.doctor.structure.copies import Edits, copied


class Rewritten(NamedTuple):
    """A new model.

    Attributes:
        model: it.
        notes: what it could not take along of the old one, in sentences.
    """

    model: Any
    notes: tuple[str, ...]


def rewritten(model: Any, plan: Plan) -> Rewritten:
    """Return a new model with the weights of a plan and copies of all others.

    Args:
        model: functional or sequential.
        plan: made for this model.

    Returns:
        A model of the same kind, with the class of the old one where its constructor is Keras's.
        Layers keep their names, settings, types of numbers and `trainable`; those with new weights
        have no regularizer or constraint, which were meant for the old ones.

    Raises:
        InputError: a layer cannot be copied.
    """
    settings = {
        id(layer): _settings(layer.get_config(), plan.weights[id(layer)])
        for layer in model._flatten_layers()
        if id(layer) in plan.weights
    }
    new = copied(model, Edits(left_out=plan.folded, settings=settings), caller="fold")
    for key, weights in plan.weights.items():
        (layer,) = new.of[key]
        _store(layer, weights)
    return Rewritten(new.model, new.lost)


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
