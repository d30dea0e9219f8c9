"""Hold a folded model against the one that it was made of: outputs and time."""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import keras
import ml_dtypes
import numpy as np

from batchnorm_mechanics._difference import elementwise_error
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import (
    as_graph_inputs,
    functional_of,
    is_autocast,
    layers_in,
    own_variables,
)
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.model_copies import copied

# For a size that the model leaves open. Image networks halve theirs five times.
_OPEN_SIZE = 64
_SEED = 0

# Turns of both models. The machine's other work meets both alike, and the median drops what meets
# one of them alone.
_TURNS = 5, 21
_SECONDS = 5.0

# Times that all weights are moved anew: a single move can happen to cancel.
_DRAWS = 3
# How many times its own rounding a right fold may be off. A unit in the last place stands for one
# rounding of each weight; every sum in the model is rounded too, in another order once folded.
_TIMES = 4.0
# Beyond this share of the largest output a comparison tells nothing of whether a fold is right.
_MOST = 0.05


def random_inputs(model: Any, rows: int, *, like: Any = None) -> Any:
    """Return inputs for a model, standard normal, or 0 and 1 where it takes integers.

    Args:
        model: functional or sequential.
        rows: how many samples.
        like: inputs whose sizes are taken where the model leaves its own open.

    Raises:
        InputError: an input is of a type that random numbers do not fit, or `like` does not fit
            the model.
    """
    rng = np.random.default_rng(_SEED)
    graph = functional_of(model) or model
    open_sizes = [(_OPEN_SIZE,) * len(tensor.shape) for tensor in graph.inputs]
    known = open_sizes if like is None else _shapes(graph, like)

    def of_one(tensor: Any, sizes: tuple[int, ...]) -> np.ndarray:
        own = (tensor.shape[0] or rows, *tensor.shape[1:])
        shape = [size or other for size, other in zip(own, sizes, strict=True)]
        if "float" in tensor.dtype:
            return rng.normal(size=shape).astype(tensor.dtype)
        if "int" in tensor.dtype or tensor.dtype == "bool":
            return rng.integers(0, 2, shape).astype(tensor.dtype)
        raise InputError(
            f"fold: `model` must take numbers. Received: the input {tensor.name!r} of type "
            f"{tensor.dtype}. Fold the part of the model that comes after its preprocessing."
        )

    made = [of_one(tensor, sizes) for tensor, sizes in zip(graph.inputs, known, strict=True)]
    return keras.tree.pack_sequence_as(graph.input, made)


def _shapes(graph: Any, inputs: Any) -> list[tuple[int, ...]]:
    """Return the shapes of inputs in the order of the graph's own, or say that they do not fit."""
    wanted = [tuple(tensor.shape) for tensor in graph.inputs]
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    try:
        # Sorts a dict by the names of the inputs, adds or drops a last axis of 1, as in `predict`.
        found = [tuple(tensor.shape) for tensor in as_graph_inputs(graph, tensors)]
    except ValueError as error:
        raise InputError(_misfit(wanted, str(error))) from error
    for shape, own in zip(found, wanted, strict=True):
        sizes = zip(shape[1:], own[1:], strict=True)
        if any(size is not None and size != other for other, size in sizes):
            raise InputError(_misfit(wanted, f"data of shapes {found}"))
    return found


def _misfit(wanted: list[tuple[int | None, ...]], received: str) -> str:
    return (
        f"fold: `data` must fit the inputs of the model, of shapes {wanted}. Received: {received}. "
        "Give what you would give to its `predict`."
    )


def first_batches(data: Data, limit: int) -> Iterator[Any]:
    """Yield the inputs of the first batches of data, `limit` at most."""
    for inputs, _ in islice(data, limit):
        yield inputs


def largest_difference(model: Any, folded: Any, inputs: Any) -> float | None:
    """Return how far the outputs of two models are apart, relative to the largest output.

    Returns:
        The largest over all outputs; infinite where one of the two is not finite and the other is,
        zero where they are alike. None where an output of the first holds NaN, which agrees with
        nothing: whether the second has NaN there too depends on which kernels TensorFlow joins. A
        dense layer computed together with its ReLU makes NaN 0, by oneDNN's kernels, and by others
        it does not.
    """
    found = 0.0
    pairs = [*zip(_outputs(model, inputs), _outputs(folded, inputs), strict=True)]
    if any(np.isnan(expected).any() for expected, _ in pairs):
        return None
    for expected, actual in pairs:
        error = float(np.max(elementwise_error(actual, expected), initial=0.0))
        size = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
        if error > 0:
            found = max(found, error / size if size else np.inf)
    return found


def rounding_of(model: Any, inputs: Any) -> float:
    """Return how far a model's outputs move when its weights move by a unit in the last place.

    Args:
        model: functional or sequential. It is left as it is.
        inputs: one batch.

    Returns:
        The largest difference, as of `largest_difference`, in three turns. In each, a copy has all
        its floating weights moved up or down at random, by a unit of the dtype in which the layer
        uses them.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
        >>> 0 < rounding_of(model, np.ones((2, 1), "float32")) < 2e-7
        True
    """
    copy = copied(model, caller="fold").model
    copy.run_eagerly, copy.jit_compile = model.run_eagerly, model.jit_compile
    weights = list(_floating_in(copy))
    original = [keras.ops.convert_to_numpy(variable) for variable, _ in weights]
    rng = np.random.default_rng(_SEED)
    found = 0.0
    for _ in range(_DRAWS):
        for (variable, dtype), value in zip(weights, original, strict=True):
            variable.assign(_moved(value, dtype, rng))
        # Only asked of outputs that are numbers.
        found = max(found, largest_difference(model, copy, inputs) or 0.0)
    return found


def explained_by(rounding: float) -> float:
    """Return the largest difference of a right fold from a model whose own rounding is so large.

    Example:
        >>> explained_by(1e-4), explained_by(0.5)
        (0.0004, 0.05)
    """
    return min(_TIMES * rounding, _MOST)


def _floating_in(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the floating variables of a model, and the dtype in which their layers use them."""
    seen: set[int] = set()
    for layer in layers_in(model):
        for variable in own_variables(layer):
            stored = keras.backend.standardize_dtype(variable.dtype)
            if id(variable) in seen or "float" not in stored:
                continue
            seen.add(id(variable))
            dtype = layer.compute_dtype if is_autocast(variable) else stored
            yield variable, np.dtype(getattr(ml_dtypes, dtype, dtype))


def _moved(value: np.ndarray, dtype: Any, rng: np.random.Generator) -> np.ndarray:
    used = value.astype(dtype)
    towards = np.where(rng.random(used.shape) < 0.5, -np.inf, np.inf).astype(dtype)
    moved = np.nextafter(used, towards)
    # The largest number has no next one.
    return np.where(np.isfinite(moved), moved, used).astype(value.dtype)


def _outputs(model: Any, inputs: Any) -> list[np.ndarray]:
    return [
        np.asarray(output, np.float64)
        for output in keras.tree.flatten(model.predict_on_batch(inputs))
    ]


def times_as_fast(
    model: Any,
    folded: Any,
    inputs: Any,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the time of one model's prediction over the other's: above 1, the second is faster.

    Args:
        model: the one to compare with.
        folded: the other.
        inputs: one batch.
        clock: returns seconds.

    Returns:
        The ratio of the medians of `predict_on_batch`, in turns; the first goes second in the next
        turn. Both have run before, so nothing is compiled within.
    """
    models = (model, folded)
    samples: tuple[list[float], list[float]] = ([], [])
    least, most = _TURNS
    for contestant in models:
        contestant.predict_on_batch(inputs)
    began = clock()
    for turn in range(most):
        if turn >= least and clock() - began > _SECONDS:
            break
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            started = clock()
            models[which].predict_on_batch(inputs)
            samples[which].append(clock() - started)
    return statistics.median(samples[0]) / statistics.median(samples[1])
