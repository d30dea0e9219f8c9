"""What a thing is asked on small inputs where its names leave something open.

All is told from outputs: which elements of a batch bear on one another, which axes are kept then,
which of a mode's names means training.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import numpy as np

from batchnorm_mechanics.conformance.probes import moving_average
from batchnorm_mechanics.conformance.subject import Kept, Subject, as_type, wide
from batchnorm_mechanics.conformance.subjects.roles import Role, plain, stands_for

# Distinct sizes, so that a parameter of one axis's length fits no other axis.
SHAPES: Mapping[int, tuple[int, ...]] = {
    2: (5, 3),
    3: (4, 5, 3),
    4: (4, 5, 6, 3),
    5: (3, 4, 5, 6, 7),
}
# In which order an input is tried that suits: most are made for two axes, or for images.
RANKS = (2, 4, 3, 5)
_USUAL = (2, 4)
Ask = Callable[[np.ndarray], np.ndarray]

# What says training and inference, as words and as truth.
WORDS: Sequence[tuple[Any, Any]] = (
    ("train", "test"),
    ("train", "eval"),
    ("training", "inference"),
    ("train", "inference"),
    ("training", "testing"),
    ("training", "eval"),
    ("train", "infer"),
    ("train", "predict"),
    ("fit", "predict"),
)
TRUTH: Sequence[tuple[Any, Any]] = ((True, False),)


class Layout(NamedTuple):
    """How an input of one rank is taken.

    Attributes:
        kept: the axes that are kept.
        aligned: whether parameters have an axis of size 1 for each axis that is reduced.
    """

    kept: tuple[int, ...]
    aligned: bool = False

    def shaped(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Return a parameter of the kept axes' shape as the thing wants it.

        Example:
            >>> Layout((1,), aligned=True).shaped(np.zeros(3), 4).shape
            (1, 3, 1, 1)
        """
        if not self.aligned:
            return values
        sizes = iter(values.shape)
        return values.reshape([next(sizes) if a in self.kept else 1 for a in range(rank)])


class Types(NamedTuple):
    """In which dtypes a thing is given an input of some dtype, and the parameters beside it."""

    x: str
    parameters: str

    @classmethod
    def usual(cls, dtype: str) -> "Types":
        """Return those of a library: parameters in float32 at least."""
        return cls(dtype, wide(dtype))

    def handed_back(self, y: np.ndarray, dtype: str) -> np.ndarray:
        """Return an output in the dtype that was asked for, if it was widened on the way in."""
        return as_type(y, dtype) if self.x != dtype and y.dtype.name == self.x else y


def as_input(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return an input in a dtype, the very array if it has it: what is written to it shows."""
    return x if x.dtype.name == dtype else as_type(x, dtype)


def find_types(dtype: str, output_dtype: Callable[[Types], str | None]) -> Types | None:
    """Return how a thing is given an input of a dtype, None if it is not made for it.

    What gives float64 for float32 computes in float64, and is given that. A narrower output than
    was asked for is judged by what it is. Half precision is for those that give it back.

    Args:
        dtype: the one asked for.
        output_dtype: in which dtype the output comes, None where the thing does not work.

    Example:
        >>> find_types("float32", lambda types: "float64")
        Types(x='float64', parameters='float64')
    """
    usual, widest = Types.usual(dtype), Types("float64", "float64")
    given = output_dtype(usual)
    if given == dtype:
        return usual
    if dtype == "float32":
        return widest if "float64" in (given, output_dtype(widest)) else None
    return usual if dtype == "float64" and given is not None else None


def layouts(rank: int) -> list[Layout]:
    """Return what may be taken of an input of this rank, the likelier first.

    Example:
        >>> [layout.kept for layout in layouts(3) if not layout.aligned]
        [(2,), (1,), (1, 2)]
    """
    last, second, rest = (rank - 1,), (1,), tuple(range(1, rank))
    sets = dict.fromkeys((last, second, rest))
    return [Layout(kept, aligned) for aligned in (False, True) for kept in sets]


def tiny(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Return a batch whose channels differ in mean and spread on every axis."""
    values = np.random.default_rng(11).normal(size=shape)
    for axis, size in enumerate(shape[1:], 1):
        steps = np.linspace(0.5, 1.5, size)
        values = values * steps.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return as_type(values + 0.3, dtype)


def quietly(ask: Callable[..., Any], *given: Any) -> Any:
    """Return what comes of a question, None where it raises."""
    with suppress(Exception), np.errstate(all="ignore"):
        return ask(*given)
    return None


def answered(ask: Ask, x: np.ndarray) -> np.ndarray | None:
    """Return the output for a copy of the input if it is one, float64; else None."""
    y = quietly(lambda: np.asarray(ask(x.copy())).astype(np.float64))
    return y if y is not None and y.shape == x.shape else None


def shared_axes(ask: Ask, x: np.ndarray) -> tuple[int, ...] | None:
    """Return along which axes elements bear on one another: those that are reduced.

    One element is changed, and all that changes with it is looked at.

    Args:
        ask: the output for an input, each time asked as for the first time.
        x: the input.

    Returns:
        The axes, none where each element is by itself; None where the output tells nothing.

    Example:
        >>> shared_axes(lambda x: x - x.mean((0, 2), keepdims=True), tiny((3, 4, 5), "float64"))
        (0, 2)
    """
    place = tuple(size // 2 for size in x.shape)
    other = x.copy()
    other[place] += 3
    before, after = answered(ask, x), answered(ask, other)
    if before is None or after is None:
        return None
    if not (np.all(np.isfinite(before)) and np.all(np.isfinite(after))):
        return None
    changed = np.abs(after - before) > 1e-4 * (1 + np.abs(before))
    elsewhere = np.argwhere(changed) != place
    return tuple(int(axis) for axis in np.flatnonzero(elsewhere.any(axis=0)))


class Settled(NamedTuple):
    """How an input of one rank is taken, as far as that rank alone tells.

    Attributes:
        layout: None where nothing works.
        sure: whether the statistics keep what the layout keeps.
        claims: whether parameters have the form of this rank, so that it is meant to be taken.
    """

    layout: Layout | None = None
    sure: bool = False
    claims: bool = False


def settle(
    rank: int,
    asking: Callable[[Layout], Ask],
    tried: Iterable[Layout],
    claims: Callable[[Layout], bool],
    dtype: str,
) -> Settled:
    """Find out how an input of this rank is taken.

    Args:
        rank: 2 to 5.
        asking: how a thing set up in a layout is asked for its training output.
        tried: the layouts.
        claims: as in `Settled`.
        dtype: of an input that it takes.
    """
    x, found = tiny(SHAPES[rank], dtype), Settled()
    for layout in tried:
        shared = shared_axes(asking(layout), x)
        if shared is None:
            continue
        kept = tuple(axis for axis in range(rank) if axis not in shared)
        if kept == layout.kept:
            return Settled(layout, sure=True)
        unclaimed = rank > 2 and shared == (0,) and not claims(layout)
        if found.layout is None and not unclaimed:
            found = Settled(layout, claims=claims(layout))
    return found


def taken(rank: int, settled: Callable[[int], Settled]) -> Layout | None:
    """Return how an input of this rank is taken, None if it is not.

    What averages over other axes than those that it seems to keep does so by mistake, or was never
    made for this rank and works by broadcasting. Where another rank is sure, it is a mistake in
    matrices and images alone, with parameters of their form.
    """
    found = settled(rank)
    if found.sure or found.layout is None or (found.claims and rank in _USUAL):
        return found.layout
    return None if any(settled(other).sure for other in RANKS) else found.layout


def first_taken(layout: Callable[[int], Layout | None]) -> tuple[int, Layout]:
    """Return a rank that is taken and how, matrices if none is.

    Example:
        >>> first_taken({4: Layout((1,))}.get)
        (4, Layout(kept=(1,), aligned=False))
    """
    for rank in RANKS:
        found = layout(rank)
        if found is not None:
            return rank, found
    return 2, Layout((1,))


def kept_by(taken: Mapping[int, Layout | None]) -> Kept:
    """Return which axes a thing keeps, by the layout of each rank, and that in words.

    Example:
        >>> kept_by({2: Layout((1,)), 3: None, 4: Layout((1,), True), 5: None}).reason
        'it takes rank 2 and 4 and keeps axis 1'
    """
    there = {rank: layout.kept for rank, layout in taken.items() if layout is not None}
    if not there:
        # What works nowhere is not refused: each case shows what it raises.
        return Kept("", lambda kept, rank: True)
    higher = {rank: kept for rank, kept in there.items() if rank > 2}
    if all(kept == (1,) for kept in there.values()):
        which = "axis 1"
    elif all(kept == (rank - 1,) for rank, kept in there.items()):
        which = "the last axis"
    elif all(kept == tuple(range(1, rank)) for rank, kept in there.items()):
        which = "all axes but the batch's, over which alone it averages"
    else:
        which = " and ".join(f"{kept} of rank {rank}" for rank, kept in there.items())
    ranks = _listed([str(rank) for rank in there])
    said = f"it keeps {which}" if len(there) == len(taken) else f"it takes rank {ranks}"
    if len(there) < len(taken) and higher:
        said += f" and keeps {which}"
    return Kept(said, lambda kept, rank: there.get(rank) == kept)


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def which_mode(
    pairs: Iterable[tuple[Any, Any]],
    asking: Callable[[Any], Ask],
    x: np.ndarray,
) -> tuple[Any, Any] | None:
    """Return the pair of values that say training and inference; None if none of them works.

    In training the output depends on the other samples, in inference it does not: the first pair
    that does so is it. If none does, the first is taken with which both modes work.

    Args:
        pairs: what may be said.
        asking: how a thing told one value is asked for its output, each time as for the first time.
        x: the input.
    """
    works = None
    for training, inference in pairs:
        shared = [shared_axes(asking(value), x) for value in (training, inference)]
        if shared[0] and not shared[1] and shared[1] is not None:
            return training, inference
        if None not in shared and works is None:
            works = training, inference
    return works


def modes_for(name: str, default: Any) -> list[tuple[Any, Any]]:
    """Return what may be said for training and inference, the likelier first.

    Args:
        name: of what takes the mode.
        default: the value that it has when nothing is said; None if there is none.

    Example:
        >>> modes_for("mode", None)[0], modes_for("use_running_average", None)[0]
        (('train', 'test'), (False, True))
    """
    word = isinstance(default, str) or (plain(name) in ("mode", "phase") and default is None)
    pairs = (*WORDS, *TRUTH) if word else (*TRUTH, *WORDS)
    return [pair[::-1] for pair in pairs] if stands_for(name, Role.INFERENCE) else list(pairs)


def has_no_epsilon(ask: Ask, rank: int, kept: tuple[int, ...]) -> bool:
    """Return whether a batch of next to no variance is normalized as any other is.

    Args:
        ask: the training output, with gamma 1 and beta 0.
        rank: of the input.
        kept: which axes are kept.
    """
    shape = [size if axis in kept else 2 for axis, size in enumerate(SHAPES[rank])]
    count = math.prod(size for axis, size in enumerate(shape) if axis not in kept)
    axes = [axis for axis in range(rank) if axis not in kept]
    signs = np.where(np.indices(shape)[axes].sum(0) % 2, 1.0, -1.0) if count > 1 else None
    if signs is None:
        return False
    y = answered(ask, (1e-15 * signs).astype(np.float32))
    return y is not None and bool(np.all(~np.isfinite(y) | (np.abs(y) > 0.5)))


def meaning_of_momentum(
    subject: Subject, name: str, default: Any, dtype: str
) -> Literal["old", "new"]:
    """Return which value a momentum is meant to weigh, the old one or the new.

    Its default says it: the new value's weight is the small one. A decay is the old value's. What
    has neither means what it does.

    Args:
        subject: whose momentum it is.
        name: what it is called.
        default: its value when nothing is said; None if there is none.
        dtype: of an input that the subject takes.
    """
    if isinstance(default, int | float) and default != 0.5:
        return "old" if default > 0.5 else "new"
    if "decay" in name.lower():
        return "old"
    return quietly(lambda: moving_average(subject, dtype).momentum_weighs) or "old"
