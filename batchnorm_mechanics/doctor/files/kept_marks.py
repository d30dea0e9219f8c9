"""The mark of a repaired model, in its file: Keras leaves alone what it does not know there."""

import json
import zipfile
from pathlib import Path
from typing import Any

from batchnorm_mechanics.doctor.structure.marks import Mark, mark_of, put_mark

_MEMBER = "batchnorm_mechanics.json"


def write_mark(model: Any, path: Path) -> None:
    """Add to a `.keras` file which statistics were estimated anew, if any were.

    Args:
        model: the one that the file holds.
        path: of the file.
    """
    mark = mark_of(model)
    if mark is not None:
        known = {"estimated": sorted(mark.layers), "weights": mark.weights}
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(known))


def read_mark(model: Any, path: Path) -> None:
    """Give a model that was loaded from a file the mark in it, if there is one.

    It holds as long as the weights are those that it was made for.

    Raises:
        ValueError: what stands there is no mark.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            return
        known = json.loads(archive.read(_MEMBER))
    if not (isinstance(known, dict) and {"estimated", "weights"} <= known.keys()):
        raise ValueError(f"{_MEMBER} in it is damaged")
    put_mark(model, Mark(frozenset(known["estimated"]), known["weights"]))
