"""Whether data fit a model: by their shapes before the work, by their values as they are read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.seen import Seen, shape_text
from batchnorm_mechanics._keras import functional_of, layers_in
from batchnorm_mechanics._tensorflow import missing_kernel
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.fitting import sizes_match

_SCALING = ("Rescaling", "Normalization")


@dataclass(frozen=True, eq=False)
class Checked(Data):
    """Data that are looked at as they are read, so that it costs no pass of its own.

    Attributes:
        name: of the file, for the message of an error.
        limit: the largest magnitude that the model can compute with.
        classes: how many a label may be one of; None where labels are no classes.
        caller: the function to name in an error.
        seen: what has been read so far.
    """

    name: str = ""
    limit: float = float(np.finfo(np.float32).max)
    classes: int | None = None
    caller: str = "doctor"
    seen: Seen = field(default_factory=Seen)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, labels or None).

        Raises:
            InputError: a sample is not finite or beyond the limit, or a label is no class.
        """
        row = 0
        for inputs, labels in super().__iter__():
            parts = [np.asarray(part) for part in tf.nest.flatten(inputs)]
            for part in parts:
                if part.dtype.kind in "fiub":
                    self._check_samples(part, row)
            if labels is not None and self.classes is not None:
                self._check_labels(labels, row, self.classes)
            if row >= self.seen.rows:
                self.seen.add(parts, labels)
            row += len(parts[0])
            yield inputs, labels

    @cached_property
    def first(self) -> tuple[Any, Any]:
        """The first batch, by which data are known before the work.

        Raises:
            InputError: there is none.
        """
        batch = next(super().__iter__(), None)
        if batch is None:
            raise self.refusal("hold at least one sample", ", which gave none. Look at its source.")
        return batch

    @property
    def line(self) -> str:
        """What was read, in one line."""
        note = f" ({self.note})" if self.note else ""
        return f"Data: {self.name}{note}: {self.seen}"

    def refusal(self, expectation: str, received: str) -> InputError:
        """Return what to say of data that are not as expected."""
        return InputError(
            f"{self.caller}: `data` must {expectation}. Received: data={self.name!r}{received}"
        )

    def _check_samples(self, samples: np.ndarray, row: int) -> None:
        by_row = samples.reshape(len(samples), -1)
        if not np.isfinite(samples).all():
            wrong = np.flatnonzero(~np.isfinite(by_row).all(axis=1))[0]
            value = by_row[wrong][~np.isfinite(by_row[wrong])][0]
            raise self.refusal(
                "be finite",
                f", whose sample {row + wrong} holds {value}. Take such samples out.",
            )
        if _largest_of(samples.dtype) <= self.limit:
            return
        # Compared in float64, which holds the limit and every value.
        largest = np.abs(by_row.astype(np.float64)).max(axis=1)
        if largest.max() > self.limit:
            wrong = np.flatnonzero(largest > self.limit)[0]
            raise self.refusal(
                f"be at most {self.limit:.4g}, the largest number that the model computes with",
                f", whose sample {row + wrong} holds {largest[wrong]:.4g}. "
                "Scale them as they were in training.",
            )

    def _check_labels(self, labels: np.ndarray, row: int, classes: int) -> None:
        labels = np.asarray(labels).reshape(len(labels), -1)
        if labels.shape[1] != 1:
            return
        one = labels[:, 0]
        wrong = np.flatnonzero((one < 0) | (one >= classes) | (one != np.floor(one)))
        if wrong.size:
            raise self.refusal(
                f"have labels from 0 to {classes - 1}, the model's classes",
                f", whose label {row + wrong[0]} is {one[wrong[0]]}. "
                "Name the right array with --labels.",
            )

    def check_shapes(self, expected: list[Any]) -> None:
        """Refuse what the inputs of a model do not take."""
        inputs: Any = self.first[0]
        names = [tensor.name for tensor in expected]
        if isinstance(inputs, list | tuple):
            # Of a function; a file has names.
            several: Any = inputs
            inputs = dict(zip(names, several, strict=False)) if len(several) > 1 else several[0]
        parts = inputs if isinstance(inputs, dict) else {"x": inputs}
        holds = f", which holds {', '.join(parts)}. "
        if len(expected) > 1 and set(names) != set(parts):
            raise self.refusal(
                f"hold an array for each input of the model: {', '.join(names)}",
                f"{holds}Name them so in an .npz file.",
            )
        if len(parts) > len(expected):
            raise self.refusal(
                "hold one array of samples, named 'x'", f"{holds}Name the array of samples x."
            )
        for tensor in expected:
            self._check_one(tensor, parts.get(tensor.name, next(iter(parts.values()))))

    def _check_one(self, tensor: Any, part: Any) -> None:
        rows = self.rows
        wanted, got = tuple(tensor.shape), (rows or part.shape[0], *part.shape[1:])
        if not sizes_match(wanted[1:], got[1:]):
            raise self.refusal(
                f"hold samples of shape {shape_text(wanted)}, as the model takes them",
                f" with samples of shape {shape_text(got)}. {_advice(wanted, got)}",
            )
        size = self.batch_size
        if wanted[0] is not None and rows is not None and (wanted[0] != size or rows % size):
            raise self.refusal(
                f"come in batches of {wanted[0]}, which the model fixes",
                f" with {rows} samples and batch_size={size}. "
                "Give that batch size, and a multiple of it as the number of samples.",
            )
        if tf.as_dtype(tensor.dtype).is_integer and not np.array_equal(part, np.floor(part)):
            raise self.refusal(
                "hold integers, as the model takes them",
                f" of dtype {part.dtype} with fractions. Give what the model was trained on.",
            )

    def try_on(self, model: Any) -> None:
        """Run a model that states no shape of inputs on two samples: nothing else can tell."""
        inputs, _ = self.first
        inputs = tf.nest.map_structure(lambda part: np.asarray(part)[:2], inputs)
        try:
            model.predict_on_batch(inputs)
        except Exception as error:
            if (missing := missing_kernel(error, self.caller)) is not None:
                raise missing from error
            shapes = [tuple(part.shape) for part in tf.nest.flatten(inputs)]
            raise self.refusal(
                "be what the model can run on",
                f"; a batch of shapes {shapes} raised {first_line(error)}. "
                "Prepare them as in training.",
            ) from error


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
    types = {layer.compute_dtype for layer in layers_in(model, itself=False)}
    classes = _classes(model)
    checked = Checked(
        _without_name(model, data.source) if expected else data.source,
        data.labels,
        data.batch_size,
        data.note,
        name=name,
        limit=float(np.finfo("float16" if "float16" in types else "float32").max),
        classes=classes,
        caller=caller,
    )
    if expected:
        checked.check_shapes(expected)
    else:
        checked.try_on(model)
    _, labels = checked.first
    if classes is not None and hasattr(labels, "shape"):
        shape = (data.rows, *labels.shape[1:]) if data.rows else tuple(labels.shape)
        if shape[1:] not in {(), (1,), (classes,)}:
            raise checked.refusal(
                f"have labels of shape (samples,) or (samples, {classes})",
                f" with labels of shape {shape}. Name the right array with --labels.",
            )
    return checked


def _without_name(model: Any, source: Any) -> Any:
    """Take the one array of a file out of its dict: its name says nothing to a model of one input.

    A model that takes a dict of one array needs it by the name of its own.
    """
    if not isinstance(source, dict) or len(source) > 1 or len(model.inputs) > 1:
        return source
    (array,) = source.values()
    struct = getattr(functional_of(model), "input", None)
    return dict.fromkeys(struct, array) if isinstance(struct, dict) else array


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


def _classes(model: Any) -> int | None:
    """Return the number of classes of a model that is compiled for labels as class numbers."""
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1 or len(outputs[0].shape) != 2:
        return None
    count = outputs[0].shape[1]
    return int(count) if count is not None and count > 1 else None


def range_hint(model: Any, data: Data) -> str | None:
    """Say what may be wrong with the range of data, where a diagnosis finds that they do not fit.

    Args:
        model: any Keras model.
        data: arrays, in memory or in files.

    Returns:
        A sentence, or None: whole numbers beyond 1, of whatever dtype, where nothing in the model
        scales them. So are images of 0 to 255, which training mostly has from 0 to 1.
    """
    inputs, _ = next(iter(data))
    if not hasattr(inputs, "shape"):
        return None
    layers = layers_in(model, itself=False)
    if any(type(layer).__name__ in (*_SCALING, "Embedding") for layer in layers):
        return None
    first = np.asarray(inputs)
    whole = first.dtype.kind != "b" and np.array_equal(first, np.floor(first))
    if not whole or np.abs(first.astype(np.float64)).max() <= 1:
        return None
    return (
        f"The data are whole numbers from {first.min():g} to {first.max():g} ({first.dtype}), and "
        "no layer of the model scales them: if they were scaled before training, scale these too."
    )
