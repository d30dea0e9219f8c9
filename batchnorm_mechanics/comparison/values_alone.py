"""Two models of which neither can be run layer by layer, matched by their values alone."""

from batchnorm_mechanics.comparison.layouts import decibels, nearest
from batchnorm_mechanics.comparison.ran import Ran, Value
from batchnorm_mechanics.comparison.result import Row
from batchnorm_mechanics.comparison.state import ALONE


def rows_by_value(a: Ran, b: Ran) -> tuple[list[Row], list[str]]:
    """Return A's steps that have a counterpart in B, and names of those that have none.

    Args:
        a: of which no step can be run by itself.
        b: on the same inputs.
    """
    rows, lost, used = [], [], set(b.inputs)
    for step in a.steps:
        for position in step.outputs[:1]:
            value = a.values[position]
            if not value.is_real or value.size == 0:
                continue
            found = _nearest(value, b, used)
            if found is None:
                lost.append(step.name)
                continue
            used.add(found[0])
            row = Row(
                layers=(step.name,),
                counterpart=b.values[found[0]].name,
                own=None,
                inherited=found[1],
                floor=None,
                differs=None,
            )
            rows.append(row)
    return rows, lost


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
