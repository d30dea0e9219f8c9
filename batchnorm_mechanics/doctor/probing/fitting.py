"""Whether data fit a model: their structure, shapes and types, and that they are finite."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300


class Fitting:
    """Looks at batches as they come and says what is wrong with them.

    Attributes:
        samples: how many came.
        bad: values that are NaN or infinite.
    """

    def __init__(self, model: Any, caller: str = "diagnose") -> None:
        """Look for what `model` takes; `caller` is named in errors."""
        self._caller = caller
        self._bad_samples = 0
        self.samples = self.bad = 0
        # Subclassed models do not say what they take.
        self._takes = [tuple(part.shape) for part in getattr(model, "inputs", None) or ()]

    def checked(self, inputs: Any) -> Any:
        """Return a batch as tensors, floating ones as wide as Keras has them.

        Raises:
            InputError: its parts are not as many as the model's inputs, or of other shapes.
        """
        tensors = tf.nest.map_structure(self._tensor, inputs)
        parts = tf.nest.flatten(tensors)
        if self._takes:
            self._check_shapes([tuple(part.shape) for part in parts])
        self.samples += int(parts[0].shape[0])
        if any(part.dtype.is_floating for part in parts):
            self._count_bad(parts)
        return tensors

    def _tensor(self, part: Any) -> Any:
        if isinstance(part, tf.RaggedTensor | tf.SparseTensor):
            return part
        tensor = tf.convert_to_tensor(part)
        # As `predict` does: Keras's layers take float32 unless told otherwise.
        return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor

    def _check_shapes(self, given: list[tuple[int, ...]]) -> None:
        # A dict's parts come in the order of their names, and so do the inputs here.
        wanted = self._takes
        if len(given) == len(wanted) and all(map(_fits, given, wanted)):
            return
        raise InputError(
            f"{self._caller}: `data` must have the shape of the model's input, {_words(wanted)}. "
            f"Received: batches of shape {_words(given)}. The first axis is that of the samples."
        )

    def _count_bad(self, parts: list[tf.Tensor]) -> None:
        for part in parts:
            if not (isinstance(part, tf.Tensor) and part.dtype.is_floating):
                continue
            values = np.asarray(part).reshape(len(part), -1)
            # One sum is quicker than a look at each value, and finite only if they are.
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(values.sum()):
                    continue
            wrong = ~np.isfinite(values)
            self.bad += int(wrong.sum())
            self._bad_samples += int(wrong.any(1).sum())

    @contextmanager
    def explained(self, inputs: Any) -> Iterator[None]:
        """Say in one sentence that the model does not take the data, if it fails on them.

        Raises:
            InputError: it does.
        """
        try:
            yield
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            shapes = [tuple(part.shape) for part in tf.nest.flatten(inputs)]
            raise InputError(
                f"{self._caller}: `data` must fit the model. Received: batches of shape "
                f"{_words(shapes)}, on which it fails: {_said(error)} "
                "Pass what `model.predict` takes."
            ) from error

    def finish(self) -> None:
        """Say what the data as a whole lack.

        Raises:
            InputError: there were no samples, or some hold values that are not finite.
        """
        if self.bad:
            raise InputError(
                f"{self._caller}: `data` must be finite. Received: {self.bad} values that are NaN "
                f"or infinite, in {self._bad_samples} of {self.samples} samples. "
                "Leave these samples out."
            )
        if not self.samples:
            raise InputError(
                f"{self._caller}: `data` must hold at least one sample. Received: none. "
                "A dataset that can be gone through once only is empty the second time."
            )


def _said(error: Exception) -> str:
    """Return the words of an error without Keras's colors, and without its list of arguments."""
    words, *_ = _ESCAPES.sub("", str(error)).partition("Arguments received by")
    return " ".join(words.split())[:_LONGEST].rstrip(". ") + "."


def _fits(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    # Keras itself adds a last axis of size 1, or drops one.
    if len(wanted) == len(given) + 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    elif len(given) == len(wanted) + 1 and given[-1] == 1:
        given = given[:-1]
    if len(given) != len(wanted):
        return False
    return all(
        want is None or have == want for have, want in zip(given[1:], wanted[1:], strict=True)
    )


def _words(shapes: list[Any]) -> str:
    # The size of a batch is nobody's business here.
    texts = ["(" + ", ".join(["n", *map(str, shape[1:])]) + ")" for shape in shapes]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
