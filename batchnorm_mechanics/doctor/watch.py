"""Callbacks for training: `Watch` looks at the statistics, `Recalibrate` puts them right."""

import csv as csv_files
import difflib
import inspect
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.checks.weights import check_weights
from batchnorm_mechanics.doctor.data import DEFAULT_BATCH_SIZE, Data, as_data
from batchnorm_mechanics.doctor.probing.fitting import Fitting
from batchnorm_mechanics.doctor.probing.snapshots import (
    Snapshot,
    distance,
    latest_batches,
    snapshot,
)
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.doctor.repairing.change import Change
from batchnorm_mechanics.doctor.repairing.renew import How
from batchnorm_mechanics.doctor.structure.norms import KINDS, Norm, norms_in

# Batches between two snapshots: at momentum 0.5 a sixteenth is left of what is four batches old.
_STRIDE = 4
# Snapshots: enough to see past the noise of a few batches.
_KEPT = 10
# They judge a training that is over.
_AT_THE_END = frozenset({"BN103", "BN106", "BN110"})

When = Literal["train_end", "epoch_end"]


@dataclass(frozen=True)
class Watched:
    """What `Watch` saw of a layer in an epoch; each is a root mean square over channels.

    Attributes:
        epoch: from 0.
        layer: path of the layer in the model.
        gap_mean: of (mean of the latest batches - moving mean) / moving standard deviation; None
            where it cannot be known.
        gap_variance: of log(variance of the latest batches / moving variance); None likewise.
        drift_mean: how far the moving mean went in this epoch, in standard deviations.
        drift_variance: of log(moving variance / what it was when the epoch began).
    """

    epoch: int
    layer: str
    gap_mean: float | None
    gap_variance: float | None
    drift_mean: float
    drift_variance: float


class Watch(keras.callbacks.Callback):
    """Log the train-inference gap and the drift of the statistics of each layer, epoch by epoch.

    It costs no pass through the model. A moving average after k more batches is
    momentum**k * old + (1 - momentum**k) * (an average of their statistics): from its values then
    and now follow the statistics that the latest k batches had in training. They are compared with
    the moving ones, which inference uses. (The variance between the means of batches is not in
    them.) Two vectors a layer are noted every 4 batches, and the last 10 of these notes are kept:
    k is the largest there of which at least 5% is left of the old values, at most 40, and at most
    3 / (1 - momentum).

    The gap is known for moving averages, Keras's or ours, batch renormalization left out. It is
    None for others, for frozen layers, and where a moving average has forgotten all it was by the
    next time that the callback is called: it then equals the average of those batches, and their
    difference, which the gap follows from, is rounding. So it is at a momentum below 0.48, or
    where more than 3 / (1 - momentum) batches lie between two calls, as can be with
    `steps_per_execution`. The drift is always known.

    A batch is taken to update each layer once for each call in the graph; in a `train_step` of
    one's own that runs the model several times, the gap comes out too large.

    Rules that need no data are checked as each epoch ends. The first time that one fires at warning
    or above, it warns; those on unconverged, stale or never updated statistics judge the end of
    training.

    Args:
        log_dir: folder for TensorBoard; no events are written by default.
        csv: file for a table; none is written by default.
        every: epochs between two records.

    Raises:
        InputError: an argument cannot be used; as training begins, the folder or the file cannot be
            written.

    Example:
        >>> import numpy as np
        >>> keras.utils.set_random_seed(0)
        >>> layer = keras.layers.BatchNormalization(momentum=0.9, name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), layer])
        >>> model.compile(loss="mse")
        >>> watch = Watch()
        >>> x = np.random.default_rng(0).normal(5, 1, (640, 2)).astype("float32")
        >>> _ = model.fit(x, x, epochs=2, batch_size=32, verbose=0, callbacks=[watch])
        >>> [round(seen.gap_mean, 1) for seen in watch.records]
        [0.7, 0.1]
    """

    # The end of a batch is only counted: Keras may do that in threads, and need not wait.
    async_safe = True

    def __init__(
        self,
        log_dir: str | Path | None = None,
        csv: str | Path | None = None,
        every: int = 1,
    ) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(
                "Watch: `every` must be an integer of 1 or more. "
                f"Received: every={every!r}. Leave it out for every epoch."
            )
        self.log_dir, self.csv, self.every = log_dir, csv, every
        self.records: list[Watched] = []
        self._fired: set[str] = set()
        self._norms: tuple[Norm, ...] = ()
        self._writer: Any = None
        self._at_epoch: Snapshot | None = None
        self._latest: deque[Snapshot] = deque(maxlen=_KEPT)
        self._counting = threading.Lock()
        self._batches = 0
        self._updates: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the log and the table."""
        self._norms = ()
        if self.csv is not None:
            try:
                with Path(self.csv).open("w", newline="", encoding="utf-8") as file:
                    csv_files.writer(file).writerow([field.name for field in fields(Watched)])
            except OSError as error:
                raise InputError(
                    "Watch: `csv` must be a file that can be written. "
                    f"Received: csv={str(self.csv)!r} ({error.strerror}). Choose another place."
                ) from error
        if self.log_dir is not None:
            try:
                self._writer = tf.summary.create_file_writer(str(self.log_dir))
            except tf.errors.OpError as error:
                # TensorFlow puts the name of a node before what happened, and an operation after.
                reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0]
                raise InputError(
                    "Watch: `log_dir` must be a folder that can be written. Received: "
                    f"log_dir={str(self.log_dir)!r} ({reason}). Choose another place."
                ) from error

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the statistics of now."""
        # Layers get their weights with the first batch at the latest.
        self._norms = self._norms or norms_in(self.model)
        self._at_epoch = snapshot(self._norms, 0)
        self._latest.clear()
        self._batches, self._updates = 0, _updates_of(self.model)
        if (epoch + 1) % self.every == 0:
            self._latest.append(self._at_epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the statistics every 4 batches, the last 10 times."""
        # Of an epoch that is not recorded there are none.
        if self._latest and batch - self._latest[-1].step >= _STRIDE:
            self._latest.append(snapshot(self._norms, batch))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the batches."""
        with self._counting:
            self._batches = max(self._batches, batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the gap and the drift, and check the rules."""
        self._norms = self._norms or norms_in(self.model)
        self._warn(at_the_end=False)
        if self._at_epoch is None or (epoch + 1) % self.every:
            return
        records = list(self._watched(epoch, snapshot(self._norms, self._trained())))
        self.records += records
        self._write(records)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Check the rules that judge a whole training, and close the log."""
        self._warn(at_the_end=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _trained(self) -> int:
        """Return how many batches this epoch has trained on.

        An optimizer need not count them: gradients are accumulated, losses overflow, a model has
        several optimizers or none. But it knows how many there were in a last execution of several
        steps, cut short by the end of the data, and in a loop that only tells of epochs.
        """
        now = _updates_of(self.model)
        updates = 0 if now is None or self._updates is None else now - self._updates
        at_once = int(getattr(self.model, "steps_per_execution", None) or 1)
        is_last = self._batches - at_once < updates <= self._batches
        return updates if is_last or not self._batches else self._batches

    def _watched(self, epoch: int, now: Snapshot) -> Iterator[Watched]:
        begun = self._at_epoch or now
        for norm in self._norms:
            if norm.name not in begun.statistics:
                continue
            moving, old = now.of(norm.name), begun.of(norm.name)
            known = (latest_batches(norm, then, now) for then in self._latest)
            batches = next((found for found in known if found is not None), None)
            gap = (None, None) if batches is None else distance(norm, batches, moving)
            yield Watched(epoch, norm.name, *gap, *distance(norm, moving, old, unit=moving))

    def _write(self, records: list[Watched]) -> None:
        if self._writer is not None:
            with self._writer.as_default():
                for seen in records:
                    for name, value in list(asdict(seen).items())[2:]:
                        if value is not None:
                            tag = f"batch_norm/{seen.layer}/{name}"
                            tf.summary.scalar(tag, value, step=seen.epoch)
            self._writer.flush()
        if self.csv is not None:
            with Path(self.csv).open("a", newline="", encoding="utf-8") as file:
                rows = [list(asdict(seen).values()) for seen in records]
                csv_files.writer(file).writerows(
                    ["" if value is None else value for value in row] for row in rows
                )

    def _warn(self, *, at_the_end: bool) -> None:
        for found in check_weights(self.model, self._norms):
            early = found.code in _AT_THE_END and not at_the_end
            if found.severity == "note" or early or found.code in self._fired:
                continue
            self._fired.add(found.code)
            warnings.warn(
                f"Watch: {found.code} {found.name} at {found.layer}: {found.cause} {found.remedy}",
                stacklevel=2,
            )


def _updates_of(model: Any) -> int | None:
    """Return how many times a model's optimizer has updated it; None where it does not tell."""
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    return None if iterations is None else int(keras.ops.convert_to_numpy(iterations))


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
            recalibrated, for the weights of the end.
        **settings: those of `recalibrate`, such as `batch_size`.

    Raises:
        InputError: `when` is none of the two, or a setting is none of `recalibrate`'s; as training
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

    def __init__(self, data: Any, when: When = "train_end", **settings: Any) -> None:
        super().__init__()
        if when not in get_args(When):
            raise InputError(
                "Recalibrate: `when` must be 'train_end' or 'epoch_end'. "
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
        How("Recalibrate", **shared).check()
        self.data, self.when, self.settings = data, when, settings

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look at what is needed later, without a pass over the data."""
        size = self.settings.get("batch_size", DEFAULT_BATCH_SIZE)
        data = as_data(self.data, batch_size=size, caller="Recalibrate")
        layers = self.model._flatten_layers()
        if self.model.built and not any(isinstance(layer, KINDS) for layer in layers):
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
        if self.when == "epoch_end":
            self.change = recalibrate(self.model, self.data, **self.settings)

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
