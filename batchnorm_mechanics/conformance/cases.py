"""The table of cases: what every subject is asked, each line with a readable name."""

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from batchnorm_mechanics._exceptions import InputError

Special = Literal["one channel constant", "all channels constant", "nan", "inf"]
Mask = Literal["some out", "one left", "all out"]
FollowUp = Literal["saving", "repeating", "one alone", "inputs"]


@dataclass(frozen=True)
class Case:
    """One line of the table; with its name as seed, `data.draw` makes the numbers.

    Attributes:
        name: unique; it also seeds the random numbers, so that a case is the same everywhere.
        group: what the case is about.
        shape: of the first batch.
        kept: the axes kept, as in `Setting`.
        dtype: of the input.
        offset, scale: mean and standard deviation of the data, about.
        later: sizes of the batches that follow the first.
        decay: weight of the old value in the moving statistics.
        epsilon: added to the variance.
        special: what is odd about the data.
        mask: which samples count.
        follow_up: what is asked besides the usual outputs.
        undefined: whether nobody defines what is due; what comes of it is shown, and not judged.
    """

    name: str
    group: str
    shape: tuple[int, ...]
    kept: tuple[int, ...]
    dtype: str = "float32"
    offset: float = 0.0
    scale: float = 1.0
    later: tuple[int, ...] = ()
    # 3/4 and its complement have no rounding error of their own.
    decay: float = 0.75
    epsilon: float = 1e-3
    special: Special | None = None
    mask: Mask | None = None
    follow_up: FollowUp | None = None
    undefined: bool = False

    @property
    def samples(self) -> int:
        """m', the samples behind each statistic of the first batch, masked ones included."""
        return math.prod(size for axis, size in enumerate(self.shape) if axis not in self.kept)


# The sizes of one rank differ, so that no mistaken axis has the right shape. None is 2: two samples
# of one channel can come to lie so close that nothing is left to judge.
_SHAPES = {2: (5, 3), 3: (4, 5, 3), 4: (4, 5, 6, 3), 5: (3, 4, 5, 6, 7)}
_WIDE = "float64", "float32"
_HALF = "bfloat16", "float16"


def _axes() -> Iterator[Case]:
    for rank, shape in _SHAPES.items():
        for number in range(rank):
            for kept in combinations(range(rank), number):
                names = ",".join(map(str, kept)) or "none"
                yield Case(f"axes rank {rank} keep {names} float32", "axes", shape, kept)


def _dtypes() -> Iterator[Case]:
    # Few samples: in bfloat16 the roundings of many add up to more than a sum of both signs.
    for dtype in (*_WIDE, *_HALF):
        for shape, axis in (((8, 3), 1), ((2, 2, 3, 5), 3), ((2, 5, 2, 3), 1)):
            yield Case(
                f"dtype {dtype} rank {len(shape)} keep {axis}", "dtype", shape, (axis,), dtype
            )


def _batch_sizes() -> Iterator[Case]:
    for size in (1, 2, 60, 61):
        yield Case(f"batch of {size} rank 2", "batch", (size, 3), (1,))
        yield Case(f"batch of {size} rank 4", "batch", (size, 2, 3, 4), (3,))


def _offsets() -> Iterator[Case]:
    for dtype in _WIDE:
        for offset in (0.0, 1.0, 1e2, 1e4, 1e6):
            yield Case(f"offset {offset:g} {dtype}", "offset", (16, 3), (1,), dtype, offset)
    # Beyond these a half type has no number between one standard deviation and the next.
    for dtype in _HALF:
        for offset in (1.0, 10.0, 1e2):
            yield Case(f"offset {offset:g} {dtype}", "offset", (16, 3), (1,), dtype, offset)


def _scales() -> Iterator[Case]:
    for dtype in _WIDE:
        for scale in (1e-6, 1e-3, 1.0, 1e3, 1e6):
            yield Case(f"scale {scale:g} {dtype}", "scale", (16, 3), (1,), dtype, scale=scale)


def _constants() -> Iterator[Case]:
    for special in ("one channel constant", "all channels constant"):
        yield Case(f"{special} rank 2", "constant", (16, 3), (1,), special=special)
        yield Case(f"{special} rank 4", "constant", (3, 4, 2, 5), (3,), special=special)


def _not_finite() -> Iterator[Case]:
    for special in ("nan", "inf"):
        for shape, axis in (((16, 3), 1), ((3, 4, 2, 5), 3)):
            name = f"one {'NaN' if special == 'nan' else special} rank {len(shape)}"
            yield Case(name, "not finite", shape, (axis,), special=special)


def _masks() -> Iterator[Case]:
    for mask in ("some out", "one left"):
        yield Case(f"mask over batch, {mask}", "mask", (12, 3), (1,), mask=mask)
        yield Case(f"mask over batch and time, {mask}", "mask", (4, 6, 3), (2,), mask=mask)


def _steps() -> Iterator[Case]:
    yield Case("one step rank 2", "steps", (16, 3), (1,))
    yield Case("one step rank 4", "steps", (3, 4, 2, 5), (3,))
    # Some come again: a compiled subject is compiled once for each size.
    sizes = 5, 17, 60, 5, 9, 16, 17, 9, 60
    for dtype in ("float64", "float32", "float16"):
        yield Case(f"ten steps rank 2 {dtype}", "steps", (16, 3), (1,), dtype, later=sizes)
    yield Case("ten steps rank 2 decay 0.99", "steps", (16, 3), (1,), later=sizes, decay=0.99)
    yield Case("ten steps rank 4", "steps", (3, 4, 2, 5), (3,), later=sizes)


def _behaviours() -> Iterator[Case]:
    # Numbers that nobody has by default: what loading loses then shows.
    odd = {"later": (9,), "decay": 0.625, "epsilon": 0.0625}
    layouts: tuple = (((16, 3), 1), ((3, 4, 2, 5), 3), ((3, 5, 4, 2), 1))
    for shape, axis in layouts:
        name = f"saving and loading rank {len(shape)} keep {axis}"
        yield Case(name, "saving", shape, (axis,), follow_up="saving", **odd)
    for shape, axis in layouts[:2]:
        rank = f"rank {len(shape)}"
        yield Case(f"inference twice {rank}", "behaviour", shape, (axis,), follow_up="repeating")
        yield Case(f"inference alone {rank}", "behaviour", shape, (axis,), follow_up="one alone")
        yield Case(
            f"inputs left as they are {rank}", "behaviour", shape, (axis,), follow_up="inputs"
        )


def _edge_cases() -> Iterator[Case]:
    """Batches without samples, whose mean is 0/0: each library has its own idea of them."""
    empty: dict = {"group": "edge cases", "undefined": True}
    yield Case("batch of 0 rank 2", shape=(0, 3), kept=(1,), **empty)
    yield Case("batch of 0 rank 4", shape=(0, 2, 3, 4), kept=(3,), **empty)
    masked: dict = {"mask": "all out", **empty}
    yield Case("mask over batch, all out", shape=(12, 3), kept=(1,), **masked)
    yield Case("mask over batch and time, all out", shape=(4, 6, 3), kept=(2,), **masked)


CASES: tuple[Case, ...] = (
    *_axes(),
    *_dtypes(),
    *_batch_sizes(),
    *_offsets(),
    *_scales(),
    *_constants(),
    *_not_finite(),
    *_masks(),
    *_steps(),
    *_behaviours(),
    *_edge_cases(),
)


def judged(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases with edge cases among them judged as all others are.

    Example:
        >>> [case.undefined for case in judged(select("edge cases"))]
        [False, False, False, False]
    """
    return tuple(replace(case, undefined=False) for case in cases)


def select(wanted: str, cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """Return the cases of a group, or all whose name contains a text.

    Args:
        wanted: a group, or part of a name, in upper or lower case.
        cases: to choose from.

    Raises:
        InputError: there is none.

    Example:
        >>> [case.name for case in select("one nan")]
        ['one NaN rank 2', 'one NaN rank 4']
    """
    groups = list(dict.fromkeys(case.group for case in cases))
    text = wanted.strip().lower()
    if text in groups:
        return tuple(case for case in cases if case.group == text)
    found = tuple(case for case in cases if text and text in case.name.lower())
    if not found:
        close = difflib.get_close_matches(text, groups, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Groups: {', '.join(groups)}."
        raise InputError(
            "conform: `cases` must be a group of cases or part of a case's name. "
            f"Received: cases={wanted!r}. {hint}"
        )
    return found
