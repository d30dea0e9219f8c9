"""`bnm explore`: the page where batch norm can be played with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli import model_options as options

if TYPE_CHECKING:
    from batchnorm_mechanics.models.data_fit import Checked


@options.takes_options
def explore(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="A .keras or .h5 file, to look at its layers."),
    ] = None,
    *,
    given: options.DataOptions,
    compared: options.LabelOptions,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the page.")] = Path(
        "explorer.html"
    ),
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Write the page, and open no browser.")
    ] = False,
    reading: options.ModelOptions,
) -> None:
    """Play with batch norm: a page that computes every step as you change its numbers.

    It is one file that needs nothing but a browser, and asks for no other. With a model and data it
    shows the model's batch norm layers too, as they ran, and what `bnm doctor` says of them.

    \b
    bnm explore                              write explorer.html and open it
    bnm explore --out page.html --no-open    only write it, to send or to keep
    bnm explore model.keras --data x.npz     your own model's layers in rooms 1, 4 and 6
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics.explorer.page import write_page

    own: dict[str, Any] = {}
    read = None
    if model is not None:
        own, read = _own(model, given, compared, reading, out)
    elif given.data is not None or compared.labels is not None:
        name, value = (
            ("data", str(given.data)) if given.data is not None else ("labels", compared.labels)
        )
        raise InputError(
            f"explore: `{name}` must go with a model. Received: {name}={value!r} without one. "
            "Name its file first; numbers of your own are typed into the page."
        )
    try:
        write_page(out, own)
    except OSError as error:
        raise InputError(
            f"explore: `out` must be a file that can be written. Received: out={str(out)!r} "
            f"({error.strerror}). Name one in a folder that exists and is yours."
        ) from error
    # A path is for copying: it is not cut into lines.
    Terminal().print(f"Page: {out}", soft_wrap=True, markup=False, highlight=False)
    options.print_read(read)
    if not no_open:
        typer.launch(out.resolve().as_uri())


def _own(
    model: Path,
    given: options.DataOptions,
    compared: options.LabelOptions,
    reading: options.ModelOptions,
    out: Path,
) -> tuple[dict[str, Any], "Checked"]:
    """Return what the page shows of a model, and the data that were read."""
    options.check_page(out, model, given.data, caller="explore", argument="out")
    from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

    import_tensorflow_quietly()
    loaded = reading.load(model, caller="explore", loss=compared.loss)
    read = given.load(loaded, caller="explore", labels=compared.labels, most=reading.max_size)
    if read is None or given.data is None:
        raise InputError(
            "explore: `data` must be given with a model. Received: "
            f"model={str(model)!r} without --data. Name what the model is called on."
        )
    from batchnorm_mechanics.explorer.own import own_model

    with options.working(f"Looking at {model}", caller="explore", data=given.data):
        found = own_model(loaded, read, name=model.name, data_name=given.data.name)
    return {"model": found}, read
