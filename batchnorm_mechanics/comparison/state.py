"""How far a walk through A's graph has come: A's tensors on B's values, and what they match."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from batchnorm_mechanics.comparison.calls import Calls, Stage
from batchnorm_mechanics.comparison.layouts import Order, decibels, nearest
from batchnorm_mechanics.comparison.ran import ROUNDED, Array, Ran, mean_of, root_mean_square

# Counterparts of healthy stages were measured at 35 dB in int8 and at 130 dB in float32, all other
# tensors of their shape below 10 dB.
MATCH = 25.0
# Where nothing but the value speaks for a counterpart.
ALONE = 40.0
# In floating point a layer's value was never below 100 dB of its counterpart in a healthy export.
_SURE = 60.0
_SURE_OF_GRIDS = 35.0
# Layers of A that can be one operation of B: padding, convolution, batch norm, activation, and
# their like behind a separable one.
AHEAD = 6
# Layers that trials by the graph may run, besides twice those of the model.
_TRIALS = 40 * AHEAD
_AS_THEY_ARE = frozenset(tuple(range(rank)) for rank in range(8))
# Forms that have channels before places, whatever their outputs have.
_FIRST = {"ONNX", "OpenVINO"}
_CHANNELS_FIRST = frozenset(
    tuple(range(rank)) if rank < 4 else (0, *range(2, rank), 1) for rank in range(8)
)


class Found(NamedTuple):
    """A counterpart.

    Attributes:
        position: of the value in B.
        array: its numbers in A's layout.
        distance: from what was expected, root mean square.
        by: "value", "graph" or "output".
        ratio: decibels of the value that was expected to the distance from it; 0 where the value
            decided nothing.
    """

    position: int
    array: Array
    distance: float
    by: str
    ratio: float = 0.0


class State:
    """What a walk knows.

    Args:
        calls: of A.
        ran: B, on the same inputs.
        places: of A's inputs, the positions among B's values.
        inputs: tensors of A's inputs.

    Attributes:
        calls, ran: as given.
        on_b: by number of A's tensors, what A's layers make of B's values.
        anchors: likewise the values of B that they were made of, as bits.
        pending: likewise the stages between those and the tensor.
        depth: likewise how many layers, one behind the other, that are.
        used: positions of values of B that have a counterpart.
        orders: layouts of B's form, and those in which values matched.
        sure: decibels from which on a value leaves no doubt.
        left: layers that trials may still run.
    """

    def __init__(
        self, calls: Calls, ran: Ran, places: Sequence[int], inputs: Sequence[Any]
    ) -> None:
        self.calls, self.ran = calls, ran
        self.on_b: dict[int, Any] = dict(zip(calls.inputs, inputs, strict=True))
        self.anchors = {
            number: 1 << position for number, position in zip(calls.inputs, places, strict=True)
        }
        self.pending: dict[int, tuple[int, ...]] = dict.fromkeys(calls.inputs, ())
        self.depth: dict[int, int] = dict.fromkeys(calls.inputs, 0)
        self.used: set[int] = set(ran.inputs)
        self.orders: set[Order] = set(_CHANNELS_FIRST if ran.form in _FIRST else _AS_THEY_ARE)
        is_quantized = any(value.grid is not None for value in ran.values)
        self.sure = _SURE_OF_GRIDS if is_quantized else _SURE
        self.left = 2 * len(calls.stages) + _TRIALS

    def expected(self, at: int) -> Array:
        """Return what a stage makes of B's values."""
        return as_array(self.on_b[self.calls.stages[at].outputs[0]])

    def is_output(self, stage: Stage) -> bool:
        """Return whether a stage gives an output of the model."""
        return stage.outputs[0] in self.calls.outputs

    def is_bridge(self, stage: Stage) -> bool:
        """Return whether a stage leaves the numbers of its input as they are, in any shape."""
        if stage.moves:
            return True
        if len(stage.inputs) != 1:
            return False
        return same_numbers(self.on_b[stage.inputs[0]], self.on_b[stage.outputs[0]])

    def search(self, expected: Array, anchors: int, least: float) -> Found | None:
        """Return the value of B that is nearest to what is expected, and near enough.

        Args:
            expected: in A's layout. Of one number everywhere it is no evidence for anything.
            anchors: bits of the values that it must depend on, and not be; 0 for any that has no
                counterpart yet.
            least: decibels.
        """
        if is_constant(expected):
            return None
        size, mean = root_mean_square(expected), mean_of(expected)
        best, ratio, order = None, least, None
        for position in self.ran.by_count.get(expected.size, ()):
            value, before = self.ran.values[position], self.ran.ancestors[position]
            if anchors & ~before or anchors >> position & 1:
                continue
            if not anchors and position in self.used:
                continue
            # No difference is smaller than that of the sizes, or of the means, which are rounded.
            least = max(abs(value.size - size), abs(value.mean - mean))
            gap = max(0.0, least - ROUNDED * size) if np.isfinite(least) else least
            if not np.isfinite(gap) or decibels(size, gap) < ratio:
                continue
            laid = nearest(value.array, expected)
            found = -1.0 if laid is None else decibels(size, laid.distance)
            # Copies of a value, in another layout, follow it.
            if laid is not None and found > ratio + (3 if best else 0):
                best = Found(position, laid.array, laid.distance, "value", found)
                ratio = found
                order = laid.order
        if order is not None:
            self.orders.add(order)
        return best


def is_constant(array: Array) -> bool:
    """Return whether all numbers are the same, as those of others may be too."""
    flat = array.reshape(-1)
    # Mostly the first few tell.
    return all(bool(np.all(part == flat[0])) for part in (flat[:64], flat) if part.size)


def same_numbers(one: Any, other: Any) -> bool:
    """Return whether two tensors hold the same numbers in the same order, in any shape."""
    a, b = as_array(one), as_array(other)
    return a.size == b.size and np.array_equal(a.ravel(), b.ravel())


def as_array(tensor: Any) -> Array:
    """Return a tensor as an array; bfloat16, which is no type of NumPy's own, as float32."""
    array = np.asarray(tensor)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
