"""Whether data fit a model, by structure, shapes, types and values, and the model the machine."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import functional_of, layers_in
from batchnorm_mechanics._tensorflow import missing_kernel

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
# Of a layer, what TensorFlow takes for a name when it compiles.
_NAME = re.compile(r"[A-Za-z0-9_.\\/>-]+")
_IN_A_GRAPH = "Graph execution error"
# Text, for instance, cannot be cast to numbers, which is not implemented.
_FAILURES = (ValueError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Fitting:
    """Looks at batches as they come and says what is wrong with them.

    Attributes:
        samples: how many came.
        bad: values that are NaN or infinite.
    """

    def __init__(
        self, model: Any, caller: str = "diagnose", *, is_called_otherwise: bool = False
    ) -> None:
        """Look for what `model` takes; `caller` is named in errors."""
        check_names(model, caller)
        self._caller = caller
        self._bad_samples = 0
        self.samples = self.bad = 0
        # Subclassed models do not say what they take.
        inputs = () if is_called_otherwise else getattr(model, "inputs", None) or ()
        self._takes = [tuple(part.shape) for part in inputs]
        self._names = _names_of(model, inputs)

    def checked(self, inputs: Any) -> Any:
        """Return a batch as tensors, floating ones as wide as Keras has them.

        Raises:
            InputError: its parts are not as many as the model's inputs, of other names or shapes,
                or no tensor can be made of them.
        """
        tensors = tf.nest.map_structure(self._tensor, inputs)
        parts = self._in_order(tensors)
        if self._takes:
            self._check_shapes([tuple(part.shape) for part in parts])
        self.samples += int(parts[0].shape[0])
        self._count_bad(parts)
        return tensors

    def _tensor(self, part: Any) -> Any:
        if isinstance(part, tf.RaggedTensor | tf.SparseTensor):
            return part
        try:
            tensor = tf.convert_to_tensor(part)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self._caller}: `data` must be numbers. Received: a batch with a part of type "
                f"{type(part).__name__}, on which TensorFlow fails: {_said(error)} "
                "Make an array of numbers of it."
            ) from error
        # As `predict` does: Keras's layers take float32 unless told otherwise.
        return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor

    def _in_order(self, tensors: Any) -> list[Any]:
        """Return the parts in the order of the model's inputs, as Keras matches them."""
        if not isinstance(tensors, dict) or not self._names:
            return tf.nest.flatten(tensors)
        if not set(self._names) <= set(tensors):
            raise InputError(
                f"{self._caller}: `data` must have the names of the model's inputs, "
                f"{_quoted(self._names)}. Received: {_quoted(list(tensors))}. "
                "Pass what `model.predict` takes."
            )
        return [tensors[name] for name in self._names]

    def _check_shapes(self, given: list[tuple[int, ...]]) -> None:
        wanted = self._takes
        if len(given) == len(wanted) and all(
            sizes_match(want[1:], have[1:]) for have, want in zip(given, wanted, strict=True)
        ):
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
            InputError: it does; or the machine cannot run it.
        """
        try:
            yield
        except _FAILURES as error:
            if (missing := missing_kernel(error, self._caller)) is not None:
                raise missing from error
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


def _names_of(model: Any, inputs: Any) -> list[str]:
    """Return the names that a dict's parts need; none where its own structure says them.

    A graph that was made of a list, or of one input, takes a dict by the names of its tensors.
    """
    graph = functional_of(model)
    return [] if graph is None or isinstance(graph.input, dict) else [one.name for one in inputs]


def _quoted(names: list[Any]) -> str:
    return ", ".join(map(repr, names))


def _said(error: Exception) -> str:
    """Return the words of an error without Keras's colors, its list of arguments or its stack."""
    words, *_ = _ESCAPES.sub("", str(error)).partition("Arguments received by")
    if words.startswith(_IN_A_GRAPH):
        # What went wrong stands last, after the lines of code that led there, which are indented.
        *_, words = [line for line in words.splitlines() if line and not line[0].isspace()]
    return " ".join(words.split())[:_LONGEST].rstrip(". ") + "."


def sizes_match(wanted: Sequence[int | None], given: Sequence[int]) -> bool:
    """Return whether a sample fits, as Keras sees it: a last axis of 1 may be left out or in.

    Args:
        wanted: sizes of a sample as the model takes it, None where one is open.
        given: those of a sample.

    Example:
        >>> sizes_match((None, 3), (5, 3)), sizes_match((28, 28, 1), (28, 28))
        (True, True)
    """
    if len(wanted) == len(given) + 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    elif len(given) == len(wanted) + 1 and given[-1] == 1:
        given = given[:-1]
    return len(wanted) == len(given) and all(
        want is None or have == want for have, want in zip(given, wanted, strict=True)
    )


def _words(shapes: list[Any]) -> str:
    # The size of a batch is nobody's business here.
    texts = ["(" + ", ".join(["n", *map(str, shape[1:])]) + ")" for shape in shapes]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def check_names(model: Any, caller: str) -> None:
    """Refuse a model that TensorFlow cannot compile for a name in it.

    Keras's `predict` fails on it too, and names the layers of all later models wrongly then.

    Raises:
        InputError: there is such a name, and the model is not run eagerly.
    """
    if getattr(model, "run_eagerly", False):
        return
    for layer in layers_in(model):
        if not isinstance(layer, keras.layers.InputLayer) and not _NAME.fullmatch(layer.name):
            raise InputError(
                f"{caller}: `model` must have names that TensorFlow can compile. Received: the "
                f"name {layer.name!r}. Use letters, digits and the signs _ . - / alone, or "
                "compile the model with run_eagerly=True."
            )
