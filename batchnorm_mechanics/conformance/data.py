"""The numbers of a case, drawn from its name: batches, masks, gradient, parameters, statistics."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from batchnorm_mechanics.conformance.asking import as_type
from batchnorm_mechanics.conformance.cases import Case

# Another number of samples than in training, where the batch axis is not kept.
_PROBE_SIZE = 4


@dataclass(frozen=True, eq=False)
class Data:
    """What a subject is given in one case.

    Attributes:
        batches: for training, in the case's dtype.
        masks: None or a boolean mask for each batch, over all axes but the last.
        dy: gradient with respect to the output of the first batch, in its shape and dtype.
        probe: for inference.
        gamma, beta, moving_mean, moving_variance: float64 in the shape of the kept axes.
            They are numbers of the case's dtype.
    """

    batches: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray | None, ...]
    dy: np.ndarray
    probe: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray


def draw(case: Case) -> Data:
    """Draw the numbers of a case; the same name always gives the same numbers.

    Each channel has its own mean and its own spread. gamma is negative in places, beta is never
    near gamma, and the moving statistics start near the data, away from 0 and 1: inference at a
    large offset would otherwise say nothing of the digits that matter.

    Args:
        case: which one.

    Returns:
        The data. A sample that a mask takes out is far from the others, so that taking it in shows,
        and its dy is 0: whether it is normalized is its own affair.

    Example:
        >>> from batchnorm_mechanics.conformance.cases import select
        >>> draw(select("offset 100 float32")[0]).batches[0].mean(0).round()
        array([100., 101., 101.], dtype=float32)
    """
    rng = np.random.default_rng(list(hashlib.sha256(case.name.encode()).digest()))
    kept = tuple(case.shape[axis] for axis in case.kept)
    middle = case.offset + case.scale * _apart(rng, -1, 1, kept)
    spread = case.scale * _apart(rng, 0.5, 1.5, kept)

    def batch(size: int) -> np.ndarray:
        shape = case.shape if 0 in case.kept else (size, *case.shape[1:])
        aligned = [1 if axis not in case.kept else n for axis, n in enumerate(case.shape)]
        return middle.reshape(aligned) + spread.reshape(aligned) * rng.normal(size=shape)

    sizes = (case.shape[0], *case.later)
    batches = [batch(size) for size in sizes]
    masks: list[np.ndarray | None] = [None] * len(batches)
    dy = rng.normal(0.3, 1, case.shape)
    if case.mask is not None:
        masks[0] = _mask(rng, case)
        batches[0] = np.where(masks[0][..., None], batches[0], batches[0] + 5 * case.scale)
        dy = np.where(masks[0][..., None], dy, 0.0)
    _make_special(batches[0], case)
    sign = np.where(rng.random(kept) < 0.3, -1, 1)

    def exact(value: np.ndarray) -> np.ndarray:
        # Whatever type a subject keeps it in, it is not rounded once more.
        return np.asarray(as_type(value, case.dtype).astype(np.float64))

    return Data(
        batches=tuple(as_type(x, case.dtype) for x in batches),
        masks=tuple(masks),
        dy=as_type(dy, case.dtype),
        probe=as_type(batch(_PROBE_SIZE if case.shape[0] else 0), case.dtype),
        gamma=exact(sign * _apart(rng, 0.5, 1.25, kept)),
        beta=exact(_apart(rng, 1.5, 2.5, kept)),
        moving_mean=exact(case.offset + case.scale * _apart(rng, -1, 1, kept)),
        moving_variance=exact(case.scale**2 * _apart(rng, 0.3, 0.8, kept)),
    )


def _apart(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers that differ by a share of the range: no channel can stand in for another."""
    count = math.prod(shape)
    places = (rng.permutation(count) + rng.uniform(0.25, 0.75, count)) / max(1, count)
    return (low + (high - low) * places).reshape(shape)


def _mask(rng: np.random.Generator, case: Case) -> np.ndarray:
    shape = case.shape[:-1]
    mask = np.zeros(shape, bool)
    if case.mask == "some out":
        mask = rng.random(shape) < 0.7
        mask.flat[0], mask.flat[1], mask.flat[-1] = True, True, False
    elif case.mask == "one left":
        mask.flat[1] = True
    return mask


def _make_special(x: np.ndarray, case: Case) -> None:
    """Change a batch, in place, into the odd one that the case is about."""
    channels = np.moveaxis(x, case.kept[0], 0) if len(case.kept) == 1 else x
    if case.special == "one channel constant":
        channels[0] = 3.7
    elif case.special == "all channels constant":
        for number, channel in enumerate(channels):
            channel[...] = 3.7 - 2.1 * number
    elif case.special is not None:
        channels[1].flat[2] = np.nan if case.special == "nan" else np.inf
