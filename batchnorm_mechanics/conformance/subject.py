"""What a subject is: something that normalizes batches, asked in one way whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self

import ml_dtypes
import numpy as np

from batchnorm_mechanics.conformance.shares import Shares

Array = np.ndarray
Mask = np.ndarray | None


class Ability(StrEnum):
    """What a case may ask of a subject, and what not every subject has."""

    TRAIN = "training mode"
    INFER = "inference mode"
    CALL = "a mode of its own choice"
    STATISTICS = "moving statistics"
    GRADIENTS = "gradients"
    MASK = "masks"
    RELOAD = "saving and loading"


class Parameters(NamedTuple):
    """What is computed with besides x; float64, in the kept axes' shape.

    Attributes:
        gamma, beta, mean, variance: as a setting has them, or else 1, 0, 0 and 1.
    """

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


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
        shares: how replicas share each batch of training; None if one has all of it.
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
    shares: Shares | None = None

    def keeping(self, axis: int) -> "Setting":
        """Return the setting with this axis kept, unless it names what is.

        Example:
            >>> Setting((2, 3, 4)).keeping(-1).kept, Setting((2, 3, 4), (1,)).keeping(-1).kept
            ((2,), (1,))
        """
        return self if self.kept is not None else replace(self, kept=(axis % len(self.shape),))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes reduced over: those that are not kept."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in (self.kept or ()))

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """The shape of parameters and statistics."""
        return tuple(self.shape[axis] for axis in self.kept or ())

    @property
    def aligned_shape(self) -> tuple[int, ...]:
        """The same with size 1 for each axis reduced over, so that it broadcasts with the input."""
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))

    @property
    def parameters(self) -> Parameters:
        """Gamma, beta and the moving statistics to begin with.

        Example:
            >>> Setting((2, 3), (1,), gamma=np.full(3, 4.0)).parameters.gamma
            array([4., 4., 4.])
        """
        starts = (
            (self.gamma, 1.0),
            (self.beta, 0.0),
            (self.moving_mean, 0.0),
            (self.moving_variance, 1.0),
        )
        return Parameters(
            *(
                np.full(self.kept_shape, start) if value is None else value
                for value, start in starts
            )
        )


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

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Return the output in a mode; in that of training take the batch into account.

        Args:
            x: the input.
            mask: in training, None or which samples count.
            training: the mode; None tells the subject none.
        """
        raise NotImplementedError

    def train(self, x: Array, mask: Mask = None) -> Array:
        """Return the output in training mode, and let the subject take the batch into account."""
        return self.output(x, mask, training=True)

    def infer(self, x: np.ndarray) -> np.ndarray:
        """Return the output in inference mode, by the subject's moving statistics."""
        return self.output(x, training=False)

    def call(self, x: np.ndarray) -> np.ndarray:
        """Return what the subject gives if it is not told which mode it is in."""
        return self.output(x, training=None)

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return the gradients of sum(y * dy) in training mode."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """Return the moving statistics as they are now."""
        raise NotImplementedError

    def statistics_elsewhere(self) -> list[Statistics]:
        """Return the same of each replica but the first; none where there is one."""
        return []

    def reload(self) -> Self:
        """Return a session of the subject after saving and loading, as its users do that."""
        raise NotImplementedError


class Kept(NamedTuple):
    """Which axes a subject can keep, and what it says of others.

    Attributes:
        reason: in words.
        holds: whether it can keep these axes of an input of this rank.
    """

    reason: str
    holds: Callable[[tuple[int, ...], int], bool]


NOT_ALL = Kept("it reduces over at least one axis", lambda kept, rank: len(kept) < rank)
ONE = Kept("its `axis` is one axis", lambda kept, rank: len(kept) == 1)
SECOND = Kept("it keeps axis 1", lambda kept, rank: kept == (1,))


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
        taken_as: how it was recognized, in words; None where nothing had to be told.
        keeps: which axes it can keep.
        synchronized: whether it says that replicas normalize by the batch of all of them.
    """

    name: str
    description: str
    abilities: frozenset[Ability]
    declared_momentum: Literal["old", "new"] | None
    takes_epsilon: bool = True
    lacks: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    source: str | None = None
    taken_as: str | None = None
    keeps: Kept = NOT_ALL
    synchronized: bool = False

    def refusal(self, setting: Setting) -> str | None:
        """Return why the subject is not made for a setting, or None if it should manage it.

        This is for what the subject does not claim: another axis, which `keeps` says, and in
        subclasses another rank, dtype or parameter. What it claims and then fails at is a failure.
        """
        if setting.kept is None or self.keeps.holds(setting.kept, len(setting.shape)):
            return None
        return self.keeps.reason

    @abstractmethod
    def open(self, setting: Setting) -> Session:
        """Return the subject set up for a setting."""


def given(**options: Any) -> dict[str, Any]:
    """Return the options that a setting has: the others are left to the subject.

    Example:
        >>> given(epsilon=0.5, momentum=None)
        {'epsilon': 0.5}
    """
    return {name: value for name, value in options.items() if value is not None}


def wide(dtype: str) -> str:
    """Return the dtype of variables beside inputs of this dtype: float32 at least.

    Example:
        >>> wide("bfloat16"), wide("float64")
        ('float32', 'float64')
    """
    return "float64" if dtype == "float64" else "float32"


def is_narrower(dtype: str, asked: str) -> bool:
    """Return whether a floating type has fewer digits than another.

    Example:
        >>> is_narrower("float32", "float64"), is_narrower("float64", "float32")
        (True, False)
    """
    digits = {"float64": 2, "float32": 1, "bfloat16": 0, "float16": 0}
    return digits.get(dtype, 3) < digits[asked]


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
