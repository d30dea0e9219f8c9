"""What the commands that take a model and data have in common: options, loading, output."""

import contextlib
import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli.ending import insisting

if TYPE_CHECKING:
    from batchnorm_mechanics.models.data_fit import Checked

# Of what these commands print as JSON. Raise it when that changes;
# tests/formats keeps one of each version.
_FORMAT = 1

# That of `models.data`, which takes TensorFlow to import.
DEFAULT_BATCH_SIZE = 32

Notes = Annotated[
    bool, typer.Option("--notes", help="Tell of each note, and not of all in one line.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@dataclass(frozen=True)
class ModelOptions:
    """How a model's file is read."""

    trust: Annotated[
        bool, typer.Option("--trust", help="Run code that the model file holds or names.")
    ] = False
    custom: Annotated[
        list[str] | None,
        typer.Option(
            "--custom",
            metavar="MODULE:NAME",
            help="A class or function that the model needs; also path/to/file.py:Name. Repeatable.",
        ),
    ] = None
    build: Annotated[
        str | None,
        typer.Option(
            "--build",
            metavar="FILE.py:FUNCTION",
            help="What makes the model, where MODEL holds weights alone: .h5, or a checkpoint.",
        ),
    ] = None
    max_size: Annotated[
        int | None,
        typer.Option(
            "--max-size",
            metavar="BYTES",
            min=1,
            help="What a file may unpack to, and a model's weights take.",
            show_default="10 times the file, and 100 MiB",
        ),
    ] = None

    def load(self, path: Path, *, caller: str, loss: str | None = None) -> Any:
        """Load a model; code from its file, or that it names, runs only if it is trusted."""
        from batchnorm_mechanics._io.terminal import harmless
        from batchnorm_mechanics.models.files import load_model

        with insisting(), warnings.catch_warnings(record=True) as told:
            # Each time, not once for each line of code that warns.
            warnings.simplefilter("always")
            model = load_model(
                path,
                trust=self.trust,
                custom=self.custom or (),
                build=self.build,
                loss=loss,
                most=self.max_size,
                caller=caller,
            )
        for warning in told:
            if issubclass(warning.category, UserWarning):
                print(harmless(f"bnm {caller}: {warning.message}"), file=sys.stderr)
        return model


@dataclass(frozen=True)
class DataOptions:
    """Which data are read, and how."""

    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help=".npz with x, and y for labels; .npy; .parquet; .tfrecord; a folder of such or of "
            "images; or path/to/file.py:function.",
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Best that of training.")
    ] = DEFAULT_BATCH_SIZE
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Take so many at most, the first ones.")
    ] = None
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale", metavar="FACTOR", help="Multiply the data: 1/255; or 1/127.5,-1 to add too."
        ),
    ] = None

    def load(
        self, model: Any, *, caller: str, labels: str | None = None, most: int | None = None
    ) -> "Checked | None":
        """Open data and see that they fit the model; None where there are none."""
        from batchnorm_mechanics.models.data import load_data
        from batchnorm_mechanics.models.data_fit import check_data_fits

        if self.data is None:
            if labels is not None:
                raise InputError(
                    f"{caller}: `labels` must go with data. Received: labels={labels!r} without "
                    "--data. Name the file of the data too."
                )
            return None
        with insisting():
            data = load_data(
                self.data,
                labels_name=labels,
                batch_size=self.batch_size,
                samples=self.samples,
                scale=self.scale,
                takes={one.name: one.shape[1:] for one in getattr(model, "inputs", None) or ()},
                most=most,
                caller=caller,
            )
            return check_data_fits(model, data, name=str(self.data), caller=caller)


@dataclass(frozen=True)
class LabelOptions:
    """What the data are compared with."""

    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="NAME",
            help="Array or column of labels in the file; for .npy, a file or folder of them.",
            show_default="y",
        ),
    ] = None
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="NAME",
            help="A loss of Keras's, or path/to/file.py:name.",
            show_default="the model's own",
        ),
    ] = None


def words(options: Any) -> list[str]:
    """Return the words of a command line that give options which are not the default."""
    found: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        name = f"--{field.name.replace('_', '-')}"
        if value is True:
            found.append(name)
        else:
            values = value if isinstance(value, list) else [value]
            found += [word for one in values for word in (name, str(one))]
    return found


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that its arguments of these classes have as fields."""
    given = inspect.signature(command)
    groups = {
        name: one.annotation
        for name, one in given.parameters.items()
        if one.annotation in {ModelOptions, DataOptions, LabelOptions}
    }
    parameters: list[inspect.Parameter] = []
    for name, one in given.parameters.items():
        if name not in groups:
            parameters.append(one)
            continue
        parameters += [
            inspect.Parameter(
                field.name, one.KEYWORD_ONLY, default=field.default, annotation=field.type
            )
            for field in fields(groups[name])
        ]

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        made = {
            name: group(**{field.name: options.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(*arguments, **made, **options)

    run.__signature__ = given.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def codes(given: list[str] | None) -> tuple[str, ...]:
    """Return rule codes given with commas, with several options, or both."""
    found = tuple(code.strip() for some in given or () for code in some.split(",") if code.strip())
    # An option without any is refused further on, like a code that no rule has: here none means
    # all, which is not what an empty variable of a script was to say.
    return found or ("",) if given else ()


def check_page(page: Path, *inputs: str | Path | None, caller: str, argument: str = "html") -> None:
    """Refuse a place for a page before any work is done for it.

    Args:
        page: where it is to be written.
        *inputs: files that are read.
        caller: the command to name in an error.
        argument: its option to name.

    Raises:
        InputError: it is a folder or one of the inputs, or lies in a folder that is not there or
            cannot be written.
    """

    def refuse(expectation: str, what: str) -> InputError:
        return InputError(
            f"{caller}: `{argument}` must {expectation}. Received: {argument}={str(page)!r}. {what}"
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

    from batchnorm_mechanics._exceptions import first_line
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics._tensorflow import missing_kernel

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
        if (missing := missing_kernel(error, caller)) is not None:
            raise missing from error
        raise InputError(
            f"{caller}: `data` must be what the model can run on. Received: data={str(data)!r}, "
            f"on which it failed ({first_line(error)}). Prepare them as in training."
        ) from error


def print_read(data: "Checked | None") -> None:
    """Print in one line what was read: half of all trouble is there."""
    if data is not None and data.seen.rows:
        from batchnorm_mechanics._io.terminal import harmless

        print(harmless(data.line))


def read_as_json(data: "Checked | None") -> dict[str, Any]:
    """Return the same line for a JSON object."""
    return {"data": data.line} if data is not None and data.seen.rows else {}


def print_json(document: dict[str, Any], *, version: int = _FORMAT) -> None:
    """Print one JSON object, with the version of its form."""
    from batchnorm_mechanics._io import json

    print(json.text({"format": version, **document}))
