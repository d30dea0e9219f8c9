"""Judge many subjects, each in a process of its own, so that none can stop the run."""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics._processes import cores, stop
from batchnorm_mechanics.conformance import worker
from batchnorm_mechanics.conformance.cases import CASES, Case
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions, Report
from batchnorm_mechanics.conformance.worker import Job, Judged

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
        resolve: `module:function` that makes a subject of a spec.

    Yields:
        What happens, as it happens. Closing the iterator, or an exception such as Ctrl-C, ends the
        processes.

    Raises:
        InputError: a spec is nothing that can be judged.
        FailureError: this program itself failed in a worker.
    """
    context = multiprocessing.get_context("spawn")
    count = max(1, min(cores(), len(specs)))
    threads = max(1, cores() // count)
    waiting = deque(
        _Course(spec, tuple(cases), limit, resolve, threads) for spec in sorted(specs, key=_place)
    )
    running: list[_Course] = []
    try:
        while waiting or running:
            while waiting and len(running) < count:
                running.append(waiting.popleft())
                running[-1].start(context)
            _wait(running)
            for course in list(running):
                yield from course.proceed(context)
                if course.ended:
                    running.remove(course)
    finally:
        stop([course.process for course in running if course.process is not None])


def _place(spec: str) -> int:
    """Return where in the queue a spec belongs, the lowest first."""
    return 0 if ":" in spec else 1 if spec in _LONG else 2


def _wait(running: list["_Course"]) -> None:
    """Sleep until a worker has something to say, has ended, or is out of time."""
    objects = [thing for course in running for thing in course.watched()]
    left = min(course.deadline for course in running) - time.monotonic()
    wait(objects, timeout=max(0.0, left))


@dataclass
class _Course:
    """One subject's way through the cases, in one worker after another."""

    spec: str
    cases: tuple[Case, ...]
    limit: float
    resolve: str
    threads: int
    name: str = ""
    description: str = ""
    conventions: Conventions | None = None
    judged: list[Judged] = field(default_factory=list)
    silent: int = 0
    asked: int = 0
    stage: str = "start"
    begun: float | None = None
    deadline: float = 0.0
    process: Any = None
    connection: Connection | None = None
    ended: bool = False

    def start(self, context: Any) -> None:
        """Start a worker on what is left."""
        if self.begun is None:
            self.begun = time.monotonic()
        ours, theirs = context.Pipe(duplex=False)
        left = self.cases[self.asked :]
        job = Job(self.spec, self.resolve, left, self.conventions, tuple(self.judged), self.threads)
        self.process = context.Process(target=worker.work, args=(job, theirs), daemon=True)
        self.process.start()
        # Ours is then the only end left in this process, and a dead worker's pipe reads as ended.
        theirs.close()
        self.connection = ours
        self._enter("start", max(_START_LIMIT, self.limit))

    def watched(self) -> list[Any]:
        """Return what becomes ready when the worker has something to say, or has ended."""
        return [self.process.sentinel, *([] if self.connection is None else [self.connection])]

    def _enter(self, stage: str, limit: float | None = None) -> None:
        self.stage = stage
        self.deadline = time.monotonic() + (self.limit if limit is None else limit)

    def _enter_next(self) -> None:
        if self.asked < len(self.cases):
            self._enter("case")
        else:
            self._enter("explanation", max(LIMIT, self.limit))

    def proceed(self, context: Any) -> Generator[Event]:
        """Take in what the worker has said; replace it if it has ended or is out of time."""
        for message in self._messages():
            yield from self._take(message)
            if self.ended:
                self._close()
                return
        if not self.process.is_alive() and self.connection is None:
            yield from self._lost(context, _how_it_ended(self.process.exitcode))
        elif time.monotonic() >= self.deadline:
            yield from self._lost(context, f"no answer within {self.limit:g} s")

    def _messages(self) -> Generator[Any]:
        try:
            while self.connection is not None and self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            # The worker is ending; how, its exit code will say.
            self.connection = None

    def _take(self, message: Any) -> Generator[Event]:
        match message:
            case worker.Refused(text):
                raise InputError(text)
            case worker.Broken(trace):
                raise FailureError(
                    f"conform: this program failed while it judged {self.spec}; please report "
                    f"it.\n{trace}"
                )
            case worker.Unusable(reason):
                yield from self._give_up("start", reason)
            case worker.Ready(name, description):
                if not self.name:
                    self.name, self.description = name, description
                    yield Begun(self.spec, len(self.cases))
                self._enter("conventions")
            case worker.Found(conventions):
                self.conventions = conventions
                self._enter_next()
            case worker.Answered(judged):
                self.silent = 0
                yield self._note(judged)
            case worker.Explained(cases):
                yield self._end(cases)

    def _note(self, judged: Judged) -> Event:
        self.judged.append(judged)
        self.asked += 1
        self._enter_next()
        return CaseJudged(self.spec, judged[0])

    def _lost(self, context: Any, reason: str) -> Generator[Event]:
        """Go on without the worker, which is dead or must be ended."""
        self._close()
        if self.stage == "start":
            yield from self._give_up("start", reason)
            return
        if self.stage == "explanation":
            trouble = f"what explains the failures of {self.name} was not found out; {reason}"
            yield self._end(tuple(result for result, _ in self.judged), trouble)
            return
        if self.stage == "conventions":
            self.conventions = Conventions()
            result = _failed("conventions", "conventions", reason, self.limit)
            self.judged.append((result, None))
            yield CaseJudged(self.spec, result)
        else:
            case = self.cases[self.asked]
            self.silent += 1
            yield self._note((_failed(case.name, case.group, reason, self.limit), None))
        if self.silent >= _PATIENCE:
            yield from self._skip(f"not asked: {_PATIENCE} cases in a row gave no answer")
        self.start(context)

    def _give_up(self, stage: str, reason: str) -> Generator[Event]:
        """End with a failure that belongs to no case."""
        result = _failed(stage, stage, reason, 0.0)
        self.judged.append((result, None))
        yield CaseJudged(self.spec, result)
        yield from self._skip("not asked: there is no subject")
        yield self._end(tuple(result for result, _ in self.judged))

    def _skip(self, reason: str) -> Generator[Event]:
        for case in self.cases[self.asked :]:
            yield self._note((CaseResult(case.name, case.group, "skipped", reason=reason), None))

    def _end(self, cases: tuple[CaseResult, ...], trouble: str | None = None) -> Event:
        self.ended = True
        report = Report(
            name=self.name or self.spec,
            description=self.description,
            conventions=self.conventions or Conventions(),
            cases=cases,
            seconds=0.0 if self.begun is None else time.monotonic() - self.begun,
        )
        return Ended(self.spec, report, trouble)

    def _close(self) -> None:
        stop([self.process])
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _failed(case: str, group: str, reason: str, seconds: float) -> CaseResult:
    return CaseResult(case, group, "fail", (Check("answer", False, reason=reason),), None, seconds)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by signal {-code}, {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
