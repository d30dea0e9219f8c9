"""A worker process: judges one subject, and says at each step what it is about to do."""

import importlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._processes import behave_as_worker
from batchnorm_mechanics.conformance.cases import Case
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.judge import explain, judge, telling
from batchnorm_mechanics.conformance.questions import in_one_line
from batchnorm_mechanics.conformance.record import CaseResult, Conventions
from batchnorm_mechanics.conformance.subject import Subject

Judged = tuple[CaseResult, Evidence | None]


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        spec: whom to judge.
        resolve: `module:function`, which makes a subject of a spec.
        cases: what is left to ask.
        conventions: None if they are still to be found.
        earlier: what workers before this one have found, to be explained together with the rest.
        threads: how many threads the subject may use.
    """

    spec: str
    resolve: str
    cases: tuple[Case, ...]
    conventions: Conventions | None
    earlier: tuple[Judged, ...]
    threads: int


@dataclass(frozen=True)
class Ready:
    """The subject is there; its conventions are looked for next, unless they are known."""

    name: str
    description: str


@dataclass(frozen=True)
class Unusable:
    """There is no subject to be had: its module or its constructor raised."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The user named something that cannot be judged."""

    message: str


@dataclass(frozen=True)
class Found:
    """The conventions are known; the next case has begun."""

    conventions: Conventions


@dataclass(frozen=True)
class Answered:
    """A case is done; the next one has begun, or the explanation of all failures."""

    judged: Judged


@dataclass(frozen=True)
class Explained:
    """All is done."""

    cases: tuple[CaseResult, ...]


@dataclass(frozen=True)
class Broken:
    """This program itself has failed."""

    trace: str


def work(job: Job, parent: Connection) -> None:
    """Do a job. This is a worker process's whole life.

    Args:
        job: what to do.
        parent: told of each step.
    """
    behave_as_worker()
    _set_libraries(job.threads)
    try:
        subject = _subject(job, parent)
        if subject is not None:
            _judge(job, subject, parent)
    except Exception:  # Whatever it is, the parent must hear of it.
        parent.send(Broken(traceback.format_exc()))


def _set_libraries(threads: int) -> None:
    """Keep libraries off the GPU and to their share of processors, before any is imported.

    By the environment: a subject needs TensorFlow, or another, or none, and each costs seconds.
    """
    # The arrays are small, and several processes cannot share a GPU's memory.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(threads)
    # Else each process prints that this machine's oneDNN has no half precision, as an error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _subject(job: Job, parent: Connection) -> Subject | None:
    module, _, function = job.resolve.partition(":")
    resolve: Callable[[str], Subject] = getattr(importlib.import_module(module), function)
    try:
        subject = resolve(job.spec)
        # What is found out when it is first asked for may raise as well, and must not do so later.
        _ = subject.abilities, subject.declared_momentum, subject.takes_epsilon, subject.lacks
    except InputError as error:
        parent.send(Refused(str(error)))
        return None
    except Exception as error:  # A user's module may raise anything.
        parent.send(Unusable(f"raised {in_one_line(error)}"))
        return None
    parent.send(Ready(subject.name, subject.description))
    return subject


def _judge(job: Job, subject: Subject, parent: Connection) -> None:
    conventions = job.conventions
    if conventions is None:
        conventions = find_conventions(subject)
    parent.send(Found(conventions))
    judged = list(job.earlier)
    for case in job.cases:
        result, evidence = judge(subject, case, conventions)
        # The arrays of the others need not travel.
        judged.append((result, evidence if telling(result, evidence) else None))
        parent.send(Answered(judged[-1]))
    results, evidence = zip(*judged, strict=True) if judged else ((), ())
    parent.send(Explained(explain(results, evidence)))
