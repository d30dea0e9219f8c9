"""Arithmetic that is the same for NumPy's arrays and TensorFlow's tensors.

A mistake's steps are written once. Their values come from NumPy, which takes a microsecond for
arrays as small as those of the cases, where TensorFlow takes twenty; their gradients come from
TensorFlow. What the operators +, -, * and / do for both needs no function here.
"""

from typing import Any

import numpy as np

# TensorFlow's operators are not typed, and these lines are all arithmetic.
Tensor = Any
Axes = tuple[int, ...]


def _in_numpy(*values: Tensor) -> bool:
    return all(isinstance(value, np.ndarray | np.generic | int | float) for value in values)


def _tf() -> Any:
    # Not every subject has gradients, and TensorFlow takes seconds to import.
    import tensorflow as tf

    return tf


def mean(value: Tensor, axes: Axes) -> Tensor:
    """Return the mean over axes, which stay with size 1."""
    if _in_numpy(value):
        # Of nothing it is NaN, which NumPy says with a warning.
        nothing = value.size == 0
        return np.nan * total(value, axes) if nothing else np.mean(value, axes, keepdims=True)
    return _tf().reduce_mean(value, axes, keepdims=True)


def total(value: Tensor, axes: Axes, *, keepdims: bool = True) -> Tensor:
    """Return the sum over axes, which stay with size 1 if asked."""
    if _in_numpy(value):
        return np.sum(value, axis=axes, keepdims=keepdims)
    return _tf().reduce_sum(value, axes, keepdims=keepdims)


def sqrt(value: Tensor) -> Tensor:
    """Return the root."""
    return np.sqrt(value) if _in_numpy(value) else _tf().sqrt(value)


def absolute(value: Tensor) -> Tensor:
    """Return the absolute value."""
    return np.abs(value) if _in_numpy(value) else _tf().abs(value)


def maximum(one: Tensor, other: Tensor) -> Tensor:
    """Return the larger of two values."""
    return np.maximum(one, other) if _in_numpy(one, other) else _tf().maximum(one, other)


def where(holds: Tensor, value: Tensor, otherwise: Tensor) -> Tensor:
    """Choose between two values, element by element."""
    if _in_numpy(holds, value, otherwise):
        return np.where(holds, value, otherwise)
    return _tf().where(holds, value, otherwise)


def zeros_like(value: Tensor) -> Tensor:
    """Return zeros in the shape of a value."""
    return np.zeros(tuple(value.shape))


def ones_like(value: Tensor) -> Tensor:
    """Return ones in the shape of a value."""
    return np.ones(tuple(value.shape))


def constant(value: Tensor) -> Tensor:
    """Return a value through which no gradient flows."""
    return value if _in_numpy(value) else _tf().stop_gradient(value)


def broadcast(value: Tensor, like: Tensor) -> Tensor:
    """Return a value in the shape of another."""
    if _in_numpy(value):
        return np.broadcast_to(value, tuple(like.shape))
    return _tf().broadcast_to(value, like.shape)


def expand(value: Tensor, axis: int) -> Tensor:
    """Return a value with one more axis, of size 1."""
    return np.expand_dims(value, axis) if _in_numpy(value) else _tf().expand_dims(value, axis)
