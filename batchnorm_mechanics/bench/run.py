"""The whole bench: which parts, how much of each, and what is measured so far."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.bench.record import Comparison

PARTS = ("layer", "model", "study", "import")
DEFAULT_REPEATS = 9
QUICK_REPEATS = 2
# An epoch by `fit`, or a process, takes seconds: fewer repeats tell enough.
_FEWER = 3

Report = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        parts: some of `PARTS`, in the order wanted.
        quick: few shapes and repeats, to see it work.
        repeats: samples of each, None for what `quick` says. The parts that take seconds a sample
            take a third as many.
    """

    parts: tuple[str, ...] = PARTS
    quick: bool = False
    repeats: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            InputError: a part is unknown, or there are no repeats.
        """
        for part in self.parts:
            if part not in PARTS:
                raise InputError(
                    f"bench: `part` must be one of {', '.join(PARTS)}. Received: part={part!r}. "
                    "Leave it out for all of them."
                )
        if self.repeats is not None and self.repeats < 1:
            raise InputError(
                f"bench: `repeats` must be 1 or more. Received: repeats={self.repeats!r}. "
                "A median needs a sample; 9 give a spread too."
            )

    @property
    def many(self) -> int:
        """Repeats of what is quick to measure."""
        return self.repeats or (QUICK_REPEATS if self.quick else DEFAULT_REPEATS)

    @property
    def few(self) -> int:
        """Repeats of what takes seconds."""
        return max(1, self.many // _FEWER)


@dataclass
class Results:
    """What has been measured so far.

    Attributes:
        request: what was asked for.
        machine: as `machine.describe` has it.
        not_installed: peers that could not take part.
        comparisons: in the order of measuring.
        finished: whether that is all.
        started: when, in UTC.
    """

    request: Request
    machine: dict[str, Any]
    not_installed: list[str]
    comparisons: list[Comparison] = field(default_factory=list)
    finished: bool = False
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def refusals(self) -> list[tuple[Comparison, str, str]]:
        """All contestants that computed something wrong: where, who, and what."""
        return [
            (comparison, name, reason)
            for comparison in self.comparisons
            for name, reason in (comparison.refused or {}).items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what `bnm bench --json` prints; every number in it is finite."""
        return {
            "finished": self.finished,
            "date": self.started.isoformat(timespec="seconds"),
            "machine": self.machine,
            "parts": list(self.request.parts),
            "quick": self.request.quick,
            "repeats": self.request.many,
            "not_installed": self.not_installed,
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
        }


def measure(request: Request, report: Report) -> Iterator[Comparison]:
    """Measure the parts one after the other; `machine.limit_process` has been called before.

    Args:
        request: what to measure.
        report: told what is being done.

    Yields:
        Comparisons as they are measured.
    """
    with without_advice_on_tracing():
        for part in request.parts:
            yield from _MEASURES[part](request, report)


@contextlib.contextmanager
def without_advice_on_tracing() -> Iterator[None]:
    """Keep away TensorFlow's advice to trace less often: here each shape is traced on purpose."""

    def keep(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    log = logging.getLogger("tensorflow")
    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


def _layer(request: Request, report: Report) -> Iterator[Comparison]:
    from batchnorm_mechanics.bench import layer, memory

    shapes = layer.QUICK_SHAPES if request.quick else layer.SHAPES
    yield from layer.compare_layers(
        shapes, repeats=request.many, report=report, calls=not request.quick
    )
    if not request.quick:
        yield from layer.compare_batches(layer.BATCHES, repeats=request.many, report=report)
    shape = memory.QUICK_SHAPE if request.quick else memory.SHAPE
    yield from memory.compare_memory(shape, repeats=request.few, report=report)


def _model(request: Request, report: Report) -> Iterator[Comparison]:
    from batchnorm_mechanics.bench import model

    cases = model.QUICK_CASES if request.quick else model.CASES
    yield from model.compare_models(cases, repeats=request.many, report=report)


def _study(request: Request, report: Report) -> Iterator[Comparison]:
    from batchnorm_mechanics.bench import study

    plan = study.QUICK if request.quick else study.FULL
    yield from study.compare_studies(plan, repeats=request.few, report=report)


def _start_up(request: Request, report: Report) -> Iterator[Comparison]:
    from batchnorm_mechanics.bench import start_up

    measures = start_up.QUICK_MEASURES if request.quick else start_up.MEASURES
    yield from start_up.compare_start_up(measures, repeats=request.many, report=report)


_MEASURES = {"layer": _layer, "model": _model, "study": _study, "import": _start_up}
