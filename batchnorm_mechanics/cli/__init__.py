"""The command `bnm`: parse, call, print, exit code. TensorFlow waits until it is needed."""

import functools
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics._version import __version__
from batchnorm_mechanics.cli.compare import compare
from batchnorm_mechanics.cli.conform import conform
from batchnorm_mechanics.cli.doctor import doctor
from batchnorm_mechanics.cli.ending import (
    BAD_INPUT,
    FAILED,
    FAULT,
    INTERRUPTED,
    exit_code,
    stopping_in_order,
    told,
)
from batchnorm_mechanics.cli.explore import explore
from batchnorm_mechanics.cli.fold import fold
from batchnorm_mechanics.cli.repair import repair
from batchnorm_mechanics.cli.reproduce import reproduce
from batchnorm_mechanics.cli.trace import trace

app = typer.Typer(
    name="bnm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# What is shown beside the results.
_shown: set[str] = set()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bnm {__version__}")
        raise typer.Exit


@app.callback()
def bnm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a fault of ours.")
    ] = False,
) -> None:
    """Show how batch normalization works, prove whether it is right, and repair it.

    Exit code: 0 if all is well, 1 if not, 2 on bad usage or input, 70 if the fault is ours.
    Interrupted, doctor, repair, fold and compare end with 2; the others with 130 after Ctrl-C and
    143 after SIGTERM. No file is left half-written.
    """
    _shown.clear()
    _shown.update({"traceback"} if debug else ())


def _stoppable(command: Callable[..., None], code: int) -> Callable[..., None]:
    """Say in one line that a command was interrupted, where it does not say more itself."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            name = command.__name__
            print(f"bnm {name}: interrupted. No file is left half-written.", file=sys.stderr)
            raise typer.Exit(code) from None

    return run


# One module for each command; a command imports what it needs when it runs.
for command in (reproduce, trace, conform, explore):
    app.command()(_stoppable(command, INTERRUPTED))
# To a script it is all one why there is no verdict and no file: bad input, or an end halfway.
for command in (doctor, repair, fold, compare):
    app.command()(_stoppable(command, BAD_INPUT))


def main() -> None:
    """Run the command line and exit with its code."""
    with stopping_in_order():
        try:
            app()
        except (InputError, FailureError) as error:
            from batchnorm_mechanics._io.terminal import harmless

            print(harmless(f"bnm {error}"), file=sys.stderr)
            sys.exit(BAD_INPUT if isinstance(error, InputError) else FAILED)
        except Exception as error:
            # Of any type: whatever it is, it is not what a user can read.
            if "traceback" in _shown:
                raise
            from batchnorm_mechanics._io.terminal import harmless

            print(harmless(f"bnm: {told(error)}"), file=sys.stderr)
            sys.exit(FAULT)
        except SystemExit as end:
            sys.exit(exit_code() or INTERRUPTED if end.code == INTERRUPTED else end.code)
