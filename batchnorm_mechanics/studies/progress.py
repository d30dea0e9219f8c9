"""What a person sees while studies run: a bar for each run, and a line when it is done."""

from typing import Any, Self

from rich.console import Console

from batchnorm_mechanics._io import progress
from batchnorm_mechanics.studies.reproduce import Plan
from batchnorm_mechanics.studies.summary import steps_per_epoch
from batchnorm_mechanics.studies.workers import EpochEnded, RunEnded, Task


class Display(progress.Display):
    """Show a plan's runs as they go on. Call it with each event.

    Args:
        plan: what is done.
        console: where to show it; standard error leaves standard output to the results.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._done = 0
        steps = sum(self._steps(task) for task in plan.tasks)
        super().__init__(console, "Starting TensorFlow", steps, remaining=True)

    def __enter__(self) -> Self:
        """Begin, and say what there is to do."""
        kept = len(self._plan.wanted) - len(self._plan.tasks)
        self.say(
            f"{len(self._plan.wanted)} runs"
            + (f", {kept} of them kept from before" if kept else "")
            + f"; results in {self._plan.folder.path}"
        )
        if self._plan.tasks and not self.console.is_terminal:
            self.say("The first ones take a while; a line follows each.")
        return super().__enter__()

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
        study, epochs = event.task.study, event.task.study.settings.epochs
        accuracy = f"val {100 * event.logs.get('val_accuracy', 0):.2f} %"
        self.part(
            event.task,
            f"  {study.name}, seed {event.task.seed}, {accuracy}",
            done=event.epoch,
            total=epochs,
        )
        self.advance(self._steps(event.task) / epochs, what="All runs, in steps")

    def _run(self, event: RunEnded) -> None:
        self._done += 1
        self.end(event.task)
        run = event.run
        self.say(
            f"{self._done:3}/{len(self._plan.tasks)}  {event.task.study.name:<21}"
            f"seed {run.seed}  test {run.test:5.2f} %  {run.seconds:5.1f} s"
        )
