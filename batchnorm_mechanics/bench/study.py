"""`bnm bench study`: the MNIST study by `model.fit` and by `fit_compiled`, and how both scale."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from batchnorm_mechanics.bench.products import Products
from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.seeds import compare_seeds
from batchnorm_mechanics.bench.timing import rotations
from batchnorm_mechanics.studies import dataset
from batchnorm_mechanics.studies.config import Settings
from batchnorm_mechanics.studies.dataset import Arrays
from batchnorm_mechanics.studies.models import build
from batchnorm_mechanics.studies.registry import STUDIES
from batchnorm_mechanics.training import RowBatches, fit_compiled

Report = Callable[[str], None]
# From a model, its data and a number of epochs; calls back as `fit` does.
Engine = Callable[[keras.Model, RowBatches, int, list[keras.callbacks.Callback]], Any]

_STUDY = "keras-916"
_FIRST_SEED = 100
# Of the loss of the first epoch, which the same batches in the same order give to rounding.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Plan:
    """How much to train.

    Attributes:
        rows: of the data file, None for all.
        epochs: of the study, 2 or more: the first is told apart from the others.
        batch_sizes: to time a step with.
        most_steps: in an epoch that times a step.
        seeds: how many runs side by side.
        seed_epochs: of each of those runs.
    """

    rows: int | None = None
    epochs: int = 4
    batch_sizes: tuple[int, ...] = (10, 100, 1000, 10_000)
    most_steps: int = 300
    seeds: tuple[int, ...] = (1, 2, 4)
    seed_epochs: int = 2


FULL = Plan()
QUICK = Plan(rows=1500, epochs=2, batch_sizes=(100,), most_steps=10, seeds=(1,), seed_epochs=1)


def _fit(steps_at_once: int) -> Engine:
    def run(
        model: keras.Model,
        batches: RowBatches,
        epochs: int,
        callbacks: list[keras.callbacks.Callback],
    ) -> None:
        model.steps_per_execution = steps_at_once
        model.fit(
            batches.as_dataset(), epochs=epochs, callbacks=callbacks, verbose=0, shuffle=False
        )

    return run


def _compiled(
    model: keras.Model, batches: RowBatches, epochs: int, callbacks: list[keras.callbacks.Callback]
) -> None:
    fit_compiled(model, batches, epochs=epochs, callbacks=callbacks)


OURS, FIT, FIT_LONG = "compiled", "fit", "fit, 128 steps at once"
ENGINES: Mapping[str, Engine] = {OURS: _compiled, FIT: _fit(1), FIT_LONG: _fit(128)}
LIMIT = "matrix products"


@dataclass(frozen=True)
class Trained:
    """What one training took and gave.

    Attributes:
        first: seconds from the call to the end of the first epoch, compilation included.
        later: seconds of each epoch after it.
        steps: of the optimizer.
        loss: of the first epoch.
    """

    first: float
    later: tuple[float, ...]
    steps: int
    loss: float


class _Clock(keras.callbacks.Callback):
    """Note when epochs end."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.loss = float("nan")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time, and the first epoch's loss."""
        self.ends.append(time.perf_counter())
        if epoch == 0:
            self.loss = float((logs or {}).get("loss", "nan"))


def train(engine: Engine, arrays: Arrays, settings: Settings, *, seed: int) -> Trained:
    """Train the study's network from new weights and time each epoch.

    Args:
        engine: what trains.
        arrays: the data.
        settings: of the study; `epochs` says how many.
        seed: of weights and shuffling.

    Returns:
        The times, and by what to recognize an engine that did something else.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(settings, pixels=arrays.x_train.shape[1], seed=seed)
    batches = dataset.training_batches(arrays, settings, seed)
    clock = _Clock()
    started = time.perf_counter()
    engine(model, batches, settings.epochs, [clock])
    ends = clock.ends
    later = tuple(end - start for start, end in itertools.pairwise(ends))
    return Trained(ends[0] - started, later, int(model.optimizer.iterations), clock.loss)


def compare_studies(plan: Plan, *, repeats: int, report: Report) -> Iterator[Comparison]:
    """Time the engines in turns: an epoch, a step of each batch size, and several seeds.

    Args:
        plan: how much to train.
        repeats: samples of each.
        report: told what is being done.

    Yields:
        Comparisons of a later epoch and of the first, with compilation; of a step for each batch
        size; and of whole runs, side by side, for each number of seeds.
    """
    settings = dataclasses.replace(STUDIES[_STUDY].settings, epochs=plan.epochs, rows=plan.rows)
    needed = dataset.rows_needed(settings)
    arrays = dataset.prepare(dataset.load(minimum_rows=needed), settings)
    yield from _epochs(arrays, settings, repeats, report)
    for size in plan.batch_sizes:
        if size <= len(arrays.x_train):
            yield _step(arrays, settings, (size, plan.most_steps), repeats, report)
    # The runs side by side have their own copies of it.
    del arrays
    short = dataclasses.replace(settings, epochs=plan.seed_epochs)
    study = dataclasses.replace(STUDIES[_STUDY], settings=short)
    yield from compare_seeds(study, plan.seeds, repeats=repeats, report=report)


def _epochs(
    arrays: Arrays, settings: Settings, repeats: int, report: Report
) -> Iterator[Comparison]:
    steps = dataset.steps_in_epoch(len(arrays.x_train), settings)
    case = f"{_STUDY}, {steps} steps"
    turns = _in_turns(arrays, settings, (case, repeats), report)
    how = f"{settings.epochs} epochs from new weights"
    for measure, take, floor in (
        ("later epoch", lambda run: statistics.median(run.later), turns.products),
        # Compilation is most of it, and has no limit that we know.
        ("first epoch, compilation included", lambda run: run.first, None),
    ):
        yield Comparison(
            part="study",
            case=case,
            measure=measure,
            ours=OURS,
            samples={name: [take(run) for run in done] for name, done in turns.runs.items()},
            how=how,
            floor=floor,
            limit=LIMIT,
            refused=turns.refused,
        )


def _step(
    arrays: Arrays, settings: Settings, size: tuple[int, int], repeats: int, report: Report
) -> Comparison:
    batch, most = size
    rows = min(len(arrays.x_train), batch * most)
    some = dataclasses.replace(arrays, x_train=arrays.x_train[:rows], y_train=arrays.y_train[:rows])
    changed = dataclasses.replace(settings, batch_size=batch, epochs=3)
    steps = dataset.steps_in_epoch(rows, changed)
    case = f"batch of {batch:,}"
    turns = _in_turns(some, changed, (case, repeats), report)
    return Comparison(
        part="study",
        case=case,
        measure="step",
        ours=OURS,
        samples={
            name: [statistics.median(run.later) / steps for run in done]
            for name, done in turns.runs.items()
        },
        how=f"a later epoch of {steps} steps, divided by them",
        floor=[one / steps for one in turns.products],
        limit=LIMIT,
        refused=turns.refused,
    )


class _Turns(NamedTuple):
    """What taking turns gave.

    Attributes:
        runs: of each engine that did what `fit` did, one a repeat.
        refused: the others, with what they did.
        products: seconds of an epoch's matrix products alone, one a repeat.
    """

    runs: dict[str, list[Trained]]
    refused: dict[str, str]
    products: list[float]


def _in_turns(arrays: Arrays, settings: Settings, what: tuple[str, int], report: Report) -> _Turns:
    """Train by each engine once in each repeat; refuse those that did not do what `fit` did."""
    case, repeats = what
    rows, pixels = arrays.x_train.shape
    steps = dataset.steps_in_epoch(rows, settings)
    widths = (pixels, *settings.hidden_units, dataset.CLASSES)
    multiply = Products(widths, settings.batch_size, steps).run
    multiply()  # compiles
    runs: dict[str, list[Trained]] = {name: [] for name in ENGINES}
    products: list[float] = []
    for number, order in enumerate(rotations([*ENGINES, LIMIT], repeats)):
        for name in order:
            report(f"study, {case}: {name}, {number + 1} of {repeats}")
            if name == LIMIT:
                products.append(_median_seconds(multiply, settings.epochs - 1))
                continue
            runs[name].append(train(ENGINES[name], arrays, settings, seed=_FIRST_SEED + number))
    refused = {}
    for name, done in runs.items():
        wrong = disagreement(runs[FIT], done)
        if wrong is not None:
            refused[name] = wrong
    right = {name: done for name, done in runs.items() if name not in refused}
    return _Turns(right, refused, products)


def _median_seconds(run: Callable[[], object], times: int) -> float:
    """Return the median of as many samples as there are later epochs, of which one is taken too."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def disagreement(right: list[Trained], found: list[Trained]) -> str | None:
    """Say how trainings differ from others with the same seeds; None if they do not.

    Example:
        >>> disagreement([Trained(2.0, (1.0,), 10, 0.5)], [Trained(0.2, (0.1,), 9, 0.5)])
        'it took 9 steps, not 10'
    """
    for ours, theirs in zip(found, right, strict=True):
        if ours.steps != theirs.steps:
            return f"it took {ours.steps} steps, not {theirs.steps}"
        # Not `> ...`, which NaN passes.
        if not abs(ours.loss - theirs.loss) <= _TOLERANCE * abs(theirs.loss):
            return f"its first epoch has a loss of {ours.loss:.3g}, not {theirs.loss:.3g}"
    return None
