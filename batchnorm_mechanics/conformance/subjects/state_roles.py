"""Which of an object's variables is gamma, beta, the moving mean, the moving variance."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.subjects.roles import OF_VARIABLES, Role, find_roles, plain

# What is told by such a name is told before what has the same name without it.
_MOVING = re.compile("moving|running|population|global|ema|average|mov|run|pop|avg")
# Of two values of one statistic, the one that start-up has been corrected in is read.
_RAW = re.compile("hidden|biased|raw|sum|total")


def find_variables(
    fresh: Callable[[], Any], x: np.ndarray, kept: tuple[int, ...]
) -> Mapping[Role, Sequence[str]]:
    """Return the paths of variables by their roles: by name, and where that is silent by behaviour.

    What moves in training and follows the batch's mean is the moving mean; what else moves, the
    variance. Of what stays, beta shifts the output and gamma does something else to it.

    Args:
        fresh: makes a new object, which has `variables`, `assign` and `output`.
        x: an input for it.
        kept: the axes that are kept.

    Returns:
        For each role that was found its paths, the one to be read first.
    """
    channels = int(np.prod([x.shape[axis] for axis in kept]))
    there = {
        path: value
        for path, value in fresh().variables().items()
        if value.size == channels and value.dtype.kind not in "iub"
    }
    found = _by_name(list(there))
    left = [path for path in there if not any(path in paths for paths in found.values())]
    missing = [role for role in OF_VARIABLES if role not in found]
    if left and missing:
        found |= _by_behaviour(fresh, x, kept, left, missing)
    return found


def _by_name(paths: list[str]) -> dict[Role, list[str]]:
    telling: dict[str, list[str]] = {}
    for path in paths:
        telling.setdefault(_telling(path), []).append(path)
    names = sorted(telling, key=lambda name: _MOVING.search(plain(name)) is None)
    roles = find_roles(names, OF_VARIABLES[::-1])
    return {
        role: sorted(telling[name], key=lambda path: _RAW.search(path.lower()) is not None)
        for role, name in roles.items()
    }


def _telling(path: str) -> str:
    """Return the part of a path that says what it is: the first that stands for something.

    Example:
        >>> _telling("batch_norm/var_ema/average")
        'var_ema'
    """
    parts = path.split("/")
    return next((part for part in parts if find_roles([part], OF_VARIABLES)), parts[-1])


def _by_behaviour(
    fresh: Callable[[], Any],
    x: np.ndarray,
    kept: tuple[int, ...],
    left: list[str],
    missing: Sequence[Role],
) -> dict[Role, list[str]]:
    found: dict[Role, list[str]] = {}
    made = fresh()
    before = {path: value.copy() for path, value in made.variables().items()}
    made.output(x, True)
    after = made.variables()
    moved = [path for path in left if not np.array_equal(before[path], after[path])]
    mean = (
        x.astype(np.float64).mean(tuple(axis for axis in range(x.ndim) if axis not in kept)).ravel()
    )

    def away(path: str) -> float:
        old, new = (value[path].astype(np.float64).ravel() for value in (before, after))
        columns = np.stack([old, mean], axis=1)
        weights = np.linalg.lstsq(columns, new)[0]
        return float(np.max(np.abs(columns @ weights - new)))

    moved.sort(key=away)
    found |= _paired((Role.MEAN, Role.VARIANCE), missing, moved)
    still = [path for path in left if path not in moved]
    shifts = [path for path in still if _shifts(fresh, x, path)]
    scales = [path for path in still if path not in shifts]
    found |= _paired((Role.BETA,), missing, shifts)
    found |= _paired((Role.GAMMA,), missing, scales)
    return found


def _paired(
    roles: Sequence[Role], missing: Sequence[Role], paths: Sequence[str]
) -> dict[Role, list[str]]:
    wanted = [role for role in roles if role in missing]
    return {role: [path] for role, path in zip(wanted, paths, strict=False)}


def _shifts(fresh: Callable[[], Any], x: np.ndarray, path: str) -> bool:
    """Return whether a variable is added to the output: all samples change by the same."""
    made, other = fresh(), fresh()
    value = other.variables()[path]
    other.assign({path: value + 1})
    change = other.output(x, True).astype(np.float64) - made.output(x, True)
    return bool(np.any(change) and np.allclose(change, 1, atol=1e-3))
