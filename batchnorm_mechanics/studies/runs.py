"""Runs of studies: done side by side, one process a core, and kept as soon as they are finished."""

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics._io.files import is_out_of_space
from batchnorm_mechanics._workers import (
    Call,
    CallError,
    Course,
    LostError,
    cores,
    side_by_side,
    tell,
)
from batchnorm_mechanics.distribute.executors import RayExecutor
from batchnorm_mechanics.studies.dataset import Digits
from batchnorm_mechanics.studies.folder import cannot_go_on, try_to_write
from batchnorm_mechanics.studies.registry import Run, Settings, Study, network_settings

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


def run_all(
    tasks: Sequence[Task], source: str | Digits, executor: RayExecutor | None = None
) -> Generator[EpochEnded | RunEnded]:
    """Do the tasks, as many at a time as cores and memory allow, or by an executor's workers.

    They are begun in the order given, except that a worker goes on with tasks whose network it has
    compiled, as long as there are any.

    Args:
        tasks: what to do; the long ones first fill the cores best.
        source: the data, as `dataset.load` takes it, or loaded. Each worker loads it once.
        executor: whose workers do them, and tell of a run when it is done; None for processes of
            this machine, which tell of epochs.

    Yields:
        What happens, as it happens. Closing the iterator, or an exception such as Ctrl-C, ends the
        processes.

    Raises:
        InputError: the disk is full, or their folder cannot be written any more.
        FailureError: a run raised, or a process ended without a word.
    """
    if executor is not None:
        yield from _elsewhere(tasks, source, executor)
        return
    count = max(1, min(cores(), _fitting_in_memory(), len(tasks)))
    left = list(tasks)
    begun: list[set[Settings]] = [set() for _ in range(count)]
    host = partial(_Trainer, source, max(1, cores() // count))
    courses = [Course(host, _do(left, mine, begun)) for mine in begun[: len(tasks)]]
    yield from side_by_side(courses, count=count)


def _elsewhere(
    tasks: Sequence[Task], source: str | Digits, executor: RayExecutor
) -> Generator[RunEnded]:
    """Do the tasks by an executor's workers, which may not see the folders that are ours."""
    if not tasks:
        return
    with executor.hosting(partial(_Trainer, source, 1)) as workers:
        for number, (run, archive) in workers.map(_train_and_pack, tasks, in_order=False):
            task = tasks[number]
            try:
                shutil.rmtree(task.folder, ignore_errors=True)
                task.folder.mkdir()
                with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
                    packed.extractall(task.folder, filter="data")
            except OSError as error:
                raise cannot_go_on(task.folder.parents[2], error) from error
            yield RunEnded(task, run)


def _train_and_pack(trainer: "_Trainer", task: Task) -> tuple[Run, bytes]:
    """Do a task, in a worker; return the run, and the artifacts of its folder in an archive."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, *task.folder.parts[-3:])
        folder.parent.mkdir(parents=True)
        run = trainer.train(replace(task, folder=folder))
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as packed:
            packed.add(folder, arcname=".")
        return run, archive.getvalue()


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
        source: the data, as `dataset.load` takes it, or loaded.
        threads: how many threads it may use.
    """

    def __init__(self, source: str | Digits, threads: int) -> None:
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

        self._digits = dataset.load(source, minimum_rows=1) if isinstance(source, str) else source
        self._prepared: dict[Any, dataset.Arrays] = {}
        self._networks: dict[Any, Any] = {}

    def train(self, task: Task) -> Run:
        """Do a task, and tell of each epoch.

        Raises:
            InputError: the disk is full, or the folder cannot be written any more.
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
            # Without its parents: where they are gone the folder is lost, and not to be made anew.
            task.folder.mkdir()
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
            out = task.folder.parents[2]
            if is_out_of_space(error):
                raise cannot_go_on(out, error) from error
            # They do not all say what the system said, so that it is asked again.
            for folder in (out, task.folder):
                try:
                    try_to_write(folder)
                except OSError as reason:
                    raise cannot_go_on(out, reason) from error
            raise
