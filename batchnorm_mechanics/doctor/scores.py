"""Loss and accuracy of a model over data that have labels, batch by batch."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import compiled_loss

# Of a loss that does not take labels: those of their shape, and those of their type.
_FAILURES = (ValueError, TypeError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Scores:
    """Takes outputs and labels in and says the loss and the accuracy in the end.

    The loss is the one that the model was compiled with, without regularization. Weights of samples
    are not used: each counts for one.

    The accuracy is that of single predictions, as many as there are samples or, for instance,
    pixels. It needs one output, of shape (..., classes), and labels that are class numbers of shape
    (...) or (..., 1), or one-hot of the output's shape. With one class, the labels are 0 and 1, and
    so is the range of the output, unless the compiled loss says that it is of logits.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
        >>> scores = Scores(model)
        >>> scores.add(np.array([0, 1, 1]), np.array([[0.2], [0.9], [0.4]]))
        >>> round(scores.results()["accuracy"], 3)
        0.667
    """

    def __init__(self, model: Any) -> None:
        """Score `model`, with the loss that it was compiled with, if it was."""
        self._model = model
        self._has_loss = bool(model.compiled) and compiled_loss(model) is not None
        self._rows = self._right = 0
        self._judged = self._predictions = 0
        self._has_logits = bool(getattr(getattr(model, "loss", None), "from_logits", False))
        self._loss = 0.0

    def add(self, labels: Any, outputs: Any) -> None:
        """Take a batch in; one without labels says nothing.

        Raises:
            InputError: the model's loss does not take the labels.
        """
        if labels is None:
            return
        rows = len(tf.nest.flatten(outputs)[0])
        self._rows += rows
        classes = _classes(labels, outputs, has_logits=self._has_logits)
        if classes is not None:
            self._judged += rows
            self._predictions += classes.size
            self._right += int((self._chosen(outputs) == classes).sum())
        if self._has_loss:
            self._loss += rows * self._loss_of(labels, classes, outputs)

    def _chosen(self, outputs: Any) -> Any:
        """Return the classes that the one output names, of its shape but for the last axis."""
        values = _values_of(outputs)
        if values.shape[-1] > 1:
            return values.argmax(-1)
        return (values[..., 0] > (0.0 if self._has_logits else 0.5)).astype(int)

    def _loss_of(self, labels: Any, classes: Any, outputs: Any) -> float:
        if classes is not None:
            labels = self._as_the_loss_wants(labels, classes, outputs)
        try:
            compiled: Any = compiled_loss(self._model)
            loss = compiled(tf.nest.map_structure(tf.convert_to_tensor, labels), outputs)
        except _FAILURES as error:
            shapes = [np.shape(part) for part in tf.nest.flatten(labels)]
            said = " ".join(str(error).split())[:300]
            raise InputError(
                "diagnose: `labels` must be what the model's loss takes. Received: labels of shape "
                f"{shapes}, on which it fails: {said} Pass what `model.evaluate` takes."
            ) from error
        return float(loss)

    def _as_the_loss_wants(self, labels: Any, classes: Any, outputs: Any) -> Any:
        """Return class numbers or one-hot rows, whichever the model's loss takes."""
        if np.shape(tf.nest.flatten(outputs)[0])[-1] == 1:
            return labels
        name = str(getattr(self._model.loss, "name", self._model.loss))
        if name.startswith("sparse_categorical"):
            return classes
        if name.startswith("categorical"):
            return keras.utils.to_categorical(classes, np.shape(tf.nest.flatten(outputs)[0])[-1])
        return labels

    def results(self) -> dict[str, float]:
        """Return "loss" and "accuracy", those that could be known."""
        found = {}
        if self._rows and self._has_loss:
            found["loss"] = self._loss / self._rows
        if self._judged and self._judged == self._rows:
            found["accuracy"] = self._right / self._predictions
        return found


def _classes(labels: Any, outputs: Any, *, has_logits: bool) -> Any:
    """Return the classes that labels name, integers of the output's shape without its last axis.

    Returns:
        None if they name none: of several outputs, of numbers that are no classes.
    """
    if len(tf.nest.flatten((labels, outputs))) != 2:
        return None
    (labels,) = map(np.asarray, tf.nest.flatten(labels))
    values = _values_of(outputs)
    if values.ndim < 2 or labels.dtype.kind not in "biuf" or not labels.size:
        return None
    classes = values.shape[-1]
    if classes == 1:
        # Of a regression, labels may be 0 and 1 by chance; its outputs hardly are between them.
        ranges = has_logits or bool(((values >= 0) & (values <= 1)).all())
        return _numbers(labels, values.shape[:-1], 2) if ranges else None
    if labels.shape == values.shape:
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) if one_hot else None
    return _numbers(labels, values.shape[:-1], classes)


def _numbers(labels: Any, shape: tuple[int, ...], classes: int) -> Any:
    """Return labels as class numbers of a shape; None where they are not below `classes`."""
    if labels.shape not in {shape, (*shape, 1)}:
        return None
    numbers = labels.reshape(shape)
    if (numbers != np.floor(numbers)).any() or numbers.min() < 0 or numbers.max() >= classes:
        return None
    return numbers.astype(int)


def _values_of(outputs: Any) -> Any:
    (output,) = tf.nest.flatten(outputs)
    return np.asarray(output)
