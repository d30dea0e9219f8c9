"""Two arrays of one tensor that lie in other orders of axes, and how far they are apart."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from batchnorm_mechanics.comparison.ran import Array, root_mean_square

# Numbers whose difference stays in a processor's cache.
_LARGE = 2**18
# Beyond it nothing differs that a float32 could tell.
EXACT = 200.0


# Axes in the order in which they lie, those of one number left out.
Order = tuple[int, ...]


class Laid(NamedTuple):
    """An array in the layout of another one.

    Attributes:
        array: in that layout.
        order: how its axes were moved; empty where its numbers were taken as they lie.
        distance: root mean square of the difference from the other one.
    """

    array: Array
    order: Order
    distance: float


def rearranged(array: Array, shape: tuple[int, ...]) -> Iterator[tuple[Array, Order]]:
    """Yield an array in another shape, by each layout that runtimes use and that fits.

    Channels last or first, samples or time first, axes of one number left out or in; where none
    fits, the numbers in the order in which they lie.

    Args:
        array: any.
        shape: with as many numbers.

    Example:
        >>> [order for _, order in rearranged(np.zeros((2, 3, 4, 5)), (2, 4, 5, 3))]
        [(0, 2, 3, 1)]
    """
    wanted = tuple(size for size in shape if size != 1)
    squeezed = np.squeeze(array)
    rank = squeezed.ndim
    orders = [tuple(range(rank))]
    if rank > 1:
        inner = tuple(range(2, rank))
        orders += [
            (0, *inner, 1),
            (0, rank - 1, *range(1, rank - 1)),
            (1, 0, *inner),
            (*range(1, rank), 0),
            (rank - 1, *range(rank - 1)),
        ]
    found = False
    for order in dict.fromkeys(orders):
        moved = np.transpose(squeezed, order)
        if moved.shape == wanted:
            found = True
            yield moved.reshape(shape), order
    if not found and array.size == np.prod(shape):
        yield array.reshape(shape), ()


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two root mean squares in decibels, 200 at most; NaN counts as noise.

    Example:
        >>> decibels(1.0, 0.1), decibels(1.0, 0.0), decibels(0.0, 1.0)
        (20.0, 200.0, -200.0)
    """
    if noise == 0:
        return EXACT
    if not (np.isfinite(signal) and np.isfinite(noise)) or signal == 0:
        return -EXACT
    return float(np.clip(20 * np.log10(signal / noise), -EXACT, EXACT))


def distance(one: Array, other: Array) -> float:
    """Return the root mean square of a difference; infinite where one has NaN that the other lacks.

    Example:
        >>> distance(np.array([1.0, np.nan]), np.array([1.5, np.nan]))
        0.5
    """
    found = _by_parts(one, other)
    if np.isfinite(found):
        return found
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.subtract(one, other)
    found = root_mean_square(gap)
    if np.isfinite(found):
        return found
    wrong = ~np.isfinite(gap)
    if wrong.any():
        a, b = one[wrong], other[wrong]
        if not np.all((a == b) | (np.isnan(a) & np.isnan(b))):
            return float("inf")
        gap = gap[~wrong]
    return root_mean_square(gap)


def _by_parts(one: Array, other: Array) -> float:
    """Return the same of large arrays, NaN where it takes more than that to say.

    A difference that is as large as they are costs more to make room for than to compute.
    """
    if one.size < _LARGE or one.shape != other.shape or one.dtype != other.dtype:
        return float("nan")
    length = max(1, _LARGE * len(one) // one.size)
    room = np.empty_like(one[:length])
    total = 0.0
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for start in range(0, len(one), length):
            part = slice(start, start + length)
            gap = np.subtract(one[part], other[part], out=room[: len(one[part])])
            total += root_mean_square(gap) ** 2 * gap.size
    return float(np.sqrt(total / one.size))


def nearest(array: Array, wanted: Array, known: Collection[Order] = ()) -> Laid | None:
    """Return an array in the layout in which it is nearest to another, or None where none fits.

    Args:
        array: with as many numbers as `wanted`.
        wanted: any.
        known: orders that go before all others, wherever one of them fits: where axes are as long
            as one another, a value that is far off is near in any layout.
    """
    found = [
        Laid(laid, order, distance(laid, wanted)) for laid, order in rearranged(array, wanted.shape)
    ]
    found = [one for one in found if one.order in known] or found
    return min(found, key=lambda one: one.distance, default=None)
