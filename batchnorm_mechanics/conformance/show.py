"""Reports as a terminal of 80 columns shows them, and conventions in words.

Whose convention it is comes from what `find_conventions` measured of the libraries: Keras 3 has the
biased variance, momentum 0.99 for the old value and epsilon 1e-3; PyTorch the unbiased one,
momentum 0.1 for the new value and 1e-5; flax the biased one, 0.99 for the old value and 1e-5.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics._io import terminal
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions, Status
from batchnorm_mechanics.conformance.report import Report

_WIDTH = 80
# A subject with one mistake fails nearly everywhere: the first cases show it as well as all do.
_SHOWN = 4
# The mark of a case and its colour, in the order of the columns of counts.
_MARKS: dict[Status, tuple[str, str]] = {
    "pass": ("pass", "green"),
    "fail": ("FAIL", "bold red"),
    "measured": ("meas", "yellow"),
    "skipped": ("skip", "dim"),
}
_COUNTS = tuple(mark.lower() for mark, _ in _MARKS.values())
_NUMBERS = ("abs.", "rel.", "ULPs", "tol.")
_SECONDS = "s"
_MODE_COLUMN = {"training": "train", "inference": "infer"}
_LARGE_MEAN_COLUMN = {"exact": "exact", "proportional": "linear", "quadratic": "square"}
# By the names of conventions; what is a number is put into words below.
_WORDS: dict[str, dict[Any, str]] = {
    "moving_variance": {
        "biased": "biased moving variance, as Keras; PyTorch's is unbiased",
        "unbiased": "unbiased moving variance, as PyTorch; Keras's is biased",
        "none": "moving statistics never move",
        "other": "moving variance neither the biased nor the unbiased one",
    },
    "momentum_weighs": {
        "old": "momentum weighs the old value, as Keras; PyTorch's weighs the new",
        "new": "momentum weighs the new value, as PyTorch; Keras's weighs the old",
    },
    "epsilon_place": {
        "inside": "epsilon inside the root, as the paper",
        "outside": "epsilon outside the root; the paper has it inside",
    },
    "axis_kept": {
        -1: "keeps the last axis by default, as Keras; PyTorch keeps axis 1",
        1: "keeps axis 1 by default, as PyTorch; Keras keeps the last",
    },
    "default_mode": {
        "inference": "inference by default, as Keras; PyTorch's modules begin in training",
        "training": "training by default, as PyTorch's modules; Keras: inference",
    },
    "moves_in_inference": {
        True: "inference moves the statistics",
        False: "inference leaves the statistics alone",
    },
    "one_sample": {
        "normalizes": "one sample behind a statistic: gives beta, as Keras; PyTorch refuses",
        "refuses": "one sample behind a statistic: refused, as PyTorch; Keras gives beta",
    },
    "empty_batch": {
        "refuses": "an empty batch is refused",
        "ignores": "an empty batch changes no statistics",
        "poisons": "an empty batch spoils the moving statistics",
    },
    "large_mean": {
        "exact": "a large mean costs no digits",
        "proportional": "a large mean costs one digit for each digit of mean/std",
        "quadratic": "a large mean costs two digits for each digit of mean/std",
    },
}


def print_report(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print what was found about one subject.

    Args:
        report: what was found.
        console: where to.
        verbose: whether to list every case and every failed check, and not only each group of cases
            and the first failures.
    """
    console.rule(Text(report.name, "bold"), align="left", style="dim")
    lines = [report.description] if report.description != report.name else []
    for line in filter(None, (*lines, *describe(report.conventions))):
        console.print(Text(f"  {line}", "dim" if line in lines else ""))
    console.print()
    console.print(_cases(report.cases) if verbose else _groups(report.cases))
    skipped = Counter(case.reason for case in report.cases if case.status == "skipped")
    for reason, count in skipped.most_common() if verbose else ():
        console.print(_indented(Text(f"{count} cases skipped: {reason or ''}", "dim"), 2))
    for line in (*_failures(report, verbose=verbose), *_edge_cases(report)):
        console.print(line)


def print_summary(reports: Sequence[Report], console: Console) -> None:
    """Print one table over all subjects: how they did, and the conventions that differ most."""
    # Names of 22 columns and all the rest fit 80 just so.
    conventions = ("moving\nvariance", "mom.", "eps", "mode", "large\nmeans")
    table = _table("subject", *_COUNTS, *conventions, _SECONDS, padding=0)
    for report in reports:
        found = report.conventions
        table.add_row(
            Text(report.name, "bold" if report.passed else "bold red", overflow="ellipsis"),
            *_counts(report.cases),
            found.moving_variance or "–",
            found.momentum_weighs or "–",
            "–" if found.default_epsilon is None else f"{found.default_epsilon:g}",
            _MODE_COLUMN.get(found.default_mode or "", "–"),
            _LARGE_MEAN_COLUMN.get(found.large_mean or "", "–"),
            f"{report.seconds:.0f}",
        )
    console.print()
    console.print(table)
    for line in _notes(reports):
        console.print(Text(line, "dim"))


def plain_text(report: Report) -> str:
    """Return a report as text, as `print` shows it."""
    return terminal.plain_text(lambda console: print_report(report, console), _WIDTH)


def _notes(reports: Sequence[Report]) -> Iterator[str]:
    statuses = {case.status for report in reports for case in report.cases}
    if "measured" in statuses:
        yield "meas: shown, not judged: no digit left in the dtype, or an edge case"
    if "skipped" in statuses:
        yield "skip: the subject is not made for it"
    yield "abs., rel., ULPs: largest differences; tol.: how much of the tolerance they use"
    yield "mom.: what momentum weighs; eps, mode: what it has by default"
    yield "large means: the error grows not at all, with mean/std, or with its square"


def _table(*headings: str, padding: int = 1) -> Table:
    """Return an empty table, with numbers to the right of their columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, padding),
    )
    for heading in headings:
        is_number = heading in (*_COUNTS, *_NUMBERS, _SECONDS)
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    return table


def _counts(cases: Iterable[CaseResult]) -> list[Text]:
    counted = Counter(case.status for case in cases)
    return [
        Text(str(counted[status]), style) if counted[status] else Text("·", "dim")
        for status, (_, style) in _MARKS.items()
    ]


def _numbers(cases: Iterable[CaseResult]) -> list[str]:
    """Return the largest differences, and how much of its tolerance the worst element used."""
    checks = [check for case in cases for check in case.checks if check.absolute is not None]
    names = ("absolute", "relative", "ulps")
    known = [[getattr(check, name) for check in checks] for name in names]
    largest = [max((n for n in each if n is not None), default=None) for each in known]
    shares = [
        check.error / check.tolerance
        for check in checks
        if check.error is not None and check.tolerance
    ]
    used = "–"
    if shares:
        share = max(shares)
        used = f"{100 * share:.0f} %" if share < 10 else f"{share:.1g} x"
    return [*("–" if n is None else f"{n:.2g}" for n in largest), used]


def _groups(cases: Sequence[CaseResult]) -> Table:
    """Return a line for each group of cases, with the worst numbers of those that were judged."""
    table = _table("cases", *_COUNTS, *_NUMBERS)
    for group in dict.fromkeys(case.group for case in cases):
        members = [case for case in cases if case.group == group]
        judged = [case for case in members if case.status in ("pass", "fail")]
        failed = any(case.status == "fail" for case in members)
        name = Text(f"  {group}", "bold red" if failed else "")
        table.add_row(name, *_counts(members), *_numbers(judged))
    return table


def _cases(cases: Sequence[CaseResult]) -> Table:
    table = _table("case", "", *_NUMBERS)
    for case in cases:
        if case.status != "skipped":
            table.add_row(f"  {case.case}", Text(*_MARKS[case.status]), *_numbers([case]))
    return table


def _indented(text: Text, columns: int) -> Padding:
    return Padding(text, (0, 0, 0, columns))


def _failures(report: Report, *, verbose: bool) -> Iterator[Text | Padding]:
    """Say what is wrong: first what explains most, then the cases."""
    failed = [case for case in report.cases if case.status == "fail"]
    checks = [check for case in failed for check in case.checks if not check.passed]
    explained = Counter(check.diagnosis for check in checks if check.diagnosis)
    if explained:
        yield Text("\nWhat explains the failures", "bold")
    for name, count in explained.most_common():
        line = Text.assemble((name, "bold red"), f": {count} of {len(checks)} failed checks")
        yield _indented(line, 2)
    if failed:
        yield Text("\nFailures", "bold")
    for case in failed if verbose else failed[:_SHOWN]:
        yield Text.assemble("  ", ("FAIL", "bold red"), f" {case.case}")
        yield from _wrong(case, "red")
    if len(failed) > _SHOWN and not verbose:
        yield Text(f"  and {len(failed) - _SHOWN} more cases; --verbose shows them", "dim")


def _edge_cases(report: Report) -> Iterator[Text | Padding]:
    """Show what a subject does where nobody defines what is due."""
    shown = [
        case
        for case in report.cases
        if case.status == "measured" and any(not check.passed for check in case.checks)
    ]
    if shown:
        yield Text(
            "\nEdge cases: nobody defines them, so they are shown; --strict judges them", "bold"
        )
    for case in shown:
        yield Text(f"  {case.case}")
        yield from _wrong(case, "yellow")


def _wrong(case: CaseResult, style: str) -> Iterator[Padding]:
    for check in case.checks:
        if not check.passed:
            yield _indented(Text(f"{check.what}: {_why(check)}"), 4)
            if check.diagnosis:
                yield _indented(Text(check.diagnosis, style), 6)


def _why(check: Check) -> str:
    if check.reason or check.error is None or check.tolerance is None:
        return check.reason or "failed"
    due = "the same was due" if check.tolerance == 0 else f"{check.tolerance:.2g} allowed"
    return f"off by {check.error:.3g}, {due}"


def describe(conventions: Conventions) -> list[str]:
    """Return what a subject does in short lines, one for each convention that could be told.

    Args:
        conventions: as `find_conventions` returned them.

    Returns:
        Lines of at most 76 columns, without a line for what is None.

    Example:
        >>> describe(Conventions(moving_variance="unbiased", default_epsilon=1e-5))
        ["unbiased moving variance, as PyTorch; Keras's is biased",
         "epsilon 1e-05 by default, as PyTorch and flax; Keras's is 0.001"]
    """
    numbers = {
        "default_momentum": _momentum(conventions),
        "default_epsilon": _epsilon(conventions.default_epsilon),
        "initial_mean": _initial(conventions),
    }
    lines = [
        numbers.get(each.name) or _WORDS.get(each.name, {}).get(getattr(conventions, each.name))
        for each in fields(conventions)
    ]
    return [line for line in lines if line is not None]


def _momentum(conventions: Conventions) -> str | None:
    value = conventions.default_momentum
    if value is None:
        return None
    known = {
        ("old", 0.99): ", as Keras and flax",
        ("new", 0.1): ", as PyTorch",
        ("old", 0.9): ", as ONNX",
    }
    whose = known.get((conventions.momentum_weighs or "", value), "")
    return f"momentum {value:g} by default{whose}"


def _epsilon(value: float | None) -> str | None:
    if value is None:
        return None
    if value == 1e-3:
        return "epsilon 0.001 by default, as Keras; PyTorch and flax have 1e-05"
    if value == 1e-5:
        return "epsilon 1e-05 by default, as PyTorch and flax; Keras's is 0.001"
    return f"epsilon {value:g} by default; Keras's is 0.001, PyTorch's and flax's 1e-05"


def _initial(conventions: Conventions) -> str | None:
    mean, variance = conventions.initial_mean, conventions.initial_variance
    if mean is None or variance is None:
        return None
    usual = ", as everywhere" if (mean, variance) == (0.0, 1.0) else "; usual are 0 and 1"
    return f"moving mean {mean:g} and variance {variance:g} at first{usual}"
