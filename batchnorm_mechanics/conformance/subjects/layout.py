"""Kept axes, shapes and starting values, as the adapters need them. NumPy alone."""

from typing import NamedTuple

import numpy as np

from batchnorm_mechanics.conformance.subject import Setting


class Parameters(NamedTuple):
    """What a subject without variables of its own is given; float64, in the kept axes' shape.

    Attributes:
        gamma, beta, mean, variance: as the setting has them, or else 1, 0, 0 and 1.
    """

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def kept_shape(shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the statistics.

    Example:
        >>> kept_shape((2, 3, 4), (1, 2))
        (3, 4)
    """
    return tuple(shape[axis] for axis in kept)


def reduced_axes(rank: int, kept: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that are not kept.

    Example:
        >>> reduced_axes(4, kept=(1,))
        (0, 2, 3)
    """
    return tuple(axis for axis in range(rank) if axis not in kept)


def parameters(setting: Setting, kept: tuple[int, ...]) -> Parameters:
    """Return gamma, beta and the moving statistics to begin with.

    Example:
        >>> parameters(Setting((2, 3), gamma=np.full(3, 4.0)), kept=(1,)).gamma
        array([4., 4., 4.])
    """
    shape = kept_shape(setting.shape, kept)
    starts = (
        (setting.gamma, 1.0),
        (setting.beta, 0.0),
        (setting.moving_mean, 0.0),
        (setting.moving_variance, 1.0),
    )
    return Parameters(
        *(np.full(shape, start) if value is None else np.asarray(value) for value, start in starts)
    )


def wide(dtype: str) -> str:
    """Return the dtype of variables beside inputs of this dtype: float32 at least.

    Example:
        >>> wide("bfloat16"), wide("float64")
        ('float32', 'float64')
    """
    return "float64" if dtype == "float64" else "float32"


def in_shape(value: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return a statistic without the axes of size 1 that broadcasting put there.

    A value of another size stays as it is, so that its shape is found to be wrong.

    Example:
        >>> in_shape(np.zeros((1, 1, 3)), (3,)).shape, in_shape(np.zeros((2,)), (3,)).shape
        ((3,), (2,))
    """
    if shape is None:
        return np.squeeze(value)
    squeezed = tuple(size for size in value.shape if size != 1)
    expected = tuple(size for size in shape if size != 1)
    return value.reshape(shape) if squeezed == expected else value
