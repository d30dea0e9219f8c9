"""Runs of studies: done side by side, one process a core, and kept as soon as they are finished."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics._io.files import (
    HeldError,
    alone_in,
    is_out_of_space,
    set_aside,
    write_atomically,
)
from batchnorm_mechanics._io.json import NewerError, check_format, plain, text
from batchnorm_mechanics._workers import (
    Call,
    CallError,
    Course,
    LostError,
    cores,
    side_by_side,
    tell,
)
from batchnorm_mechanics.studies.registry import Run, Settings, Study, network_settings

_CONDITIONS = "conditions.json"
_RUN, _RUNS = "run.json", "runs"
# Of the folder and the files in it; the first ones did not say so. Raise it when one of them
# changes; tests/formats keeps one of each version.
_FORMAT = 1

# TensorFlow, the images as floats, and TensorFlow's copy of them: 1.7 GB measured.
_WORKER_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Task:
    """One run to do: a study, a seed, and the folder for its artifacts, made anew."""

    study: Study
    seed: int
    folder: Path


@dataclass(frozen=True)
class EpochEnded:
    """A run has finished an epoch, counted from 1."""

    task: Task
    epoch: int
    logs: dict[str, float]


@dataclass(frozen=True)
class RunEnded:
    """A run is done."""

    task: Task
    run: Run


def run_all(tasks: Sequence[Task], source: str) -> Generator[EpochEnded | RunEnded]:
    """Do the tasks, as many at a time as cores and memory allow.

    They are begun in the order given, except that a worker goes on with tasks whose network it has
    compiled, as long as there are any.

    Args:
        tasks: what to do; the long ones first fill the cores best.
        source: the data, as `dataset.load` takes it. Each worker loads it once.

    Yields:
        What happens, as it happens. Closing the iterator, or an exception such as Ctrl-C, ends the
        processes.

    Raises:
        InputError: the disk is full.
        FailureError: a run raised, or a process ended without a word.
    """
    count = max(1, min(cores(), _fitting_in_memory(), len(tasks)))
    left = list(tasks)
    begun: list[set[Settings]] = [set() for _ in range(count)]
    host = partial(_Trainer, source, max(1, cores() // count))
    courses = [Course(host, _do(left, mine, begun)) for mine in begun[: len(tasks)]]
    yield from side_by_side(courses, count=count)


def _do(
    left: list[Task], mine: set[Settings], begun: list[set[Settings]]
) -> Generator[Any, Any, None]:
    """Do what is left, one task after another.

    Args:
        left: shared by all workers, and becoming less.
        mine: networks that this worker has compiled.
        begun: those of all workers.
    """
    while left:
        task = choose(left, mine, set().union(*begun))
        left.remove(task)
        mine.add(network_settings(task.study.settings))
        try:
            run = yield Call(_Trainer.train, (task,))
        except CallError as error:
            raise FailureError(
                f"reproduce: {task.study.name} with seed {task.seed} failed with {error}. "
                f"Finished runs are kept.\n{error.trace}"
            ) from error
        except LostError as error:
            raise FailureError(
                f"reproduce: a worker process ended with exit code {error.exit_code} and no "
                "message, as when the system runs out of memory. Finished runs are kept; run the "
                "same command again to go on."
            ) from error
        yield RunEnded(task, run)


def _fitting_in_memory() -> int:
    """Return how many workers the machine's memory has room for, at least one."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Not every system tells.
        return cores()
    return max(1, memory // _WORKER_BYTES)


def choose(left: Sequence[Task], mine: set[Settings], all_begun: set[Settings]) -> Task:
    """Choose a worker's next task.

    The first whose network the worker has compiled already; else the first whose network nobody
    has; else one of the network that has the most left, which costs a compilation but lets no core
    wait.

    Args:
        left: the tasks to choose from, in their order; at least one.
        mine: the networks that the worker has.
        all_begun: the networks that any worker has.
    """
    networks = [network_settings(task.study.settings) for task in left]
    for task, needed in zip(left, networks, strict=True):
        if needed in mine:
            return task
    for task, needed in zip(left, networks, strict=True):
        if needed not in all_begun:
            return task
    return left[max(range(len(left)), key=lambda at: (networks.count(networks[at]), -at))]


class _Trainer:
    """In a worker process: has TensorFlow and the data, both loaded once, and trains.

    Args:
        source: the data, as `dataset.load` takes it.
        threads: how many threads it may use.
    """

    def __init__(self, source: str, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

        import_tensorflow_quietly()
        import tensorflow as tf

        # Every run traces its own network; TensorFlow takes that for a mistake and says so.
        tf.get_logger().setLevel("ERROR")
        # Networks this small are faster on a core, and processes cannot share a GPU's memory.
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        from batchnorm_mechanics.studies import dataset

        self._digits = dataset.load(source, minimum_rows=1)
        self._prepared: dict[Any, dataset.Arrays] = {}
        self._networks: dict[Any, Any] = {}

    def train(self, task: Task) -> Run:
        """Do a task, and tell of each epoch.

        Raises:
            InputError: the disk is full.
        """
        from batchnorm_mechanics.studies import dataset
        from batchnorm_mechanics.studies.train import train

        settings = task.study.settings
        key = (settings.inputs, settings.rows, settings.split_seed, settings.validation_fraction)
        if key not in self._prepared:
            # Keep one preparation at a time: standardized floats are four times the images.
            self._prepared.clear()
            self._prepared[key] = dataset.prepare(self._digits, settings)

        def progress(epoch: int, logs: Any) -> None:
            numbers = {name: float(value) for name, value in logs.items()}
            tell(EpochEnded(task, epoch, numbers))

        try:
            shutil.rmtree(task.folder, ignore_errors=True)
            task.folder.mkdir(parents=True)
            return train(
                task.study,
                seed=task.seed,
                arrays=self._prepared[key],
                folder=task.folder,
                progress=progress,
                networks=self._networks,
            )
        except Exception as error:
            # Here, where the error is whole: TensorFlow's do not all survive the way to the parent.
            if is_out_of_space(error):
                raise disk_full(task.folder.parents[2]) from error
            raise


def disk_full(folder: Path) -> InputError:
    """Return the error for a full disk."""
    return InputError(
        f"reproduce: `out` must be on a disk with room. Received: out={str(folder)!r}, which is "
        "full. Finished runs are kept: make room and run the same command again, or name another "
        "folder with --out."
    )


class OutputFolder:
    """Where `reproduce` writes.

    `conditions.json` says under what conditions (data, versions, lengths) all runs in the folder
    were made. `runs/STUDY/seed-N/` holds each run's artifacts, and when it is finished `run.json`
    with its study's settings and its figures: a run without that file is done again. What is
    damaged is set aside.

    Attributes:
        path: the folder.
        damaged: where what was set aside is kept now.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        """Open the folder, or make it.

        Args:
            path: the folder.
            conditions: what every run in it has in common, as JSON holds it.

        Raises:
            InputError: the folder cannot be made or written, or holds runs of other conditions, or
                of a newer version.
        """
        self.path = path
        self.damaged: list[Path] = []
        conditions = plain({"format": _FORMAT, **conditions})
        try:
            path.mkdir(parents=True, exist_ok=True)
            found = self._read(path / _CONDITIONS)
            if found is None:
                # Whose runs there are is not known without them.
                if self.damaged and (path / _RUNS).exists():
                    self.damaged.append(set_aside(path / _RUNS))
                write_atomically(path / _CONDITIONS, text(conditions) + "\n")
            else:
                # Being able to read is not enough, and it is better known now than after an hour.
                tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise InputError(
                f"reproduce: `out` must be a folder that can be written. Received: "
                f"out={str(path)!r} ({error.strerror}). Name another with --out, or make room."
            ) from error
        if found is not None and (found := {**found, "format": _FORMAT}) != conditions:
            raise _other_settings(path, found, conditions)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder.

        Raises:
            InputError: one works in it.
        """
        try:
            with alone_in(self.path):
                yield
        except HeldError as error:
            raise InputError(
                "reproduce: `out` must be a folder in which nothing else runs. Received: "
                f"out={str(self.path)!r}, in which a run is under way ({error.by}). "
                "Wait for its end, or name another with --out."
            ) from error

    def run_folder(self, study: str, seed: int) -> Path:
        """Return where the artifacts of a run are."""
        return self.path / _RUNS / study / f"seed-{seed}"

    def finish(self, study: Study, run: Run) -> None:
        """Keep a finished run."""
        folder = self.run_folder(study.name, run.seed)
        record = {"format": _FORMAT, "settings": study.settings, "run": run}
        write_atomically(folder / _RUN, text(record) + "\n")

    def finished(self, studies: dict[str, Study]) -> dict[str, list[Run]]:
        """Return the finished runs of these studies, by study and in the order of their seeds.

        Raises:
            InputError: a run was made with other settings than its study has now.
        """
        runs: dict[str, list[Run]] = {}
        for name, study in studies.items():
            found = [
                run
                for file in sorted((self.path / _RUNS / name).glob(f"seed-*/{_RUN}"))
                if (run := self._read_run(study, file)) is not None
            ]
            if found:
                runs[name] = sorted(found, key=lambda run: run.seed)
        return runs

    def _read_run(self, study: Study, file: Path) -> Run | None:
        record = self._read(file)
        if record is None:
            return None
        try:
            settings, run = record["settings"], _run_of(**record["run"])
        except (AttributeError, KeyError, TypeError, ValueError):
            self.damaged.append(set_aside(file))
            return None
        wanted = plain(study.settings)
        if settings != wanted:
            raise _other_settings(file.parent, settings, wanted)
        return run

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Return the object that a file holds; None if there is none, or it had to be set aside."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        try:
            if isinstance(found, dict):
                check_format(found, _FORMAT)
                return found
        except NewerError as error:
            raise InputError(
                "reproduce: `out` must be a new folder, or one of this version. "
                f"Received: out={str(self.path)!r}, in which {path.name!r} was {error}. "
                "Update, or name another with --out; nothing in it was changed."
            ) from error
        except ValueError:
            pass
        self.damaged.append(set_aside(path))
        return None


def _run_of(*, seed: int, history: dict[str, list[Any]], **figures: Any) -> Run:
    """Return a run from JSON, which has text for numbers that are not finite."""
    numbers = {name: float(figure) for name, figure in figures.items()}
    along = {name: [float(value) for value in values] for name, values in history.items()}
    return Run(seed=seed, history=along, **numbers)


def _other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> InputError:
    return InputError(
        f"reproduce: `out` must be a new folder, or hold results of the same settings. "
        f"Received: out={str(path)!r}, made with {_differences(found, wanted)}. "
        "Name another with --out, or delete it; nothing in it was changed."
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key}={found.get(key)!r} and not {wanted.get(key)!r}" for key in changed)
