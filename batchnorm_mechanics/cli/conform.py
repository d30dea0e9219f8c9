"""`bnm conform`: whether implementations of batch normalization are right."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm_mechanics.cli.ending import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchnorm_mechanics._io.progress import Display
    from batchnorm_mechanics.conformance.record import CaseResult
    from batchnorm_mechanics.conformance.report import Report
    from batchnorm_mechanics.conformance.workers import Event


def conform(  # noqa: PLR0913 - each is an option
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUBJECT]...",
            help="Built-in names (see --list), path/to/file.py:Name or package.module:Name; all "
            "built-in ones by default.",
        ),
    ] = None,
    *,
    cases: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only a group of cases, or those with TEXT in the name."),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print every convention, case and failed check too."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Judge edge cases too, of which nobody defines what is due."),
    ] = False,
    require: Annotated[
        str,
        typer.Option(
            metavar="WORDS",
            help="What subjects must take to pass, as axes,float64: axes, ranks, float64, float32, "
            "bfloat16, float16, training, inference, statistics, gradients, masks, saving.",
        ),
    ] = "",
    replicas: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Share each batch of training between N replicas of tf.distribute; of Keras "
            "layers alone.",
        ),
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
    ] = False,
    wrap: Annotated[
        str | None,
        typer.Option(
            metavar="SUBJECT",
            help="Write a function to be completed, around what cannot be taken as it is.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it to this file instead of printing it."),
    ] = None,
    list_subjects: Annotated[
        bool, typer.Option("--list", help="List built-in subjects and groups of cases, and exit.")
    ] = False,
) -> None:
    """Say whether implementations of batch normalization are right.

    Finds out which conventions each subject follows, runs it through a table of cases against a
    float64 oracle, and names the mistake that explains its failures. First comes the verdict, then
    the smallest case of each cause, with the command that runs it alone. A subject is a layer or
    module of Keras, PyTorch, flax, Haiku, Sonnet or Equinox, a class that normalizes when it is
    called, or a function of x, gamma, beta and the like, with its backward pass if it has one.

    \b
    bnm conform                              all built-in subjects that can run here
    bnm conform keras torch                  two of them
    bnm conform my_layers.py:MyBatchNorm     a layer or function of your own
    bnm conform course.py:forward,backward   a function with its backward pass
    bnm conform --wrap mine.py:odd           a function to complete, around something else
    bnm conform keras --cases offset         only large means
    bnm conform --replicas 2                 Keras's layer and ours, synchronized or not
    bnm conform --json > report.json         for programs

    \b
    pass      within a tolerance that follows from the dtype's rounding alone
    FAIL      beyond it, or raised, hung for 60 s, crashed, gave a wrong shape
    measured  shown, not judged: the dtype has no digit left there, or nobody defines
              what is due (edge cases; --strict judges them)
    skipped   the subject is not made for it: it says so, raises NotImplementedError, or
              raises the same for a whole kind of input; --require makes a limit a failure

    Exit code: 0 if nothing failed, 1 if a subject failed, 2 on bad usage.
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics.conformance import subjects as known
    from batchnorm_mechanics.conformance.cases import CASES, judged, select, shared
    from batchnorm_mechanics.conformance.limits import required
    from batchnorm_mechanics.conformance.shares import checked

    if list_subjects:
        _list()
        return
    if wrap is not None:
        _wrap(wrap, out)
        return
    specs = list(dict.fromkeys(subjects or known.default_names(replicas)))
    for spec in specs:
        _check(spec)
    table = shared(CASES, checked(replicas))
    chosen = table if cases is None else select(cases, table)
    chosen = judged(chosen) if strict else chosen
    needed = required(require) if require else ()
    from batchnorm_mechanics.conformance.workers import conform_all

    events = conform_all(specs, cases=chosen, required=needed, replicas=replicas)
    _conform(specs, events, as_json=as_json, verbose=verbose)


def _wrap(spec: str, out: Path | None) -> None:
    """Print a function to be completed around a subject, or write it."""
    from batchnorm_mechanics._exceptions import InputError
    from batchnorm_mechanics._io.files import write_atomically
    from batchnorm_mechanics.conformance import subjects

    text = subjects.wrap(spec)
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise InputError(
            f"conform: `out` must be a file that does not exist. Received: out={str(out)!r}. "
            "Choose another name."
        )
    write_atomically(out, text)


def _list() -> None:
    from batchnorm_mechanics.conformance import subjects
    from batchnorm_mechanics.conformance.cases import CASES

    here = subjects.names_here()
    print("Subjects")
    for name in subjects.all_names():
        print(f"  {name}" if name in here else f"  {name:<24}not installed")
    print("Groups of cases")
    groups = [case.group for case in CASES]
    for group in dict.fromkeys(groups):
        print(f"  {group:<24}{groups.count(group):3}")


def _check(spec: str) -> None:
    """Refuse what cannot name a subject before any work starts, without importing anything."""
    from batchnorm_mechanics._user_code import is_there
    from batchnorm_mechanics.conformance import subjects

    if spec in subjects.names_here():
        return
    where, _, name = spec.rpartition(":")
    of_form = bool(where) and subjects.names_pair(name)
    if not of_form or (where.endswith(".py") and not is_there(where)):
        # It cannot be one, and `resolve` has the words for each way in which it is not.
        subjects.resolve(spec)


class _Collected:
    """What has been found so far, also of subjects that are not done yet."""

    def __init__(self, specs: list[str]) -> None:
        self._specs = specs
        self._ended: dict[str, Report] = {}
        self._cases: dict[str, list[CaseResult]] = {spec: [] for spec in specs}
        self.troubles: list[str] = []

    def add(self, event: "Event", display: "Display") -> None:
        """Keep what an event says, and show how far things are."""
        from batchnorm_mechanics.conformance.workers import Begun, CaseJudged, Ended

        if isinstance(event, Begun):
            display.part(event.spec, f"  {event.spec}", total=event.total)
        elif isinstance(event, CaseJudged):
            self._cases[event.spec].append(event.result)
            display.part(event.spec, f"  {event.spec}", done=len(self._cases[event.spec]))
        elif isinstance(event, Ended):
            self._ended[event.spec] = event.report
            self.troubles += [event.trouble] if event.trouble else []
            display.end(event.spec)
            display.advance()

    def reports(self) -> "Iterator[Report]":
        """Yield the reports in the order asked for, the unfinished ones without explanations."""
        from batchnorm_mechanics.conformance.record import Conventions
        from batchnorm_mechanics.conformance.report import Report

        for spec in self._specs:
            if spec in self._ended:
                yield self._ended[spec]
            elif self._cases[spec]:
                cases = tuple(self._cases[spec])
                yield Report(spec, "interrupted", Conventions(), cases, spec=spec)


def _conform(specs: list[str], events: "Iterator[Event]", *, as_json: bool, verbose: bool) -> None:
    from batchnorm_mechanics._io import json
    from batchnorm_mechanics._io.progress import Display
    from batchnorm_mechanics._io.terminal import Terminal, harmless
    from batchnorm_mechanics.conformance.report import document
    from batchnorm_mechanics.conformance.show import print_report, print_summary

    collected = _Collected(specs)
    interrupted = False
    # Progress goes to standard error, so that standard output holds the results alone.
    log = Terminal(stderr=True, quiet=as_json)
    try:
        with Display(log, "All subjects", len(specs)) as display:
            for event in events:
                collected.add(event, display)
    except KeyboardInterrupt:
        interrupted = True
    reports = list(collected.reports())
    if as_json:
        print(json.text(document(reports, finished=not interrupted)))
    else:
        console = Terminal(highlight=False)
        for report in reports:
            print_report(report, console, verbose=verbose)
        if len(reports) > 1 or verbose:
            print_summary(reports, console)
    for trouble in collected.troubles:
        print(harmless(f"bnm conform: {trouble}"), file=sys.stderr)
    if interrupted:
        print("Interrupted; this is what was found so far.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if collected.troubles or not all(report.passed for report in reports):
        raise typer.Exit(FAILED)
