"""Whether data fit a model: by their shapes before the work, by their values as they are read."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import functional_of, layers_in
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.fitting import missing_kernel, sizes_match
from batchnorm_mechanics.doctor.model_files import first_line

_SCALING = ("Rescaling", "Normalization")


@dataclass(frozen=True, eq=False)
class Checked(Data):
    """Data that are looked at as they are read, so that it costs no pass of its own.

    Attributes:
        name: of the file, for the message of an error.
        limit: the largest magnitude that the model can compute with.
        classes: how many a label may be one of; None where labels are no classes.
        caller: the function to name in an error.
    """

    name: str = ""
    limit: float = float(np.finfo(np.float32).max)
    classes: int | None = None
    caller: str = "doctor"

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, labels or None).

        Raises:
            InputError: a sample is not finite or beyond the limit, or a label is no class.
        """
        row = 0
        for inputs, labels in super().__iter__():
            parts = tf.nest.flatten(inputs)
            for part in parts:
                self._check_samples(part, row)
            if labels is not None and self.classes is not None:
                self._check_labels(labels, row)
            row += len(parts[0])
            yield inputs, labels

    def _refuse(self, expectation: str, what: str) -> InputError:
        return InputError(
            f"{self.caller}: `data` must {expectation}. Received: data={self.name!r}, {what}"
        )

    def _check_samples(self, samples: np.ndarray, row: int) -> None:
        if not np.isfinite(samples).all():
            by_row = samples.reshape(len(samples), -1)
            wrong = np.flatnonzero(~np.isfinite(by_row).all(axis=1))[0]
            value = by_row[wrong][~np.isfinite(by_row[wrong])][0]
            raise self._refuse(
                "be finite",
                f"whose sample {row + wrong} holds {value}. Take such samples out.",
            )
        if _largest_of(samples.dtype) <= self.limit:
            return
        # Compared in float64, which holds the limit and every value.
        largest = np.abs(samples.reshape(len(samples), -1).astype(np.float64)).max(axis=1)
        if largest.max() > self.limit:
            wrong = np.flatnonzero(largest > self.limit)[0]
            raise self._refuse(
                f"be at most {self.limit:.4g}, the largest number that the model computes with",
                f"whose sample {row + wrong} holds {largest[wrong]:.4g}. "
                "Scale them as they were in training.",
            )

    def _check_labels(self, labels: np.ndarray, row: int) -> None:
        labels = np.asarray(labels).reshape(len(labels), -1)
        if labels.shape[1] != 1 or self.classes is None:
            return
        one = labels[:, 0]
        wrong = np.flatnonzero((one < 0) | (one >= self.classes) | (one != np.floor(one)))
        if wrong.size:
            raise self._refuse(
                f"have labels from 0 to {self.classes - 1}, the model's classes",
                f"whose label {row + wrong[0]} is {one[wrong[0]]}. "
                "Name the right array with --labels.",
            )


def _largest_of(dtype: np.dtype) -> float:
    """Return the largest magnitude that a dtype can hold."""
    if dtype.kind == "b":
        return 1.0
    return float(np.finfo(dtype).max if dtype.kind == "f" else np.iinfo(dtype).max)


def check_data_fits(model: Any, data: Data, *, name: str, caller: str = "doctor") -> Checked:
    """Refuse data that a model cannot take, and look at each batch of the others when it is read.

    Args:
        model: any Keras model with weights.
        data: arrays, in memory or in files.
        name: of the file, for the message of an error.
        caller: the function to name in an error.

    Raises:
        InputError: they have another number of inputs, other sizes, or fractions where the model
            takes integers.
    """
    expected = getattr(model, "inputs", None)
    if expected:
        data = _without_name(model, data)
        _check_shapes(expected, data, name, caller)
    else:
        _try(model, data, name, caller)
    classes = _classes(model)
    if classes is not None and data.labels is not None:
        _check_label_shape(data, classes, name, caller)
    smallest = "float16" if _computes_in_float16(model) else "float32"
    return Checked(
        data.source,
        data.labels,
        data.batch_size,
        name=name,
        limit=float(np.finfo(smallest).max),
        classes=classes,
        caller=caller,
    )


def _without_name(model: Any, data: Data) -> Data:
    """Take the one array of a file out of its dict: its name says nothing to a model of one input.

    A model that takes a dict of one array needs it by the name of its own.
    """
    if not isinstance(data.source, dict) or len(data.source) > 1 or len(model.inputs) > 1:
        return data
    (array,) = data.source.values()
    struct = getattr(functional_of(model), "input", None)
    source = dict.fromkeys(struct, array) if isinstance(struct, dict) else array
    return dataclasses.replace(data, source=source)


def _check_shapes(expected: list[Any], data: Data, name: str, caller: str) -> None:
    parts = data.source if isinstance(data.source, dict) else {"x": data.source}
    names = [tensor.name for tensor in expected]
    if len(expected) > 1 and set(names) != set(parts):
        raise InputError(
            f"{caller}: `data` must hold an array for each input of the model: {', '.join(names)}. "
            f"Received: data={name!r}, which holds {', '.join(parts)}. "
            "Name them so in an .npz file."
        )
    if len(parts) > len(expected):
        raise InputError(
            f"{caller}: `data` must hold one array of samples, named 'x'. "
            f"Received: data={name!r}, which holds {', '.join(parts)}. Name the array of samples x."
        )
    pairs = zip(expected, [parts.get(of, next(iter(parts.values()))) for of in names], strict=True)
    for tensor, part in pairs:
        _check_one(tensor, part, data.batch_size, name, caller)


def _check_one(tensor: Any, part: Any, batch_size: int, name: str, caller: str) -> None:
    wanted, got = tuple(tensor.shape), tuple(part.shape)
    if not sizes_match(wanted[1:], got[1:]):
        raise InputError(
            f"{caller}: `data` must hold samples of shape {_shape(wanted)}, as the model takes "
            f"them. Received: data={name!r} with samples of shape {_shape(got)}. "
            f"{_advice(wanted, got)}"
        )
    if wanted[0] is not None and (wanted[0] != batch_size or got[0] % batch_size):
        raise InputError(
            f"{caller}: `data` must come in batches of {wanted[0]}, which the model fixes. "
            f"Received: data={name!r} with {got[0]} samples and batch_size={batch_size}. "
            "Give that batch size, and a multiple of it as the number of samples."
        )
    if tf.as_dtype(tensor.dtype).is_integer and part.dtype.kind == "f":
        first = part[0:batch_size]
        if not np.array_equal(first, np.floor(first)):
            raise InputError(
                f"{caller}: `data` must hold integers, as the model takes them. "
                f"Received: data={name!r} of dtype {part.dtype} with fractions. "
                "Give what the model was trained on."
            )


def _shape(sizes: tuple[int | None, ...]) -> str:
    """Return the shape of one sample as Python writes it, and "any" for a size that is open."""
    shown = ", ".join("any" if size is None else str(size) for size in sizes[1:])
    return f"({shown},)" if len(sizes) == 2 else f"({shown})"


def _advice(wanted: tuple[int | None, ...], got: tuple[int, ...]) -> str:
    if len(got) == len(wanted) - 1 and sizes_match(wanted[1:], got):
        return "It looks like one sample: give it an axis of samples, array[None]."
    sizes = [size for size in wanted[1:] if size is not None]
    if len(sizes) == len(wanted) - 1:
        if sorted(sizes) == sorted(got[1:]):
            return "The axes are in another order: transpose them."
        if np.prod(sizes) == np.prod(got[1:]):
            return f"There are as many numbers: reshape them to (-1, {', '.join(map(str, sizes))})."
    return "Prepare them as in training."


def _try(model: Any, data: Data, name: str, caller: str) -> None:
    """Run a model that states no shape of inputs on two samples: nothing else can tell."""
    inputs, _ = next(iter(Data(data.source, None, 2)))
    try:
        model.predict_on_batch(inputs)
    except Exception as error:
        if (missing := missing_kernel(error, caller)) is not None:
            raise missing from error
        shapes = [tuple(part.shape) for part in tf.nest.flatten(inputs)]
        raise InputError(
            f"{caller}: `data` must be what the model can run on. Received: data={name!r}; a batch "
            f"of shapes {shapes} raised {first_line(error)}. Prepare them as in training."
        ) from error


def _classes(model: Any) -> int | None:
    """Return the number of classes of a model that is compiled for labels as class numbers."""
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1 or len(outputs[0].shape) != 2:
        return None
    count = outputs[0].shape[1]
    return int(count) if count is not None and count > 1 else None


def _check_label_shape(data: Data, classes: int, name: str, caller: str) -> None:
    shape = tuple(data.labels.shape)
    if shape[1:] not in {(), (1,), (classes,)}:
        raise InputError(
            f"{caller}: `data` must have labels of shape (samples,) or (samples, {classes}). "
            f"Received: data={name!r} with labels of shape {shape}. "
            "Name the right array with --labels."
        )


def _computes_in_float16(model: Any) -> bool:
    return any(layer.compute_dtype == "float16" for layer in layers_in(model, itself=False))


def range_hint(model: Any, data: Data) -> str | None:
    """Say what may be wrong with the range of data, where a diagnosis finds that they do not fit.

    Args:
        model: any Keras model.
        data: arrays, in memory or in files.

    Returns:
        A sentence, or None: whole numbers beyond 1, of whatever dtype, where nothing in the model
        scales them. So are images of 0 to 255, which training mostly has from 0 to 1.
    """
    if isinstance(data.source, dict):
        return None
    layers = layers_in(model, itself=False)
    if any(type(layer).__name__ in (*_SCALING, "Embedding") for layer in layers):
        return None
    first = np.asarray(data.source[0 : data.batch_size])
    if first.dtype.kind == "b" or not np.array_equal(first, np.floor(first)):
        return None
    if np.abs(first.astype(np.float64)).max() <= 1:
        return None
    return (
        f"The data are whole numbers from {first.min():g} to {first.max():g} ({first.dtype}), and "
        "no layer of the model scales them: if they were scaled before training, scale these too."
    )
