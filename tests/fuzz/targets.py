"""What is fuzzed: each target takes any bytes, and holds that they are answered or refused.

A target never fails with another error than those that its readers document, warns of nothing, and
takes no more memory and time than an input of a few kilobytes can be worth.
"""

import contextlib
import functools
import io
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from fuzz import mutations

from batchnorm_mechanics import _user_code
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io import files, model_archives
from batchnorm_mechanics._io.arrays import Piece, piece_of, pieces_in
from batchnorm_mechanics._io.model_config import Refused, check_config
from batchnorm_mechanics.cli import main
from batchnorm_mechanics.conformance import workers
from batchnorm_mechanics.models.files import load_model
from batchnorm_mechanics.studies import reproduce
from batchnorm_mechanics.tracing.command import Options, trace_with

ZIP, HDF5 = b"PK", b"\x89HDF"
# The address space that TensorFlow takes is no measure: what counts is the highest peak.
MOST_KILOBYTES = 600_000
MOST_SECONDS = 10
# A message repeats the words of the command.
MOST_CHARACTERS = 3 * mutations.LONGEST


@dataclass(frozen=True)
class Target:
    """A property of any bytes.

    Attributes:
        one: raises where the property does not hold.
        mutate: takes bytes, a random generator and what changes any bytes, and returns others of
            the same form.
        takes_signals: whether it sets handlers of its own, so that no other may be set.
    """

    one: Callable[[bytes], None]
    mutate: mutations.Mutate = mutations.of_bytes
    takes_signals: bool = False


@functools.cache
def folder():
    """An empty folder for this process; it is gone with it."""
    kept = tempfile.TemporaryDirectory(prefix="bnm-fuzz-")
    return Path(kept.name), kept


def file_of(data, suffix):
    path = folder()[0] / f"x.{suffix}"
    path.write_bytes(data)
    return path


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def answered(call, *refusals, warns=()):
    """See that a call ends well or with one of the refusals, in one line, soon and in little."""
    began, peak, refused = time.process_time(), _peak(), ""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            call()
        except refusals as error:
            refused = str(error) if isinstance(error, InputError) else ""
    assert "\n" not in refused, refused
    assert len(refused) < MOST_CHARACTERS, refused
    strange = [one for one in told if not str(one.message).startswith(tuple(warns))]
    assert not strange, strange[0]
    assert time.process_time() - began < MOST_SECONDS
    assert _peak() - peak < MOST_KILOBYTES


def config(data):
    """The configuration of a model, as text."""
    answered(
        lambda: check_config(model_archives.parsed(data), custom=("Package>Own",)),
        ValueError,
        model_archives.UnsoundError,
        Refused,
    )


def archives(data):
    """A model's file, looked through."""
    read, suffix = (
        (model_archives.read_hdf5, "h5")
        if data.startswith(HDF5)
        else (model_archives.read_keras, "keras")
    )
    path = file_of(data, suffix)
    answered(
        lambda: read(path, model_archives.allowance(path)),
        model_archives.UnsoundError,
        zipfile.BadZipFile,
        ValueError,
        OSError,
    )


def arrays(data):
    """An array, or an archive of arrays, read whole."""
    path = file_of(data, "npz" if data.startswith(ZIP) else "npy")

    def read():
        found = pieces_in(path) if data.startswith(ZIP) else {"x": piece_of(path)}
        for array in found.values():
            np.asarray(array.read() if isinstance(array, Piece) else array)

    answered(read, ValueError, OSError, zipfile.BadZipFile)


def trace_input(data):
    """An input of `bnm trace`: a line of its kind, axes, dtype and gamma, then the file."""
    line, _, content = data.partition(b"\n")
    kind, axes, dtype, gamma = (
        *line.decode("utf-8", "surrogateescape").split(" "),
        *(["csv", "0", "", ""][len(line.split(b" ")) :]),
    )[:4]
    path = file_of(content, kind if kind in {"npy", "npz", "csv"} else "csv")
    options = Options(
        input_file=path,
        axes=axes,
        dtype=dtype if dtype in {"float64", "float32", "bfloat16", "float16"} else None,
        parameters={"gamma": gamma or None},
    )
    answered(lambda: trace_with(options).to_json(), InputError)


class _Begun(Exception):  # noqa: N818 - no error
    """The command would work now."""


def _begin(*_, **__):
    raise _Begun


def command(data):
    """The words after `bnm`, one in each line, up to where the command would begin to work."""
    # No system hands over a word with a zero in it.
    words = data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    # Strict, as where a user's language is UTF-8.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    code = 0

    def run():
        nonlocal code
        try:
            main()
        except SystemExit as end:
            code = end.code or 0

    with contextlib.ExitStack() as stack:
        for change in (
            contextlib.chdir(folder()[0]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", ["bnm", "--debug", *words]),
            mock.patch.object(keras.saving, "load_model", _begin),
            # Of the user: it would run.
            mock.patch.object(_user_code, "_from_file", _begin),
            mock.patch.object(_user_code, "_from_module", _begin),
            mock.patch.object(files, "write_atomically"),
            mock.patch.object(workers, "conform_all", _begin),
            mock.patch.object(reproduce, "load", _begin),
            mock.patch.object(sys.modules["batchnorm_mechanics.cli.doctor"], "_demo", _begin),
        ):
            stack.enter_context(change)
        answered(run, _Begun)
        out.flush()
        err.flush()
    said = err.buffer.getvalue().decode()
    assert code in {0, 1, 2}, (code, said)
    assert "Traceback" not in said, said
    assert not mutations.CONTROLS.search(said + out.buffer.getvalue().decode()), said


@functools.cache
def _small_model():
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])


def model(data):
    """A model's file, up to where Keras would get it."""
    path = file_of(data, "h5" if data.startswith(HDF5) else "keras")
    with mock.patch.object(keras.saving, "load_model", return_value=_small_model()):
        answered(lambda: load_model(path), InputError, warns=["The model is not compiled as it"])


TARGETS = {
    "config": Target(config, mutations.of_json),
    "archives": Target(archives, mutations.of_model),
    "arrays": Target(arrays, mutations.of_array),
    "commands": Target(command, mutations.of_lines, takes_signals=True),
    "trace": Target(trace_input, mutations.of_trace),
    "models": Target(model, mutations.of_model),
}
CORPUS = Path(__file__).with_name("corpus")


def corpus(name):
    """Yield what a target is tried with first: text as it stands, all else in hexadecimal."""
    for path in sorted((CORPUS / name).iterdir()):
        content = path.read_bytes()
        yield path.name, bytes.fromhex(content.decode()) if path.suffix == ".hex" else content
