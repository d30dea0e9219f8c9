"""Judge many subjects, each in a process of its own, so that none can stop the run."""

import importlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics._workers import Call, CallError, Course, LostError, cores, side_by_side
from batchnorm_mechanics.conformance.cases import CASES, Case
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.judge import (
    Judged,
    explain,
    judge,
    result_of,
    telling,
)
from batchnorm_mechanics.conformance.questions import raised
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.subject import Subject
from batchnorm_mechanics.conformance.subjects import shared_by

LIMIT = 60.0
# Importing TensorFlow and a peer takes seconds, and on a busy machine a minute.
_START_LIMIT = 180.0
# After so many cases in a row without an answer, no more are tried: each may take a whole limit.
_PATIENCE = 3
# They compile for each shape; begun last, they would keep one core busy while the others wait.
_LONG = ("bnm.layer-compiled", "flax")
_REGISTRY = "batchnorm_mechanics.conformance.subjects:resolve"


@dataclass(frozen=True)
class Begun:
    """A subject is there, and its cases are about to be asked."""

    spec: str
    total: int


@dataclass(frozen=True)
class CaseJudged:
    """A case is done; what explains its failures is not known yet."""

    spec: str
    result: CaseResult


@dataclass(frozen=True)
class Ended:
    """All about a subject is known.

    Attributes:
        spec: which one.
        report: what was found.
        trouble: what went wrong with this program itself, or None.
    """

    spec: str
    report: Report
    trouble: str | None = None


Event = Begun | CaseJudged | Ended


def conform_all(
    specs: Sequence[str],
    *,
    cases: Sequence[Case] = CASES,
    limit: float = LIMIT,
    required: Sequence[str] = (),
    replicas: int = 1,
    resolve: str = _REGISTRY,
) -> Generator[Event]:
    """Judge subjects in processes of their own, as many at a time as there are processors.

    A case without an answer in time, or in which the process ends, fails; a new process goes on
    with the next one.

    Args:
        specs: whom to judge, each once; in the order given, but a user's own first, for what cannot
            be used is then found at once, and after them those that take long.
        cases: what to ask them.
        limit: seconds for one case, and for finding the conventions.
        required: what they must take to pass, by words of `limits.WORDS`.
        replicas: how many share each batch of training; `cases` say how.
        resolve: `module:function` that makes a subject of a spec.

    Yields:
        What happens, as it happens. Closing the iterator, or an exception such as Ctrl-C, ends the
        processes.

    Raises:
        InputError: a spec is nothing that can be judged.
        FailureError: this program itself failed in a worker.
    """
    count = max(1, min(cores(), len(specs)))
    courses = [
        Course(
            partial(_Examiner, spec, resolve, max(1, cores() // count), replicas),
            _Examination(
                spec,
                tuple(cases),
                limit,
                Report(
                    spec,
                    "",
                    Conventions(),
                    (),
                    required=tuple(required),
                    spec=spec,
                    replicas=replicas,
                ),
            ).steps(),
        )
        for spec in sorted(specs, key=_place)
    ]
    yield from side_by_side(courses, count=count)


def _place(spec: str) -> int:
    """Return where in the queue a spec belongs, the lowest first."""
    return 0 if ":" in spec else 1 if spec in _LONG else 2


class _UnusableError(Exception):
    """There is no subject to be had: its module or its constructor raised, or never returned."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.reason)
        self.check = check


@dataclass
class _Examination:
    """One subject's way through the cases, in one process after another."""

    spec: str
    cases: tuple[Case, ...]
    limit: float
    report: Report
    judged: list[Judged] = field(default_factory=list)
    has_subject: bool = False
    began: float = 0.0

    def steps(self) -> Generator[Any, Any, None]:
        """Yield calls of an examiner, and events."""
        self.began = time.monotonic()
        try:
            yield from self._start()
            yield Begun(self.spec, len(self.cases))
            yield from self._find_conventions()
            yield from self._ask_all()
            yield from self._explain()
        except _UnusableError as error:
            yield self._note(_failed("start", error.check, 0.0))
            yield from self._skip("not asked: there is no subject")
            yield self._end()
        except CallError as error:
            raise FailureError(
                f"conform: this program failed while it judged {self.spec}; please report it.\n"
                f"{error.trace}"
            ) from error

    def _start(self) -> Generator[Any, Any, None]:
        try:
            found = yield Call(_Examiner.start, limit=max(_START_LIMIT, self.limit))
        except LostError as error:
            found = _unanswered(str(error))
        if isinstance(found, Check):
            raise _UnusableError(found)
        self.report = replace(self.report, **found)
        self.has_subject = True

    def _call(self, function: Callable[..., Any], *args: Any, limit: float) -> Any:
        """Call the examiner, a new one with the subject if the last one was lost."""
        if not self.has_subject:
            yield from self._start()
        try:
            return (yield Call(function, args, limit))
        except LostError:
            self.has_subject = False
            raise

    def _find_conventions(self) -> Generator[Any, Any, None]:
        try:
            found = yield from self._call(_Examiner.find_conventions, limit=self.limit)
            self.report = replace(self.report, conventions=found)
        except LostError as error:
            yield self._note(_failed("conventions", _unanswered(str(error)), self.limit))

    def _ask_all(self) -> Generator[Any, Any, None]:
        silent = 0
        for case in self.cases:
            if silent == _PATIENCE:
                yield from self._skip(f"not asked: {_PATIENCE} cases in a row gave no answer")
                return
            try:
                judged = yield from self._call(
                    _Examiner.judge, case, self.report.conventions, limit=self.limit
                )
                silent = 0
            except LostError as error:
                checks = (_unanswered(str(error)),)
                judged = replace(result_of(case, "fail", checks), seconds=self.limit), None
                silent += 1
            yield self._note(judged)

    def _explain(self) -> Generator[Any, Any, None]:
        """Ask for what explains all failures together."""
        limit, trouble = max(LIMIT, self.limit), None
        try:
            cases = yield from self._call(_Examiner.explain, self.judged, limit=limit)
        except LostError as error:
            name = self.report.name
            trouble = f"what explains the failures of {name} was not found out; {error}"
            cases = None
        yield self._end(cases, trouble)

    def _note(self, judged: Judged) -> Event:
        self.judged.append(judged)
        return CaseJudged(self.spec, judged[0])

    def _skip(self, reason: str) -> Generator[Event]:
        """Note the cases that were not asked."""
        asked = {result.case for result, _ in self.judged}
        for case in self.cases:
            if case.name not in asked:
                yield self._note((result_of(case, "skipped", reason=reason), None))

    def _end(
        self, cases: tuple[CaseResult, ...] | None = None, trouble: str | None = None
    ) -> Event:
        if cases is None:
            cases = tuple(result for result, _ in self.judged)
        report = replace(self.report, cases=cases, seconds=time.monotonic() - self.began)
        return Ended(self.spec, report, trouble)


def _unanswered(reason: str) -> Check:
    return Check("answer", False, reason=reason)


def _failed(step: str, check: Check, seconds: float) -> Judged:
    return CaseResult(step, step, "fail", (check,), None, seconds), None


class _Examiner:
    """In a worker process: has a subject, and asks it.

    Args:
        spec: whom to judge.
        resolve: `module:function` that makes a subject of a spec.
        threads: how many threads the subject may use.
        replicas: how many share each batch.
    """

    _subject: Subject

    def __init__(self, spec: str, resolve: str, threads: int, replicas: int) -> None:
        self._spec = spec
        self._resolve = resolve
        self._replicas = replicas
        # Libraries are kept off the GPU and to their share of processors before any is imported,
        # by the environment: a subject needs TensorFlow, or another, or none, and each costs
        # seconds. The arrays are small, and several processes cannot share a GPU's memory.
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = str(threads)
        # Else each process prints that this machine's oneDNN has no half precision, as an error.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def start(self) -> dict[str, Any] | Check:
        """Return what a report says of the subject first, or why there is none."""
        module, _, function = self._resolve.partition(":")
        resolve: Callable[[str], Subject] = getattr(importlib.import_module(module), function)
        try:
            subject = shared_by(self._replicas, lambda: resolve(self._spec))
            # What is found out when it is first asked for may raise as well, and must not later.
            _ = subject.abilities, subject.declared_momentum, subject.takes_epsilon, subject.lacks
        except InputError:
            raise
        except Exception as error:  # A user's module may raise anything.
            return raised("answer", error)
        self._subject = subject
        return {
            "name": subject.name or self._spec,
            "description": subject.description,
            "taken_as": subject.taken_as,
            "abilities": tuple(sorted(subject.abilities)),
        }

    def find_conventions(self) -> Conventions:
        """Return the conventions that the subject follows."""
        return find_conventions(self._subject)

    def judge(self, case: Case, conventions: Conventions) -> Judged:
        """Return what came of a case; evidence that tells nothing need not travel."""
        return telling(judge(self._subject, case, conventions))

    def explain(self, judged: Sequence[Judged]) -> tuple[CaseResult, ...]:
        """Return the results with what explains their failures."""
        return explain(judged)
