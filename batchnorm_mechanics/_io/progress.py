"""What a person sees of a long job: bars in a terminal, lines elsewhere."""

import contextlib
from collections.abc import Hashable
from typing import Self

# Imported only when there is something to show.
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display(contextlib.AbstractContextManager["Display"]):
    """A bar for the whole, and one for each part that is under way.

    Args:
        console: where to show it; standard error leaves standard output to the results. Where that
            is no terminal there are no bars, only what is said.
        what: what is done, in words.
        total: how much there is to do; None where that is not known, and a sign of life must do.
        remaining: whether to guess how long it will take.
    """

    def __init__(
        self, console: Console, what: str, total: float | None = None, *, remaining: bool = False
    ) -> None:
        self.console = console
        columns = (
            (SpinnerColumn(), TextColumn("{task.description}"))
            if total is None
            else (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
        )
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            *([TimeRemainingColumn()] if remaining else []),
            console=console,
            transient=True,
            # Drawing takes time from a core that may be measured just then.
            refresh_per_second=1 if total is None else 10,
            disable=not console.is_terminal,
        )
        self._whole = self._progress.add_task(what, total=total)
        self._parts: dict[Hashable, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bars away."""
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def now(self, what: str) -> None:
        """Say what is being done: a terminal shows the last of these alone, a file all of them."""
        if self.console.is_terminal:
            self._progress.update(self._whole, description=what)
        else:
            self.say(what)

    def advance(self, by: float = 1, *, what: str | None = None) -> None:
        """Note that so much of the whole is done."""
        self._progress.update(self._whole, advance=by, description=what)

    def part(self, key: Hashable, what: str, *, done: int = 0, total: float | None = None) -> None:
        """Show how far a part is; it gets its bar when it is first named."""
        if key in self._parts:
            self._progress.update(self._parts[key], completed=done, description=what)
        else:
            self._parts[key] = self._progress.add_task(what, completed=done, total=total)

    def end(self, key: Hashable) -> None:
        """Take a part's bar away, if it has one."""
        if key in self._parts:
            self._progress.remove_task(self._parts.pop(key))
