"""The command `bnm`: parse, call, print, exit code. TensorFlow waits until it is needed."""

import sys
from typing import Annotated

import typer

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics._version import __version__
from batchnorm_mechanics.cli.bench import bench
from batchnorm_mechanics.cli.conform import conform
from batchnorm_mechanics.cli.doctor import doctor
from batchnorm_mechanics.cli.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
from batchnorm_mechanics.cli.fold import fold
from batchnorm_mechanics.cli.repair import repair
from batchnorm_mechanics.cli.reproduce import reproduce
from batchnorm_mechanics.cli.trace import trace

app = typer.Typer(
    name="bnm",
    help="Show how batch normalization works, prove whether it is right, and repair it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
) -> None:
    """Show how batch normalization works, prove whether it is right, and repair it."""


# One module for each command; a command imports what it needs when it runs.
for command in (reproduce, trace, conform, bench, doctor, repair, fold):
    app.command()(command)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app()
    except (InputError, FailureError) as error:
        print(f"bnm {error}", file=sys.stderr)
        sys.exit(BAD_INPUT if isinstance(error, InputError) else FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
