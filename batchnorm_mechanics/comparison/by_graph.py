"""Where no value of B is what A's layers make: counterparts by what follows from them.

Behind a fault every value is another. A tensor of B is the counterpart of one of A's where the
layers behind it lead from it to values that B has.
"""

from collections.abc import Iterator

import numpy as np

from batchnorm_mechanics._keras import with_mask_of
from batchnorm_mechanics.comparison.calls import Stage
from batchnorm_mechanics.comparison.fitting import affine_fit
from batchnorm_mechanics.comparison.layouts import decibels, distance, nearest
from batchnorm_mechanics.comparison.state import (
    AHEAD,
    ALONE,
    Found,
    State,
    as_array,
    same_numbers,
)
from batchnorm_mechanics.models.norms import KINDS

# Tensors of B that are tried for each of A's.
_TRIED = 12


def by_graph(state: State, at: int, *, near: bool) -> tuple[int, Found] | None:
    """Return which stage, of those up to one that have no counterpart, has one, and which.

    Args:
        state: of the walk.
        at: the last stage.
        near: whether a value of B is near the last stage's, which says more than a value that would
            be but for a factor and an offset a channel.

    Returns:
        The nearest tensor of B that leads on, with the last stage from which it does: an
        activation that saturates may lead on from the stage before it as well.
    """
    pending = [
        one
        for one in state.pending[state.calls.stages[at].outputs[0]]
        if not state.is_bridge(state.calls.stages[one]) or _is_norm(state.calls.stages[one])
    ]
    pairs = [(found.position, one, found) for one in pending for found in possible(state, one)]
    for _, one, found in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if state.left <= 0:
            break
        if _leads_on(state, one, found):
            return one, found
    return None if near else _by_factor(state, pending)


def possible(state: State, at: int) -> Iterator[Found]:
    """Yield values of B behind the anchors of a stage that have its shape, nearest first."""
    stage = state.calls.stages[at]
    expected, anchors = state.expected(at), state.anchors[stage.outputs[0]]
    if len(stage.inputs) == 1:
        # B may leave a layer out: then what comes into it comes out.
        given = as_array(state.on_b[stage.inputs[0]])
        if given.shape == expected.shape and anchors.bit_count() == 1:
            gap = distance(given, expected)
            yield Found(anchors.bit_length() - 1, given, gap, "graph")
    count = 0
    for position in state.ran.by_count.get(expected.size, ()):
        if position in state.used or anchors & ~state.ran.ancestors[position]:
            continue
        count += 1
        if count > _TRIED:
            return
        laid = nearest(state.ran.values[position].array, expected, state.orders)
        if laid is not None:
            yield Found(position, laid.array, laid.distance, "graph")


def _is_norm(stage: Stage) -> bool:
    return isinstance(stage.operation, KINDS)


def _leads_on(state: State, at: int, found: Found) -> bool:
    """Return whether A's next layers make of a value of B another one that B has."""
    first = state.calls.stages[at].outputs[0]
    values = {first: with_mask_of(found.array, state.on_b[first])}
    anchors, depth = {first: 1 << found.position}, {first: 0}
    for later in state.calls.stages[at + 1 : at + 1 + 4 * AHEAD]:
        reached = [one for one in later.inputs if one in values]
        if not reached or any(one not in values and one not in state.on_b for one in later.inputs):
            continue
        state.left -= 1
        given = [values.get(one, state.on_b.get(one)) for one in later.inputs]
        outputs = later.run(given)
        values.update(zip(later.outputs, outputs, strict=True))
        steps = 1 + max(depth[one] for one in reached)
        mask = 0
        for one in later.inputs:
            mask |= anchors.get(one, state.anchors.get(one, 0))
        anchors |= dict.fromkeys(later.outputs, mask)
        depth |= dict.fromkeys(later.outputs, steps - later.moves)
        if later.moves:
            continue
        before, after = as_array(given[0]), as_array(outputs[0])
        match = state.search(after, mask, state.sure)
        if match is not None:
            # What an activation makes of any tensor that B has before the same activation, B has
            # too: only weights, or another tensor, tell one from the other.
            tells = later.weights or len(given) > 1 or before.size != after.size
            if tells or state.is_output(later):
                return True
            anchors |= dict.fromkeys(later.outputs, 1 << match.position)
        elif len(given) == 1 and same_numbers(before, after):
            # An activation that changes nothing has been there already: this is its output.
            return False
        if steps >= AHEAD:
            return False
    return False


def _by_factor(state: State, pending: list[int]) -> tuple[int, Found] | None:
    """Return a batch norm whose value in B is A's but for a factor and an offset a channel.

    With it goes what follows and cuts off numbers alone, as a ReLU does. Of several that come one
    from the other it is the last: exports add the offset to what they have multiplied.
    """
    best: tuple[int, Found] | None = None
    first = next((at for at in pending if _is_norm(state.calls.stages[at])), None)
    if first is None:
        return None
    norm = state.calls.stages[first]
    source, given = state.expected(first), as_array(state.on_b[norm.inputs[0]])
    axes = norm.operation.axis
    axis = int(axes[0] if isinstance(axes, list | tuple) else axes) % source.ndim
    following = [at for at in pending if at > first][:1]
    tails = [at for at in following if _clips(state, at, norm)]
    for found in possible(state, first):
        # The norm's own input, and copies of it, are its output, too, but for factor and offset.
        if found.position in state.used or np.array_equal(found.array, given):
            continue
        # Without what cuts off first: a value that nothing cut off fits both ways.
        for at in (first, *tails):
            fit = affine_fit(source, found.array, axis, clipped=at != first)
            if fit is None or not fit.size or fit.points <= 3 * np.isfinite(fit.factor).sum():
                continue
            if decibels(fit.size, fit.remainder) > ALONE:
                if best is None or (at == best[0] and _follows(state, found, best[1])):
                    best = at, found
                break
    return best


def _follows(state: State, one: Found, other: Found) -> bool:
    """Return whether a value of B depends on another."""
    return bool(state.ran.ancestors[one.position] >> other.position & 1)


def _clips(state: State, at: int, norm: Stage) -> bool:
    """Return whether a stage only cuts off some of the numbers of another one's output."""
    stage = state.calls.stages[at]
    if stage.inputs != norm.outputs:
        return False
    before, after = as_array(state.on_b[stage.inputs[0]]), state.expected(at)
    if before.shape != after.shape:
        return False
    kept = before == after
    return bool(np.all(kept | (after == np.min(after)) | (after == np.max(after))))
