"""Two models of which neither can be run layer by layer, matched by their values alone."""

import numpy as np

from batchnorm_mechanics.comparison.layouts import decibels, nearest
from batchnorm_mechanics.comparison.ran import Ran, Step, Value
from batchnorm_mechanics.comparison.result import Row
from batchnorm_mechanics.comparison.state import ALONE


def rows_by_value(a: Ran, b: Ran) -> tuple[list[Row], list[str]]:
    """Return A's steps that have a counterpart in B, and names of those that have none.

    A step without one is part of the next one behind it that has one, as a bias that B adds
    together with an activation. What only moves numbers is no step here.

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
        steps, found = tuple(sorted(before)), _counterpart(step, a, b, used)
        if found is not None and steps:
            used.add(found[0])
            joined.update(steps)
            row = Row(
                layers=tuple(a.steps[one].name for one in steps),
                counterpart=b.values[found[0]].name,
                own=None,
                inherited=found[1],
                floor=None,
                differs=None,
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


def _counterpart(step: Step, a: Ran, b: Ran, used: set[int]) -> tuple[int, float] | None:
    """Return the value of B that is nearest to a step's, and by how many decibels."""
    for position in step.outputs[:1]:
        value = a.values[position]
        if value.is_real and value.size > 0:
            return _nearest(value, b, used)
    return None


def _nearest(value: Value, b: Ran, used: set[int]) -> tuple[int, float] | None:
    best = None
    least = ALONE if all(one.grid is None for one in b.values) else 20.0
    for position in b.by_count.get(value.array.size, ()):
        other = b.values[position]
        gap = max(abs(other.size - value.size), abs(other.mean - value.mean))
        if position in used or decibels(value.size, gap) < least:
            continue
        laid = nearest(other.array, value.array)
        ratio = -1.0 if laid is None else decibels(value.size, laid.distance)
        if ratio > least:
            best, least = (position, ratio), ratio
    return best
