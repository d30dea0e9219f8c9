"""`bnm trace` from what was written on the command line: read it, check it, and trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.statistics import ExponentialMovingAverage
from batchnorm_mechanics.tracing.numbers import read_array, read_parameter
from batchnorm_mechanics.tracing.record import Trace
from batchnorm_mechanics.tracing.tracer import trace

_EXAMPLE = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


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
    axes = _read_axes("0" if options.axes is None else options.axes)
    written = {name: text for name, text in options.parameters.items() if text is not None}
    given = {name: read_parameter(text, option=name) for name, text in written.items()}
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
        dy, note = read_array(options.dy, option="dy"), ""
    return _trace(options.model, options.x, dy=dy, **asked).with_notes(*filter(None, (note,)))


def _mask(options: Options) -> np.ndarray | None:
    return None if options.mask is None else read_array(options.mask, option="mask") != 0


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
        x = read_array(options.input_file, option="input", key=options.key)
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
    dy = read_array(options.dy, option="dy")
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
