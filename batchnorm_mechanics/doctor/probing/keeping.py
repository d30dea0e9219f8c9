"""What a run of a model moves besides its outputs is put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


@contextmanager
def kept(model: Any) -> Iterator[None]:
    """Put the states of a model's layers back in the end: seeds, and what recurrent layers carry.

    Weights that are frozen are no state: no run moves them, and they may be many.

    Args:
        model: any Keras model, which is run in the block.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dropout(0.5)])
        >>> seed = model.layers[0].seed_generator.state
        >>> before = seed.numpy()
        >>> with kept(model):
        ...     _ = model(np.ones((1, 2)), training=True)
        >>> bool((seed.numpy() == before).all())
        True
    """
    before = [(state, keras.ops.convert_to_numpy(state)) for state in _states_in(model)]
    try:
        yield
    finally:
        for state, value in before:
            if not np.array_equal(keras.ops.convert_to_numpy(state), value, equal_nan=True):
                state.assign(value)


def _states_in(model: Any) -> list[Any]:
    found: dict[int, Any] = {}
    for layer in model._flatten_layers(include_self=True, recursive=True):
        seeds = [generator.state for generator in layer._seed_generators]
        found.update({id(state): state for state in [*layer._non_trainable_variables, *seeds]})
    return list(found.values())
