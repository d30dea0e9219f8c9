"""`bnm repair`: what the doctor found, put right in a new file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli import model_options as options
from batchnorm_mechanics.cli.ending import FAILED


class Method(StrEnum):
    """How the statistics of batches become those of the data."""

    POOLED = "pooled"
    AVERAGE = "average"


@options.takes_options
def repair(  # noqa: PLR0913 - each is an option
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .keras or .h5 file.")],
    *,
    given: options.DataOptions,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FIXED.keras", help="Where the repaired model goes."),
    ] = None,
    compared: options.LabelOptions,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODES",
            help="Repair these findings alone: BN101,BN2. Also asks for what is not done unasked.",
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="All samples pooled, or Algorithm 2's average of batches.")
    ] = Method.POOLED,
    sequential: Annotated[
        bool,
        typer.Option("--sequential", help="Layer by layer: exact under inference, and slower."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    notes: options.Notes = False,
    as_json: options.AsJson = False,
    reading: options.ModelOptions,
) -> None:
    """Repair what `bnm doctor` finds in a model, and nothing else, into a new file.

    Give data like those of training: statistics are estimated anew from them. The model file itself
    is never written to. What cannot be repaired is named, with the reason.

    \b
    bnm repair model.keras --data train.npz --out fixed.keras
    bnm repair model.keras --data train.npz --dry-run          what it would do
    bnm repair model.keras --data new.npz --only BN203 --out adapted.keras

    Exit code: 0 if nothing at warning or above is left, 1 if something is, 2 on bad input or
    if interrupted.
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics.doctor.rules import matching

    # Before anything slow.
    matching(options.codes(only), caller="repair", argument="only")
    if out is None and not dry_run:
        raise InputError(
            "repair: `out` must name the file for the repaired model. Received: nothing. "
            "Give --out FIXED.keras, or --dry-run to write nothing."
        )
    from batchnorm_mechanics._io.model_output import check_out
    from batchnorm_mechanics.models.files import save_model

    if out is not None:
        check_out(out, model, caller="repair")
    loaded = reading.load(model, caller="repair", loss=compared.loss)
    from batchnorm_mechanics.doctor.repair import repair as carry_out

    read = given.load(loaded, caller="repair", labels=compared.labels, most=reading.max_size)
    with options.working(f"Repairing {model}", caller="repair", data=given.data):
        done = carry_out(
            loaded,
            read,
            only=options.codes(only),
            method=method.value,
            sequential=sequential,
            dry_run=dry_run,
        )
    written = out if done.steps and not dry_run else None
    if written is not None:
        save_model(done.model, written, caller="repair")
    left = done.before if done.after is None else done.after
    if as_json:
        found = {"file": str(model), "out": written and str(written), **done.as_json()}
        options.print_json({**found, **options.read_as_json(read)})
    else:
        from batchnorm_mechanics._io.terminal import Terminal
        from batchnorm_mechanics.doctor.showing import print_repair

        print_repair(done, Terminal(highlight=False), file=str(model), out=written, notes=notes)
        options.print_read(read)
    if left.is_sick:
        raise typer.Exit(FAILED)
