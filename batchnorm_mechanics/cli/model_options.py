"""What the commands that take a model and data have in common: options, loading, output."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli.ending import insisting

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.data_fit import Checked

# That of `doctor.data`, which takes TensorFlow to import.
DEFAULT_BATCH_SIZE = 32

DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help=".npz with x, and y for labels; .npy; or a folder of .npy files.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME",
        help="Array of labels in the .npz; for .npy, a file or folder of them.",
        show_default="y",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Best that of training.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that the model file holds or names.")
]
Custom = Annotated[
    list[str] | None,
    typer.Option(
        "--custom",
        metavar="MODULE:NAME",
        help="A class or function that the model needs; also path/to/file.py:Name. Repeatable.",
    ),
]
MaxSize = Annotated[
    int | None,
    typer.Option(
        "--max-size",
        metavar="BYTES",
        min=1,
        help="What a file may unpack to, and a model's weights take.",
        show_default="10 times the file, and 100 MiB",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def codes(given: list[str] | None) -> tuple[str, ...]:
    """Return rule codes given with commas, with several options, or both."""
    found = tuple(code.strip() for some in given or () for code in some.split(",") if code.strip())
    # An option without any is refused further on, like a code that no rule has: here none means
    # all, which is not what an empty variable of a script was to say.
    return found or ("",) if given else ()


def load_model(
    path: Path, *, trust: bool, custom: list[str] | None, most: int | None, caller: str
) -> Any:
    """Load a model; code from its file, or that it names, runs only if it is trusted."""
    from batchnorm_mechanics._io.terminal import harmless
    from batchnorm_mechanics.doctor.model_files import load_model as load

    with insisting(), warnings.catch_warnings(record=True) as told:
        # Each time, not once for each line of code that warns.
        warnings.simplefilter("always")
        model = load(path, trust=trust, custom=custom or (), most=most, caller=caller)
    for warning in told:
        if issubclass(warning.category, UserWarning):
            print(harmless(f"bnm {caller}: {warning.message}"), file=sys.stderr)
    return model


def load_data(
    model: Any,
    path: Path | None,
    *,
    labels: str | None,
    batch_size: int,
    most: int | None,
    caller: str,
) -> "Checked | None":
    """Open data and see that they fit the model; None where there are none."""
    from batchnorm_mechanics.doctor.data import load_data as load
    from batchnorm_mechanics.doctor.data_fit import check_data_fits

    if path is None:
        if labels is not None:
            raise InputError(
                f"{caller}: `labels` must go with data. Received: labels={labels!r} without "
                "--data. Name the file of the data too."
            )
        return None
    with insisting():
        data = load(path, labels_name=labels, batch_size=batch_size, most=most, caller=caller)
        return check_data_fits(model, data, name=str(path), caller=caller)


def check_page(page: Path, *inputs: str | Path | None, caller: str) -> None:
    """Refuse a place for a page before any work is done for it.

    Raises:
        InputError: it is a folder or one of the inputs, or lies in a folder that is not there or
            cannot be written.
    """

    def refuse(expectation: str, what: str) -> InputError:
        return InputError(
            f"{caller}: `html` must {expectation}. Received: html={str(page)!r}. {what}"
        )

    given = [Path(one) for one in inputs if one is not None]
    try:
        if page.is_dir():
            raise refuse("be a file", "It is a folder; add a name.")
        folder = page.absolute().parent
        if not folder.is_dir():
            raise refuse("be a file in a folder that exists", "Make the folder first.")
        if not os.access(folder, os.W_OK):
            raise refuse("be a file in a folder that can be written", "Choose another.")
        if page.exists() and any(one.exists() and one.samefile(page) for one in given):
            raise refuse(
                "be another file than the model and the data", "Inputs are never written to."
            )
    except OSError as error:
        raise refuse("be a file that there can be", f"{error.strerror}.") from error


def write_page(page: Path, html: str, *, caller: str) -> None:
    """Write a page whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    from batchnorm_mechanics._io.files import write_atomically

    try:
        write_atomically(page, html)
    except OSError as error:
        raise InputError(
            f"{caller}: `html` must be a file that can be written. Received: html={str(page)!r} "
            f"({error.strerror}). Name one in a folder of yours on a disk with room."
        ) from error


@contextlib.contextmanager
def working(what: str, *, caller: str, data: Path | None) -> Iterator[None]:
    """Show in a terminal that something is going on, and name the data if the model fails on them.

    Raises:
        InputError: an operation of TensorFlow failed.
        KeyboardInterrupt: it was interrupted, whatever became of that in TensorFlow.
    """
    import tensorflow as tf

    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics.doctor.model_files import first_line

    # On standard error: standard output holds the results alone.
    console = Terminal(stderr=True)
    shown = console.status(what) if console.is_terminal else contextlib.nullcontext()
    try:
        with insisting(), shown:
            yield
    except InputError as error:
        # The command goes by its own name, and not by that of the function which it calls.
        raise InputError(f"{caller}:{str(error).partition(':')[2]}") from error
    except tf.errors.ResourceExhaustedError as error:
        raise InputError(
            f"{caller}: `batch_size` must be small enough for the memory. Received: "
            f"data={str(data)!r}, on which it ran out. Give a smaller --batch-size."
        ) from error
    except tf.errors.OpError as error:
        raise InputError(
            f"{caller}: `data` must be what the model can run on. Received: data={str(data)!r}, "
            f"on which it failed ({first_line(error)}). Prepare them as in training."
        ) from error


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object."""
    from batchnorm_mechanics._io import json

    print(json.text(document))
