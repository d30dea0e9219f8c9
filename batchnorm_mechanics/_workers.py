"""Courses of work side by side, each in a process of its own, which may be lost and replaced.

A course is a generator. Where it yields a `Call`, its process makes the call while other courses go
on, and the result comes back from the `yield`. All else that it yields, and what its process tells
meanwhile, are events for whoever iterates `side_by_side`. Where a call raises, or the process ends
or is silent for too long, the `yield` raises; the next call is made by a new process.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from batchnorm_mechanics._exceptions import InputError

# What a process gets to end by itself, in seconds, before it is killed.
_GRACE = 5


@dataclass(frozen=True)
class Call:
    """A call for a course's process to make: `function(host, *args)`.

    Attributes:
        function: found by its module and name, as `pickle` does.
        args: what it takes after the host.
        limit: seconds for the answer; those in which the process starts count.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    limit: float = math.inf


@dataclass(frozen=True)
class Course:
    """Work for one process after another.

    Attributes:
        host: makes what each call gets first, once in each process: what is loaded or built there
            stays for the next calls. Found as `pickle` does.
        steps: yields calls and events.
    """

    host: Callable[[], Any]
    steps: Generator[Any, Any, None]


class LostError(Exception):
    """The process has ended, with an exit code, or did not answer in time, without one."""

    def __init__(self, reason: str, exit_code: int | None = None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class CallError(Exception):
    """A call raised something else than `InputError`, which is raised as it is.

    The message is the error in one line; `trace` is its traceback, as text.
    """

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message, trace)
        self.trace = trace

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class _Told:
    event: Any


@dataclass(frozen=True)
class _Answer:
    value: Any = None
    error: Exception | None = None


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(courses: Iterable[Course], *, count: int) -> Generator[Any]:
    """Follow courses to their ends, so many at a time.

    Args:
        courses: begun in this order.
        count: how many processes there are at most.

    Yields:
        The events, as they come. Closing the iterator, an error that a course lets through, or one
        such as Ctrl-C ends the processes.
    """
    waiting, running = deque(courses), list[_Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < count:
                running.append(_Worker(waiting.popleft()))
                yield from running[-1].go_on(_Answer())
            _sleep(running)
            for worker in list(running):
                yield from worker.attend()
                if worker.has_ended:
                    worker.stop()
                    running.remove(worker)
    finally:
        _stop([worker.process for worker in running])


def _sleep(running: "list[_Worker]") -> None:
    """Wait until a process has something to say, has ended, or is out of time."""
    left = min((worker.deadline for worker in running), default=0.0) - time.monotonic()
    objects = [thing for worker in running for thing in worker.watched()]
    wait(objects, timeout=None if left == math.inf else max(0.0, left))


class _Worker:
    """A course and the process that works for it now."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._limit = math.inf
        # Both are there from the first call on, until they are lost.
        self.process: Any = None
        self._connection: Any = None
        self.deadline = math.inf
        self.has_ended = False

    def watched(self) -> list[Any]:
        """Return what becomes ready when the process has something to say, or has ended."""
        return [] if self.process is None else [self._connection, self.process.sentinel]

    def go_on(self, answer: _Answer) -> Generator[Any]:
        """Follow the course from an answer to its next call, or to its end."""
        steps = self._course.steps
        try:
            item = steps.send(answer.value) if answer.error is None else steps.throw(answer.error)
            while not isinstance(item, Call):
                yield item
                item = next(steps)
        except StopIteration:
            self.has_ended = True
        else:
            self._make(item)

    def _make(self, call: Call) -> None:
        self._limit, self.deadline = call.limit, time.monotonic() + call.limit
        if self.process is None:
            # Spawned, not forked: TensorFlow's threads do not survive a fork.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self.process = context.Process(
                target=_work, args=(self._course.host, theirs), daemon=True
            )
            self.process.start()
            # Ours is then the only end left in this process, and a dead one's pipe reads as ended.
            theirs.close()
        # A process that is gone is noticed where it is listened to.
        with contextlib.suppress(OSError):
            self._connection.send(call)

    def attend(self) -> Generator[Any]:
        """Hear what the process has said, and go on with the course where it has answered."""
        while not self.has_ended and (message := self._next()) is not None:
            if isinstance(message, _Told):
                yield message.event
            else:
                yield from self.go_on(message)

    def _next(self) -> _Told | _Answer | None:
        try:
            if self._connection.poll():
                return self._connection.recv()
            lost = not self.process.is_alive()
        except (EOFError, OSError):
            lost = True
        if lost:
            self.process.join(_GRACE)
            code = self.process.exitcode
            self.stop()
            return _Answer(error=LostError(_how_it_ended(code), code))
        if time.monotonic() >= self.deadline:
            self.stop()
            return _Answer(error=LostError(f"no answer within {self._limit:g} s"))
        return None

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            _stop([self.process])
            self._connection.close()
            self.process = self._connection = None


def _stop(processes: Iterable[Any]) -> None:
    """End processes, by force if they do not listen; None, and not started ones, are left out."""
    started = [process for process in processes if process is not None and process.pid is not None]
    for process in started:
        process.terminate()
    for process in started:
        process.join(timeout=_GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by signal {-code}, {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


# In the worker process.

_parent: Connection | None = None


def tell(event: Any) -> None:
    """Tell the parent process of an event while a call is going on."""
    if _parent is not None:
        _parent.send(_Told(event))


def _work(make_host: Callable[[], Any], parent: Connection) -> None:
    """Make one call after another. This is a worker process's whole life.

    It leaves Ctrl-C to its parent, ends when the parent is gone, and keeps standard output, which
    belongs to the parent's results, free of what it prints itself: that goes to standard error.
    """
    global _parent  # noqa: PLW0603 - there is one parent
    # Ctrl-C reaches the whole group of processes; the parent answers it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)
    _parent = parent
    host = None
    while True:
        call = parent.recv()
        try:
            host = make_host() if host is None else host
            answer = _Answer(call.function(host, *call.args))
        except InputError as error:
            answer = _Answer(error=InputError(str(error)))
        except Exception as error:  # Whatever it is, the parent must hear of it.
            line = f"{type(error).__name__}: {error}"
            answer = _Answer(error=CallError(line, traceback.format_exc()))
        parent.send(answer)


def _end_with_parent() -> None:
    """End this process when the parent is gone, killed perhaps, and nobody listens any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
