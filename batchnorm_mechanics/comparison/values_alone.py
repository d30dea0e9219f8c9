"""Two models of which neither can be run layer by layer, matched by their values alone."""

from typing import NamedTuple

import numpy as np

from batchnorm_mechanics.comparison.layouts import decibels, nearest
from batchnorm_mechanics.comparison.ran import Ran, Step
from batchnorm_mechanics.comparison.result import Row
from batchnorm_mechanics.comparison.state import ALONE

# What quantization leaves at least, where B computes in integers.
_QUANTIZED = 20.0


class _Match(NamedTuple):
    """A value of B that has the numbers of a value of A.

    Attributes:
        position: of it, among B's.
        ratio: decibels of signal to difference.
        by: "value", or "output" where nothing but its place says so.
    """

    position: int
    ratio: float
    by: str = "value"


def rows_by_value(a: Ran, b: Ran) -> tuple[list[Row], list[str]]:
    """Return A's steps that have a counterpart in B, and names of those that have none.

    A step without one is part of the next one behind it that has one, as a bias that B adds
    together with an activation. What only moves numbers is no step here. Outputs that differ are
    counterparts by their place.

    Args:
        a: of which no step can be run by itself.
        b: on the same inputs.
    """
    rows, used = [], set(b.inputs)
    # Of each value of A, the steps that made it since the last ones that B has, too.
    waiting: dict[int, tuple[int, ...]] = {}
    joined: set[int] = set()
    for number, step in enumerate(a.steps):
        before = {one for given in step.inputs for one in waiting.get(given, ())}
        if _changes_nothing(step, a):
            joined.add(number)
        else:
            before.add(number)
        steps = tuple(sorted(before))
        found = _by_value(step, a, b, used)
        if found is None and number not in joined:
            found = _by_place(step, a, b, used)
            # What comes before an output that differs may have no part in it.
            steps = steps if found is None else (number,)
        if found is not None and steps:
            used.add(found.position)
            joined.update(steps)
            row = Row(
                layers=tuple(a.steps[one].name for one in steps),
                counterpart=b.values[found.position].name,
                own=None,
                inherited=found.ratio,
                floor=None,
                differs=None,
                by=found.by,
            )
            rows.append(row)
            steps = ()
        waiting |= dict.fromkeys(step.outputs, steps)
    return rows, [step.name for number, step in enumerate(a.steps) if number not in joined]


def _changes_nothing(step: Step, ran: Ran) -> bool:
    """Return whether a step's output has the numbers of its input, perhaps in another order."""
    if len(step.inputs) != 1 or len(step.outputs) != 1:
        return False
    before, after = (ran.values[one].array for one in (step.inputs[0], step.outputs[0]))
    if before.size != after.size or before.dtype != after.dtype:
        return False
    return np.array_equal(np.sort(before, None), np.sort(after, None))


def _by_value(step: Step, a: Ran, b: Ran, used: set[int]) -> _Match | None:
    """Return the value of B that is nearest to a step's, if one is near."""
    value = a.values[step.outputs[0]] if step.outputs else None
    if value is None or not value.is_real or value.size == 0:
        return None
    best = None
    ratio = _QUANTIZED if any(one.grid is not None for one in b.values) else ALONE
    least = value.size * 10 ** (-ratio / 20)
    for position in b.by_count.get(value.array.size, ()):
        other = b.values[position]
        allowed = max(least, a.unit(step.outputs[0]), b.unit(position))
        gap = max(abs(other.size - value.size), abs(other.mean - value.mean))
        if position in used or not gap <= allowed:
            continue
        laid = nearest(other.array, value.array)
        if laid is not None and laid.distance <= allowed:
            if best is None or laid.distance < least:
                best = _Match(position, decibels(value.size, laid.distance))
            least = min(least, laid.distance)
    return best


def _by_place(step: Step, a: Ran, b: Ran, used: set[int]) -> _Match | None:
    """Return the output of B that has the place of a step's among A's."""
    for one, position in zip(a.outputs, b.outputs, strict=False):
        if one not in step.outputs or position is None or position in used:
            continue
        value = a.values[one]
        laid = nearest(b.values[position].array, value.array)
        if value.is_real and laid is not None:
            return _Match(position, decibels(value.size, laid.distance), "output")
    return None
