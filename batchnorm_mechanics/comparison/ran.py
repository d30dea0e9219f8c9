"""What a model of any format computed on some samples: steps, and the values between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Squares of float32 that are smaller lose digits.
_LEAST = 1e-30
# How far a mean or a root mean square may be off, relative to the latter.
ROUNDED = 1e-6
# Functions whose largest number is 1, as the formats call them.
_UP_TO_ONE = {"sigmoid", "logistic", "tanh", "softmax"}
# In the last place of a float32 that begins with 1.
UNIT = float(np.finfo(np.float32).eps)


class Grid(NamedTuple):
    """The numbers that a quantized tensor can hold.

    Attributes:
        scale: the distance between two of them.
        least: the least of them.
        most: the largest.
        zero: the integer that stands for 0.

    Example:
        >>> grid = Grid.of(0.5, 10, np.dtype("uint8"))
        >>> grid.least, grid.most, grid.real(np.array([0, 11], np.uint8)).tolist()
        (-5.0, 122.5, [-5.0, 0.5])
    """

    scale: float
    least: float
    most: float
    zero: int = 0

    @classmethod
    def of(cls, scale: float, zero: int, dtype: Any) -> "Grid":
        """Return the grid of integers of a type."""
        limits = np.iinfo(dtype)
        return cls(scale, (limits.min - zero) * scale, (limits.max - zero) * scale, zero)

    def real(self, integers: Array) -> Array:
        """Return the numbers that integers stand for, float32."""
        return ((integers.astype(np.int64) - self.zero) * self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that depends on the inputs.

    Attributes:
        name: as the file has it, which labels it and decides nothing.
        array: what it held, the samples along an axis of it; quantized ones as real numbers.
        grid: where it is quantized.
    """

    name: str
    array: Array
    grid: Grid | None = None

    @property
    def is_real(self) -> bool:
        """Whether it holds floating numbers, and not places, classes or truths."""
        return self.array.dtype.kind == "f"

    @cached_property
    def mean(self) -> float:
        """Of all numbers in it."""
        return mean_of(self.array)

    @cached_property
    def size(self) -> float:
        """The root of the mean square of all numbers in it."""
        return root_mean_square(self.array)


@dataclass(frozen=True)
class Step:
    """An operation.

    Attributes:
        name: as the file has it.
        kind: what it is called in its format, as "Conv".
        inputs: positions in `Ran.values` of those inputs that depend on the model's.
        outputs: likewise.
        noise: root mean square of what the rounding of stored weights, and of inputs that are
            quantized on the way, does to its output, by the arithmetic of uniform rounding.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class Ran:
    """A model that ran.

    Attributes:
        form: "Keras", "ONNX", "LiteRT" or "OpenVINO".
        values: of the inputs and of all steps that depend on them, in an order of computation.
        steps: likewise.
        inputs: positions of the model's inputs.
        outputs: positions of its outputs; None for one that does not depend on the inputs.
    """

    form: str
    values: Sequence[Value]
    steps: Sequence[Step]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]

    @cached_property
    def step_of(self) -> dict[int, int]:
        """Which step made a value."""
        return {one: number for number, step in enumerate(self.steps) for one in step.outputs}

    @cached_property
    def ancestors(self) -> list[int]:
        """Of each value what it depends on, itself too: a bit for each position."""
        found = [1 << position for position in range(len(self.values))]
        for step in self.steps:
            before = 0
            for one in step.inputs:
                before |= found[one]
            for one in step.outputs:
                found[one] |= before
        return found

    @cached_property
    def by_count(self) -> dict[int, list[int]]:
        """Positions of the values of floating numbers, by how many numbers they hold."""
        found: dict[int, list[int]] = {}
        for position, value in enumerate(self.values):
            if value.is_real:
                found.setdefault(value.array.size, []).append(position)
        return found

    def between(self, anchors: int, position: int) -> list[int]:
        """Return the values on the way from some, given as bits, to one, which is the last."""
        before = 0
        for one in bits(anchors):
            before |= self.ancestors[one]
        found = self.ancestors[position] & ~before
        # What a shortcut takes from an anchor may come before another anchor, too.
        open_, seen = [position], anchors
        while open_:
            one = open_.pop()
            if seen >> one & 1 or not self.ancestors[one] & anchors:
                continue
            seen |= 1 << one
            open_ += self.steps[self.step_of[one]].inputs if one in self.step_of else ()
        return bits(found | seen & ~anchors)

    def unit(self, position: int) -> float:
        """Return the least distance that a function up to 1 tells apart, or 0 of anything else.

        Runtimes compute such a function to half a unit in the last place of 1, however small a
        number it gives: one rounds 1e-9 to 0, the next to 1e-8.
        """
        number = self.step_of.get(position)
        if number is None:
            return 0.0
        step = self.steps[number]
        if step.kind.lower() in _UP_TO_ONE:
            return UNIT
        # What hands numbers on, a branch or a reshape, has them of the function itself.
        flat = self.values[position].array.ravel()
        given = (one for one in step.inputs if np.array_equal(self.values[one].array.ravel(), flat))
        return max(map(self.unit, given), default=0.0)

    def rounding(self, anchors: int, position: int) -> float:
        """Return what quantization on the way does to a value, as a root mean square.

        A number that is rounded to a grid of distance s errs by s / sqrt(12). What a step adds to
        its output goes on through the next steps in proportion, as the output itself does.
        """
        total = 0.0
        for one in self.between(anchors, position):
            value = self.values[one]
            noise = self.steps[self.step_of[one]].noise if one in self.step_of else 0.0
            own = 0.0 if value.grid is None else value.grid.scale**2 / 12
            if value.is_real and value.size > 0:
                total += (noise**2 + own) / value.size**2
        # Of a value with NaN, too, nothing comes of nothing.
        return float(np.sqrt(total)) * self.values[position].size if total > 0 else 0.0


def bits(mask: int) -> list[int]:
    """Return the positions of the bits of a number that are set.

    Example:
        >>> bits(0b1010)
        [1, 3]
    """
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found


def mean_of(array: Array) -> float:
    """Return the mean, to about a millionth of the root mean square; 0 of no numbers.

    Example:
        >>> mean_of(np.array([1.0, 2.0], np.float32))
        1.5
    """
    if not array.size:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        # In its own type, pair by pair, it is some times as fast.
        found = float(np.mean(array.reshape(-1)))
    return found if np.isfinite(found) else float(np.mean(array, dtype=np.float64))


def root_mean_square(array: Array) -> float:
    """Return the root of the mean square; 0 of no numbers.

    Example:
        >>> root_mean_square(np.array([3.0, -3.0], np.float32))
        3.0
    """
    if not array.size:
        return 0.0
    flat = array.ravel()
    if flat.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            total = float(np.dot(flat, flat))
        # In its own type it is some times as fast, and as good where nothing over- or underflows.
        if np.isfinite(total) and total > _LEAST * flat.size:
            return float(np.sqrt(total / flat.size))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.mean(np.square(flat, dtype=np.float64))))
