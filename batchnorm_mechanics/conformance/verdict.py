"""What all the cases of a subject come to, as pure functions of their results."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batchnorm_mechanics.conformance.limits import Limit, find_limits
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions, parts

ONE_PASS = "variance computed as E[x^2] - E[x]^2"
OTHER_VARIANCE = "moving variance takes in the other variance than elsewhere (biased or unbiased)"
# The axes in a label: one mistake has others in each case.
_AXES = re.compile(r": \([\d, ]*\) instead of \([\d, ]*\)")


@dataclass(frozen=True)
class Cause:
    """Why checks failed.

    Attributes:
        name: the mistake that gives the very numbers; None where none that is known does.
        failures: how many failed checks it explains, or how many alike have no name.
        case: the smallest case among them, by its name.
        check: what failed there.
        where: the one rank or dtype in which it fails, as "in rank 4 alone"; "" where others fail
            as well, or none was right.
    """

    name: str | None
    failures: int
    case: str
    check: Check
    where: str = ""

    @property
    def words(self) -> str:
        """The name, or what is wrong where there is none, and where."""
        what = _kind(self.check) if self.name is None else self.name
        return f"{what}, {self.where}" if self.where else what


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a subject first.

    Attributes:
        right: whether nothing failed, and nothing that was required is lacking.
        sentence: the same with the reason, in one sentence.
        causes: of all failed checks, in the order of how many each explains; those without a name
            last.
        limits: what the subject does not take, which is no failure.
        failures: how many checks failed.
        unexplained: how many of them no known mistake explains.
        fault: where the subject raised in every case, what and where; nothing else is known then.
    """

    right: bool
    sentence: str
    causes: tuple[Cause, ...] = ()
    limits: tuple[Limit, ...] = ()
    failures: int = 0
    unexplained: int = 0
    fault: Check | None = None


def reach(
    cases: Sequence[CaseResult],
    conventions: Conventions,
    abilities: Sequence[str] | None = None,
    required: Sequence[str] = (),
) -> Verdict:
    """Return the verdict on a subject.

    Args:
        cases: their results, with diagnoses, as `limits.settled` leaves them.
        conventions: the subject's.
        abilities: what it can be asked; None if that is not known.
        required: what it must take, by words of `limits.WORDS`.

    Example:
        >>> reach((CaseResult("one", "steps", "pass"),), Conventions()).sentence
        'Right.'
    """
    fault = find_fault(cases)
    if fault is not None:
        sentence = f"It raises {fault.raised} in every case: nothing could be judged."
        return Verdict(False, sentence, failures=len(cases), unexplained=len(cases), fault=fault)
    causes = find_causes(cases, conventions)
    limits = find_limits(cases, abilities)
    lacking = [limit.words for limit in limits if limit.what in required]
    return Verdict(
        right=not causes and not lacking,
        sentence=_sentence(cases, causes, lacking),
        causes=causes,
        limits=limits,
        failures=sum(cause.failures for cause in causes),
        unexplained=sum(cause.failures for cause in causes if cause.name is None),
    )


def find_fault(cases: Sequence[CaseResult]) -> Check | None:
    """Return what a subject raised, if it did in every case and answered in none."""
    asked = [case for case in cases if case.checks]
    raised = [next((c for c in case.checks if c.raised), None) for case in asked]
    answered = any(check.is_answer for case in asked for check in case.checks)
    failed = [check for check, case in zip(raised, asked, strict=True) if case.status == "fail"]
    if answered or not failed or any(check is None for check in raised):
        return None
    return failed[0]


def find_causes(cases: Sequence[CaseResult], conventions: Conventions) -> tuple[Cause, ...]:
    """Return the causes of the failed checks, those that explain most first."""
    failed = [(case, check) for case in cases for check in case.wrong]
    alone = {_base(check.diagnosis) for _, check in failed if check.diagnosis}
    groups: dict[tuple[bool, str], list[tuple[CaseResult, Check]]] = {}
    for case, check in failed:
        named = check.diagnosis is not None
        key = _one_of_two(_base(check.diagnosis), alone) if check.diagnosis else _kind(check)
        key = _which_variance(conventions) if key == OTHER_VARIANCE else key
        groups.setdefault((not named, key), []).append((case, check))
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], -len(group[1])))
    causes = []
    for (nameless, name), members in ordered:
        case, check = min(members, key=lambda member: _size(member[0]))
        where = _where(members, cases)
        causes.append(Cause(None if nameless else name, len(members), case.case, check, where))
    return tuple(causes)


def _where(failed: Sequence[tuple[CaseResult, Check]], cases: Sequence[CaseResult]) -> str:
    """Return the one rank or dtype of what failed, if the same was right in others."""
    asked = {parts(check.what)[0] for _, check in failed}
    right = [
        case for case in cases if any(parts(c.what)[0] in asked and c.passed for c in case.checks)
    ]
    kinds: tuple[tuple[str, Callable[[CaseResult], Any]], ...] = (
        ("in rank {} alone", lambda case: len(case.shape)),
        ("in {} alone", lambda case: case.dtype),
    )
    for words, kind in kinds:
        where = {kind(case) for case, _ in failed}
        if len(where) == 1 and {kind(case) for case in right} - where:
            return words.format(*where)
    return ""


def _which_variance(conventions: Conventions) -> str:
    """Return the name of a moving variance that is of two kinds, with the kinds in it."""
    usual, other = "biased", "unbiased"
    if conventions.moving_variance == other:
        usual, other = other, usual
    return f"moving variance takes in the {other} variance, and elsewhere the {usual} one"


def _base(diagnosis: str) -> str:
    return _AXES.sub("", diagnosis)


def _one_of_two(name: str, alone: set[str]) -> str:
    """Return the other one of two mistakes where one is found alone too."""
    first, _, second = name.partition(", and ")
    if second and first in alone:
        return second
    return first if second and second in alone else name


def _kind(check: Check) -> str:
    """Return in words what failures without a name have in common."""
    if check.raised:
        return f"raises {check.raised}"
    # Where numbers say what is wrong, it is a matter of the output.
    return re.sub(r"\(.*?\)", "(…)", check.reason) if check.reason else f"wrong {check.what}"


def _size(case: CaseResult) -> tuple[int, int, bool]:
    """Return how much there is to look at in a case; of two alike, float32 is the usual one."""
    return math.prod(case.shape), len(case.shape), case.dtype != "float32"


def _sentence(cases: Sequence[CaseResult], causes: Sequence[Cause], lacking: Sequence[str]) -> str:
    if not causes:
        if lacking:
            return f"Right, but not what is required: {'; '.join(lacking)}."
        judged = any(case.status == "pass" for case in cases)
        return "Right." if judged or not cases else "Nothing could be judged."
    total = sum(cause.failures for cause in causes)
    named = [cause for cause in causes if cause.name is not None]
    if [cause.name for cause in causes] == [ONE_PASS]:
        return f"Right, but {_loses_digits(cases)}."
    if not named:
        return f"Wrong: {_checks(total)} failed, and no mistake that is known explains them."
    said = [f"{cause.words} ({cause.failures} of {total} failed checks)" for cause in named[:2]]
    rest = total - sum(cause.failures for cause in named[:2])
    more = f"; {rest} more have other causes" if len(named) > 2 else ""
    unnamed = sum(cause.failures for cause in causes if cause.name is None)
    more += f"; {unnamed} without a name" if unnamed else ""
    return f"Wrong: {' and '.join(said)}{more}."


def _checks(count: int) -> str:
    return f"{count} check{'' if count == 1 else 's'}"


def _loses_digits(cases: Sequence[CaseResult]) -> str:
    means = [case.deviations for case in cases if case.wrong and case.deviations >= 1]
    where = f"from means of {min(means):g} deviations on" if means else "with a large mean"
    return f"its variance is E[x²] − E[x]²: {where} it loses two digits for each"
