"""Callbacks for training: `Watch` looks at the statistics, `Recalibrate` puts them right."""

import csv as csv_files
import difflib
import errno
import inspect
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.doctor.changes import Change
from batchnorm_mechanics.doctor.diagnose import findings_of
from batchnorm_mechanics.doctor.estimating import How
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.doctor.rule import Case
from batchnorm_mechanics.doctor.rules import RULES
from batchnorm_mechanics.models.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.models.fitting import Fitting
from batchnorm_mechanics.models.norms import Norm, Vector, norm_layers_in, norms_in

When = Literal["train_end", "epoch_end", "evaluate"]

# Of the table, each row of which has it last. Raise it when columns change; tests/formats keeps one
# of each version.
_FORMAT = 1


@dataclass(frozen=True)
class Watched:
    """What `Watch` saw of a layer in an epoch.

    Attributes:
        epoch: from 0.
        layer: path of the layer in the model.
        gap: how far the layer's output is from what it is by the statistics of the data that were
            given, in its own standard deviations, as BN201 measures it; None without data, and
            where data say nothing of the layer.
        drift_mean: how far the moving mean went in this epoch, in standard deviations, as a root
            mean square over channels.
        drift_variance: of log(moving variance / what it was when the epoch began), likewise.
    """

    epoch: int
    layer: str
    gap: float | None
    drift_mean: float
    drift_variance: float


class Watch(keras.callbacks.Callback):
    """Log the train-inference gap and the drift of the statistics of each layer, epoch by epoch.

    The drift costs no pass through the model. The gap is measured on data, which go through it as
    in `diagnose`; some hundred samples do.

    Rules that need no data are checked as each epoch ends. The first time that one fires at warning
    or above, it warns; those on unconverged, stale or never updated statistics judge the end of
    training.

    Where its log or its table cannot be written any more, as on a full disk, it warns once and
    training goes on: what was written stays, and `records` has everything.

    Args:
        log_dir: folder for TensorBoard; no events are written by default.
        csv: file for a table; none is written by default.
        every: epochs between two records.
        data: as for `diagnose`, like those of training; without them the gap is not known.

    Raises:
        InputError: an argument cannot be used; as training begins, the folder or the file cannot be
            written.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> layer = keras.layers.BatchNormalization(momentum=0.9, name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), layer])
        >>> model.compile(loss="mse")
        >>> x = np.random.default_rng(0).normal(5, 1, (640, 2)).astype("float32")
        >>> watch = Watch(data=x)
        >>> _ = model.fit(x, x, epochs=2, batch_size=32, verbose=0, callbacks=[watch])
        >>> [round(seen.gap, 1) for seen in watch.records]
        [0.5, 0.1]
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        csv: str | Path | None = None,
        every: int = 1,
        data: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(
                "Watch: `every` must be an integer of 1 or more. "
                f"Received: every={every!r}. Leave it out for every epoch."
            )
        self.log_dir, self.csv, self.every = log_dir, csv, every
        self.data = None if data is None else as_data(data, caller="Watch")
        self.records: list[Watched] = []
        self._fired: set[str] = set()
        self._norms: tuple[Norm, ...] = ()
        self._writer: Any = None
        self._table: Path | None = None
        self._begun: Mapping[str, tuple[Vector, Vector]] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the log and the table."""
        self._norms = ()
        if self.csv is not None:
            self._table = Path(self.csv)
            names = [field.name for field in fields(Watched)]
            try:
                write_atomically(self._table, _as_csv([[*names, "format"]]))
            except OSError as error:
                raise InputError(
                    "Watch: `csv` must be a file that can be written. "
                    f"Received: csv={str(self.csv)!r} ({error.strerror}). Choose another place."
                ) from error
        if self.log_dir is not None:
            try:
                self._writer = tf.summary.create_file_writer(str(self.log_dir))
            except tf.errors.OpError as error:
                raise InputError(
                    "Watch: `log_dir` must be a folder that can be written. Received: "
                    f"log_dir={str(self.log_dir)!r} ({_reason(error)}). Choose another place."
                ) from error

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the statistics of now."""
        # Layers get their weights with the first batch at the latest.
        self._norms = self._norms or norms_in(self.model)
        self._begun = {norm.name: (norm.mean, norm.variance) for norm in self._norms}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the gap and the drift, and check the rules."""
        self._norms = self._norms or norms_in(self.model)
        self._warn(at_the_end=False)
        if (epoch + 1) % self.every == 0:
            records = list(self._watched(epoch))
            self.records += records
            self._write(records)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Check the rules that judge a whole training, and close the log."""
        self._warn(at_the_end=True)
        if self._writer is not None:
            try:
                self._writer.close()
            except tf.errors.OpError as error:
                self._say_lost("log_dir", self.log_dir, _reason(error))
            self._writer = None

    def _watched(self, epoch: int) -> Iterator[Watched]:
        measured = None
        if self.data is not None:
            measured = measure(self.model, self._norms, self.data)
        gaps = Case(self.model, self._norms, measured).gaps
        for norm in self._norms:
            if norm.name in self._begun:
                gap = gaps.get(norm.name)
                drift = _drift(norm, *self._begun[norm.name])
                yield Watched(epoch, norm.name, None if gap is None else gap.layer, *drift)

    def _write(self, records: list[Watched]) -> None:
        if self._writer is not None:
            try:
                with self._writer.as_default():
                    for seen in records:
                        for name, value in list(asdict(seen).items())[2:]:
                            if value is not None:
                                tag = f"batch_norm/{seen.layer}/{name}"
                                tf.summary.scalar(tag, value, step=seen.epoch)
                self._writer.flush()
            except tf.errors.OpError as error:
                self._say_lost("log_dir", self.log_dir, _reason(error))
                self._writer = None
        if self._table is not None:
            try:
                _append(self._table, _as_csv([*astuple(seen), _FORMAT] for seen in records))
            except OSError as error:
                self._say_lost("csv", self.csv, error.strerror or str(error))
                self._table = None

    def _say_lost(self, argument: str, place: Any, reason: str) -> None:
        # Not an error: a training of hours must not end because of who looks at it.
        warnings.warn(
            f"Watch: `{argument}` must be a place that can be written to the end. Received: "
            f"{argument}={str(place)!r} ({reason}). Training goes on without it; what was written "
            "stays, and `records` has everything.",
            stacklevel=2,
        )

    def _warn(self, *, at_the_end: bool) -> None:
        for found in findings_of(Case(self.model, self._norms)):
            early = RULES[found.code].judges_whole_training and not at_the_end
            if found.severity == "note" or early or found.code in self._fired:
                continue
            self._fired.add(found.code)
            warnings.warn(
                f"Watch: {found.code} {found.name} at {found.layer}: {found.cause} {found.remedy}",
                stacklevel=2,
            )


def _as_csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv_files.writer(text).writerows(rows)
    return text.getvalue()


def _append(path: Path, rows: str) -> None:
    """Add rows to a table that is there, all of them or none.

    In its place, and not by a new file: it would be written whole at every epoch.
    """
    # Without O_CREAT: a table that was taken away must not come back without its head.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        before, whole = os.fstat(descriptor).st_size, rows.encode()
        try:
            # One call: a process that is killed has written it or has not.
            if file.write(whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise


def _reason(error: tf.errors.OpError) -> str:
    """Return what happened; TensorFlow puts a node's name before it, and more behind it."""
    return error.message.rpartition("}} ")[2].partition(" [Op:")[0].partition("\n")[0]


def _drift(norm: Norm, mean: Vector, variance: Vector) -> tuple[float, float]:
    """Return how far means and variances went from these, as root mean squares over channels."""
    epsilon = float(norm.layer.epsilon)
    with np.errstate(all="ignore"):
        # What is not finite or below 0 comes out as NaN, and the rules tell of it.
        shift = (norm.mean - mean) / np.sqrt(norm.variance + epsilon)
        ratio = np.log((np.maximum(norm.variance, 0) + epsilon) / (variance + epsilon))
        return float(np.sqrt(np.mean(shift**2))), float(np.sqrt(np.mean(ratio**2)))


class Recalibrate(keras.callbacks.Callback):
    """Recalibrate a model when training ends, or for what comes after each epoch.

    Keras averages weights (`use_ema`) before the callbacks' `on_train_end`, so the statistics then
    belong to the averaged weights. A callback that averages them itself must stand before this one
    in the list, since callbacks are called in their order.

    Args:
        data: as for `recalibrate`.
        when: "train_end", or "epoch_end" for callbacks that come later in the list, such as
            `ModelCheckpoint`, or after `SwapEMAWeights(swap_on_epoch=True)`. The statistics of
            training are put back as the next epoch begins; after the last epoch they stay
            recalibrated, for the weights of the end. "evaluate" does that too, and recalibrates
            while `fit` validates, which `SwapEMAWeights` does with the averaged weights: else
            `val_loss` is of these with the statistics of others. It costs a pass more each epoch.
        **settings: those of `recalibrate`, such as `batch_size`.

    Raises:
        InputError: `when` is none of these, or a setting is none of `recalibrate`'s; as training
            begins, the data cannot be used or the model has no batch norm; at the end, as
            `recalibrate`.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.BatchNormalization()])
        >>> model.compile(loss="mse")
        >>> x = np.array([[1.0], [3.0]] * 8, "float32")
        >>> _ = model.fit(x, x, verbose=0, callbacks=[Recalibrate(x)])
        >>> model.layers[0].moving_mean.numpy().tolist()
        [2.0]
    """

    # What `recalibrate` changed last, if that is still in place.
    change: Change | None = None
    _for_evaluation: Change | None = None

    def __init__(self, data: Any, when: When = "train_end", **settings: Any) -> None:
        super().__init__()
        if when not in get_args(When):
            raise InputError(
                "Recalibrate: `when` must be 'train_end', 'epoch_end' or 'evaluate'. "
                f"Received: when={when!r}. Leave it out for 'train_end'."
            )
        options = list(inspect.signature(recalibrate).parameters)[2:]
        for name, value in settings.items():
            if name not in options:
                close = difflib.get_close_matches(name, options, n=1) or options
                raise InputError(
                    "Recalibrate: `settings` must be those of `recalibrate`. "
                    f"Received: {name}={value!r}. Did you mean {' or '.join(map(repr, close))}?"
                )
        shared = {name: settings[name] for name in ("method", "blend") if name in settings}
        # Refuses now what `recalibrate` would at the end of a training.
        How("Recalibrate", **shared)
        self.data, self.when, self.settings = data, when, settings

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look at what is needed later, without a pass over the data."""
        size = self.settings.get("batch_size", DEFAULT_BATCH_SIZE)
        data = as_data(self.data, batch_size=size, caller="Recalibrate")
        if self.model.built and not norm_layers_in(self.model):
            raise InputError(
                "Recalibrate: `model` must have batch normalization. Received: a model without. "
                "Leave this callback out."
            )
        inputs = _like_a_batch(data)
        if inputs is not None:
            Fitting(self.model, caller="Recalibrate").checked(inputs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the statistics of training back."""
        if self.change is not None:
            self.change.undo()
            self.change = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Recalibrate for the callbacks that come later."""
        if self.when != "train_end":
            self.change = recalibrate(self.model, self.data, **self.settings)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Recalibrate for the weights that are evaluated."""
        if self.when == "evaluate":
            self._for_evaluation = recalibrate(self.model, self.data, **self.settings)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the statistics of training back."""
        if self._for_evaluation is not None:
            self._for_evaluation.undo()
            self._for_evaluation = None

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Recalibrate for good; `change.undo()` then goes back to the statistics of training."""
        if self.change is not None:
            self.change.undo()
        self.change = recalibrate(self.model, self.data, **self.settings)


def _like_a_batch(data: Data) -> Any | None:
    """Return inputs of the shape and types of a batch, or None if they are not known.

    The batches of a `tf.data.Dataset` may come but once, so none is taken.
    """
    if not isinstance(data.source, tf.data.Dataset):
        inputs, _ = next(iter(data), (None, None))
        return inputs
    spec = data.source.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else spec
    parts = tf.nest.flatten(inputs)
    if not all(isinstance(part, tf.TensorSpec) and part.shape.rank for part in parts):
        return None
    if any(None in part.shape[1:] for part in parts):
        return None
    return tf.nest.map_structure(lambda part: tf.zeros([1, *part.shape[1:]], part.dtype), inputs)
