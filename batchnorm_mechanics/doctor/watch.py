"""Callbacks for training: `Watch` looks at the statistics, `Recalibrate` puts them right."""

import csv as csv_files
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.checks.weights import check_weights
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.doctor.repairing.change import Change
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector, norms_in
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import ExponentialMovingAverage

# Batches of which the latest statistics are averaged: enough to see past the noise of one.
_WINDOW = 32
# Of the old statistics, the least that must be left in the new ones: with less, the difference of
# the two is rounding.
_LEAST_LEFT = 0.05
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


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """Moving statistics, by the names of layers, and the step at which they were read."""

    step: int
    statistics: dict[str, tuple[Vector, Vector]]


class Watch(keras.callbacks.Callback):
    """Log the train-inference gap and the drift of the statistics of each layer, epoch by epoch.

    It costs no pass through the model. A moving average after k more batches is
    momentum**k * old + (1 - momentum**k) * (an average of their statistics): from its values then
    and now follow the statistics that the latest 16 to 48 batches had in training. They are
    compared with the moving ones, which inference uses. (The variance between the means of batches
    is not in them.) Read from the weights are two numbers for each channel, every 32 batches.

    The gap is known for moving averages, Keras's or ours, batch renormalization left out; it is
    not known where more batches than 3 / (1 - momentum) lie between two calls of the callback, as
    in `fit_compiled`. The drift always is.

    Rules that need no data are checked as each epoch ends. The first time that one fires at warning
    or above, it warns; those on unconverged, stale or never updated statistics judge the end of
    training.

    Args:
        log_dir: folder for TensorBoard; no events are written by default.
        csv: file for a table; none is written by default.
        every: epochs between two records.

    Raises:
        InputError: an argument cannot be used, or the file cannot be written.

    Example:
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
        self._at_epoch: _Snapshot | None = None
        self._latest: tuple[_Snapshot, ...] = ()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the log and the table."""
        self._norms = ()
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        if self.csv is not None:
            try:
                with Path(self.csv).open("w", newline="", encoding="utf-8") as file:
                    csv_files.writer(file).writerow([field.name for field in fields(Watched)])
            except OSError as error:
                raise InputError(
                    "Watch: `csv` must be a file that can be written. "
                    f"Received: csv={str(self.csv)!r} ({error.strerror}). Choose another place."
                ) from error

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the statistics of now."""
        # Layers get their weights with the first batch at the latest.
        self._norms = self._norms or norms_in(self.model)
        self._at_epoch = _snapshot(self._norms, self._step())
        self._latest = (self._at_epoch,)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the statistics every 32 batches, the last two times."""
        if self._latest and self._at_epoch is not None:
            step = self._at_epoch.step + batch
            if step - self._latest[-1].step >= _WINDOW:
                self._latest = (self._latest[-1], _snapshot(self._norms, self._step()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the gap and the drift, and check the rules."""
        self._norms = self._norms or norms_in(self.model)
        self._warn(at_the_end=False)
        if self._at_epoch is None or (epoch + 1) % self.every:
            return
        now = _snapshot(self._norms, self._step())
        records = list(self._watched(epoch, now))
        self.records += records
        self._write(records)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Check the rules that judge a whole training, and close the log."""
        self._warn(at_the_end=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _step(self) -> int:
        return int(self.model.optimizer.iterations)

    def _watched(self, epoch: int, now: _Snapshot) -> Iterator[Watched]:
        begun = self._at_epoch or now
        # The later of the two if it has half a window behind it, else the one before.
        then = self._latest[-1]
        if now.step - then.step < _WINDOW // 2:
            then = self._latest[0]
        for norm in self._norms:
            if norm.name not in begun.statistics:
                continue
            moving, old = now.statistics[norm.name], begun.statistics[norm.name]
            batches = latest_batches(norm, then, now)
            gap = (None, None) if batches is None else _distance(norm, batches, moving)
            yield Watched(epoch, norm.name, *gap, *_distance(norm, moving, old, unit=moving))

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


def latest_batches(norm: Norm, then: _Snapshot, now: _Snapshot) -> tuple[Vector, Vector] | None:
    """Return mean and variance that the batches between two snapshots had, or None.

    Args:
        norm: a layer whose statistics are moving averages.
        then: the earlier snapshot.
        now: the later one.

    Returns:
        Averages in which the later batches weigh more, as in the moving average; None where the
        layer keeps something else, or too little of the earlier statistics is left.
    """
    layer = norm.layer
    if isinstance(layer, BatchNormalization) and not isinstance(
        layer.policy, ExponentialMovingAverage
    ):
        return None
    momentum, steps = norm.momentum, now.step - then.step
    if norm.renorm or momentum is None or not layer.trainable or steps < 1:
        return None
    # A layer that the graph calls twice is updated twice a step.
    left = momentum ** (steps * max(1, len(norm.calls)))
    if not _LEAST_LEFT <= left < 1 or norm.name not in then.statistics:
        return None
    pairs = zip(then.statistics[norm.name], now.statistics[norm.name], strict=True)
    mean, variance = ((new - left * old) / (1 - left) for old, new in pairs)
    return mean, variance


def _snapshot(norms: tuple[Norm, ...], step: int) -> _Snapshot:
    return _Snapshot(step, {norm.name: (norm.mean, norm.variance) for norm in norms})


def _distance(
    norm: Norm,
    of: tuple[Vector, Vector],
    to: tuple[Vector, Vector],
    *,
    unit: tuple[Vector, Vector] | None = None,
) -> tuple[float, float]:
    """Return how far means and variances are apart, as root mean squares over channels."""
    epsilon = float(norm.layer.epsilon)
    with np.errstate(all="ignore"):
        # What is not finite or below 0 comes out as NaN, and the rules tell of it.
        shift = (of[0] - to[0]) / np.sqrt((unit or to)[1] + epsilon)
        ratio = np.log((np.maximum(of[1], 0) + epsilon) / (to[1] + epsilon))
    return _root_mean_square(shift), _root_mean_square(ratio)


def _root_mean_square(values: Vector) -> float:
    return float(np.sqrt(np.mean(values**2)))


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
        InputError: `when` is none of the two; at the end, as `recalibrate`.

    Example:
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
        self.data, self.when, self.settings = data, when, settings

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
