"""`bnm trace`: one batch norm, step by step."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli import model_options as options

if TYPE_CHECKING:
    from batchnorm_mechanics.tracing.record import Trace


class Dtype(StrEnum):
    """The types that batch norm is computed in."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@options.takes_options
def trace(  # noqa: PLR0913 - each is an option
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="A model's file, to trace a layer of it."),
    ] = None,
    *,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a batch-norm layer in MODEL: its name, or its path as `bnm doctor` prints it.",
            show_default="the only one",
        ),
    ] = None,
    given: options.DataOptions,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help=".npy, .npz or .csv.",
            show_default="[[1, 2, 3], [4, 5, 6]] with gamma 2 and beta 1",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which array of an .npz file.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="Axes reduced over, such as 0,2.", show_default="0")
    ] = None,
    gamma: Annotated[
        str | None, typer.Option(help="The scale: 2, or 1,2,3 by channel, or a .npy file.")
    ] = None,
    beta: Annotated[str | None, typer.Option(help="The offset, likewise.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Added to the variance.", show_default="0.001")
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Convert the input first.", show_default="the file's, or float32"),
    ] = None,
    training: Annotated[
        bool | None,
        typer.Option(
            "--training/--inference",
            help="Use the batch's statistics, or given ones.",
            show_default="training; a model as it is called",
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Which samples count: 1 or 0 for each.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="For --inference.", show_default="the initial 0")
    ] = None,
    variance: Annotated[
        str | None, typer.Option(help="For --inference.", show_default="the initial 1")
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(help="Show moving statistics before and after; the old value's weight."),
    ] = None,
    backward: Annotated[
        bool, typer.Option("--backward", help="Show the six gradients and their sums too.")
    ] = False,
    dy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Gradient of the loss by y, for --backward.",
            show_default="a ramp from -1 to 1",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="tf.nn, the fused op and Keras beside the oracle.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show values of large arrays, not only by channel.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with all values instead of tables.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the trace too.")
    ] = None,
    reading: options.ModelOptions,
) -> None:
    """Show one batch norm step by step: every value, its formula and its place in the paper.

    Without options it takes a small input whose result is easy to follow by hand.

    \b
    bnm trace                                 [[1, 2, 3], [4, 5, 6]], step by step
    bnm trace --inference                     why a new layer's output differs
    bnm trace --backward --compare            gradients, and other implementations
    bnm trace --input x.npy --axes 0,1,2      images: one statistic per channel
    bnm trace --input x.csv --html page.html  your own numbers, as a page too
    bnm trace model.keras --layer block/bn --data x.npz    a layer while its model runs
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

    import_tensorflow_quietly()
    from batchnorm_mechanics.tracing.command import Options, trace_with

    asked = Options(
        input_file=input_file,
        key=key,
        axes=axes,
        parameters={"gamma": gamma, "beta": beta, "mean": mean, "variance": variance},
        epsilon=epsilon,
        dtype=None if dtype is None else dtype.value,
        inference=training is False,
        momentum=momentum,
        backward=backward,
        dy=dy,
        compare=compare,
        layer=layer,
        training=training,
        mask=mask,
    )
    read = None
    if model is not None:
        loaded = reading.load(model, caller="trace")
        read = given.load(loaded, caller="trace", most=reading.max_size)
        if read is None:
            raise InputError(
                "trace: `data` must be given with a model. Received: "
                f"model={str(model)!r} without --data. Name what the model is called on."
            )
        with options.working(f"Tracing {model}", caller="trace", data=given.data):
            x, _ = next(iter(read))
            found = trace_with(replace(asked, model=loaded, x=x))
    elif layer is not None or given.data is not None:
        name, value = ("layer", layer) if layer is not None else ("data", str(given.data))
        raise InputError(
            f"trace: `{name}` must go with a model. Received: {name}={value!r} without one. "
            "Name its file first; an array alone is --input."
        )
    else:
        found = trace_with(asked)
    if html is not None:
        _write_page(found, html)
    if as_json:
        print(found.to_json())
        return
    _print(found, html, verbose=verbose)
    options.print_read(read)


def _write_page(found: "Trace", path: Path) -> None:
    from batchnorm_mechanics._io.files import write_atomically

    try:
        write_atomically(path, found.to_html())
    except OSError as error:
        raise InputError(
            f"trace: `html` must be a file that can be written. Received: html={str(path)!r} "
            f"({error.strerror}). Name one in a folder that exists and is yours."
        ) from error


def _print(found: "Trace", html: Path | None, *, verbose: bool) -> None:
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics.tracing.show import plain_text, print_trace

    console = Terminal()
    if console.is_terminal:
        print_trace(found, console, verbose=verbose)
    else:
        print(plain_text(found, verbose=verbose))
    if html is not None:
        # A path is for copying: it is not cut into lines.
        console.print(f"Page: {html}", soft_wrap=True, markup=False, highlight=False)
