"""Reports as a terminal of 80 columns shows them: the verdict, then what failed."""

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics._io import terminal
from batchnorm_mechanics.conformance.record import CaseResult, Check, Status
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.wording import describe, in_short

_WIDTH = 80
# Lines of a verdict, the name among them.
_FIRST = 8
# Causes, and kinds of edge cases, that fit a screen.
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


def print_report(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print what was found about one subject, the verdict first.

    Args:
        report: what was found.
        console: where to.
        verbose: whether to list every convention, every case and every failed check, and not only
            the smallest case of each cause.
    """
    console.rule(Text(report.name, "bold"), align="left", style="dim")
    for line in _verdict(report):
        console.print(line)
    if report.verdict.fault is not None:
        return
    if verbose:
        _print_all(report, console)
    for line in (*_by_cause(report), *(_failures(report) if verbose else ()), *_edge_cases(report)):
        # A command is copied as it stands: it may not be broken into lines.
        console.print(line, soft_wrap=isinstance(line, Text) and line.no_wrap)


def _print_all(report: Report, console: Console) -> None:
    for line in describe(report.conventions):
        console.print(Text(f"  {line}"))
    console.print()
    console.print(_groups(report.cases))
    console.print()
    console.print(_cases(report.cases))
    skipped = Counter(case.reason for case in report.cases if case.status == "skipped")
    for reason, count in skipped.most_common():
        console.print(_indented(Text(f"{count} cases skipped: {reason or ''}", "dim"), 2))


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


def plain_text(report: Report, *, verbose: bool = False) -> str:
    """Return a report as text, as `print` shows it."""
    return terminal.plain_text(
        lambda console: print_report(report, console, verbose=verbose), _WIDTH
    )


def _verdict(report: Report) -> list[Text]:
    """Return what there is to say first: lines that fill no more than eight with the name."""
    verdict = report.verdict
    if verdict.fault is not None:
        return _fault(report, verdict.fault)
    described = report.description if report.description != report.name else ""
    limits = "; ".join(limit.words for limit in verdict.limits)
    conventions = in_short(report.conventions)
    taken_as = report.taken_as
    lines = [Text(line, "dim") for line in _wrapped(described, 1)]
    sentence = _wrapped(verdict.sentence, 3)
    most = 1 if len(sentence) > 2 else 2
    lines += map(Text, _wrapped(f"taken as: {taken_as}" if taken_as else "", most))
    style = "bold green" if verdict.right else "bold red"
    lines += [Text(line, style) for line in sentence]
    lines += map(Text, _wrapped(f"limits: {limits}" if limits else "", 1 if len(lines) > 4 else 2))
    left = _FIRST - 1 - len(lines)
    return lines + list(map(Text, _wrapped(conventions and f"conventions: {conventions}", left)))


def _wrapped(text: str, most: int) -> list[str]:
    return textwrap.wrap(text, _WIDTH, max_lines=max(1, most), placeholder=" …")


def _fault(report: Report, fault: Check) -> list[Text]:
    """Return all that there is to say where a subject raised in every case."""
    first = next((case for case in report.cases if fault in case.checks), None)
    lines = [report.description] if report.description != report.name else []
    lines += [f"taken as: {report.taken_as}"] if report.taken_as else []
    return [
        *(Text(line, "dim") for line in lines),
        Text(report.verdict.sentence, "bold red"),
        *((Text(f"  {fault.where}"),) if fault.where else ()),
        Text(f"  {str(fault.reason).removeprefix('raised ')}"),
        Text("Mend that first: it may be the wrapper. One case alone:"),
        *((_command(report, first),) if first else ()),
    ]


def command(report: Report, case: CaseResult) -> str:
    """Return how to have one case judged alone: at a prompt, or in Python for an object of it."""
    # What comes before the cases has none.
    if report.spec is not None:
        shared = f" --replicas {report.replicas}" if report.replicas > 1 else ""
        text = f"bnm conform {shlex.quote(report.spec)}{shared}"
        return f'{text} --cases "{case.case}"' if case.shape else text
    which = f', cases="{case.case}"' if case.shape else ""
    shared = f", replicas={report.replicas}" if report.replicas > 1 else ""
    return f"print(bnm.conform({report.name}{which}{shared}))"


def _command(report: Report, case: CaseResult) -> Text:
    return Text(f"    {command(report, case)}", "dim", no_wrap=True)


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


def _by_cause(report: Report) -> Iterator[Text | Padding]:
    """Say what failed: the smallest case of each cause, and how to run it alone."""
    verdict, cases = report.verdict, {case.case: case for case in report.cases}
    if verdict.causes:
        yield Text("\nWhat failed, by cause", "bold")
    for cause in verdict.causes[:_SHOWN]:
        count = f": {cause.failures} of {verdict.failures} failed checks"
        yield _indented(Text.assemble((cause.words, "bold red"), count), 2)
        yield _indented(Text(f"{cause.case}: {cause.check.what}: {why(cause.check)}"), 4)
        if cause.check.where:
            yield _indented(Text(f"at {cause.check.where}"), 4)
        yield _command(report, cases[cause.case])
    if len(verdict.causes) > _SHOWN:
        more = len(verdict.causes) - _SHOWN
        yield Text(f"  and {more} more ways to fail; --verbose shows every case", "dim")


def _failures(report: Report) -> Iterator[Text | Padding]:
    """Say of each case what failed in it."""
    failed = [case for case in report.cases if case.status == "fail"]
    if failed:
        yield Text("\nFailures", "bold")
    for case in failed:
        yield Text.assemble("  ", ("FAIL", "bold red"), f" {case.case}")
        for check in case.wrong:
            yield from _wrong(check, "red")


def _edge_cases(report: Report) -> Iterator[Text | Padding]:
    """Show what a subject does where nobody defines what is due, one case of each kind."""
    kinds: dict[str, list[tuple[CaseResult, Check]]] = {}
    for case in report.cases:
        for check in case.checks if case.status == "measured" else ():
            if not check.passed:
                kind = check.diagnosis or check.reason or check.what
                kinds.setdefault(kind, []).append((case, check))
    if kinds:
        yield Text(
            "\nEdge cases: nobody defines them, so they are shown; --strict judges them", "bold"
        )
    for members in list(kinds.values())[:_SHOWN]:
        case, check = members[0]
        yield Text(f"  {case.case}")
        yield from _wrong(check, "yellow")
        if len(members) > 1:
            yield Text(f"      and {len(members) - 1} more like it", "dim")


def _wrong(check: Check, style: str) -> Iterator[Padding]:
    yield _indented(Text(f"{check.what}: {why(check)}"), 4)
    if check.diagnosis:
        yield _indented(Text(check.diagnosis, style), 6)


def why(check: Check) -> str:
    """Return in words what is wrong with a failed check."""
    if check.reason or check.error is None or check.tolerance is None:
        return check.reason or "failed"
    due = "the same was due" if check.tolerance == 0 else f"{check.tolerance:.2g} allowed"
    return f"off by {check.error:.3g}, {due}"
