"""How good a model is on data with labels: loss and accuracy, in one mode and in the other."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras_training import compiled_loss
from batchnorm_mechanics.doctor.findings import Severity, by_size

# Of the samples, how many at most change sides without any of it being anybody's fault.
_CHANGING_SIDES = 0.1
_LEAST_DROP = 0.01
# Of the loss in training mode: that in inference is so much larger where something is wrong.
_GROWTH = 0.25
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
        self._loss_of = compiled_loss(model) if model.compiled else None
        loss = getattr(model, "loss", None)
        self._loss_name = str(getattr(loss, "name", loss))
        self._has_logits = bool(getattr(loss, "from_logits", False))
        self._rows = self._right = 0
        self._judged = self._predictions = 0
        self._loss = 0.0

    def add(self, labels: Any, outputs: Any) -> None:
        """Take a batch in; one without labels says nothing.

        Raises:
            InputError: the model's loss does not take the labels.
        """
        if labels is None:
            return
        heads = tf.nest.flatten(outputs)
        rows = len(heads[0])
        self._rows += rows
        if len(heads) == len(tf.nest.flatten(labels)) == 1:
            values = np.asarray(heads[0])
            classes = _classes(np.asarray(tf.nest.flatten(labels)[0]), values, self._has_logits)
            if classes is not None:
                self._judged += rows
                self._predictions += classes.size
                self._right += int((_chosen(values, self._has_logits) == classes).sum())
                labels = self._as_the_loss_wants(labels, classes, values.shape[-1])
        if self._loss_of is not None:
            self._loss += rows * self._checked_loss(labels, outputs)

    def join(self, other: "Scores") -> None:
        """Take in what other scores of the same model took in."""
        for name in ("_rows", "_right", "_judged", "_predictions", "_loss"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __getstate__(self) -> dict[str, Any]:
        # Sums go from one process to another; a loss does not.
        return {**vars(self), "_loss_of": None}

    def _as_the_loss_wants(self, labels: Any, classes: Any, count: int) -> Any:
        """Return class numbers or one-hot rows, whichever the model's loss takes."""
        if count > 1 and self._loss_name.startswith("sparse_categorical"):
            return classes
        if count > 1 and self._loss_name.startswith("categorical"):
            return keras.utils.to_categorical(classes, count)
        return labels

    def _checked_loss(self, labels: Any, outputs: Any) -> float:
        loss: Any = self._loss_of
        try:
            return float(loss(tf.nest.map_structure(tf.convert_to_tensor, labels), outputs))
        except _FAILURES as error:
            shapes = [np.shape(part) for part in tf.nest.flatten(labels)]
            said = " ".join(str(error).split())[:300]
            raise InputError(
                "diagnose: `labels` must be what the model's loss takes. Received: labels of shape "
                f"{shapes}, on which it fails: {said} Pass what `model.evaluate` takes."
            ) from error

    def results(self) -> dict[str, float]:
        """Return "loss" and "accuracy", those that could be known."""
        found = {}
        if self._rows and self._loss_of is not None:
            found["loss"] = self._loss / self._rows
        if self._judged and self._judged == self._rows:
            found["accuracy"] = self._right / self._predictions
        return found


def _classes(labels: Any, values: Any, has_logits: bool) -> Any:
    """Return the classes that labels name, integers of the output's shape without its last axis.

    Returns:
        None if they name none: numbers that are no classes.
    """
    if values.ndim < 2 or labels.dtype.kind not in "biuf" or not labels.size:
        return None
    shape, count = values.shape[:-1], values.shape[-1]
    # Of a regression, labels may be 0 and 1 by chance; its outputs hardly are between them.
    if count == 1 and not (has_logits or ((values >= 0) & (values <= 1)).all()):
        return None
    if count > 1 and labels.shape == values.shape:
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) if one_hot else None
    if labels.shape not in {shape, (*shape, 1)}:
        return None
    numbers = labels.reshape(shape)
    if (numbers != np.floor(numbers)).any() or numbers.min() < 0 or numbers.max() >= max(count, 2):
        return None
    return numbers.astype(int)


def _chosen(values: Any, has_logits: bool) -> Any:
    """Return the classes that an output names, of its shape but for the last axis."""
    if values.shape[-1] > 1:
        return values.argmax(-1)
    return (values[..., 0] > (0.0 if has_logits else 0.5)).astype(int)


def severity_by_labels(scores: Mapping[str, float], samples: int) -> Severity:
    """Return how much worse a model is in inference than in training mode.

    Accuracy counts beyond what chance explains, as for a repair; the loss where there is none.

    Args:
        scores: "accuracy" and "loss", and "accuracy_by_batch" and "loss_by_batch" likewise.
        samples: that they are of.

    Example:
        >>> severity_by_labels({"accuracy": 0.7, "accuracy_by_batch": 0.9}, 1000)
        'error'
    """
    if "accuracy_by_batch" in scores and "accuracy" in scores:
        drop = scores["accuracy_by_batch"] - scores["accuracy"]
        return by_size(drop / (2 * changing_by_chance(samples)))
    if "loss_by_batch" in scores and "loss" in scores:
        growth = scores["loss"] - scores["loss_by_batch"]
        return by_size(growth / (_GROWTH * abs(scores["loss_by_batch"]) + 1e-6))
    return "note"


def changing_by_chance(samples: int) -> float:
    """Return how far accuracy moves where a tenth of so many samples change sides at random.

    Three times the standard deviation of that, and one point at least.
    """
    return max(_LEAST_DROP, 3 * math.sqrt(_CHANGING_SIDES / max(samples, 1)))
