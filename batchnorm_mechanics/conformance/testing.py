"""One pytest test for each case, in the tests of those who have an implementation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from batchnorm_mechanics.conformance.cases import CASES, Case, judged, select, shared
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.judge import Judged, explain, judge, reported, telling
from batchnorm_mechanics.conformance.limits import required
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.shares import checked
from batchnorm_mechanics.conformance.subject import Subject
from batchnorm_mechanics.conformance.subjects import as_subject, resolve, shared_by


def conform_cases(
    subject: Any,
    *,
    name: str | None = None,
    cases: Sequence[Case] | str = CASES,
    strict: bool = False,
    require: str | Sequence[str] = (),
    replicas: int = 1,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a pytest test of each case by which an implementation is judged.

    The test function gets the case as its argument `case`, and calls it: where the implementation
    is right it returns, what it is not made for is skipped, and a failure says what is wrong, which
    mistake gives these numbers, and what to do. `pytest -k "one_step"` runs some of them.

    Args:
        subject: what `conform` takes.
        name: what messages call it; its own name by default.
        cases: what to ask it, or a group of cases or part of a name that selects them.
        strict: whether to judge edge cases too, of which nobody defines what is due.
        require: what it must take, as in `conform`: what is missing fails and is not skipped.
        replicas: how many share each batch of training, as in `conform`.

    Returns:
        What decorates the test function.

    Raises:
        InputError: there are no such cases, or nothing of the kind to require. Whether there is
            such a subject shows when the first test runs.

    Example:
        >>> import keras
        >>> @conform_cases(keras.layers.BatchNormalization, cases="one step")
        ... def test_batch_normalization(case):
        ...     case()
        >>> [mark] = test_batch_normalization.pytestmark
        >>> mark.kwargs["ids"]
        ['one_step_rank_2', 'one_step_rank_4']
    """
    import pytest

    table = shared(CASES, checked(replicas))
    chosen = select(cases, table) if isinstance(cases, str) else shared(cases, replicas)
    chosen = judged(chosen) if strict else chosen
    asked = _Asked(subject, name, chosen, required(require), replicas)
    return pytest.mark.parametrize(
        "case",
        [_CaseTest(asked, case) for case in asked.cases],
        ids=[case.name.replace(" ", "_") for case in asked.cases],
    )


@dataclass(eq=False)
class _Asked:
    """A subject, and what came of its cases so far: a case is judged when its test runs.

    What explains a failure, and whether it is a limit, shows in all cases together; they are
    judged when the first one fails.
    """

    thing: Any
    name: str | None
    cases: tuple[Case, ...]
    required: tuple[str, ...]
    replicas: int
    found: dict[str, Judged] = field(default_factory=dict)

    @cached_property
    def subject(self) -> Subject:
        """Whom to judge: made when the first test runs, for it imports a user's file."""
        thing = self.thing
        is_named = isinstance(thing, str)
        return shared_by(
            self.replicas, lambda: resolve(thing) if is_named else as_subject(thing, self.name)
        )

    @cached_property
    def conventions(self) -> Conventions:
        """The subject's."""
        return find_conventions(self.subject)

    def judge(self, case: Case) -> Judged:
        """Return what came of one case, without knowing of the others."""
        if case.name not in self.found:
            self.found[case.name] = telling(judge(self.subject, case, self.conventions))
        return self.found[case.name]

    @cached_property
    def report(self) -> Report:
        """What all cases come to."""
        results = explain([self.judge(case) for case in self.cases])
        return replace(
            reported(self.subject, self.conventions, results),
            name=self.subject.name if self.name is None else self.name,
            required=self.required,
            spec=self.thing if isinstance(self.thing, str) else None,
            replicas=self.replicas,
        )


@dataclass(frozen=True, eq=False)
class _CaseTest:
    """What a test calls."""

    asked: _Asked
    case: Case

    def __call__(self) -> None:
        """Pass, skip or fail, by what comes of the case."""
        import pytest

        result, _ = self.asked.judge(self.case)
        if result.status in ("pass", "measured"):
            return
        report = self.asked.report
        [result] = [one for one in report.cases if one.case == self.case.name]
        lacking = [limit for limit in report.verdict.limits if limit.what in report.required]
        if result.status == "fail":
            pytest.fail(_message(report, result), pytrace=False)
        elif result.status == "skipped" and lacking:
            words = "; ".join(limit.words for limit in lacking)
            pytest.fail(
                f"{report.name}: {words}. {result.reason}. Take it, or leave it out of `require`.",
                pytrace=False,
            )
        elif result.status == "skipped":
            pytest.skip(result.reason or "it is not made for it")


def _message(report: Report, result: CaseResult) -> str:
    """Say what is wrong with one case, what explains it, and what to do."""
    lines = [f"{report.name}: {report.verdict.sentence}", f"In {result.case!r}:"]
    # One exception in every case is one matter.
    for check in result.wrong[:1] if report.verdict.fault else result.wrong:
        lines += _of_check(report, check)
    alone = report.view.command(report, result)
    advice = "Mend that first: it may be the wrapper" if report.verdict.fault else "Mend that"
    return "\n".join([*lines, f"{advice}. This case alone: {alone}"])


def _of_check(report: Report, check: Check) -> list[str]:
    lines = [f"  {check.what}: {report.view.why(check)}"]
    lines += [f"    {check.diagnosis}"] if check.diagnosis else []
    return lines + ([f"    at {check.where}"] if check.where else [])
