"""A trace ordered on the command line: read and check what was given, then trace it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.core.axes import as_parameter, normalize_axes
from batchnorm_mechanics.core.moments import statistics_dtype
from batchnorm_mechanics.core.transform import check_epsilon
from batchnorm_mechanics.statistics import ExponentialMovingAverage
from batchnorm_mechanics.tracing.files import read_array, read_axes, read_parameter
from batchnorm_mechanics.tracing.record import Trace
from batchnorm_mechanics.tracing.tracer import trace

_EXAMPLE = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@dataclass(frozen=True)
class Order:
    """What a command line asked for, as it was written.

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
    """

    input_file: Path | None = None
    key: str | None = None
    axes: str = "0"
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    epsilon: float = 1e-3
    dtype: str | None = None
    inference: bool = False
    momentum: float | None = None
    backward: bool = False
    dy: Path | None = None
    compare: bool = False


def carry_out(order: Order) -> Trace:
    """Return the trace that was ordered.

    Args:
        order: what the command line asked for.

    Returns:
        A `Trace`.

    Raises:
        InputError: something given cannot be used; the message names the option.
    """
    _check_options(order)
    x, x_note = _input(order)
    axes = _axes(order, x)
    names = ("gamma", "beta", "mean", "variance")
    given = {name: read_parameter(order.parameters.get(name), option=name) for name in names}
    if order.input_file is None:
        # The source's own example; its numbers are in the documentation.
        given["gamma"] = 2.0 if given["gamma"] is None else given["gamma"]
        given["beta"] = 1.0 if given["beta"] is None else given["beta"]
    _check_values(order, x, axes, given)
    dy, dy_note = _dy(order, x)
    statistics: Any = None
    if order.inference and (given["mean"] is not None or given["variance"] is not None):
        statistics = (
            0.0 if given["mean"] is None else given["mean"],
            1.0 if given["variance"] is None else given["variance"],
        )
    elif order.momentum is not None:
        statistics = ExponentialMovingAverage(decay=order.momentum)
    found = trace(
        x,
        training=not order.inference,
        dy=dy,
        compare=order.compare,
        axes=axes,
        gamma=given["gamma"],
        beta=given["beta"],
        epsilon=order.epsilon,
        statistics=statistics,
    )
    return found.with_notes(*filter(None, (x_note, dy_note)))


def _check_options(order: Order) -> None:
    for name in ("mean", "variance"):
        value = order.parameters.get(name)
        if value is not None and not order.inference:
            raise InputError(
                f"trace: `{name}` must go with --inference. Received: "
                f"{name}={value!r} in training mode, which takes the batch's own. "
                "Add --inference, or leave it out."
            )
    moves = {"backward": order.backward or None, "momentum": order.momentum}
    for name, value in moves.items():
        if order.inference and value is not None:
            raise InputError(
                f"trace: `{name}` must be left out with --inference. Received: {name}={value!r}. "
                "In inference the statistics are constants: there are no gradients through them, "
                "and nothing moves."
            )
    if order.dy is not None and not order.backward:
        raise InputError(
            f"trace: `dy` must go with --backward. Received: dy={str(order.dy)!r}. Add --backward."
        )
    if order.momentum is not None and not 0 <= order.momentum <= 1:
        raise InputError(
            f"trace: `momentum` must lie in [0, 1]. Received: momentum={order.momentum!r}. It is "
            "the weight of the old value: Keras's momentum, and 1 minus PyTorch's."
        )
    if order.key is not None and order.input_file is None:
        raise InputError(
            f"trace: `key` must go with --input. Received: key={order.key!r}. Name the .npz file."
        )


def _input(order: Order) -> tuple[np.ndarray, str]:
    """Return the input in the type it is computed in, and what was done to it."""
    if order.input_file is None:
        x, note = _EXAMPLE, ""
    else:
        x = read_array(order.input_file, option="input", key=order.key)
        note = ""
        if order.input_file.suffix.lower() == ".csv" and order.dtype is None:
            note = "The text of a CSV file has no type: it was read as float32."
    if x.ndim < 2:
        raise InputError(
            "trace: `input` must have two axes or more, samples and channels. Received: "
            f"input={str(order.input_file)!r} of shape {x.shape}. Reshape it, for instance to "
            f"{(x.size, 1)}."
        )
    if order.dtype is not None:
        name = order.dtype
        if x.dtype.name != name and order.input_file is not None:
            note = f"The input came as {x.dtype.name} and was converted to {name}, as --dtype asks."
        with np.errstate(over="ignore"):
            x = x.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    elif x.dtype.kind != "f" or x.dtype.itemsize > 8:
        note = f"The input came as {x.dtype.name} and was converted to float32."
        x = x.astype(np.float32)
    return x, note


def _axes(order: Order, x: np.ndarray) -> tuple[int, ...]:
    axes = read_axes(order.axes)
    try:
        return normalize_axes(axes, x.ndim, caller="trace")
    except ValueError as error:
        raise InputError(str(error)) from error


def _check_values(
    order: Order, x: np.ndarray, axes: tuple[int, ...], given: Mapping[str, Any]
) -> None:
    """Hold the numbers to what `core` asks of them, so that its words reach the user."""
    tensor = tf.convert_to_tensor(x)
    wide = tf.cast(tensor, statistics_dtype(tensor))
    try:
        check_epsilon(order.epsilon, caller="trace")
        for name, value in given.items():
            if value is not None:
                as_parameter(value, wide, axes, name=name, caller="trace")
    except ValueError as error:
        raise InputError(str(error)) from error


def _dy(order: Order, x: np.ndarray) -> tuple[np.ndarray | None, str]:
    if not order.backward:
        return None, ""
    if order.dy is None:
        # Equal numbers would do nothing: their gradient goes through the mean and comes to 0.
        ramp = np.linspace(-1, 1, x.size).reshape(x.shape)
        return ramp.astype(x.dtype), (
            "No dy was given: a ramp from -1 to 1 over the elements was used. Equal numbers would "
            "give d_x = 0, since y's sum does not depend on x."
        )
    dy = read_array(order.dy, option="dy")
    if dy.shape != x.shape:
        raise InputError(
            f"trace: `dy` must have the shape of the input, {x.shape}. Received: "
            f"dy={str(order.dy)!r} of shape {dy.shape}. Pass the gradient of the loss by y."
        )
    return dy.astype(x.dtype), ""
