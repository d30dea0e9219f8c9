"""The bench as the page `benchmarks/README.md`."""

from collections.abc import Sequence

from batchnorm_mechanics.bench import wording
from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.run import Results

_COMMAND = "bnm bench"


def page(results: Results) -> str:
    """Return the page: how it is made, the machine, ratios, and medians with quartiles.

    Args:
        results: finished or not, which the page says.

    Returns:
        Markdown that ends with a line break.
    """
    request = results.request
    options = [*request.parts, *(["--quick"] if request.quick else [])]
    if request.repeats is not None:
        options += ["--repeats", str(request.repeats)]
    command = " ".join([_COMMAND, *options, "--write benchmarks/README.md"])
    lines = ["# Benchmarks", "", f"Written by `{command}`; do not edit.", ""]
    if not results.finished:
        lines += ["**Interrupted: parts are missing.**", ""]
    lines += [f"- {line}" for line in wording.machine_lines(results)]
    for part in dict.fromkeys(comparison.part for comparison in results.comparisons):
        mine = [one for one in results.comparisons if one.part == part]
        lines += ["", f"## {part}", "", *[f"- {note}" for note in wording.notes(part)]]
        for (_, name), comparisons in wording.groups(mine).items():
            lines += ["", f"### {name}", "", "Times as much as ours:", "", *_ratios(comparisons)]
            lines += ["", "Median (quartiles):", "", *_medians(comparisons)]
    if results.refusals:
        lines += ["", "## Refused", ""]
        lines += [
            f"- {name} at {comparison.case}, {comparison.measure}: {reason}"
            for comparison, name, reason in results.refusals
        ]
    return "\n".join([*lines, ""])


def _ratios(comparisons: Sequence[Comparison]) -> list[str]:
    names = wording.peers(comparisons)
    header = ["", *names, comparisons[0].ours, "of limit"]
    rows = [
        [
            comparison.case,
            *[wording.cell(comparison, name).replace("*", r"\*") for name in names],
            *wording.headline(comparison),
        ]
        for comparison in comparisons
    ]
    return _grid(header, rows)


def _medians(comparisons: Sequence[Comparison]) -> list[str]:
    names = list(dict.fromkeys(name for one in comparisons for name in one.samples))
    limit = wording.limit_name(comparisons)
    rows = [
        [
            comparison.case,
            *[
                wording.interval(comparison.spread(name), comparison.unit)
                if name in comparison.samples
                else wording.MISSING
                for name in names
            ],
            *([] if limit is None else [wording.limit_text(comparison)]),
            comparison.how,
        ]
        for comparison in comparisons
    ]
    return _grid(["", *names, *([] if limit is None else [limit]), "how"], rows)


def _grid(header: list[str], rows: list[list[str]]) -> list[str]:
    separator = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, separator, *rows)]
