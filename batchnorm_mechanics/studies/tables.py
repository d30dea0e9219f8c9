"""The results as a terminal shows them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# The command line imports this module only when there are results to print.
from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics.studies.summary import METRICS, agreement, caveats, effect_groups
from batchnorm_mechanics.studies.wording import signed

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
        for title, why in _misses(results["misses"]):
            console.print(Text(title, "red"))
            console.print(Padding(Text(why), (0, 0, 0, 2)))
    console.print()
    console.print(
        Panel(_conclusion(results["reasoning"]), title="Why the custom runs scored lower")
    )
    if report is not None:
        # A path is for copying: it is not cut into lines.
        console.print(
            f"Report with curves: {report}", soft_wrap=True, markup=False, highlight=False
        )


def _conclusion(reasoning: Mapping[str, Any]) -> Group:
    return Group(
        Text(reasoning["gap"]),
        *(Padding(Text(f"• {sentence}"), (0, 0, 0, 1)) for sentence in reasoning["measured"]),
        Text(reasoning["verdict"], "bold"),
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

    for title, group in effect_groups(effects):
        table.add_row(title, "", "", "")
        for effect in group:
            interval = "–"
            if effect["low"] is not None:
                interval = f"{signed(effect['low'])} to {signed(effect['high'])}"
            table.add_row(
                Text(f"  {effect['from']} → {effect['to']}", "dim"),
                Text(signed(effect["difference"]), "bold"),
                interval,
                str(effect["seeds"]),
            )
    return table


def _misses(misses: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for miss in misses:
        yield (
            f"{miss['study']}, {miss['metric']}: published {miss['published']:.2f}, "
            f"our range widened {miss['low']:.2f} to {miss['high']:.2f}",
            miss["why"],
        )
