"""Models into files, whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.files import is_out_of_space, written_whole


def check_out(out: Path, model: Path, *, caller: str) -> None:
    """Refuse a place for a new model before any work is done for it.

    Args:
        out: where the new model shall go.
        model: the file that it is made from, which is never written to.
        caller: the function to name in an error.

    Raises:
        InputError: `out` does not end in `.keras`, is the model itself or a folder, or lies in a
            folder that is not there or not writable.
    """

    def refuse(expectation: str, what: str) -> InputError:
        return InputError(f"{caller}: `out` must {expectation}. Received: out={str(out)!r}. {what}")

    if out.suffix != ".keras":
        raise refuse("end in .keras", "Keras knows the format by that.")
    try:
        if out.is_dir():
            raise refuse("be a file", "It is a folder; add a name.")
        if not out.absolute().parent.is_dir():
            raise refuse("lie in a folder that exists", "Make the folder first.")
        if not os.access(out.absolute().parent, os.W_OK):
            raise refuse("lie in a folder that can be written", "Choose another.")
        if out.exists() and model.exists() and out.samefile(model):
            raise refuse("be another file than the model", "The input is never written to.")
    except OSError as error:
        raise refuse("be a file that there can be", f"{error.strerror}.") from error


def save_model(
    model: Any,
    path: Path,
    *,
    caller: str = "repair",
    beside: Callable[[Any, Path], None] | None = None,
) -> None:
    """Save a model so that, whatever happens, there is a whole file or none.

    Args:
        model: any Keras model that can be saved.
        path: of a `.keras` file; one that is there is replaced in one step.
        caller: the function to name in an error.
        beside: adds more to the file before it is put in its place.

    Raises:
        InputError: the disk is full, or the file cannot be written.
    """
    try:
        with written_whole(path) as part:
            model.save(part)
            if beside is not None:
                beside(model, part)
    except Exception as error:
        if is_out_of_space(error):
            raise InputError(
                f"{caller}: `out` must be on a disk with room. Received: out={str(path)!r}, whose "
                "disk is full. Nothing was written; make room or choose another."
            ) from error
        if isinstance(error, OSError):
            raise InputError(
                f"{caller}: `out` must be a file that can be written. Received: "
                f"out={str(path)!r} ({error.strerror or error}). Name one in a folder of yours."
            ) from error
        raise
