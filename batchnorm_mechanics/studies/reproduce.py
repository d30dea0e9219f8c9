"""The main job: run studies with several seeds, keep what is done, and say what it means."""

import contextlib
import difflib
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io import json
from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics._version import __version__
from batchnorm_mechanics._workers import cores
from batchnorm_mechanics.distribute.executors import executor_of
from batchnorm_mechanics.studies.dataset import Digits, load, rows_needed
from batchnorm_mechanics.studies.folder import OutputFolder
from batchnorm_mechanics.studies.registry import STUDIES, Run, Study, quick, with_paper_steps
from batchnorm_mechanics.studies.runs import EpochEnded, RunEnded, Task, run_all
from batchnorm_mechanics.studies.summary import results, steps_per_epoch

FIRST_SEED = 100
DEFAULT_SEEDS = 5
QUICK_SEEDS = 1
DEFAULT_PAPER_STEPS = 5_000


@dataclass(frozen=True)
class Request:
    """What to reproduce.

    Attributes:
        studies: names; none means all.
        seeds: how many seeds each, counted from 100, the source's own.
        data: `mnist` for the shipped data, or a path to an `.npz` in Keras's layout.
        out: folder for results and artifacts.
        quick: a tenth of the data and few steps.
        paper_steps: length of the paper's own experiment.
        executor: where the runs are done, as in `recalibrate`; None for this machine.
    """

    studies: tuple[str, ...] = ()
    seeds: int = DEFAULT_SEEDS
    data: str = "mnist"
    out: Path = Path("results")
    quick: bool = False
    paper_steps: int = DEFAULT_PAPER_STEPS
    executor: Any = None


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Attributes:
        request: what was asked for.
        digits: the data, checked.
        folder: the output folder, checked.
        studies: every known study as the request wants it, asked for or not: the folder may hold
            more of them from before.
        wanted: the runs asked for, as study and seed.
        tasks: those of them that the folder does not hold yet, in the order to do them.
    """

    request: Request
    digits: Digits
    folder: OutputFolder
    studies: dict[str, Study]
    wanted: frozenset[tuple[str, int]]
    tasks: tuple[Task, ...]


def plan(request: Request) -> Plan:
    """Check the request, load the data, open the folder, and find out what is still to do.

    Raises:
        InputError: a study is not known, a number is below 1, or data or folder
            cannot be used.
    """
    executor_of(request.executor, caller="reproduce")
    for name, value in (("seeds", request.seeds), ("paper_steps", request.paper_steps)):
        if value < 1:
            raise InputError(
                f"reproduce: `{name}` must be 1 or more. Received: {name}={value}. "
                "Leave it out for the default."
            )
    names = request.studies or tuple(STUDIES)
    for name in names:
        if name not in STUDIES:
            raise InputError(_unknown(name))
    studies = {study.name: _as_asked(study, request) for study in STUDIES.values()}
    needed = max(rows_needed(studies[name].settings) for name in names)
    digits = load(request.data, minimum_rows=needed)
    folder = OutputFolder(request.out, _conditions(request, digits))
    wanted = frozenset(
        (name, seed) for name in names for seed in range(FIRST_SEED, FIRST_SEED + request.seeds)
    )
    missing = wanted - _keys(folder.finished(studies))
    tasks = [Task(studies[name], seed, folder.run_folder(name, seed)) for name, seed in missing]
    return Plan(request, digits, folder, studies, wanted, tuple(sorted(tasks, key=_order)))


def carry_out(
    plan: Plan, on_event: Callable[[EpochEnded | RunEnded], None] = lambda event: None
) -> None:
    """Do the plan's missing runs, keeping each as soon as it is done.

    Args:
        plan: from `plan`.
        on_event: called with each `EpochEnded` and `RunEnded`.

    Raises:
        InputError: the disk is full, or the folder cannot be written any more.
        FailureError: a run raised, or a worker process died.
    """
    plan.folder.make_room_for(task.folder for task in plan.tasks)
    request = plan.request
    executor = executor_of(request.executor, caller="reproduce")
    # Another machine has the shipped data, and no other file of this one.
    source = request.data if executor is None or plan.digits.shipped else plan.digits
    with contextlib.closing(run_all(plan.tasks, source, executor)) as events:
        for event in events:
            if isinstance(event, RunEnded):
                plan.folder.finish(event.task.study, event.run)
            on_event(event)


def collect(plan: Plan) -> dict[str, Any]:
    """Return what the folder's finished runs say, and write it to `results.json`.

    Raises:
        InputError: as `carry_out`.
    """
    runs = plan.folder.finished(plan.studies)
    found = results(
        _environment(),
        _data(plan),
        plan.studies,
        runs,
        planned_runs=len(plan.wanted | _keys(runs)),
    )
    with plan.folder.writing():
        write_atomically(plan.folder.path / "results.json", json.text(found) + "\n")
    return found


def _keys(runs: dict[str, list[Run]]) -> set[tuple[str, int]]:
    return {(name, run.seed) for name, of_study in runs.items() for run in of_study}


def _as_asked(study: Study, request: Request) -> Study:
    study = with_paper_steps(study, request.paper_steps)
    return quick(study) if request.quick else study


def _order(task: Task) -> tuple[Any, ...]:
    """Sort runs of the same inputs together, which prepares them once, and the long ones first."""
    settings = task.study.settings
    steps = settings.epochs * steps_per_epoch(settings)
    return settings.inputs != "standardized", -steps, task.seed, task.study.name


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, STUDIES, n=1)
    return (
        f"reproduce: `study` must be one of the known studies. Received: study={name!r}. "
        + (f"Did you mean {close[0]!r}? " if close else "")
        + "`bnm reproduce --list` shows them all."
    )


def _conditions(request: Request, digits: Digits) -> dict[str, Any]:
    """Return what must be equal for two runs to be compared."""
    return {
        "batchnorm_mechanics": __version__,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
        "data": digits.sha256,
        "quick": request.quick,
        "paper_steps": request.paper_steps,
    }


def _data(plan: Plan) -> dict[str, Any]:
    digits = plan.digits
    return {
        "name": digits.name,
        "sha256": digits.sha256,
        "shipped": digits.shipped,
        "train": len(digits.x_train),
        "test": len(digits.x_test),
        "quick": plan.request.quick,
    }


def _environment() -> dict[str, Any]:
    version = importlib.metadata.version
    return {
        "batchnorm_mechanics": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "scikit-learn")},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
    }


def _processor() -> str:
    """Return the processor's name; Python's own answer on Linux is often empty."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
