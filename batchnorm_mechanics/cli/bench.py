"""`bnm bench`: this package beside its peers, in one run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm_mechanics.cli.exit_codes import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from batchnorm_mechanics.bench.run import Results


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[layer|model|study|import]...", help="What to measure; all by default."
        ),
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few shapes and repeats, to see it work.")
    ] = False,
    repeats: Annotated[
        int | None,
        typer.Option(
            help="Samples of each; a third as many where one takes seconds.",
            show_default="9, with --quick 2",
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the results as a page in Markdown too."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
    ] = False,
) -> None:
    """Compare speed and memory with Keras, torch and JAX, in one run on two cores.

    All contestants take turns in each repeat. A contestant that computes something else is refused.
    Peers that are not installed are named.

    \b
    bnm bench layer                          one layer, nine shapes, and its memory
    bnm bench model                          ResNet-50, MobileNetV2, the study's network
    bnm bench study                          an epoch by fit and compiled, and how both scale
    bnm bench import                         how long the command takes to start
    bnm bench --quick                        see it work
    bnm bench --write benchmarks/README.md   write the page

    Exit code: 0, or 1 if a contestant was refused, 2 on bad usage.
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics._exceptions import InputError
    from batchnorm_mechanics.bench.run import PARTS, Request

    request = Request(tuple(dict.fromkeys(parts or PARTS)), quick=quick, repeats=repeats)
    if write is not None and not write.absolute().parent.is_dir():
        raise InputError(
            f"bench: `write` must be a file in a folder that exists. Received: "
            f"write={str(write)!r}. Make the folder first."
        )
    from batchnorm_mechanics.bench.machine import limit_process

    # Before TensorFlow, which counts the cores at its start.
    limit_process()
    from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
    from batchnorm_mechanics.bench import machine
    from batchnorm_mechanics.bench.peers import missing_peers
    from batchnorm_mechanics.bench.run import Results

    results = Results(request, machine.describe(), missing_peers())
    interrupted = False
    try:
        import_tensorflow_quietly()
        _measure(results)
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        from batchnorm_mechanics._io import json

        print(json.text(results.as_json()))
    else:
        _print(results)
    if write is not None:
        _write(results, write)
    if interrupted:
        print("Interrupted; this is what was measured so far.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    for comparison, name, reason in results.refusals:
        print(f"bnm bench: refused {name} at {comparison.case}: {reason}", file=sys.stderr)
    if results.refusals:
        raise typer.Exit(FAILED)


def _measure(results: "Results") -> None:
    from rich.console import Console

    from batchnorm_mechanics._io.progress import Display
    from batchnorm_mechanics.bench.run import measure

    # Progress goes to standard error, so that standard output holds the results alone.
    with Display(Console(stderr=True), "starting") as display:
        for comparison in measure(results.request, display.now):
            results.comparisons.append(comparison)
    results.finished = True


def _print(results: "Results") -> None:
    from rich.console import Console

    from batchnorm_mechanics.bench.tables import print_results

    print_results(results, Console(highlight=False))


def _write(results: "Results", path: Path) -> None:
    from batchnorm_mechanics._exceptions import InputError
    from batchnorm_mechanics._io.files import write_atomically
    from batchnorm_mechanics.bench.markdown import page

    try:
        write_atomically(path, page(results))
    except OSError as error:
        raise InputError(
            f"bench: `write` must be a file that can be written. Received: write={str(path)!r}. "
            f"The system says: {error.strerror or error}."
        ) from error
