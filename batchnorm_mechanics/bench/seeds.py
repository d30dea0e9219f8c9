"""How long several seeds take, as `bnm reproduce` runs them: in processes side by side."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.timing import rotations
from batchnorm_mechanics.studies import workers
from batchnorm_mechanics.studies.config import ENGINES, Engine, Study
from batchnorm_mechanics.studies.reproduce import FIRST_SEED

_DATA = "mnist"


def compare_seeds(
    study: Study, counts: tuple[int, ...], *, repeats: int, report: Callable[[str], None]
) -> Iterator[Comparison]:
    """Time the runs of a study with several seeds, by each engine in turns.

    Args:
        study: what to train.
        counts: how many seeds.
        repeats: samples of each.
        report: told what is being done.

    Yields:
        A comparison for each number of seeds.

    Raises:
        FailureError: a run failed.
    """
    for count in counts:
        case = f"{count} {'seed' if count == 1 else 'seeds'}"
        samples: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        for number, order in enumerate(rotations(list(ENGINES), repeats), start=1):
            for engine in order:
                report(f"study, {case}: {engine}, {number} of {repeats}")
                samples[engine].append(seconds(study, count, engine))
        yield Comparison(
            part="study",
            case=case,
            measure="runs",
            ours=ENGINES[0],
            samples=samples,
            how=f"{study.settings.epochs} epochs each, as many runs at a time as cores",
        )


def seconds(study: Study, count: int, engine: Engine) -> float:
    """Return how long runs take from the start of their processes to the end of the last.

    Args:
        study: what to train.
        count: how many seeds.
        engine: how to train.

    Raises:
        FailureError: a run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        tasks = [
            workers.Task(study, seed, Path(folder, str(seed)))
            for seed in range(FIRST_SEED, FIRST_SEED + count)
        ]
        started = time.perf_counter()
        # Closed, so that no process outlives a failure or Ctrl-C.
        with contextlib.closing(workers.run_all(tasks, _DATA, engine=engine)) as events:
            for event in events:
                if isinstance(event, workers.RunFailed):
                    raise FailureError(
                        f"bench: the run with seed {event.task.seed} failed with {event.error}. "
                        f"Repair that and run `bnm bench study` again.\n{event.trace}"
                    )
        return time.perf_counter() - started
