"""What a person sees while subjects are judged: a bar for each, in a terminal."""

import contextlib
from typing import Self

# The command line imports this module only when there is something to show.
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from batchnorm_mechanics.conformance.workers import Begun, CaseJudged, Ended, Event


class Display(contextlib.AbstractContextManager["Display"]):
    """Show subjects as they are judged. Call it with each event.

    Args:
        console: where to show it; standard error leaves standard output to the results. Where that
            is no terminal, nothing is shown.
        total: how many subjects there are.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("All subjects", total=total)
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bars away."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Begun):
            self._running[event.spec] = self._progress.add_task(
                f"  {event.spec}", total=event.total
            )
        elif isinstance(event, CaseJudged) and event.spec in self._running:
            self._progress.advance(self._running[event.spec])
        elif isinstance(event, Ended):
            if event.spec in self._running:
                self._progress.remove_task(self._running.pop(event.spec))
            self._progress.advance(self._all)
