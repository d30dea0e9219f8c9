"""What a subject is: something that normalizes batches, asked in one way whatever it is made of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, Self

import ml_dtypes
import numpy as np


class Ability(StrEnum):
    """What a case may ask of a subject, and what not every subject has."""

    TRAIN = "training mode"
    INFER = "inference mode"
    CALL = "a mode of its own choice"
    STATISTICS = "moving statistics"
    GRADIENTS = "gradients"
    MASK = "masks"
    RELOAD = "saving and loading"


@dataclass(frozen=True, eq=False)
class Setting:
    """How a subject is to be set up. None leaves what the subject does of its own accord.

    Attributes:
        shape: of the input, rank 2 to 5; the first axis is the batch, and may be given other sizes
            later on.
        kept: the axes that are kept (Keras's `axis`), none negative, in ascending order; () reduces
            over all.
        dtype: of the input: "float64", "float32", "bfloat16" or "float16".
        epsilon: added to the variance.
        momentum: the number handed to the subject's own argument, whatever it means there.
        gamma, beta, moving_mean, moving_variance: float64 in the shape of the kept axes.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...] | None = None
    dtype: str = "float32"
    epsilon: float | None = None
    momentum: float | None = None
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    moving_mean: np.ndarray | None = None
    moving_variance: np.ndarray | None = None


class Slopes(NamedTuple):
    """Gradients of sum(y * dy) in training mode; gamma's and beta's None where there are none."""

    dx: np.ndarray
    dgamma: np.ndarray | None
    dbeta: np.ndarray | None


class Statistics(NamedTuple):
    """The subject's moving statistics, in the shape of the kept axes."""

    mean: np.ndarray
    variance: np.ndarray


class Session:
    """A subject set up for one `Setting`.

    Inputs are NumPy arrays of the setting's dtype (bfloat16 as `ml_dtypes.bfloat16`). Outputs come
    back as NumPy arrays exactly as the subject gave them, in whatever dtype and shape. What the
    subject raises comes through. A method whose ability the subject lacks is not called, and
    `output` is not where `train`, `infer` and `call` are the session's own.
    """

    def output(
        self, x: np.ndarray, mask: np.ndarray | None = None, *, training: bool | None
    ) -> np.ndarray:
        """Return the output in a mode; in that of training take the batch into account.

        Args:
            x: the input.
            mask: in training, None or which samples count.
            training: the mode; None tells the subject none.
        """
        raise NotImplementedError

    def train(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the output in training mode, and let the subject take the batch into account."""
        return self.output(x, mask, training=True)

    def infer(self, x: np.ndarray) -> np.ndarray:
        """Return the output in inference mode, by the subject's moving statistics."""
        return self.output(x, training=False)

    def call(self, x: np.ndarray) -> np.ndarray:
        """Return what the subject gives if it is not told which mode it is in."""
        return self.output(x, training=None)

    def gradients(self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None = None) -> Slopes:
        """Return the gradients of sum(y * dy) in training mode."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """Return the moving statistics as they are now."""
        raise NotImplementedError

    def reload(self) -> Self:
        """Return a session of the subject after saving and loading, as its users do that."""
        raise NotImplementedError


class Subject(ABC):
    """An implementation of batch normalization under judgement.

    Attributes:
        name: as the tables have it, and as the command line takes it.
        description: what it is, in a few words, with the library's version where there is one.
        abilities: what it can be asked.
        declared_momentum: what its momentum weighs by its documentation, the "old" value or the
            "new" one; None if it has no momentum.
        takes_epsilon: whether epsilon can be set.
        lacks: which of "gamma" and "beta" it does not have. A case leaves them None and expects
            what 1 and 0 give; a setting that gives them is refused.
        needs: which of "axis", "epsilon", "momentum" and "statistics" it has no default for. Where
            a setting leaves one None it is given Keras's, which says nothing of the subject.
        source: for a user's own, where it came from; None for what is built in.
    """

    name: str
    description: str
    abilities: frozenset[Ability]
    declared_momentum: Literal["old", "new"] | None
    takes_epsilon: bool = True
    lacks: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    source: str | None = None

    @abstractmethod
    def refusal(self, setting: Setting) -> str | None:
        """Return why the subject is not made for a setting, or None if it should manage it.

        This is for what the subject does not claim: another axis, rank, dtype or parameter. What it
        claims and then fails at is a failure.
        """

    @abstractmethod
    def open(self, setting: Setting) -> Session:
        """Return the subject set up for a setting."""


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


def as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array of a setting's dtype: NumPy does not know bfloat16 by its name."""
    return np.asarray(values).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
