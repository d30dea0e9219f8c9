"""Walk a Keras model's graph, each layer on the other model's values, and find its counterparts.

What a layer of A makes of B's own values is what B's next tensor must be, but for rounding. So
every stage starts from what B really has, an error of one stage does not reach the next, and a
tensor of B is known by its numbers, whatever it is called. Where several layers of A are one in B,
the value that matches is that behind the last of them: the walk looks a few layers ahead.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from batchnorm_mechanics._keras import has_mask, with_mask_of
from batchnorm_mechanics.comparison.by_graph import by_graph, possible
from batchnorm_mechanics.comparison.calls import Calls, Stage, moved
from batchnorm_mechanics.comparison.layouts import nearest
from batchnorm_mechanics.comparison.ran import Array, Ran, root_mean_square
from batchnorm_mechanics.comparison.state import (
    AHEAD,
    ALONE,
    MATCH,
    Found,
    State,
    as_array,
    is_constant,
)

# Samples of which is measured what rounding does to them.
_FEW = 4


class Joined(NamedTuple):
    """A stage of A, one layer or several that are one in B, and its counterpart in B.

    Attributes:
        stages: of A, the last one gives the value.
        found: the counterpart.
        expected: what A's layers make of B's values.
        size: its root mean square.
        moved: the same with everything moved by a unit in the last place, of the first samples.
        own: what they made of A's own values.
        anchors: positions, as bits, of the values of B that it was computed from.
    """

    stages: tuple[Stage, ...]
    found: Found
    expected: Array
    size: float
    moved: Array
    own: Array
    anchors: int


class Walk:
    """The walk through A's graph.

    Args:
        calls: of A.
        ran: B, on the same inputs.
        places: of A's inputs, the positions among B's values.
        inputs: tensors of A's inputs.
        pairs: by number of A's tensors, the positions of their counterparts where both have the
            same graph; None where they are looked for.

    Attributes:
        own: by number of A's tensors, what A makes of its own values.
    """

    def __init__(
        self,
        calls: Calls,
        ran: Ran,
        places: Sequence[int],
        inputs: Sequence[Any],
        pairs: dict[int, int] | None = None,
    ) -> None:
        self._state = State(calls, ran, places, inputs)
        self._stages, self._pairs = calls.stages, pairs
        self.own: dict[int, Any] = dict(self.on_b)
        # What rounding does is the same for all samples; some tell how much.
        self._few = slice(_FEW if calls.is_by_sample else None)
        self._moved: dict[int, Any] = {one: part[self._few] for one, part in self.on_b.items()}
        self._joined: set[int] = set()
        self._bridges: set[int] = set()

    @property
    def on_b(self) -> dict[int, Any]:
        """By number of A's tensors, what A's layers make of B's values."""
        return self._state.on_b

    def __iter__(self) -> Iterator[Joined]:
        """Yield stages with their counterparts, in an order of A's graph."""
        at = 0
        while at < len(self._stages):
            self._compute(at)
            # What only moves numbers has no error of its own, and its layout is B's affair.
            moves = self._pairs is None and self._stages[at].moves
            found = None if moves else self._counterpart(at)
            if found is None and self._state.is_bridge(self._stages[at]):
                self._bridges.add(at)
                self._bridge(at)
            elif self._pairs is None and (found is None or found.ratio < self._state.sure):
                at, found = self._otherwise(at, found)
            if found is not None:
                yield self._join(at, found)
            self._forget(at)
            at += 1

    def lost(self) -> list[Stage]:
        """Return the stages that have no counterpart, and are in none, when the walk has ended."""
        return [
            stage for at, stage in enumerate(self._stages) if at not in self._joined | self._bridges
        ]

    def _compute(self, at: int) -> None:
        """Run a stage on B's values, on the same moved by a unit, and, once, on A's own."""
        state, stage = self._state, self._stages[at]
        again = stage.outputs[0] in self.own
        _store(state.on_b, stage, stage.run([state.on_b[one] for one in stage.inputs]))
        shaken = [moved(self._moved[one], self._moved[one]) for one in stage.inputs]
        weights = {id(one): moved(one.value, one) for one in stage.weights}
        _store(self._moved, stage, stage.run(shaken, weights))
        if not again and all(self.own[one] is state.on_b[one] for one in stage.inputs):
            self.own.update((one, state.on_b[one]) for one in stage.outputs)
        elif not again:
            _store(self.own, stage, stage.run([self.own[one] for one in stage.inputs]))
        anchors, pending, depth = 0, set[int](), 0
        for one in stage.inputs:
            anchors |= state.anchors[one]
            pending.update(state.pending[one])
            depth = max(depth, state.depth[one])
        for one in stage.outputs:
            state.anchors[one] = anchors
            state.pending[one] = (*sorted(pending), at)
            state.depth[one] = depth + (not stage.moves)

    def _forget(self, at: int) -> None:
        """Let go of what no stage needs, those that the walk may go back to included.

        All of it would be three times what A computes.
        """
        last, state = self._state.calls.last_use, self._state
        open_ = [one for one in self._moved if last.get(one, 0) > at]
        first = min((step for one in open_ for step in state.pending[one]), default=at + 1)
        for one in [one for one in self._moved if last.get(one, 0) < first and one not in open_]:
            for held in (self.own, self._moved, state.on_b):
                held.pop(one, None)

    def _counterpart(self, at: int) -> Found | None:
        """Return the tensor of B that has a stage's value."""
        state, number = self._state, self._stages[at].outputs[0]
        expected = state.expected(at)
        if expected.dtype.kind != "f":
            return None
        if self._pairs is not None:
            position = self._pairs[number]
            laid = nearest(state.ran.values[position].array, expected, state.orders)
            return None if laid is None else Found(position, laid.array, laid.distance, "graph")
        anchors = state.anchors[number]
        return state.search(expected, anchors, MATCH) or state.search(expected, 0, ALONE)

    def _otherwise(self, at: int, found: Found | None) -> tuple[int, Found | None]:
        """Return a stage, this one or one before it, and its counterpart where no value says it.

        Args:
            at: the stage.
            found: a value that is near it, and not near enough to be sure.
        """
        state, stage = self._state, self._stages[at]
        constant = is_constant(state.expected(at))
        is_stuck = state.is_output(stage) or state.depth[stage.outputs[0]] >= AHEAD
        if found is None and not constant and not is_stuck:
            return at, None
        again = by_graph(state, at, near=found is not None)
        if again is not None:
            return again
        if found is None and constant:
            found = self._constant(at)
        if found is None and state.is_output(stage):
            found = self._as_output(at)
        return at, found

    def _constant(self, at: int) -> Found | None:
        """Return the next value of B that is the same one number everywhere, as behind a dead ReLU.

        So are others, which makes it no evidence against what was found before.
        """
        expected = self._state.expected(at)
        for found in possible(self._state, at):
            if found.position not in self._state.used and np.array_equal(found.array, expected):
                return found
        return None

    def _as_output(self, at: int) -> Found | None:
        """Return the output of B that has the place of A's."""
        state = self._state
        place = state.calls.outputs.index(self._stages[at].outputs[0])
        position = state.ran.outputs[place] if place < len(state.ran.outputs) else None
        if position is None or position in state.used:
            return None
        laid = nearest(state.ran.values[position].array, state.expected(at), state.orders)
        return None if laid is None else Found(position, laid.array, laid.distance, "output")

    def _join(self, at: int, found: Found) -> Joined:
        """Put a value of B in the place of what A's layers made."""
        state, stage = self._state, self._stages[at]
        number = stage.outputs[0]
        expected = state.expected(at)
        joined = Joined(
            tuple(self._stages[one] for one in state.pending[number]),
            found,
            expected,
            root_mean_square(expected),
            as_array(self._moved[number]),
            as_array(self.own[number]),
            state.anchors[number],
        )
        state.used.add(found.position)
        self._joined.update(state.pending[number])
        new = self._in_place(found.array.astype(joined.expected.dtype, copy=False), number)
        state.on_b[number] = new
        few = new[: len(joined.moved)] if joined.moved.ndim else new
        self._moved[number] = with_mask_of(few, self._moved[number])
        state.anchors[number] = 1 << found.position
        for one in stage.outputs:
            state.pending[one], state.depth[one] = (), 0
        return joined

    def _in_place(self, array: Array, number: int) -> Any:
        """Return a value of B as a tensor: A's own one where B has the very same numbers.

        Then the next stages need not run once more on A's own values.
        """
        own, before = self.own[number], self._state.on_b[number]
        if not has_mask(own) and not has_mask(before) and _is_same(as_array(own), array):
            return own
        return with_mask_of(array, before)

    def _bridge(self, at: int) -> None:
        """Look through a stage: what comes in stands for what comes out."""
        state, stage = self._state, self._stages[at]
        before = sorted({number for given in stage.inputs for number in state.pending[given]})
        for one in stage.outputs:
            state.pending[one] = tuple(before)


def _is_same(one: Array, other: Array) -> bool:
    """Return whether two arrays hold the same numbers; mostly the first few tell."""
    few = slice(64)
    return (
        one.dtype == other.dtype
        and np.array_equal(one.reshape(-1)[few], other.reshape(-1)[few])
        and np.array_equal(one, other)
    )


def _store(where: dict[int, Any], stage: Stage, outputs: Sequence[Any]) -> None:
    where.update(zip(stage.outputs, outputs, strict=True))
