"""`bnm compare`: where two models begin to differ, and whether batch norm is why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli import model_options as options
from batchnorm_mechanics.cli.ending import BAD_INPUT, FAILED

if TYPE_CHECKING:
    from batchnorm_mechanics.comparison.result import Comparison

_SAMPLES = 8
# Of the JSON object; 2 says of outputs whether their distance is rounding.
_FORMAT = 2


@options.takes_options
def compare(  # noqa: PLR0913 - each is an option
    a: Annotated[Path, typer.Argument(metavar="A", help="A model: .keras, .h5, or as B.")],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="Another: also .onnx, .tflite, OpenVINO's .xml.")
    ],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FILE", help="As `bnm doctor` takes them; never made up by chance."
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, help="How many, the first ones: all that B computes is in memory."
        ),
    ] = _SAMPLES,
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale", metavar="FACTOR", help="Multiply the data: 1/255; or 1/127.5,-1 to add too."
        ),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            "--min-sqnr", metavar="DB", help="Agree if the outputs have so many decibels."
        ),
    ] = None,
    as_json: options.AsJson = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the comparison as a page too.")
    ] = None,
    reading: options.ModelOptions,
) -> None:
    """Compare two models stage by stage: where they begin to differ, and whether batch norm is why.

    Each layer of A runs on what B computed, so that a stage shows its own error and not what it
    inherits. B's tensors are known by their values. Causes are tried where A is one of Keras's
    functional or sequential models.

    \b
    bnm compare model.keras model.onnx --data test.npz
    bnm compare model.keras model_int8.tflite --data test.npz --html page.html
    bnm compare before.keras after.keras --data test.npz     before and after a repair

    Exit code: 0 if both agree, 1 if they differ, 2 if that cannot be told, on bad input or if
    interrupted.
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    if data is None:
        raise InputError(
            "compare: `data` must be given. Received: nothing. Name a file of samples that the "
            "model is for with --data: random ones would say nothing about what matters."
        )
    if html is not None:
        options.check_page(html, a, b, data, caller="compare")
    from batchnorm_mechanics.comparison.forms import opened

    models = [_loaded(path, reading) for path in (a, b)]
    most = reading.max_size
    forms = [
        opened(model, argument=argument, most=most, caller="compare")
        for model, argument in zip(models, "ab", strict=True)
    ]
    given = options.DataOptions(data=data, samples=samples, scale=scale, batch_size=samples)
    # Only one of Keras's says what it takes before it runs.
    keras_model = next((model for model in models if not isinstance(model, Path)), None)
    if keras_model is None:
        read = _read(given, most)
    else:
        read = given.load(keras_model, caller="compare", most=most)
    from batchnorm_mechanics.comparison.compare import compared

    with options.working(f"Comparing {a} and {b}", caller="compare", data=data):
        found = compared(
            forms[0], forms[1], read, names=(str(a), str(b)), samples=samples, min_sqnr=min_sqnr
        )
    _show(found, html, as_json=as_json, read=read)


def _loaded(path: Path, reading: options.ModelOptions) -> Any:
    """Return a Keras model; of other files the path, as their own runtime reads them."""
    from batchnorm_mechanics.comparison.forms import is_foreign

    return path if is_foreign(path) else reading.load(path, caller="compare")


def _read(given: options.DataOptions, most: int | None) -> Any:
    """Open data of which no model says before it runs whether they fit."""
    from batchnorm_mechanics.models.data import load_data
    from batchnorm_mechanics.models.data_fit import Checked

    with options.insisting():
        data = load_data(
            given.data or "",
            batch_size=given.batch_size,
            samples=given.samples,
            scale=given.scale,
            most=most,
            caller="compare",
        )
    return Checked(**vars(data), name=str(given.data), caller="compare")


def _show(found: "Comparison", html: Path | None, *, as_json: bool, read: Any) -> None:
    if html is not None:
        from batchnorm_mechanics.comparison.showing import page

        options.write_page(html, page(found), caller="compare")
    if as_json:
        options.print_json({**found.as_json(), **options.read_as_json(read)}, version=_FORMAT)
    else:
        from batchnorm_mechanics._io.terminal import Terminal
        from batchnorm_mechanics.comparison.showing import print_comparison

        print_comparison(found, Terminal(highlight=False))
        if html is not None:
            print(f"Page: {html}")
        options.print_read(read)
    if found.agrees is None:
        raise typer.Exit(BAD_INPUT)
    if not found.agrees:
        raise typer.Exit(FAILED)
