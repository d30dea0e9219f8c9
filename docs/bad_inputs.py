"""Write docs/bad_inputs.md from what bnm says: python docs/bad_inputs.py.

It needs onnx, onnxruntime, ai-edge-litert and openvino, which say what is wrong with their files.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.cli import main

PAGE = Path(__file__).with_name("bad_inputs.md")
INTRODUCTION = """# What bnm says of bad input

Each line was tried: `python docs/bad_inputs.py` writes this page, and a test compares it with what
the commands say now. A message names what was expected, what came, and what to do, in one line on
standard error; standard output stays empty, and nothing is written. The reason that another library
gives, in parentheses, is left out here. Exit code 2 means bad usage or input.
"""


@dataclass(frozen=True)
class BadInput:
    """What is wrong, and the command that gets it."""

    what: str
    arguments: str


TRACE = (
    BadInput("a file that is not there", "--input nowhere.npy"),
    BadInput("a file of no known kind", "--input notes.txt"),
    BadInput("text named as an array", "--input text.npy"),
    BadInput("an array that is cut off", "--input cut.npy"),
    BadInput("an array with a negative shape", "--input negative.npy"),
    BadInput("an array that claims 2**80 numbers", "--input vast.npy"),
    BadInput("Python objects", "--input objects.npy"),
    BadInput("text in an array", "--input words.npy"),
    BadInput("complex numbers", "--input complex.npy"),
    BadInput("no samples", "--input empty.npy"),
    BadInput("one axis", "--input flat.npy"),
    BadInput("several arrays and no name", "--input two.npz"),
    BadInput("an array that is not there", "--input two.npz --key c"),
    BadInput("a name beside a single array", "--input x.npy --key a"),
    BadInput("a name without a file", "--key a"),
    BadInput("an archive that is none", "--input text.npz"),
    BadInput("lines of unequal length", "--input gaps.csv"),
    BadInput("words among numbers", "--input words.csv"),
    BadInput("a folder", "--input folder.npy"),
    BadInput("axes that are no integers", "--axes a"),
    BadInput("an axis beyond the input", "--axes 0,5"),
    BadInput("an axis twice", "--axes 0,-2"),
    BadInput("an epsilon of 0", "--epsilon 0"),
    BadInput("a gamma of another length", "--gamma 1,2"),
    BadInput("a beta that is no number", "--beta two"),
    BadInput("a mean in training", "--mean 1"),
    BadInput("gradients in inference", "--inference --backward"),
    BadInput("a momentum above 1", "--momentum 2"),
    BadInput("a gradient without --backward", "--dy x.npy"),
    BadInput("a gradient of another shape", "--backward --dy flat.npy"),
    BadInput("a page in a folder that is not there", "--html nowhere/page.html"),
)
CONFORM = (
    # One that is not known gets the names of those that are, which differ where no peer is there.
    BadInput("a file that is not there", "nowhere.py:Layer"),
    BadInput("a name that is not in the file", "mine.py:Nothing"),
    BadInput("a file that cannot be imported", "broken.py:Layer"),
    BadInput("a module that is not there", "no.such.module:Layer"),
    BadInput("no case of this name", "keras --cases nothing"),
    BadInput("nothing that can be required", "keras --require speed"),
)
REPRODUCE = (
    BadInput("a study that is not known", "keras-961"),
    BadInput("no seeds", "--seeds 0"),
    BadInput("a length below 1", "--paper-steps 0"),
    BadInput("data that are not there", "--data nowhere.npz"),
    BadInput("data that are no archive", "--data text.npz"),
    BadInput("data with other arrays", "--data two.npz"),
    BadInput("a folder that cannot be made", "--out x.npy/out"),
)
MODEL = (
    BadInput("a file that is not there", "nowhere.keras"),
    BadInput("a folder", "folder.keras"),
    BadInput("an empty file", "empty.keras"),
    BadInput("a file of no known kind", "notes.txt"),
    BadInput("text named as a model", "text.keras"),
    BadInput("text named as an HDF5 file", "text.h5"),
    BadInput("an archive without a model", "two.keras"),
    BadInput("an archive that is cut off", "cut.keras"),
    BadInput("a function that it must not name", "names.keras"),
    BadInput("a class that is not at hand", "custom.keras"),
    BadInput("a class that is not in the file named", "custom.keras --custom mine.py:Nothing"),
)
DATA = (
    BadInput("data that are not there", "model.keras --data nowhere.npz"),
    BadInput("data of no known kind", "model.keras --data notes.txt"),
    BadInput("data that are no archive", "model.keras --data text.npz"),
    BadInput("Python objects", "model.keras --data objects.npy"),
    BadInput("a negative shape", "model.keras --data negative.npy"),
    BadInput("no samples", "model.keras --data empty.npy"),
    BadInput("another number of features", "model.keras --data wide.npy"),
    BadInput("NaN among the data", "model.keras --data nan.npy"),
    BadInput("words", "model.keras --data words.npy"),
    BadInput("labels that are not there", "model.keras --data x.npz --labels z"),
    BadInput("labels without data", "model.keras --labels y"),
    BadInput("a batch of none", "model.keras --data x.npz --batch-size 0"),
)
DOCTOR = (
    BadInput("no model", ""),
    BadInput("a rule that is not there", "model.keras --select BN999"),
    BadInput("a rule to tell of that is not there", "--explain BN999"),
    BadInput("a page in a folder that is not there", "model.keras --html nowhere/page.html"),
    BadInput("a page in the model's place", "model.keras --html model.keras"),
    *MODEL,
    *DATA,
)
REPAIR = (
    BadInput("no place for the new model", "model.keras"),
    BadInput("a new model in the old one's place", "model.keras --out model.keras"),
    BadInput("a new model that is no .keras file", "model.keras --out new.h5"),
    BadInput("a finding that is not there", "model.keras --only BN999 --dry-run"),
    BadInput("a method that is not known", "model.keras --method mean --dry-run"),
)
FOLD = (
    BadInput("a new model in a folder that is not there", "model.keras --out nowhere/new.keras"),
    BadInput("a new model in the old one's place", "model.keras --out model.keras"),
    BadInput("data of another shape", "model.keras --out new.keras --data wide.npy"),
)
COMPARE = (
    BadInput("no data", "model.keras model.keras"),
    BadInput("a file that is not there", "model.keras nowhere.onnx --data x.npy"),
    BadInput("a model of Keras that is not there", "nowhere.keras model.keras --data x.npy"),
    BadInput("text named as a model", "text.keras model.keras --data x.npy"),
    BadInput("a model that was never called", "model.keras new.keras --data x.npy"),
    BadInput("text named as an ONNX file", "model.keras text.onnx --data x.npy"),
    BadInput("an ONNX file that is cut off", "model.keras cut.onnx --data x.npy"),
    BadInput("an ONNX file without operations", "model.keras empty.onnx --data x.npy"),
    BadInput("ONNX weights outside its folder", "model.keras outside.onnx --data x.npy"),
    BadInput("ONNX weights that are not there", "model.keras gone.onnx --data x.npy"),
    BadInput("text named as a LiteRT file", "model.keras text.tflite --data x.npy"),
    BadInput("OpenVINO without its weights", "model.keras text.xml --data x.npy"),
    BadInput("data that are not there", "model.keras model.keras --data nowhere.npz"),
    BadInput("another number of features", "model.keras sound.onnx --data wide.npy"),
    BadInput("no samples", "model.keras model.keras --data empty.npy"),
    BadInput("data that fit neither ONNX file", "sound.onnx sound.onnx --data wide.npy"),
    BadInput("a page in a model's place", "model.keras sound.onnx --data x.npy --html sound.onnx"),
)
COMMANDS = {
    "trace": TRACE,
    "conform": CONFORM,
    "reproduce": REPRODUCE,
    "doctor": DOCTOR,
    "repair": REPAIR,
    "fold": FOLD,
    "compare": COMPARE,
}


def write_files(folder: Path) -> None:
    """Write what the commands are given."""
    import keras

    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(folder / "x.npy", numbers)
    np.savez(folder / "x.npz", x=np.zeros((64, 3), np.float32), y=np.zeros(64, np.int32))
    np.savez(folder / "two.npz", a=numbers, b=numbers)
    arrays = {
        "objects": np.array([[{}]], object),
        "words": np.array([["a", "b"]]),
        "complex": numbers * 1j,
        "empty": np.zeros((0, 3), np.float32),
        "flat": np.arange(6.0),
        "wide": np.zeros((64, 5), np.float32),
        "nan": np.full((64, 3), np.nan, np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for name, shape in {"negative": (-5, 3), "vast": (2**40, 2**40)}.items():
        with (folder / f"{name}.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(64))
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:-4])
    for name in ("notes.txt", "text.npy", "text.npz", "text.keras", "text.h5"):
        (folder / name).write_text("Not what its name says.\n")
    (folder / "gaps.csv").write_text("1,2\n3\n")
    (folder / "words.csv").write_text("1,2\n3,four\n")
    (folder / "mine.py").write_text("class Mine:\n    pass\n")
    (folder / "broken.py").write_text("raise ValueError('not today')\n")
    (folder / "empty.keras").touch()
    for name in ("folder.npy", "folder.keras"):
        (folder / name).mkdir()
    inputs = keras.Input((3,), name="inputs")
    outputs = keras.layers.BatchNormalization(name="bn")(inputs)
    keras.Model(inputs, outputs, name="model").save(folder / "model.keras")
    new = keras.Sequential([keras.layers.BatchNormalization(name="bn")], name="new")
    with warnings.catch_warnings():
        # That it has no weights yet is the matter.
        warnings.simplefilter("ignore", UserWarning)
        new.save(folder / "new.keras")
    whole = (folder / "model.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "two.keras", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    bad = {
        "names": (
            b'"keras.layers", "class_name": "BatchNormalization"',
            b'"keras.saving", "class_name": "KerasFileEditor"',
        ),
        "custom": (
            b'"keras.layers", "class_name": "BatchNormalization"',
            b'"mine", "class_name": "Mine"',
        ),
    }
    with zipfile.ZipFile(folder / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, (old, new) in bad.items():
        with zipfile.ZipFile(folder / f"{name}.keras", "w") as archive:
            for part, content in parts.items():
                archive.writestr(part, content.replace(old, new))


def write_onnx(folder: Path) -> None:
    """Write what `bnm compare` is given: an ONNX file, and some that are none, or not whole."""
    from onnx import TensorProto, helper

    for name in ("text.onnx", "text.tflite", "text.xml"):
        (folder / name).write_text("Not what its name says.\n")
    (folder / "empty.onnx").touch()
    for name, location in {"sound": None, "outside": "../x.bin", "gone": "gone.bin"}.items():
        factors = helper.make_tensor("factors", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
        if location is not None:
            factors.ClearField("float_data")
            factors.data_location = TensorProto.EXTERNAL
            entry = factors.external_data.add()
            entry.key, entry.value = "location", location
        ends = [
            helper.make_tensor_value_info(end, TensorProto.FLOAT, [None, 3]) for end in ("x", "y")
        ]
        node = helper.make_node("Mul", ["x", "factors"], ["y"])
        graph = helper.make_graph([node], "scales", ends[:1], ends[1:], [factors])
        sets = [helper.make_opsetid("", 13)]
        document = helper.make_model(graph, ir_version=8, opset_imports=sets)
        (folder / f"{name}.onnx").write_bytes(document.SerializeToString())
    whole = (folder / "sound.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])


def said(command: str, bad: BadInput) -> tuple[int, str, str]:
    """Return the exit code of a command and what it printed, in the current folder."""
    arguments, out, err = sys.argv, io.StringIO(), io.StringIO()
    path, code = sys.path.copy(), 0
    sys.argv = ["bnm", command, *shlex.split(bad.arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        sys.argv, sys.path[:] = arguments, path
    return code, out.getvalue(), err.getvalue()


def without_reasons(message: str) -> str:
    """Leave out what another library says, in parentheses, which changes with its version."""
    message = " ".join(message.replace(str(Path.cwd()), ".").split())
    # What the parser refuses comes with the usage.
    if message.startswith("Usage: "):
        message = message.partition("Error: ")[2]
    # Those without a letter are shapes and axes.
    return re.sub(r" \((?=[^()]*[A-Za-z])[^()]*(\([^()]*\)[^()]*)*\)", "", message)


def lines() -> Iterator[str]:
    """Yield the page, line by line, from what the commands say."""
    yield from INTRODUCTION.splitlines()
    for command, inputs in COMMANDS.items():
        yield f"\n## bnm {command}\n"
        yield "| what is wrong | command | code | message |"
        yield "| --- | --- | --- | --- |"
        for bad in inputs:
            code, _, message = said(command, bad)
            yield row(command, bad, code, message)


def row(command: str, bad: BadInput, code: int, message: str) -> str:
    """Return the line of the page for one input."""
    call = f"bnm {command} {bad.arguments}".strip()
    shown = without_reasons(message).replace("|", "\\|")
    return f"| {bad.what} | `{call}` | {code} | {shown} |"


def page() -> str:
    """Return the page, made in a folder of its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name))
        write_onnx(Path(name))
        os.chdir(name)
        try:
            return "\n".join(lines()) + "\n"
        finally:
            os.chdir(before)


if __name__ == "__main__":
    write_atomically(PAGE, page())
