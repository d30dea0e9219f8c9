"""`bnm trace` from what was written on the command line: read it, check it, and trace."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import Packed, Piece, piece_of, pieces_in
from batchnorm_mechanics.statistics import ExponentialMovingAverage
from batchnorm_mechanics.tracing.record import Trace
from batchnorm_mechanics.tracing.tracer import trace

_EXAMPLE = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
# A trace holds about a dozen copies of its input.
MOST_NUMBERS = 20_000_000


@dataclass(frozen=True)
class Options:
    """What the command line gives, as it was written.

    Attributes:
        input_file: a file of numbers, or None for the source's example.
        key: name of an array in an .npz file, or None.
        axes: integers with commas between.
        parameters: gamma, beta, mean and variance, each as text or None.
        epsilon: added to the variance.
        dtype: to convert the input to, or None.
        inference: whether to use given statistics.
        momentum: of a moving average to show, or None.
        backward: whether to show the gradients.
        dy: a file with the gradient with respect to y, or None.
        compare: whether to show other implementations.
        model: to trace a layer of, or None.
        x: what the model is called on, arrays of one batch.
        layer: the name or path of the layer, or None where the model has one only.
        training: with a model, the argument that it is called with; None leaves it out.
        mask: a file that says which samples count, or None.
    """

    input_file: Path | None = None
    key: str | None = None
    axes: str | None = None
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    epsilon: float | None = None
    dtype: str | None = None
    inference: bool = False
    momentum: float | None = None
    backward: bool = False
    dy: Path | None = None
    compare: bool = False
    model: Any = None
    x: Any = None
    layer: str | None = None
    training: bool | None = None
    mask: Path | None = None


def trace_with(options: Options) -> Trace:
    """Return the trace that a command line asks for.

    Args:
        options: of the command line.

    Returns:
        A `Trace`.

    Raises:
        InputError: something given cannot be used; the message names the option.
    """
    if options.model is not None:
        return _of_model(options)
    _check_options(options)
    x, x_note = _input(options)
    axes = _read_axes(options.axes or "0")
    written = {name: text for name, text in options.parameters.items() if text is not None}
    given = {name: _read_parameter(text, option=name) for name, text in written.items()}
    if options.input_file is None:
        # The source's own example; its numbers are in the documentation.
        given = {"gamma": 2.0, "beta": 1.0, **given}
    dy, dy_note = _dy(options, x)
    statistics: Any = None
    if options.inference and given.keys() & {"mean", "variance"}:
        statistics = (given.get("mean", 0.0), given.get("variance", 1.0))
    elif options.momentum is not None:
        statistics = ExponentialMovingAverage(decay=options.momentum)
    try:
        found = _trace(
            x,
            training=not options.inference,
            mask=_mask(options),
            dy=dy,
            compare=options.compare,
            axes=axes,
            gamma=given.get("gamma"),
            beta=given.get("beta"),
            epsilon=1e-3 if options.epsilon is None else options.epsilon,
            statistics=statistics,
        )
    except tf.errors.UnimplementedError as error:
        raise InputError(
            "trace: `input` must have no more axes than TensorFlow computes with. Received: "
            f"input={str(options.input_file)!r} of shape {x.shape}. Reshape it: the axes that are "
            "reduced over can be one."
        ) from error
    return found.with_notes(*filter(None, (x_note, dy_note)))


def _trace(*given: Any, **options: Any) -> Trace:
    try:
        return trace(*given, **options)
    except ValueError as error:
        # What `trace` says against a value is meant for whoever gave it; all else is a fault.
        if not str(error).startswith("trace: "):
            raise
        raise InputError(str(error)) from error


def _of_model(options: Options) -> Trace:
    """Trace a layer of a model, which has its own parameters."""
    own = {
        "input": options.input_file,
        "axes": options.axes,
        **options.parameters,
        "epsilon": options.epsilon,
        "dtype": options.dtype,
        "momentum": options.momentum,
    }
    for name, value in own.items():
        if value is not None:
            raise InputError(
                f"trace: `{name}` must be left out with a model. Received: "
                f"{name}={str(value) if isinstance(value, Path) else value!r}. Its layer has its "
                "own; what the model is called on is --data."
            )
    asked = {
        "training": options.training,
        "mask": _mask(options),
        "compare": options.compare,
        "layer": options.layer,
    }
    if not options.backward:
        _check_options(options)
        return _trace(options.model, options.x, **asked)
    if options.dy is None:
        # The shape of y is known when the layer has run.
        y = _trace(options.model, options.x, **asked)["layer_output"].value
        dy, note = _ramp(y)
    else:
        dy, note = _read_array(options.dy, option="dy"), ""
    return _trace(options.model, options.x, dy=dy, **asked).with_notes(*filter(None, (note,)))


def _mask(options: Options) -> np.ndarray | None:
    return None if options.mask is None else _read_array(options.mask, option="mask") != 0


def _check_options(options: Options) -> None:
    for name in ("mean", "variance"):
        value = options.parameters.get(name)
        if value is not None and not options.inference:
            raise InputError(
                f"trace: `{name}` must go with --inference. Received: "
                f"{name}={value!r} in training mode, which takes the batch's own. "
                "Add --inference, or leave it out."
            )
    moves = {"backward": options.backward or None, "momentum": options.momentum}
    for name, value in moves.items():
        if options.inference and value is not None:
            raise InputError(
                f"trace: `{name}` must be left out with --inference. Received: {name}={value!r}. "
                "In inference the statistics are constants: there are no gradients through them, "
                "and nothing moves."
            )
    if options.dy is not None and not options.backward:
        raise InputError(
            f"trace: `dy` must go with --backward. Received: dy={str(options.dy)!r}. "
            "Add --backward."
        )
    if options.momentum is not None and not 0 <= options.momentum <= 1:
        raise InputError(
            f"trace: `momentum` must lie in [0, 1]. Received: momentum={options.momentum!r}. It is "
            "the weight of the old value: Keras's momentum, and 1 minus PyTorch's."
        )
    if options.key is not None and options.input_file is None:
        raise InputError(
            f"trace: `key` must go with --input. Received: key={options.key!r}. Name the .npz file."
        )


def _input(options: Options) -> tuple[np.ndarray, str]:
    """Return the input in the type it is computed in, and what was done to it."""
    if options.input_file is None:
        x, note = _EXAMPLE, ""
    else:
        x = _read_array(options.input_file, option="input", key=options.key)
        note = ""
        if options.input_file.suffix.lower() == ".csv" and options.dtype is None:
            note = "The text of a CSV file has no type: it was read as float32."
    if x.ndim < 2:
        raise InputError(
            "trace: `input` must have two axes or more, samples and channels. Received: "
            f"input={str(options.input_file)!r} of shape {x.shape}. Reshape it, for instance to "
            f"{(x.size, 1)}."
        )
    # What the type cannot hold is infinite or NaN, which the trace shows.
    with np.errstate(over="ignore", invalid="ignore"):
        if options.dtype is not None:
            name = options.dtype
            if x.dtype.name != name and options.input_file is not None:
                came = f"The input came as {x.dtype.name} and was converted to {name}"
                note = f"{came}, as --dtype asks."
            x = x.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        elif x.dtype.kind != "f" or x.dtype.itemsize > 8:
            note = f"The input came as {x.dtype.name} and was converted to float32."
            x = x.astype(np.float32)
    return x, note


def _dy(options: Options, x: np.ndarray) -> tuple[np.ndarray | None, str]:
    if not options.backward:
        return None, ""
    if options.dy is None:
        return _ramp(x)
    dy = _read_array(options.dy, option="dy")
    if dy.shape != x.shape:
        raise InputError(
            f"trace: `dy` must have the shape of the input, {x.shape}. Received: "
            f"dy={str(options.dy)!r} of shape {dy.shape}. Pass the gradient of the loss by y."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return dy.astype(x.dtype), ""


def _ramp(like: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a gradient by y, and what to say of it."""
    # Equal numbers would do nothing: their gradient goes through the mean and comes to 0.
    ramp = np.linspace(-1, 1, like.size).reshape(like.shape)
    return ramp.astype(like.dtype), (
        "No dy was given: a ramp from -1 to 1 over the elements was used. Equal numbers would "
        "give d_x = 0, since y's sum does not depend on x."
    )


def _read_array(path: Path, *, option: str, key: str | None = None) -> np.ndarray:
    """Read numbers from a .npy, .npz or .csv file.

    Args:
        path: of the file.
        option: that named it, for the message of an error.
        key: name of the array in an .npz file that holds several.

    Returns:
        The array; float32 from a CSV file, whose text has no type.

    Raises:
        InputError: there is no such file, it holds no array of real numbers, or too many.
    """
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise InputError(
            f"trace: `{option}` must name a .npy, .npz or .csv file. Received: "
            f"{option}={str(path)!r}. Save the array with numpy.save."
        )
    if key is not None and path.suffix.lower() != ".npz":
        raise InputError(
            f"trace: `key` must go with an .npz file. Received: key={key!r} with "
            f"{option}={str(path)!r}. Leave it out."
        )
    try:
        found = readers[path.suffix.lower()](path, option, key)
        # How large it is is known before memory is asked for.
        _check(found, path, option)
        return found if isinstance(found, np.ndarray) else found.read()
    except InputError:
        raise
    except Exception as error:
        # Not a list of types: one wrong bit makes zipfile and NumPy raise any of theirs.
        what, remedy = str(error), "Save the array anew with numpy.save; objects are not read."
        if isinstance(error, OSError) and error.strerror:
            what, remedy = error.strerror, "Name a file that is there and that you may read."
        raise InputError(
            f"trace: `{option}` must name a file with an array of numbers. Received: "
            f"{option}={str(path)!r} ({' '.join(what.split())}). {remedy}"
        ) from error


def _check(array: Piece | Packed | np.ndarray, path: Path, option: str) -> None:
    received = f"Received: {option}={str(path)!r}"
    if array.dtype.kind not in ("fiub" if option == "mask" else "fiu"):
        raise InputError(
            f"trace: `{option}` must hold real numbers. {received} with dtype {array.dtype}. "
            "Save it as float32, float64 or integers."
        )
    if not array.size:
        raise InputError(
            f"trace: `{option}` must hold at least one number. {received} of shape "
            f"{array.shape}. An empty batch has no mean."
        )
    if array.size > MOST_NUMBERS:
        raise InputError(
            f"trace: `{option}` must hold at most {MOST_NUMBERS:,} numbers. {received} with "
            f"{array.size:,}. Trace a few batches of it."
        )


def _npy(path: Path, option: str, key: str | None) -> Piece:
    del option, key
    return piece_of(path)


def _npz(path: Path, option: str, key: str | None) -> Piece | Packed:
    found = pieces_in(path)
    if key is None and len(found) == 1:
        return next(iter(found.values()))
    if key is None or key not in found:
        raise InputError(
            f"trace: `key` must name one of the arrays in {option}={str(path)!r}. Received: "
            f"key={key!r}. It holds {', '.join(found) or 'none'}."
        )
    return found[key]


def _csv(path: Path, option: str, key: str | None) -> np.ndarray:
    del key
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    # A header is a first line without any number; a line with some is data, or a mistake.
    if lines and not any(_is_number(cell) for cell in lines[0]):
        lines = lines[1:]
    for number, line in enumerate(lines, start=1):
        if len(line) != len(lines[0]):
            raise InputError(
                f"trace: `{option}` must have as many cells in each line. Received: "
                f"{option}={str(path)!r}, whose row {number} has {len(line)} and the first "
                f"{len(lines[0])}. Fill the gaps or cut the row."
            )
        wrong = [cell for cell in line if not _is_number(cell)]
        if wrong:
            raise InputError(
                f"trace: `{option}` must hold numbers alone. Received: {option}={str(path)!r}, "
                f"whose row {number} has {wrong[0]!r}. Only the first line may be words."
            )
    # What float32 cannot hold is infinite, which the trace shows.
    with np.errstate(over="ignore"):
        return np.array([[float(cell) for cell in line] for line in lines], np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_parameter(text: str, *, option: str) -> Any:
    """Return gamma, beta, a mean or a variance as it was written: a number, numbers, or a file.

    Args:
        text: such as "2", "1,2,3" or "gamma.npy".
        option: that held it, for the message of an error.

    Returns:
        A float, a list of floats or an array.

    Raises:
        InputError: it is none of these.

    Example:
        >>> _read_parameter("2", option="gamma"), _read_parameter("1, 2.5", option="gamma")
        (2.0, [1.0, 2.5])
    """
    if Path(text).suffix.lower() in {".npy", ".npz"}:
        return _read_array(Path(text), option=option)
    cells = text.split(",")
    if not all(_is_number(cell) for cell in cells):
        raise InputError(
            f"trace: `{option}` must be a number, numbers with commas between, or a .npy file. "
            f"Received: {option}={text!r}. For instance --{option} 1,2,3."
        )
    numbers = [float(cell) for cell in cells]
    return numbers[0] if len(numbers) == 1 else numbers


def _read_axes(text: str) -> tuple[int, ...]:
    """Return the axes written with commas between.

    Args:
        text: such as "0,2".

    Raises:
        InputError: it holds something else than integers.

    Example:
        >>> _read_axes("0,-1")
        (0, -1)
    """
    try:
        return tuple(int(cell) for cell in text.split(","))
    except ValueError as error:
        raise InputError(
            f"trace: `axes` must be integers with commas between. Received: axes={text!r}. "
            "For instance --axes 0,1,2."
        ) from error
