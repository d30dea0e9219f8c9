"""`bnm fold`: batch norm merged into the layers around it, for a model that predicts faster."""

import math
from pathlib import Path
from typing import Annotated

import typer

from batchnorm_mechanics._exceptions import FailureError
from batchnorm_mechanics.cli import model_options as options
from batchnorm_mechanics.cli.ending import FAILED


@options.takes_options
def fold(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .keras or .h5 file.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDED.keras", help="Where the folded model goes.")],
    given: options.DataOptions,
    as_json: options.AsJson = False,
    reading: options.ModelOptions,
) -> None:
    """Merge batch norm into the layers around it, and write a model that predicts faster.

    The outputs of both models are compared on random data, and on yours if you give some; nothing
    is written if they differ by more than rounding. Where this machine cannot run the model, the
    new one is written without that, and the command says so. Layers that must stay are named, with
    the reason. The new model is for prediction, not for further training.

    \b
    bnm fold model.keras --out folded.keras
    bnm fold model.keras --out folded.keras --data test.npz

    Exit code: 0 if a folded model was written, 1 if nothing could be merged or the outputs differ
    by more than rounding, and so nothing was written, 2 on bad input or if interrupted.
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics._io.model_output import check_out
    from batchnorm_mechanics.models.files import save_model

    check_out(out, model, caller="fold")
    loaded = reading.load(model, caller="fold")
    from batchnorm_mechanics.folding.fold import fold as carry_out

    read = given.load(loaded, caller="fold", most=reading.max_size)
    with options.working(f"Folding {model}", caller="fold", data=given.data):
        folded = carry_out(loaded, read, batch_size=given.batch_size)
    difference = folded.difference
    if difference is not None and not math.isfinite(difference):
        raise FailureError(
            f"fold: the outputs of {str(model)!r} cannot be compared with those of the folded "
            "model, since some of them, or of its weights, are NaN or infinite. "
            f"Nothing was written. `bnm doctor {model}` may say why."
        )
    if difference is not None and not folded.agrees:
        raise FailureError(
            f"fold: the outputs of {str(model)!r} and of the folded model differ by "
            f"{difference:.2g}, more than the {folded.tolerance:.2g} that rounding "
            "explains. Nothing was written."
        )
    written = out if folded.count else None
    if written is not None:
        save_model(folded.model, written, caller="fold")
    if as_json:
        found = {"file": str(model), "out": written and str(written), **folded.as_json()}
        options.print_json({**found, **options.read_as_json(read)})
    else:
        from batchnorm_mechanics._io.terminal import Terminal
        from batchnorm_mechanics.folding.showing import print_fold

        print_fold(folded, Terminal(highlight=False), file=str(model), out=written)
        options.print_read(read)
    if written is None:
        # A pipeline goes on with a file that is not there, or with one of yesterday, otherwise.
        raise typer.Exit(FAILED)
