"""What folding shows in a terminal."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from batchnorm_mechanics._io.lines import Lines
from batchnorm_mechanics._io.words import named, together


def print_fold(
    folded: Any,
    console: Console,
    *,
    file: str | None = None,
    out: Path | None = None,
) -> None:
    """Print how many layers were merged, how much faster it is, and why others stay.

    Args:
        folded: a `Folded`.
        console: where to.
        file: name of what was folded; None for a model without a file.
        out: where the folded model was written, if it was.
    """
    lines = Lines(console)
    many = folded.count + len(folded.left)
    merged = f"{folded.count} of {many} batch norm layers merged"
    name = folded.model.name if file is None else file
    lines.words(f"{name}: {merged if many else 'no batch norm layer'}", "bold")
    if folded.speed is not None:
        faster = f"{folded.speed:.2f} times as fast, {folded.batch_size} samples at a time"
        lines.row("Speed", faster)
    if folded.count and folded.difference is None:
        lines.row("Outputs", f"not compared: {folded.unverified}", "bold yellow")
    elif folded.count:
        given = f" and {folded.samples:,} samples of the data" if folded.samples else ""
        of_itself = (
            ""
            if folded.rounding is None
            else f": the original's move by {folded.rounding:.2g} with a unit in the last place of "
            "its weights"
        )
        lines.row(
            "Outputs",
            f"{'within' if folded.agrees else 'off by'} {folded.difference:.2g} of the original's, "
            f"relative to the largest, on {folded.batch_size} random samples{given}; rounding "
            f"explains {folded.tolerance:.2g}{of_itself}",
        )
    for why, names in _grouped(folded):
        lines.row("Left", f"{named(names)}, because {why}")
    for note in folded.notes:
        lines.row("Note", note)
    if out is not None:
        lines.line(f"Written: {out}")
    elif file is not None:
        lines.words("No file was written: nothing could be merged.")


def _grouped(folded: Any) -> Iterable[tuple[str, list[str]]]:
    """Yield why layers stay, and which: those of one reason together, whatever is beside each."""
    kinds = ((folded.kinds.get(name, why), name) for name, why in folded.left.items())
    for kind, names in together(kinds):
        own = {folded.left[name] for name in names}
        # Where it is the same for all to the last name, that name may be said.
        yield own.pop() if len(own) == 1 else kind, names
