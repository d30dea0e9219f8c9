"""Walk a Keras model's graph, each layer on the other model's values, and find its counterparts.

What a layer of A makes of B's own values is what B's next tensor must be, but for rounding. So
every stage starts from what B really has, an error of one stage does not reach the next, and a
tensor of B is known by its numbers, whatever it is called. Where several layers of A are one in B,
the value that matches is that behind the last of them: the walk looks a few layers ahead. Behind a
fault no value matches, and a counterpart is one from which the layers behind it lead to values that
B has.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from batchnorm_mechanics._keras import with_mask_of
from batchnorm_mechanics.compare.calls import Calls, Stage, moved
from batchnorm_mechanics.compare.fitting import affine_fit
from batchnorm_mechanics.compare.layouts import Order, decibels, nearest
from batchnorm_mechanics.compare.ran import Array, Ran, root_mean_square
from batchnorm_mechanics.models.norms import KINDS

# Counterparts of healthy stages were measured at 35 dB in int8 and at 130 dB in float32, all other
# tensors of their shape below 10 dB.
MATCH = 25.0
# Where nothing but the value speaks for a counterpart.
ALONE = 40.0
# Layers of A that can be one operation of B: padding, convolution, batch norm, activation, and
# their like behind a separable one.
AHEAD = 6
# In floating point a layer's value was never below 100 dB of its counterpart in a healthy export.
_SURE = 60.0
_SURE_OF_GRIDS = 35.0
_AS_THEY_ARE = frozenset(tuple(range(rank)) for rank in range(8))
# Forms that have channels before places, whatever their outputs have.
_FIRST = {"ONNX", "OpenVINO"}
_CHANNELS_FIRST = frozenset(
    tuple(range(rank)) if rank < 4 else (0, *range(2, rank), 1) for rank in range(8)
)
# Tensors of B that are tried as a counterpart by the graph.
_TRIED = 12


class Found(NamedTuple):
    """A counterpart.

    Attributes:
        position: of the value in B.
        array: its numbers in A's layout.
        by: "value", "graph" or "output".
        ratio: decibels of the value that was expected to the distance from it; 0 where the value
            decided nothing.
    """

    position: int
    array: Array
    by: str
    ratio: float = 0.0


class Joined(NamedTuple):
    """A stage of A, one layer or several that are one in B, and its counterpart in B.

    Attributes:
        stages: of A, the last one gives the value.
        found: the counterpart.
        expected: what A's layers make of B's values.
        moved: the same with everything moved by a unit in the last place.
        own: what they made of A's own values.
        anchors: positions, as bits, of the values of B that it was computed from.
    """

    stages: tuple[Stage, ...]
    found: Found
    expected: Array
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
    """

    def __init__(
        self,
        calls: Calls,
        ran: Ran,
        places: Sequence[int],
        inputs: Sequence[Any],
        pairs: dict[int, int] | None = None,
    ) -> None:
        self.calls, self.ran, self.pairs = calls, ran, pairs
        self.on_b: dict[int, Any] = dict(zip(calls.inputs, inputs, strict=True))
        self.own: dict[int, Any] = dict(self.on_b)
        self._moved: dict[int, Any] = dict(self.on_b)
        self._anchors = {
            number: 1 << position for number, position in zip(calls.inputs, places, strict=True)
        }
        self._pending: dict[int, tuple[int, ...]] = dict.fromkeys(calls.inputs, ())
        self._depth: dict[int, int] = dict.fromkeys(calls.inputs, 0)
        self._used: set[int] = set(ran.inputs)
        # Layouts of B's form, and those in which values matched.
        self._orders: set[Order] = set(_CHANNELS_FIRST if ran.form in _FIRST else _AS_THEY_ARE)
        # What rounding leaves of a value that is computed from B's own is far above it.
        is_quantized = any(value.grid is not None for value in ran.values)
        self._sure = _SURE_OF_GRIDS if is_quantized else _SURE
        self._generator = np.random.default_rng(0)
        # Trials by the graph cost a layer's computation each; twice the model's own is enough.
        self._left = 2 * len(calls.stages) + 8 * AHEAD
        self._joined: set[int] = set()

    def __iter__(self) -> Iterator[Joined]:
        """Yield stages with their counterparts, in an order of A's graph."""
        at, stages = 0, self.calls.stages
        while at < len(stages):
            stage = stages[at]
            self._compute(at)
            found = self._counterpart(at)
            if found is None and self._is_bridge(stage):
                self._bridge(at)
            elif self.pairs is None and (found is None or found.ratio < self._sure):
                at, found = self._otherwise(at, found)
            if found is not None:
                yield self._join(at, found)
            at += 1

    def lost(self) -> list[Stage]:
        """Return the stages that have no counterpart, and are in none, when the walk has ended."""
        return [
            stage
            for at, stage in enumerate(self.calls.stages)
            if at not in self._joined and not self._is_bridge(stage)
        ]

    def pending(self, number: int) -> tuple[Stage, ...]:
        """Return the stages between B's values and one of A's tensors, the last first known."""
        return tuple(self.calls.stages[at] for at in self._pending[number])

    def _compute(self, at: int) -> None:
        stage, generator = self.calls.stages[at], self._generator
        given = [self.on_b[one] for one in stage.inputs]
        self._store(self.on_b, stage, stage.run(given))
        shaken = [moved(self._moved[one], self.on_b[one], generator) for one in stage.inputs]
        weights = {id(one): moved(one.value, one, generator) for one in stage.weights}
        self._store(self._moved, stage, stage.run(shaken, weights))
        if stage.outputs[0] not in self.own:
            self._store(self.own, stage, stage.run([self.own[one] for one in stage.inputs]))
        anchors, pending, depth = 0, set[int](), 0
        for one in stage.inputs:
            anchors |= self._anchors[one]
            pending.update(self._pending[one])
            depth = max(depth, self._depth[one])
        for one in stage.outputs:
            self._anchors[one] = anchors
            self._pending[one] = (*sorted(pending), at)
            self._depth[one] = depth + (not stage.moves)

    @staticmethod
    def _store(where: dict[int, Any], stage: Stage, outputs: Sequence[Any]) -> None:
        where.update(zip(stage.outputs, outputs, strict=True))

    def _counterpart(self, at: int) -> Found | None:
        """Return the tensor of B that has a stage's value."""
        number = self.calls.stages[at].outputs[0]
        expected = _array(self.on_b[number])
        if expected.dtype.kind != "f":
            return None
        if self.pairs is not None:
            position = self.pairs[number]
            laid = nearest(self.ran.values[position].array, expected, _AS_THEY_ARE)
            return None if laid is None else Found(position, laid.array, "graph")
        anchors = self._anchors[number]
        return self._search(expected, anchors, MATCH) or self._search(expected, 0, ALONE)

    def _search(self, expected: Array, anchors: int, least: float) -> Found | None:
        """Return the value of B that is nearest to what is expected, and near enough."""
        if _is_constant(expected):
            return None
        size, mean = root_mean_square(expected), float(np.mean(expected, dtype=np.float64))
        best, ratio, order = None, least, None
        for position in self.ran.by_count.get(expected.size, ()):
            value, before = self.ran.values[position], self.ran.ancestors[position]
            if (
                anchors & ~before
                or anchors >> position & 1
                or (not anchors and position in self._used)
            ):
                continue
            # No difference is smaller than that of the sizes, or of the means.
            gap = max(abs(value.size - size), abs(value.mean - mean))
            if not np.isfinite(gap) or decibels(size, gap) < ratio:
                continue
            laid = nearest(value.array, expected)
            found = -1.0 if laid is None else decibels(size, laid.distance)
            # Copies of a value, in another layout, follow it.
            if laid is not None and found > ratio + (3 if best else 0):
                best, ratio = Found(position, laid.array, "value", found), found
                order = laid.order
        if order is not None:
            self._orders.add(order)
        return best

    def _join(self, at: int, found: Found) -> Joined:
        stage = self.calls.stages[at]
        number = stage.outputs[0]
        joined = Joined(
            self.pending(number),
            found,
            _array(self.on_b[number]),
            _array(self._moved[number]),
            _array(self.own[number]),
            self._anchors[number],
        )
        self._used.add(found.position)
        self._joined.update(self._pending[number])
        new = with_mask_of(found.array.astype(joined.expected.dtype), self.on_b[number])
        self.on_b[number] = self._moved[number] = new
        self._anchors[number] = 1 << found.position
        for one in stage.outputs:
            self._pending[one], self._depth[one] = (), 0
        return joined

    def _is_bridge(self, stage: Stage) -> bool:
        """Return whether a stage leaves the numbers of its input as they are, in any shape."""
        if stage.moves:
            return True
        if len(stage.inputs) != 1:
            return False
        before, after = (_array(self.on_b[one]) for one in (stage.inputs[0], stage.outputs[0]))
        return before.size == after.size and np.array_equal(before.ravel(), after.ravel())

    def _bridge(self, at: int) -> None:
        """Look through a stage: what comes in stands for what comes out."""
        stage = self.calls.stages[at]
        for one in stage.outputs:
            self._pending[one] = tuple(
                sorted({number for given in stage.inputs for number in self._pending[given]})
            )

    def _otherwise(self, at: int, found: Found | None) -> tuple[int, Found | None]:
        """Return a stage, this one or one before it, and its counterpart where no value says it.

        Args:
            at: the stage.
            found: a value that is near it, and not near enough to be sure.
        """
        stage = self.calls.stages[at]
        number = stage.outputs[0]
        is_constant = _is_constant(_array(self.on_b[number]))
        is_stuck = self._is_output(stage) or self._depth[number] >= AHEAD
        if found is None and not is_constant and not is_stuck:
            return at, None
        again = self._by_graph(at)
        if again is not None:
            return again
        if found is None and is_constant:
            found = self._constant(at)
        if found is None and self._is_output(stage):
            found = self._as_output(at)
        return at, found

    def _constant(self, at: int) -> Found | None:
        """Return the next value of B that is the same one number everywhere, as behind a dead ReLU.

        So are others, which makes it no evidence against what was found before.
        """
        number = self.calls.stages[at].outputs[0]
        expected = _array(self.on_b[number])
        for found in self._possible(at):
            if found.position not in self._used and np.array_equal(found.array, expected):
                return found
        return None

    def _is_output(self, stage: Stage) -> bool:
        return stage.outputs[0] in self.calls.outputs

    def _as_output(self, at: int) -> Found | None:
        """Return the output of B that has the place of A's."""
        number = self.calls.stages[at].outputs[0]
        place = self.calls.outputs.index(number)
        position = self.ran.outputs[place] if place < len(self.ran.outputs) else None
        if position is None or position in self._used:
            return None
        laid = nearest(self.ran.values[position].array, _array(self.on_b[number]), self._orders)
        return None if laid is None else Found(position, laid.array, "output")

    def _by_graph(self, at: int) -> tuple[int, Found] | None:
        """Return which stage, of those without a counterpart, has one by what follows from it."""
        pending = self._pending[self.calls.stages[at].outputs[0]]
        for tried in pending:
            stage = self.calls.stages[tried]
            if self._is_bridge(stage):
                continue
            for found in self._possible(tried):
                if self._left <= 0:
                    return None
                if self._leads_on(tried, found):
                    return tried, found
        return self._by_factor(pending)

    def _possible(self, at: int) -> Iterator[Found]:
        """Yield values of B behind the anchors of a stage that have its shape, nearest first."""
        number = self.calls.stages[at].outputs[0]
        expected, anchors = _array(self.on_b[number]), self._anchors[number]
        count = 0
        if len(self.calls.stages[at].inputs) == 1:
            # B may leave a layer out: then what comes into it comes out.
            given = _array(self.on_b[self.calls.stages[at].inputs[0]])
            if given.shape == expected.shape and anchors.bit_count() == 1:
                yield Found(anchors.bit_length() - 1, given, "graph")
        for position in self.ran.by_count.get(expected.size, ()):
            if position in self._used or anchors & ~self.ran.ancestors[position]:
                continue
            count += 1
            if count > _TRIED:
                return
            laid = nearest(self.ran.values[position].array, expected, self._orders)
            if laid is not None:
                yield Found(position, laid.array, "graph")

    def _leads_on(self, at: int, found: Found) -> bool:
        """Return whether A's next layers make of a value of B another one that B has."""
        stage = self.calls.stages[at]
        values = {stage.outputs[0]: with_mask_of(found.array, self.on_b[stage.outputs[0]])}
        anchors = {stage.outputs[0]: 1 << found.position}
        depth = {stage.outputs[0]: 0}
        for later in self.calls.stages[at + 1 : at + 1 + 4 * AHEAD]:
            reached = [one for one in later.inputs if one in values]
            if not reached:
                continue
            if any(one not in values and one not in self.on_b for one in later.inputs):
                continue
            self._left -= 1
            given = [values.get(one, self.on_b.get(one)) for one in later.inputs]
            outputs = later.run(given)
            values.update(zip(later.outputs, outputs, strict=True))
            steps = 1 + max(depth[one] for one in reached)
            mask = 0
            for one in later.inputs:
                mask |= anchors.get(one, self._anchors.get(one, 0))
            anchors |= dict.fromkeys(later.outputs, mask)
            depth |= dict.fromkeys(later.outputs, steps - later.moves)
            if later.moves:
                continue
            before, after = _array(given[0]), _array(outputs[0])
            match = self._search(after, mask, self._sure)
            if match is not None:
                # What an activation makes of any tensor that B has before the same activation, B
                # has too: only weights, or another tensor, tell one from the other.
                if later.weights or len(given) > 1 or before.size != after.size:
                    return True
                if self._is_output(later):
                    return True
                anchors |= dict.fromkeys(later.outputs, 1 << match.position)
            elif len(given) == 1 and np.array_equal(before.ravel(), after.ravel()):
                # An activation that changes nothing has been there already: this is its output.
                return False
            if steps >= AHEAD:
                return False
        return False

    def _by_factor(self, pending: Sequence[int]) -> tuple[int, Found] | None:
        """Return a batch norm whose value in B is A's but for a factor and offset a channel.

        With it goes what follows and cuts off numbers alone, as a ReLU does.
        """
        first = next(
            (at for at in pending if isinstance(self.calls.stages[at].operation, KINDS)), None
        )
        if first is None:
            return None
        norm = self.calls.stages[first]
        source = _array(self.on_b[norm.outputs[0]])
        axes = norm.operation.axis
        axis = int(axes[0] if isinstance(axes, list | tuple) else axes) % source.ndim
        following = [at for at in pending if at > first][:1]
        tails = [at for at in following if self._clips(at, norm)]
        for found in self._possible(first):
            for at in (*tails, first):
                fit = affine_fit(source, found.array, axis, clipped=at != first)
                enough = fit is not None and fit.points > 3 * np.isfinite(fit.factor).sum()
                if enough and fit.size and decibels(fit.size, fit.remainder) > ALONE:
                    return at, found
        return None

    def _clips(self, at: int, norm: Stage) -> bool:
        """Return whether a stage only cuts off some of the numbers of another one's output."""
        stage = self.calls.stages[at]
        if stage.inputs != norm.outputs:
            return False
        before, after = (_array(self.on_b[one]) for one in (stage.inputs[0], stage.outputs[0]))
        if before.shape != after.shape:
            return False
        kept = before == after
        return bool(np.all(kept | (after == np.min(after)) | (after == np.max(after))))


def _is_constant(array: Array) -> bool:
    """Return whether all numbers are the same, which others are as well."""
    return not array.size or bool(np.all(array == array.reshape(-1)[0]))


def _array(tensor: Any) -> Array:
    array = np.asarray(tensor)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
