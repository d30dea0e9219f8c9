"""What a person sees while studies run: a bar in a terminal, a line a run elsewhere."""

import contextlib
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from batchnorm_mechanics.studies.reproduce import Plan
from batchnorm_mechanics.studies.runs import EpochEnded, RunEnded, Task
from batchnorm_mechanics.studies.summary import steps_per_epoch


class Display(contextlib.AbstractContextManager["Display"]):
    """Show a plan's runs as they go on. Call it with each event.

    Args:
        plan: what is done.
        console: where to show it; standard error leaves standard output to the results.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._console = console
        self._plan = plan
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task(
            "Starting TensorFlow", total=sum(self._steps(task) for task in plan.tasks)
        )
        self._running: dict[Task, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin, and say what there is to do."""
        kept = len(self._plan.wanted) - len(self._plan.tasks)
        self._console.print(
            f"{len(self._plan.wanted)} runs"
            + (f", {kept} of them kept from before" if kept else "")
            + f"; results in {self._plan.folder.path}",
            highlight=False,
        )
        if self._plan.tasks and not self._console.is_terminal:
            self._console.print("The first ones take a while; a line follows each.")
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bars away."""
        self._progress.stop()

    def __call__(self, event: Any) -> None:
        """Show one event."""
        if isinstance(event, EpochEnded):
            self._epoch(event)
        elif isinstance(event, RunEnded):
            self._run(event)

    def _steps(self, task: Task) -> int:
        settings = task.study.settings
        return settings.epochs * steps_per_epoch(settings, len(self._plan.digits.x_train))

    def _epoch(self, event: EpochEnded) -> None:
        epochs = event.task.study.settings.epochs
        if event.task not in self._running:
            self._running[event.task] = self._progress.add_task("", total=epochs)
        self._progress.update(
            self._running[event.task],
            completed=event.epoch,
            description=(
                f"  {event.task.study.name}, seed {event.task.seed}, "
                f"val {100 * event.logs.get('val_accuracy', 0):.2f} %"
            ),
        )
        self._progress.update(self._all, description="All runs, in steps")
        self._progress.advance(self._all, self._steps(event.task) / epochs)

    def _run(self, event: RunEnded) -> None:
        self._done += 1
        if event.task in self._running:
            self._progress.remove_task(self._running.pop(event.task))
        run = event.run
        self._console.print(
            f"{self._done:3}/{len(self._plan.tasks)}  {event.task.study.name:<21}"
            f"seed {run.seed}  test {run.test:5.2f} %  {run.seconds:5.1f} s",
            highlight=False,
        )
