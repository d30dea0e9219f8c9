"""The table of cases, each line with a readable name, and the numbers drawn from that name."""

import difflib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.shares import MANNERS, Shares
from batchnorm_mechanics.conformance.subject import as_type

Special = Literal["one channel constant", "all channels constant", "nan", "inf"]
Mask = Literal["some out", "one left", "all out"]
FollowUp = Literal["saving", "repeating", "one alone", "inputs"]


@dataclass(frozen=True)
class Case:
    """One line of the table; with its name as seed, `draw` makes the numbers.

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
        shares: how replicas share each batch of training; None if one has all of it.
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
    shares: Shares | None = None

    @property
    def samples(self) -> int:
        """m', the samples behind each statistic of the first batch, masked ones included."""
        return math.prod(size for axis, size in enumerate(self.shape) if axis not in self.kept)


# The sizes of one rank differ, so that no mistaken axis has the right shape. None is 2: two samples
# of one channel can come to lie so close that nothing is left to judge.
_SHAPES = {2: (5, 3), 3: (4, 5, 3), 4: (4, 5, 6, 3), 5: (3, 4, 5, 6, 7)}
_WIDE = "float64", "float32"
_HALF = "bfloat16", "float16"
# Another number of samples than in training, where the batch axis is not kept.
_PROBE_SIZE = 4


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
        rank = f"rank {len(shape)}" + (" keep 1" if axis == 1 < len(shape) - 1 else "")
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


def shared(cases: Sequence[Case], replicas: int) -> tuple[Case, ...]:
    """Return the cases with their batches shared by replicas, in every way that differs.

    A case that keeps the batch axis is left out, for each of its samples is normalized by itself;
    one whose batch is shared already stays as it is.

    Args:
        cases: of one replica.
        replicas: how many share a batch; with 1 the cases stay as they are.

    Example:
        >>> [case.name for case in shared(select("batch of 2 rank 2"), 2)]
        ['batch of 2 rank 2, even', 'batch of 2 rank 2, one empty']
    """
    if replicas == 1:
        return tuple(cases)
    found = []
    for case in cases:
        if case.shares is not None:
            found.append(case)
            continue
        ways: set[tuple[int, ...]] = set()
        for shares in (Shares(replicas, manner) for manner in MANNERS):
            sizes = shares.sizes(case.shape[0])
            if 0 not in case.kept and sizes not in ways:
                ways.add(sizes)
                name = f"{case.name}, {shares.manner}"
                found.append(replace(case, name=name, shares=shares))
    return tuple(found)


def select(wanted: str, cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """Return the cases of a group, the one of a name, or all whose name contains a text.

    Args:
        wanted: a group, a name or part of one, in upper or lower case.
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
    named = tuple(case for case in cases if text == case.name.lower())
    found = named or tuple(case for case in cases if text and text in case.name.lower())
    if not found:
        close = difflib.get_close_matches(text, groups, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Groups: {', '.join(groups)}."
        raise InputError(
            "conform: `cases` must be a group of cases or part of a case's name. "
            f"Received: cases={wanted!r}. {hint}"
        )
    return found


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
        masks[0] = _drawn_mask(rng, case)
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


def _drawn_mask(rng: np.random.Generator, case: Case) -> np.ndarray:
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
