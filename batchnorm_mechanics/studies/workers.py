"""Train many runs side by side, one process a core, and hear of each epoch as it ends."""

import multiprocessing
import os
import queue
import shutil
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics._io.files import is_out_of_space
from batchnorm_mechanics._processes import behave_as_worker, cores, stop
from batchnorm_mechanics.studies.config import DEFAULT_ENGINE, Engine, Run, Settings, Study, network

# A worker that dies says nothing, so it is looked after this often, in seconds.
_WATCH = 0.5

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


@dataclass(frozen=True)
class RunFailed:
    """A run has raised.

    Attributes:
        task: which one.
        error: the error in one line.
        trace: the whole traceback, as text.
        out_of_space: whether the cause was a full disk.
    """

    task: Task
    error: str
    trace: str
    out_of_space: bool


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
    networks = [network(task.study.settings) for task in left]
    for task, needed in zip(left, networks, strict=True):
        if needed in mine:
            return task
    for task, needed in zip(left, networks, strict=True):
        if needed not in all_begun:
            return task
    return left[max(range(len(left)), key=lambda at: (networks.count(networks[at]), -at))]


class _Assignments:
    """Which worker does what."""

    def __init__(self, tasks: Sequence[Task], queues: Sequence[Any], engine: Engine) -> None:
        self._left = list(tasks)
        self._engine = engine
        self._queues = queues
        self._networks: list[set[Settings]] = [set() for _ in queues]

    def give(self, worker: int) -> None:
        """Send a worker its next task, or that there is none."""
        if not self._left:
            self._queues[worker].put(None)
            return
        mine = self._networks[worker]
        # `fit` keeps nothing between runs, so there the long ones, which come first, go first.
        begun = set().union(*self._networks)
        task = self._left[0] if self._engine == "fit" else choose(self._left, mine, begun)
        self._left.remove(task)
        mine.add(network(task.study.settings))
        self._queues[worker].put(task)


def run_all(
    tasks: Sequence[Task], source: str, *, engine: Engine = DEFAULT_ENGINE
) -> Generator[EpochEnded | RunEnded | RunFailed]:
    """Do the tasks, as many at a time as cores and memory allow.

    They are begun in the order given, except that with the compiled engine a worker goes on with
    tasks whose network it has compiled, as long as there are any.

    Args:
        tasks: what to do; the long ones first fill the cores best.
        source: the data, as `dataset.load` takes it. Each worker loads it once.
        engine: how to train.

    Yields:
        What happens, as it happens. Closing the iterator, or an exception such as Ctrl-C, ends the
        processes.

    Raises:
        FailureError: a process ended without a word.
    """
    if not tasks:
        return
    count = min(cores(), _fitting_in_memory(), len(tasks))
    threads = max(1, cores() // count)
    # Spawned, not forked: TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    events, queues = context.Queue(), [context.Queue() for _ in range(count)]
    assignments = _Assignments(tasks, queues, engine)
    for worker, todo in enumerate(queues):
        # Else this process, ending early, would wait for somebody to read the rest of the queue.
        todo.cancel_join_thread()
        assignments.give(worker)
    processes = [
        context.Process(
            target=_work, args=(worker, todo, events, source, threads, engine), daemon=True
        )
        for worker, todo in enumerate(queues)
    ]
    try:
        for process in processes:
            process.start()
        left = len(tasks)
        while left:
            try:
                worker, event = events.get(timeout=_WATCH)
            except queue.Empty:
                _check_alive(processes)
                continue
            if isinstance(event, RunEnded | RunFailed):
                left -= 1
                assignments.give(worker)
            yield event
    finally:
        stop(processes)


def _check_alive(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.exitcode not in (None, 0):
            raise FailureError(
                f"reproduce: a worker process ended with exit code {process.exitcode} and no "
                "message, as when the system runs out of memory. Finished runs are kept; run the "
                "same command again to go on."
            )


def _work(worker: int, todo: Any, events: Any, source: str, threads: int, engine: Engine) -> None:
    """Do tasks until there is none left. This is a worker process's whole life."""
    behave_as_worker()
    train = _prepare_worker(source, threads, engine)
    while (task := todo.get()) is not None:

        def progress(epoch: int, logs: Any, task: Task = task) -> None:
            numbers = {name: float(value) for name, value in logs.items()}
            events.put((worker, EpochEnded(task, epoch, numbers)))

        try:
            event = RunEnded(task, train(task, progress))
        except Exception as error:  # Whatever it is, the parent must hear of it.
            event = RunFailed(
                task,
                f"{type(error).__name__}: {error}",
                traceback.format_exc(),
                is_out_of_space(error),
            )
        events.put((worker, event))


def _prepare_worker(source: str, threads: int, engine: Engine) -> Callable[[Task, Any], Run]:
    """Import TensorFlow and load the data, both once, and return how a task is done."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

    import_tensorflow_quietly()
    import tensorflow as tf

    # Every run traces its own network; TensorFlow takes that for a mistake and says so each time.
    tf.get_logger().setLevel("ERROR")
    # Networks this small are faster on a core, and several processes cannot share a GPU's memory.
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    from batchnorm_mechanics.studies import dataset
    from batchnorm_mechanics.studies.train import Networks, train

    digits = dataset.load(source, minimum_rows=1)
    prepared: dict[Any, dataset.Arrays] = {}
    networks: Networks = {}

    def do(task: Task, progress: Any) -> Run:
        settings = task.study.settings
        key = (settings.inputs, settings.rows)
        if key not in prepared:
            # Keep one preparation at a time: standardized floats are four times the images.
            prepared.clear()
            prepared[key] = dataset.prepare(digits, settings)
        shutil.rmtree(task.folder, ignore_errors=True)
        task.folder.mkdir(parents=True)
        return train(
            task.study,
            seed=task.seed,
            arrays=prepared[key],
            folder=task.folder,
            progress=progress,
            engine=engine,
            networks=networks,
        )

    return do
