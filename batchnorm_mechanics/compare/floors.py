"""How far a stage may be off by rounding alone."""

import numpy as np

from batchnorm_mechanics.compare.layouts import distance
from batchnorm_mechanics.compare.matching import Joined
from batchnorm_mechanics.compare.ran import Array, Ran

# Between what rounding does on the whole and the most that it did to a stage of a healthy export,
# by networks that are not among those of benchmarks/compare_planted.py.
SLACK = 4.0


def floor_of(joined: Joined, ran: Ran) -> float:
    """Return how far apart rounding takes a stage of A and its counterpart, root mean square.

    Args:
        joined: the stage.
        ran: B.

    Numerics:
        A unit in the last place of every input and weight moves the stage by d, which was
        measured; to be rounded to such units moves it by d / sqrt(12). A sum of n products, each
        rounded when it is added, errs by about sqrt(n) times what its products' own rounding does,
        as a walk by chance; and both sides err. So 2 (1 + sqrt(n)) d / sqrt(12), n the longest sum
        of the stage. What B quantizes comes on top: a number on a grid of distance s errs by
        s / sqrt(12).
    """
    length = max(stage.length for stage in joined.stages)
    shaken = distance(joined.moved, joined.expected)
    rounded = 2 * (1 + np.sqrt(length)) * shaken / np.sqrt(12) if np.isfinite(shaken) else 0.0
    return float(np.hypot(rounded, ran.rounding(joined.anchors, joined.found.position)))


def on_grid(expected: Array, joined: Joined, ran: Ran) -> tuple[Array, float]:
    """Return what a quantized tensor can hold of a value, and the share of it that it cannot."""
    grid = ran.values[joined.found.position].grid
    if grid is None:
        return expected, 0.0
    held = np.clip(expected, grid.least, grid.most)
    beyond = np.abs(held - expected) > grid.scale
    return held, float(np.mean(beyond)) if beyond.size else 0.0
