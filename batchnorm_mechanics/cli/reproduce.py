"""`bnm reproduce`: the MNIST studies."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm_mechanics.cli.ending import INTERRUPTED

if TYPE_CHECKING:
    from batchnorm_mechanics.studies.reproduce import Request


def reproduce(  # noqa: PLR0913 - each is an option
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Names of studies; all by default."),
    ] = None,
    *,
    seeds: Annotated[
        int | None,
        typer.Option(help="Seeds each, from 100 up.", show_default="5, with --quick 1"),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="'mnist', which is shipped, or an .npz file in Keras's layout."),
    ] = "mnist",
    out: Annotated[
        Path, typer.Option(help="Folder for results, report and each run's artifacts.")
    ] = Path("results"),
    paper_steps: Annotated[
        int, typer.Option(help="Length of the paper's own experiment; the paper has 50000.")
    ] = 5_000,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the data, few steps: under a minute.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
    ] = False,
    list_studies: Annotated[
        bool, typer.Option("--list", help="List the studies and exit.")
    ] = False,
) -> None:
    """Run the MNIST studies with several seeds, beside the published figures.

    Prints how far ours and the published accuracies agree, what each factor changes, with a 95%
    interval, and why the studies differ; writes results.json and report.html to the folder. Runs
    that the folder holds already are kept, so an interrupted command goes on where it was.

    \b
    bnm reproduce                            all studies, 5 seeds, all of MNIST
    bnm reproduce --quick --out try          see it work in under a minute
    bnm reproduce keras-916 --seeds 3        one study
    bnm reproduce --data my.npz --out mine   your own images
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics.studies.registry import STUDIES

    if list_studies:
        for study in STUDIES.values():
            print(f"{study.name:<22}{study.title}")
        return
    from batchnorm_mechanics.studies.reproduce import DEFAULT_SEEDS, QUICK_SEEDS, Request

    request = Request(
        studies=tuple(dict.fromkeys(studies or ())),
        seeds=seeds if seeds is not None else QUICK_SEEDS if quick else DEFAULT_SEEDS,
        data=data,
        out=out,
        quick=quick,
        paper_steps=paper_steps,
    )
    _reproduce(request, as_json=as_json)


def _reproduce(request: "Request", *, as_json: bool) -> None:
    from batchnorm_mechanics._io.site import where
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics.studies import reproduce as job
    from batchnorm_mechanics.studies.report import write_report
    from batchnorm_mechanics.studies.terminal import Display, print_results

    # Progress goes to standard error, so that standard output holds the results alone.
    log = Terminal(stderr=True)
    plan = job.plan(request)
    for path in plan.folder.damaged:
        log.print(f"Damaged, and set aside: {path}", markup=False, highlight=False, soft_wrap=True)
    interrupted = False
    with plan.folder.alone():
        try:
            with Display(plan, log) as display:
                job.carry_out(plan, display)
        except KeyboardInterrupt:
            interrupted = True
        results = job.collect(plan)
        report = plan.folder.path / "report.html"
        with plan.folder.writing():
            write_report(results, report)
    if as_json:
        from batchnorm_mechanics._io import json

        print(json.text(results))
    else:
        print_results(results, Terminal(), report=report)
        print(f"What the studies are, and why: {where('how/studies')}")
    if interrupted:
        print(
            "Interrupted. Finished runs are kept; run the same command again to go on.",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED)
