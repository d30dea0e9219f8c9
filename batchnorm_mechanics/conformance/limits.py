"""What a subject is not made for, which is no failure unless it is required.

A subject may say so itself (`Subject.refusal`, `NotImplementedError`), or show it: it raises the
same in every case of a whole kind, and nowhere else; or it gives all results of a dtype in a
narrower one. What it raises in some cases of a kind is a failure.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.questions import NOT_IMPLEMENTED
from batchnorm_mechanics.conformance.record import CaseResult, Check, parts
from batchnorm_mechanics.conformance.subject import Ability

_DTYPES = ("float64", "float32", "bfloat16", "float16")
_ABILITIES = {
    "training": Ability.TRAIN,
    "inference": Ability.INFER,
    "statistics": Ability.STATISTICS,
    "gradients": Ability.GRADIENTS,
    "masks": Ability.MASK,
    "saving": Ability.RELOAD,
}
# What can be required, in the order in which it is said.
WORDS = ("axes", "ranks", *_DTYPES, *_ABILITIES)

_Holds = Callable[[CaseResult], bool]


def _is_last(case: CaseResult) -> bool:
    return case.kept == (len(case.shape) - 1,)


def _is_second(case: CaseResult) -> bool:
    return case.kept == (1,)


def _is_all_but_first(case: CaseResult) -> bool:
    return case.kept == tuple(range(1, len(case.shape)))


# What a subject may take of all choices of axes, the narrowest first.
_TAKEN_AXES: dict[str, _Holds] = {
    "the last axis": _is_last,
    "axis 1": _is_second,
    "the last axis or axis 1": lambda case: _is_last(case) or _is_second(case),
    "one axis": lambda case: len(case.kept) == 1,
    "all axes but the batch's, over which alone it averages": lambda case: (
        case.kept == tuple(range(1, len(case.shape)))
    ),
    "any axes but none": lambda case: bool(case.kept),
    "any axes but that of the batch": lambda case: 0 not in case.kept,
}


class _Kind(NamedTuple):
    """A whole kind of input, and the word for it."""

    word: str
    holds: _Holds


def _kinds() -> Iterator[_Kind]:
    for takes in _TAKEN_AXES.values():
        yield _Kind("axes", lambda case, takes=takes: not takes(case))
    yield _Kind("axes", lambda case: len(case.kept) > 1)
    yield _Kind("axes", lambda case: case.kept == (0,))
    yield _Kind("masks", lambda case: case.group == "mask")
    ranks = range(2, 6)
    for rank in ranks:
        yield _Kind("ranks", lambda case, rank=rank: len(case.shape) == rank)
    for dtype in _DTYPES:
        yield _Kind(dtype, lambda case, dtype=dtype: case.dtype == dtype)
        for rank in ranks:
            yield _Kind(
                dtype,
                lambda case, dtype=dtype, rank=rank: (case.dtype, len(case.shape)) == (dtype, rank),
            )


_KINDS = tuple(_kinds())
# A kind of one case is none: what is raised there may be a mistake.
_LEAST = 2


@dataclass(frozen=True)
class Limit:
    """Something that a subject does not take.

    Attributes:
        what: a word of `WORDS`, or "" for what has none.
        words: what it takes instead, or that it has none.
        cases: how many cases were not judged for it.
        reason: what the subject says or raises, where there is one answer.
    """

    what: str
    words: str
    cases: int = 0
    reason: str | None = None


def settled(cases: Sequence[CaseResult]) -> tuple[CaseResult, ...]:
    """Return the results with limits told from failures.

    Args:
        cases: all results of a subject, as `judge` returns them. A check whose `limit` is set and
            that failed gave a narrower dtype than it was asked for.

    Returns:
        The results; a check that comes of a limit passes and says of which, and a case without any
        other check is skipped. Where the subject gave no number at all, everything stays.
    """
    if not any(check.is_answer for case in cases for check in case.checks):
        return tuple(cases)
    found = _raised(cases) | _narrowed(cases)
    return tuple(
        _without(
            case,
            [_marked(check, found.get((number, place))) for place, check in enumerate(case.checks)],
        )
        for number, case in enumerate(cases)
    )


def _marked(check: Check, word: str | None) -> Check:
    if check.passed:
        return check
    return replace(check, passed=word is not None, limit=word)


def _without(case: CaseResult, checks: list[Check]) -> CaseResult:
    """Return a case whose checks may not fail any longer."""
    if case.status != "fail" or any(not check.passed for check in checks):
        return replace(case, checks=tuple(checks))
    judged = any(check.is_answer for check in checks)
    reason = None if judged else next(check.reason for check in checks if check.limit)
    return replace(
        case, status="pass" if judged else "skipped", reason=reason, checks=tuple(checks)
    )


# A check by the numbers of its case and its place there, and the word for what it comes of.
_Found = dict[tuple[int, int], str]


def _raised(cases: Sequence[CaseResult]) -> _Found:
    """Return the checks in which a subject raised because it is not made for what was asked."""
    asked: dict[str, list[tuple[int, int]]] = {}
    for number, case in enumerate(cases):
        for place, check in enumerate(case.checks):
            refused = check.raised is not None and check.passed
            # A batch that is too small may be refused for itself, and says nothing of its kind.
            if case.shape and case.status != "measured" and not refused:
                asked.setdefault(_question(check.what), []).append((number, place))
    found: _Found = {}
    for question, entries in asked.items():
        found |= _whole_kinds(question, entries, cases)
    return found


def _question(what: str) -> str:
    """Return which word stands for what was asked."""
    base, when = parts(what)
    if base == "saving and loading" or when in (record.LOADED, record.STEP_LATER):
        return "saving"
    if base in record.STATISTICS:
        return "statistics"
    if base in record.GRADIENTS:
        return "gradients"
    return "inference" if base == record.INFERENCE_OUTPUT else "training"


def _whole_kinds(
    question: str, entries: list[tuple[int, int]], cases: Sequence[CaseResult]
) -> _Found:
    """Return the checks of one question that raised in whole kinds of cases."""
    raised = {entry: _check(cases, entry).raised for entry in entries}
    found: _Found = {}
    for error in sorted(set(filter(None, raised.values()))):
        raising = [entry for entry in entries if raised[entry] == error]
        in_it = {number for number, _ in raising}
        covered: dict[int, str] = {}
        for kind in (_Kind(question, lambda case: True), *_KINDS):
            members = {number for number, _ in entries if kind.holds(cases[number])}
            everything = len(members) == len({number for number, _ in entries})
            if (
                len(members) >= _LEAST
                and members <= in_it
                and (not everything or kind.word == question)
            ):
                covered = dict.fromkeys(members, kind.word) | covered
        outside = {_signature(_check(cases, entry)) for entry in raising if entry[0] not in covered}
        for entry in raising:
            if error == NOT_IMPLEMENTED:
                found[entry] = covered.get(entry[0]) or _oddest(cases[entry[0]], question)
            elif entry[0] in covered and _signature(_check(cases, entry)) not in outside:
                found[entry] = covered[entry[0]]
    return found


def _check(cases: Sequence[CaseResult], entry: tuple[int, int]) -> Check:
    number, place = entry
    return cases[number].checks[place]


def _signature(check: Check) -> str:
    """Return what is raised without the numbers in it, which differ from case to case."""
    return re.sub(r"\d+", "#", check.reason or "")


def _oddest(case: CaseResult, question: str) -> str:
    """Return the word for what is least usual about a case."""
    if case.group == "mask":
        return "masks"
    if not _is_last(case):
        return "axes"
    return question if case.dtype == "float32" else case.dtype


def _narrowed(cases: Sequence[CaseResult]) -> _Found:
    """Return the checks of dtypes whose results all came back in a narrower one."""
    found: _Found = {}
    for dtype in _DTYPES:
        asked = [
            number
            for number, case in enumerate(cases)
            if case.dtype == dtype and any(check.absolute is not None for check in case.checks)
        ]
        narrow = {
            (number, place): dtype
            for number in asked
            for place, check in enumerate(cases[number].checks)
            if check.limit == dtype and not check.passed
        }
        if {number for number, _ in narrow} == set(asked):
            found |= narrow
    return found


def find_limits(
    cases: Sequence[CaseResult], abilities: Sequence[str] | None = None
) -> tuple[Limit, ...]:
    """Return what a subject does not take, in the order of `WORDS`.

    Args:
        cases: their results, as `settled` leaves them.
        abilities: what it can be asked; None if that is not known.

    Example:
        >>> find_limits((), ["training mode", "inference mode", "moving statistics", "gradients"])
        (Limit(what='masks', words='no masks', cases=0, reason=None),
         Limit(what='saving', words='no saving', cases=0, reason=None))
    """
    real = [case for case in cases if case.shape and case.group != "edge cases"]
    taken = [case for case in real if case.status != "skipped"]
    because: dict[str, list[tuple[CaseResult, str | None]]] = {}
    for case in real:
        if case.status == "skipped":
            because.setdefault(_untaken(case, taken), []).append((case, case.reason))
        for check in case.checks if case.status != "skipped" else ():
            if check.limit is not None:
                because.setdefault(check.limit, []).append((case, check.reason))
    lacking = () if abilities is None else [w for w, a in _ABILITIES.items() if a not in abilities]
    limits = []
    for word in (*WORDS, ""):
        members = because.get(word, [])
        if members or word in lacking:
            reasons = {reason for _, reason in members}
            limits.append(
                Limit(
                    what=word,
                    words=_in_words(word, members, taken),
                    cases=len({case.case for case, _ in members}),
                    reason=reasons.pop() if len(reasons) == 1 else None,
                )
            )
    return tuple(limits)


def _untaken(case: CaseResult, taken: Sequence[CaseResult]) -> str:
    """Return the word for what keeps a case from being judged, by those that were."""
    # As `judge` says it of a case that needs what a subject does not have.
    lacking = [word for word, name in _ABILITIES.items() if case.reason == f"it has no {name}"]
    if lacking:
        return lacking[0]
    if case.group in ("mask", "saving"):
        same = [one for one in taken if one.group == case.group]
        if not same:
            return {"mask": "masks", "saving": "saving"}[case.group]
    if not any(one.dtype == case.dtype for one in taken):
        return case.dtype
    if not any(len(one.shape) == len(case.shape) for one in taken):
        return "ranks"
    if not any((len(one.shape), one.kept) == (len(case.shape), case.kept) for one in taken):
        return "axes"
    of_both = case.dtype, len(case.shape)
    return "" if any((one.dtype, len(one.shape)) == of_both for one in taken) else case.dtype


def _in_words(
    word: str, members: Sequence[tuple[CaseResult, str | None]], taken: Sequence[CaseResult]
) -> str:
    if word == "axes":
        takes = next((a for a, holds in _TAKEN_AXES.items() if all(map(holds, taken))), None)
        return "not all axes" if takes is None else f"takes {takes}"
    if word == "ranks":
        ranks = sorted({len(case.shape) for case in taken})
        return f"takes rank {_listed(list(map(str, ranks)))}"
    if word in _DTYPES:
        judged = [case for case in taken if case.dtype == word]
        if not judged:
            return f"no {word}"
        ranks = sorted({len(case.shape) for case, _ in members if case.status == "skipped"})
        if ranks:
            return f"no {word} in rank {_listed(list(map(str, ranks)))}"
        given = {str(reason).split()[1].rstrip(",") for _, reason in members}
        return f"{word} comes back as {_listed(sorted(given))}"
    return f"no {word}" if word else str(members[0][1])


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"


def required(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is required, by words of `WORDS`.

    Args:
        wanted: the words, or a text that has them with commas between them.

    Raises:
        InputError: there is no such word.

    Example:
        >>> required("axes, float64")
        ('axes', 'float64')
    """
    listed = wanted.split(",") if isinstance(wanted, str) else wanted
    words = tuple(dict.fromkeys(part.strip().lower() for part in listed))
    for word in words:
        if word not in WORDS:
            close = difflib.get_close_matches(word, WORDS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(WORDS)}."
            raise InputError(
                "conform: `require` must be words for what a subject must take. "
                f"Received: require={word!r}. {hint}"
            )
    return words
