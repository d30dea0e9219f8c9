"""What a terminal shows: bars while studies run, and the results as tables.

The command line imports this module only when there is something to show.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics._io import progress
from batchnorm_mechanics.studies.reproduce import Plan
from batchnorm_mechanics.studies.runs import EpochEnded, RunEnded, Task
from batchnorm_mechanics.studies.summary import (
    METRICS,
    agreement,
    caveats,
    effect_groups,
    steps_per_epoch,
)

_MARKS = {True: (" ✓", "green"), False: (" ✗", "bold red"), None: ("", "")}


def print_results(
    results: Mapping[str, Any], console: Console, *, report: Path | None = None
) -> None:
    """Print the results, in 80 columns or more.

    Args:
        results: what `results` in `summary` returned, or `results.json` holds.
        console: where to.
        report: where the HTML report is, to name it at the end.
    """
    for caveat in caveats(results):
        console.print(Text(f"{caveat}", "yellow"))
    if results["studies"]:
        console.print(Text("Accuracy, %: mean ± standard deviation over seeds", "bold"))
        console.print(_studies(results["studies"]))
        if text := agreement(results):
            console.print(Text(f"\n{text}", "bold"))
    if results["effects"]:
        console.print(Text("\nEffect of one factor alone on test accuracy, in points", "bold"))
        console.print(_effects(results["effects"]))
    if results["misses"]:
        console.print(Text("\nPublished figures outside our range", "bold"))
        for miss in results["misses"]:
            title = (
                f"{miss['study']}, {miss['metric']}: published {miss['published']:.2f}, "
                f"our range widened {miss['low']:.2f} to {miss['high']:.2f}"
            )
            console.print(Text(title, "red"))
            console.print(Padding(Text(miss["why"]), (0, 0, 0, 2)))
    console.print()
    console.print(Panel(Text(results["conclusion"]), title="Why the custom runs scored lower"))
    if report is not None:
        # A path is for copying: it is not cut into lines.
        console.print(
            f"Report with curves: {report}", soft_wrap=True, markup=False, highlight=False
        )


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def _studies(studies: list[dict[str, Any]]) -> Table:
    table = _table()
    table.add_column("Study", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric, no_wrap=True)
    for study in studies:
        summary = [study["summary"][metric] for metric in METRICS]
        table.add_row(
            study["name"], str(len(study["runs"])), *(_mean(figures) for figures in summary)
        )
        if len(study["runs"]) > 1:
            ranges = (f"{figures['min']:.2f} to {figures['max']:.2f}" for figures in summary)
            table.add_row("  lowest to highest", "", *ranges, style="dim")
        if study["published"]:
            table.add_row("  published", "", *(_published(figures) for figures in summary))
    return table


def _mean(figures: Mapping[str, Any]) -> Text:
    text = Text(f"{figures['mean']:.2f}", "bold")
    if figures["std"] is not None:
        text.append(f" ± {figures['std']:.2f}", "not bold")
    return text


def _published(figures: Mapping[str, Any]) -> Text:
    if figures["published"] is None:
        return Text("–", "dim")
    mark, style = _MARKS[figures["within"]]
    return Text(f"{figures['published']:.2f}{mark}", style)


def _effects(effects: list[dict[str, Any]]) -> Table:
    table = _table()
    table.add_column("Factor and the two studies compared", no_wrap=True)
    table.add_column("effect", justify="right")
    table.add_column("95% interval", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)

    for title, group in effect_groups(effects).items():
        table.add_row(title, "", "", "")
        for effect in group:
            interval = "–"
            if effect["low"] is not None:
                interval = f"{effect['low']:+z.2f} to {effect['high']:+z.2f}"
            table.add_row(
                Text(f"  {effect['from']} → {effect['to']}", "dim"),
                Text(f"{effect['difference']:+z.2f}", "bold"),
                interval,
                str(effect["seeds"]),
            )
    return table


class Display(progress.Display):
    """Show a plan's runs as they go on. Call it with each event.

    Args:
        plan: what is done.
        console: where to show it; standard error leaves standard output to the results.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._done = 0
        self._epochs: Counter[Task] = Counter()
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
        self._advance(event.task)

    def _advance(self, task: Task, epochs: int = 1) -> None:
        self._epochs[task] += epochs
        share = epochs / task.study.settings.epochs
        self.advance(share * self._steps(task), what="All runs, in steps")

    def _run(self, event: RunEnded) -> None:
        self._done += 1
        # Elsewhere nobody tells of epochs.
        self._advance(event.task, event.task.study.settings.epochs - self._epochs[event.task])
        self.end(event.task)
        run = event.run
        self.say(
            f"{self._done:3}/{len(self._plan.tasks)}  {event.task.study.name:<21}"
            f"seed {run.seed}  test {run.test:5.2f} %  {run.seconds:5.1f} s"
        )
