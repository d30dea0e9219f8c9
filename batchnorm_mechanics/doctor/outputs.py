"""What a model puts out: how good it is, and what the batch and its statistics do to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import compiled_loss, layers_in
from batchnorm_mechanics.doctor.calls import Heard, listening
from batchnorm_mechanics.doctor.findings import Severity
from batchnorm_mechanics.doctor.norms import Norm

Run = Callable[[Any], Any]
Heads = list[NDArray[np.float64]]

# Batches of this many at least: statistics of fewer samples are mostly noise.
_GROUP = 32
# Looked at alone: each is one more call of the model.
_ALONE = 2
_BESIDE = 8

# Samples that are kept, and bytes of them.
MOST_ROWS = 128
_MOST_BYTES = 2**28
# Of the output: differences of a quarter of its spread, or another choice for 1 sample in 20.
_RELATIVE, _CHANGED = 0.25, 0.05
# Of a loss that does not take labels: those of their shape, and those of their type.
_FAILURES = (ValueError, TypeError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Sample:
    """Up to 128 rows of what it was shown, or fewer where they would pass 256 MB.

    A reservoir (Vitter, 1985, algorithm R), seeded: the same data give the same sample.

    Example:
        >>> sample = Sample()
        >>> for batch in np.split(np.arange(1000.0).reshape(1000, 1), 10):
        ...     sample.add(batch)
        >>> sample.rows, sample.most, sample.take(np.array([0, 1])).shape
        (128, 100, TensorShape([2, 1]))
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.rows = 0
        self.most = 0  # rows in one batch
        self._offered = 0
        self._capacity = MOST_ROWS
        self._kept: Any = None
        self._rng = np.random.default_rng(0)

    def add(self, inputs: Any) -> None:
        """Show it a batch: an array or tensor, or a structure of them.

        Raises:
            InputError: a part of it is sparse or ragged.
        """
        for part in tf.nest.flatten(inputs):
            if isinstance(part, tf.RaggedTensor | tf.SparseTensor):
                raise InputError(
                    "diagnose: `data` must be dense. Received: batches with a "
                    f"{type(part).__name__}. Make them dense, as tf.sparse.to_dense and "
                    "RaggedTensor.to_tensor do."
                )
        arrays = tf.nest.map_structure(np.asarray, inputs)
        parts = tf.nest.flatten(arrays)
        rows = len(parts[0])
        self.most = max(self.most, rows)
        if self._kept is None:
            width = sum(part.nbytes // max(len(part), 1) for part in parts)
            self._capacity = min(MOST_ROWS, max(2, _MOST_BYTES // max(width, 1)))
            self._kept = tf.nest.map_structure(
                lambda part: np.zeros((self._capacity, *part.shape[1:]), part.dtype), arrays
            )
        kept = tf.nest.flatten(self._kept)
        if any(part.shape[1:] != place.shape[1:] for part, place in zip(parts, kept, strict=True)):
            return  # padded to another length, for instance; one tensor cannot hold both
        for row in range(rows):
            self._offered += 1
            place = self._offered - 1
            if place >= self._capacity:
                place = int(self._rng.integers(self._offered))
            if place < self._capacity:
                for part, into in zip(parts, kept, strict=True):
                    into[place] = part[row]
        self.rows = min(self._offered, self._capacity)

    def take(self, rows: np.ndarray) -> Any:
        """Return these rows as a batch of tensors."""
        return tf.nest.map_structure(lambda part: tf.convert_to_tensor(part[rows]), self._kept)


@dataclass(frozen=True)
class Effects:
    """What a few samples say; differences are RMS, over that of the output among samples.

    Attributes:
        samples: how many.
        relative: how far the output in training mode (batch norm alone) is from that at inference,
            less what the choice of the batch does to it; None where that cannot be known, as of
            an output that is random.
        changed: the part of the samples whose largest output is another one, likewise.
        alone: how far the output of a sample alone is from that in a batch, at inference; None
            where there is one sample only, or the model takes batches of one size only.
        alone_if_called: likewise where the model is called without `training`; None where its
            output is random then.
        called_by_batch: names of the layers that normalize by the batch then.
        rounding: differences up to here may be rounding: 3 sqrt(u), with u the unit roundoff of
            the coarsest dtype that the model's layers compute in. Kernels add in another order
            for another size of batch, and depth makes more of it.
    """

    samples: int
    rounding: float
    relative: float | None = None
    changed: float | None = None
    alone: float | None = None
    alone_if_called: float | None = None
    called_by_batch: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """How bad a gap is by what it does to the output: one that does nothing is a note."""
        if self.relative is None:
            return "warning"
        size = max(self.relative / _RELATIVE, (self.changed or 0.0) / _CHANGED)
        return "error" if size >= 2 else "warning" if size >= 1 else "note"

    @property
    def on_output(self) -> dict[str, Any]:
        """What is known of the change of the output, as evidence."""
        known = {"output_change": self.relative, "predictions_changed": self.changed}
        return {name: value for name, value in known.items() if value is not None}


def effects_on(
    model: Any, norms: tuple[Norm, ...], sample: Sample, *, predict: Run, train: Run
) -> Effects:
    """Measure what batch statistics and other samples do to the output.

    A model whose output for the same batch differs from one run to the next, by noise of its own or
    by a state that it carries on, is not compared with itself.

    Args:
        model: the model.
        norms: its batch norm layers.
        sample: the samples to run.
        predict: the model at inference.
        train: the model with batch norm alone in training mode.
    """
    rounding = _rounding(model)
    # The size of a batch where the model's inputs state one.
    sizes = {part.shape[0] for part in getattr(model, "inputs", None) or ()} - {None}
    fixed = max(sizes, default=None)
    rows = sample.rows - sample.rows % (fixed or 1)
    if rows < 2:
        return Effects(sample.rows, rounding)
    size = fixed or min(rows, max(_GROUP, 2 * sample.most))
    everything = np.arange(rows)
    inference = _run(sample, predict, everything, size)
    # What layers get is heard on the way, also where the outputs are not compared.
    relative, changed = _gap(sample, train, inference, rows, fixed or min(size, rows // 2))
    first, *_ = _parts(everything, size)
    if not _repeats(sample, predict, inference, first, rounding):
        return Effects(sample.rows, rounding)
    if fixed:
        return Effects(sample.rows, rounding, relative, changed)
    alone = max(
        _relative(
            [head[:1] for head in _heads(predict(sample.take(np.array([row]))))],
            [head[row : row + 1] for head in inference],
            inference,
        )
        for row in range(_ALONE)
    )
    if_called, names = _called(model, norms, sample.take(everything[:_BESIDE]), rounding)
    return Effects(sample.rows, rounding, relative, changed, alone, if_called, names)


def _repeats(
    sample: Sample, predict: Run, inference: Heads, rows: NDArray[np.int_], rounding: float
) -> bool:
    """Whether a batch of these rows gives once more what it gave."""
    first = [head[rows] for head in inference]
    again = _heads(predict(sample.take(rows)))
    # NaN is what comes again, too.
    if all(np.array_equal(*pair, equal_nan=True) for pair in zip(again, first, strict=True)):
        return True
    # Of noise that is just there, a lone sample may by chance get more than all on average.
    return _relative(again, first, inference) <= rounding / 4


def _gap(
    sample: Sample, train: Run, inference: Heads, rows: int, size: int
) -> tuple[float | None, float | None]:
    """Compare training mode with inference, and with itself in batches put together otherwise.

    With f the output by statistics that are right, training gives f + n, where n is the noise of
    the batch, and inference f + g. Two such batches differ by 2 n^2 and training from inference by
    n^2 + g^2 on average, so g^2 is the second less half the first.
    """
    if size < 2 or rows < 2 * size:
        # Two batches put together otherwise would be too small, or the same.
        return None, None
    rng = np.random.default_rng(0)
    once, again = (_run(sample, train, rng.permutation(rows), size) for _ in range(2))
    gap, noise = _relative(once, inference, inference), _relative(again, once, inference)
    relative = float(np.sqrt(max(0.0, gap**2 - noise**2 / 2))) if np.isfinite(gap) else gap
    if len(inference) != 1 or inference[0].ndim != 2 or inference[0].shape[1] < 2:
        return relative, None  # no choice between classes
    chosen = [head.argmax(-1) for head in (inference[0], once[0], again[0])]
    changed = float((chosen[0] != chosen[1]).mean() - (chosen[1] != chosen[2]).mean())
    return relative, max(0.0, changed)


def _called(
    model: Any, norms: tuple[Norm, ...], few: Any, rounding: float
) -> tuple[float | None, tuple[str, ...]]:
    """Call the model without `training`, on several samples and on one."""
    by_batch: dict[str, None] = {}

    def answer(norm: Norm, heard: Heard) -> None:
        if heard.training:
            by_batch[norm.name] = None

    with listening(norms, answer):
        together = _heads(model(few))
        alone = _heads(model(tf.nest.map_structure(lambda part: part[:1], few)))
        first = [head[:1] for head in together]
        difference = _relative(alone, first, together)
        if difference > rounding < _relative(_heads(model(few)), together, together):
            return None, tuple(by_batch)
    return difference, tuple(by_batch)


def _rounding(model: Any) -> float:
    dtypes = {tf.as_dtype(layer.compute_dtype) for layer in layers_in(model)}
    steps = [float(ml_dtypes.finfo(one.as_numpy_dtype).eps) for one in dtypes if one.is_floating]
    return 3 * float(np.sqrt(max(steps) / 2))


def _run(sample: Sample, run: Run, order: NDArray[np.int_], size: int) -> Heads:
    """Return the outputs for all samples in their own order, run in batches in this one."""
    parts = _parts(order, size)
    outputs = [_heads(run(sample.take(rows))) for rows in parts]
    back = np.argsort(np.concatenate(parts))
    return [np.concatenate(head)[back] for head in zip(*outputs, strict=True)]


def _parts(order: NDArray[np.int_], size: int) -> list[NDArray[np.int_]]:
    return np.array_split(order, -(-len(order) // size))


def _heads(outputs: Any) -> Heads:
    """Return the floating outputs of a model."""
    parts = [np.asarray(part) for part in tf.nest.flatten(outputs)]
    return [part.astype(np.float64) for part in parts if part.dtype.kind not in "iub"]


def _relative(one: Heads, other: Heads, reference: Heads) -> float:
    """Return the largest RMS difference of a head, over its RMS deviation among samples."""
    with np.errstate(invalid="ignore", over="ignore"):
        heads = zip(one, other, reference, strict=True)
        return max((_over(a - b, c - c.mean(0)) for a, b, c in heads), default=0.0)


def _over(difference: NDArray[np.float64], scale: NDArray[np.float64]) -> float:
    """Return a ratio of RMS; infinite where what does not vary differs, or is not finite."""
    of, by = (
        float(np.sqrt(np.mean(part**2))) if part.size else 0.0 for part in (difference, scale)
    )
    if not (np.isfinite(of) and np.isfinite(by)):
        return float("inf")
    if of == 0:
        return 0.0
    return of / by if by else float("inf")


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
