"""The bench in a terminal: ratios first, then every median with its quartiles."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from batchnorm_mechanics.bench import wording
from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.run import Results


def print_results(results: Results, console: Console) -> None:
    """Print ratios, medians with quartiles, and the machine.

    Args:
        results: finished or not.
        console: 80 columns are enough.
    """
    for part in dict.fromkeys(comparison.part for comparison in results.comparisons):
        mine = [one for one in results.comparisons if one.part == part]
        grouped = wording.groups(mine)
        for (_, name), comparisons in grouped.items():
            console.print(f"{part}, {name}: times as much as ours", style="bold")
            console.print(_ratios(comparisons))
        for (_, name), comparisons in grouped.items():
            console.print(f"{part}, {name}: median (quartiles)", style="bold")
            console.print(_medians(comparisons))
        for note in wording.notes(part):
            console.print(note, style="dim")
        console.print()
    for comparison, name, reason in results.refusals:
        console.print(f"refused: {name} at {comparison.case}, {comparison.measure}: {reason}")
    for line in wording.machine_lines(results):
        console.print(line)


def _table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0))


def _ratios(comparisons: Sequence[Comparison]) -> Table:
    table = _table()
    names = wording.peers(comparisons)
    with_limit = any(comparison.floor is not None for comparison in comparisons)
    for name in names:
        table.add_column(name.replace(", ", "\n"), justify="right")
    table.add_column("", overflow="fold")
    table.add_column(comparisons[0].ours, justify="right")
    if with_limit:
        table.add_column("of\nlimit", justify="right")
    for comparison in comparisons:
        ours, fraction = wording.headline(comparison)
        cells = [wording.cell(comparison, name) for name in names]
        table.add_row(*cells, comparison.case, ours, *([fraction] if with_limit else []))
    return table


def _medians(comparisons: Sequence[Comparison]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column("", overflow="fold")
    table.add_column("", overflow="fold")
    table.add_column("", justify="right", overflow="fold")
    for comparison in comparisons:
        case = comparison.case
        for name in comparison.samples:
            table.add_row(case, name, wording.interval(comparison.spread(name), comparison.unit))
            case = ""
        limit = wording.limit_name([comparison])
        if limit is not None:
            table.add_row(case, limit, wording.limit_text(comparison))
    return table
