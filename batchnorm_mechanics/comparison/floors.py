"""How far a stage may be off by rounding alone."""

import numpy as np

from batchnorm_mechanics.comparison.layouts import distance
from batchnorm_mechanics.comparison.matching import Joined
from batchnorm_mechanics.comparison.ran import UNIT, Array, Ran

# Derived is what rounding does if it goes up and down by chance. Kernels that sum in blocks, or
# compute a transform of the image, and functions that are approximated, do more.
_SLACK = 4.0
# A grid is coarse, and its rounding is by chance: what else there is are roundings of the grid's
# own size within an operation.
_SLACK_OF_GRIDS = 2.0


def floor_of(joined: Joined, ran: Ran) -> float:
    """Return how far apart rounding takes a stage and its counterpart at most, root mean square.

    Args:
        joined: the stage.
        ran: B.

    Numerics:
        A unit in the last place of every input and weight moves the stage by d, which was
        measured, its own last place with it; to be rounded to such units moves it by d / sqrt(12).
        A sum of n products, each rounded when it is added, errs by about sqrt(n) times what its
        products' own rounding does, as a walk by chance; and both sides err. So 2 (1 + sqrt(n)) d
        / sqrt(12), n the longest sum of the stage. What B quantizes comes on top: a number on a
        grid of distance s errs by s / sqrt(12). 4 times the one and 2 times the other are taken to
        be rounding; and a unit in the last place of 1 where B's value comes from a function that
        ends at 1, half of it for each side.
    """
    length = max(stage.length for stage in joined.stages)
    few = joined.expected[: len(joined.moved)] if joined.moved.ndim else joined.expected
    shaken = np.hypot(distance(joined.moved, few), UNIT * joined.size)
    rounded = 2 * (1 + np.sqrt(length)) * shaken / np.sqrt(12) if np.isfinite(shaken) else 0.0
    position = joined.found.position
    grids = np.hypot(_SLACK_OF_GRIDS * ran.rounding(joined.anchors, position), ran.unit(position))
    return float(np.hypot(_SLACK * rounded, grids))


def on_grid(expected: Array, joined: Joined, ran: Ran) -> tuple[Array, float]:
    """Return what a quantized tensor can hold of a value, and the share of it that it cannot."""
    grid = ran.values[joined.found.position].grid
    if grid is None:
        return expected, 0.0
    held = np.clip(expected, grid.least, grid.most)
    beyond = np.abs(held - expected) > grid.scale
    return held, float(np.mean(beyond)) if beyond.size else 0.0
