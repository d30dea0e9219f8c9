"""What a person sees while the bench measures: one line, and how long it has taken."""

import contextlib
from typing import Self

# The command line imports this module only when there is something to show.
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Display(contextlib.AbstractContextManager["Display"]):
    """Show what is being done. Call it with each message.

    Args:
        console: where to show it; a terminal shows the last message alone, a file all of them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Once a second: drawing takes time from a core that is being measured.
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=1,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        """Begin."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the line away."""
        self._progress.stop()

    def __call__(self, message: str) -> None:
        """Show a message."""
        if self._console.is_terminal:
            self._progress.update(self._task, description=message)
        else:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)
