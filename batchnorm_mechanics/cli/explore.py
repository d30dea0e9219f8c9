"""`bnm explore`: the page where batch norm can be played with."""

from pathlib import Path
from typing import Annotated

import typer

from batchnorm_mechanics._exceptions import InputError


def explore(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the page.")] = Path(
        "explorer.html"
    ),
    *,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Write the page, and open no browser.")
    ] = False,
) -> None:
    """Play with batch norm: a page that computes every step as you change its numbers.

    It is one file that needs nothing but a browser, and asks for no other.

    \b
    bnm explore                              write explorer.html and open it
    bnm explore --out page.html --no-open    only write it, to send or to keep
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics.explorer.page import write_page

    try:
        write_page(out)
    except OSError as error:
        raise InputError(
            f"explore: `out` must be a file that can be written. Received: out={str(out)!r} "
            f"({error.strerror}). Name one in a folder that exists and is yours."
        ) from error
    # A path is for copying: it is not cut into lines.
    Terminal().print(f"Page: {out}", soft_wrap=True, markup=False, highlight=False)
    if not no_open:
        typer.launch(out.resolve().as_uri())
