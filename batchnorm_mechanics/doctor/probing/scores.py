"""Loss and accuracy of a model over data that have labels, batch by batch."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError


class Scores:
    """Takes outputs and labels in and says the loss and the accuracy in the end.

    The loss is the one that the model was compiled with, without regularization. The accuracy needs
    an output of shape (n, classes), with labels that are class numbers of shape (n,) or (n, 1), or
    one-hot rows.
    """

    def __init__(self, model: Any) -> None:
        """Score `model`, with the loss that it was compiled with, if it was."""
        self._model = model
        self._has_loss = bool(model.compiled) and getattr(model, "_compile_loss", None) is not None
        self._rows = self._right = 0
        self._judged = 0
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
        classes = _classes(labels, outputs)
        if classes is not None:
            self._judged += rows
            self._right += int((np.argmax(np.asarray(outputs), -1) == classes).sum())
        if self._has_loss:
            self._loss += rows * self._loss_of(labels, classes, outputs)

    def _loss_of(self, labels: Any, classes: Any, outputs: Any) -> float:
        if classes is not None:
            labels = self._as_the_loss_wants(labels, classes, outputs)
        try:
            loss = self._model._compile_loss(
                tf.nest.map_structure(tf.convert_to_tensor, labels), outputs
            )
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            shapes = [np.shape(part) for part in tf.nest.flatten(labels)]
            said = " ".join(str(error).split())[:300]
            raise InputError(
                "diagnose: `labels` must be what the model's loss takes. Received: labels of shape "
                f"{shapes}, on which it fails: {said} Pass what `model.evaluate` takes."
            ) from error
        return float(loss)

    def _as_the_loss_wants(self, labels: Any, classes: Any, outputs: Any) -> Any:
        """Return class numbers or one-hot rows, whichever the model's loss takes."""
        name = str(getattr(self._model.loss, "name", self._model.loss))
        if name.startswith("sparse_categorical"):
            return classes
        if name.startswith("categorical"):
            return keras.utils.to_categorical(classes, np.shape(outputs)[-1])
        return labels

    def results(self) -> dict[str, float]:
        """Return "loss" and "accuracy", those that could be known."""
        found = {}
        if self._rows and self._has_loss:
            found["loss"] = self._loss / self._rows
        if self._judged and self._judged == self._rows:
            found["accuracy"] = self._right / self._judged
        return found


def _classes(labels: Any, outputs: Any) -> Any:
    """Return the classes that labels name, as integers of shape (n,); None if they name none."""
    parts = tf.nest.flatten((labels, outputs))
    if len(parts) != 2 or len(np.shape(parts[1])) != 2 or np.shape(parts[1])[1] < 2:
        return None
    labels, (rows, classes) = np.asarray(parts[0]), np.shape(parts[1])
    if labels.shape == (rows, classes):
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) if one_hot else None
    if labels.shape not in {(rows,), (rows, 1)}:
        return None
    numbers = labels.reshape(rows)
    if (numbers != np.floor(numbers)).any() or numbers.min() < 0 or numbers.max() >= classes:
        return None
    return numbers.astype(int)
