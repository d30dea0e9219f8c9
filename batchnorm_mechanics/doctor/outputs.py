"""What a model puts out: how good it is, and what the batch and its statistics do to it."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from batchnorm_mechanics._keras import layers_by_path, layers_in, takes_training
from batchnorm_mechanics.doctor.calls import Call, Heard, listening
from batchnorm_mechanics.doctor.findings import Severity, by_size, worse
from batchnorm_mechanics.doctor.sample import Again, Heads, Rows
from batchnorm_mechanics.layers.intercept import intercepted
from batchnorm_mechanics.models.norms import Norm

Run = Callable[[Rows], Heads]

# Batches of this many at least: statistics of fewer samples are mostly noise.
_GROUP = 32
# Looked at alone: each is one more call of the model.
_ALONE = 2
_BESIDE = 8
# Of the calls that make a distance: as many are named.
_MOST_MAKERS = 3

# Of the output: differences of a quarter of its spread, or another choice for 1 sample in 20.
_RELATIVE, _CHANGED = 0.25, 0.05


@dataclass(frozen=True)
class Effects:
    """What a few samples say; differences are RMS, over that of the output among samples.

    Attributes:
        samples: how many.
        relative: how far the output in training mode (batch norm alone) is from that at inference,
            less what the choice of the batch does to it; None where that cannot be known, as of
            an output that is random beyond Keras's own seeds.
        changed: the part of the samples whose largest output is another one, likewise, less what
            so few of them err by.
        chance: what the choice of the batch does to the output in training mode.
        makers: the calls that make most of the difference, each with the part of it that is left
            when all calls up to it normalize by the batch; none where it is a note.
        alone: how far the output of a sample alone is from that in a batch, at inference; None
            where there is one sample only, the output is random, or the model takes batches of one
            size only.
        alone_if_called: likewise where the model is called without `training`; of a random output,
            how far it is from that beside other samples.
        called_by_batch: names of the layers that normalize by the batch then.
        flag_from: path of the first layer that was told to train then, which hands that on.
        by_labels: how bad it is by loss and accuracy, if there are labels.
        rounding: differences up to here may be rounding: 3 sqrt(u), with u the unit roundoff of
            the coarsest dtype that the model's layers compute in. Kernels add in another order
            for another size of batch, and depth makes more of it.
    """

    samples: int
    rounding: float
    relative: float | None = None
    changed: float | None = None
    chance: float | None = None
    makers: tuple[tuple[Call, float], ...] = ()
    alone: float | None = None
    alone_if_called: float | None = None
    called_by_batch: tuple[str, ...] = ()
    flag_from: str = ""
    by_labels: Severity = "note"

    @property
    def severity(self) -> Severity:
        """How bad a gap is by what it does to the output: one that does nothing is a note."""
        if self.relative is None:
            return worse("warning", self.by_labels)
        size = max(self.relative / _RELATIVE, (self.changed or 0.0) / _CHANGED)
        return worse(by_size(size), self.by_labels)

    @property
    def on_output(self) -> dict[str, Any]:
        """What is known of the change of the output, as evidence."""
        known = {"output_change": self.relative, "predictions_changed": self.changed}
        return {name: value for name, value in known.items() if value is not None}


def effects_on(again: Again) -> Effects:
    """Measure what batch statistics and other samples do to the output.

    Dropout and noise that Keras's seeds make are the same in all that is compared; a model that is
    random in another way is not compared with itself.
    """
    sample, fixed = again.sample, again.fixed_size
    start = Effects(sample.rows, _rounding(again.model))
    rows = sample.rows - sample.rows % (fixed or 1)
    if rows < 2:
        return start
    size = fixed or min(rows, max(_GROUP, 2 * sample.most))
    parts = _parts(np.arange(rows), size)
    inference = _run(again.predict, parts)
    is_random = not _repeats(again.predict, inference, parts[0], start.rounding)
    half = fixed or min(size, rows // 2)
    effects = _gap(start, again, inference, rows, half, is_random=is_random)
    if fixed:
        return effects
    if not is_random:
        alone = max(
            _relative(
                [head[:1] for head in again.predict(np.array([row]))],
                [head[row : row + 1] for head in inference],
                inference,
            )
            for row in range(_ALONE)
        )
        effects = replace(effects, alone=alone)
    return _called(effects, again)


def _from_start(again: Again, run: Run) -> Run:
    """Return a way to run the model in which dropout and noise are the same for each batch."""

    def running(rows: Rows) -> Heads:
        again.restart()
        return run(rows)

    return running


def _repeats(run: Run, outputs: Heads, rows: Rows, rounding: float) -> bool:
    """Whether a batch of these rows gives once more what it gave."""
    first = [head[rows] for head in outputs]
    again = run(rows)
    # NaN is what comes again, too.
    if all(np.array_equal(*pair, equal_nan=True) for pair in zip(again, first, strict=True)):
        return True
    # Of noise that is just there, a lone sample may by chance get more than all on average.
    return _relative(again, first, outputs) <= rounding / 4


def _gap(
    start: Effects, again: Again, inference: Heads, rows: int, size: int, *, is_random: bool
) -> Effects:
    """Compare training mode with inference, and with itself in batches put together otherwise.

    With f the output by statistics that are right, training gives f + n, where n is the noise of
    the batch, and inference f + g. Two batchings in which a sample keeps a part s of those beside
    it differ by 2 (1 - s) n^2 and training from inference by n^2 + g^2 on average. Each sample
    keeps its place in the batch, and so what dropout takes from it.
    """
    if size < 2 or rows < 2 * size:
        # Two batches put together otherwise would be too small, or the same. What layers get is
        # heard on the way all the same.
        _run(again.train, _parts(np.arange(rows), max(size, 1)))
        return start
    rng = np.random.default_rng(0)
    parts = _parts(rng.permutation(rows), size)
    others = _in_other_batches(parts, rng)
    train = _from_start(again, again.train)
    once, anew = (_run(train, by) for by in (parts, others))
    pairs = [(inference, once), (inference, anew)]
    if is_random:
        predict = _from_start(again, again.predict)
        pairs = [(_run(predict, by), of) for by, of in ((parts, once), (others, anew))]
        if not _repeats(predict, pairs[0][0], parts[0], start.rounding):
            return start
    gap = float(np.sqrt(np.mean([_relative(out, at, at) ** 2 for at, out in pairs])))
    differing = _relative(anew, once, inference)
    chance = differing / np.sqrt(2 * (1 - _in_common(parts, others)))
    relative = float(np.sqrt(max(0.0, gap**2 - chance**2))) if np.isfinite(gap) else gap
    changed = None
    if len(inference) == 1 and inference[0].ndim == 2 and inference[0].shape[1] > 1:
        first, second, by_chance = (
            (one[0].argmax(-1) != other[0].argmax(-1)).mean()
            for one, other in (*pairs, (once, anew))
        )
        # What so many samples err by is no change.
        error = 2 * np.sqrt(max(by_chance, 1 / rows) / rows)
        changed = float(max(0.0, (first + second) / 2 - by_chance - error))
    found = replace(start, relative=relative, changed=changed, chance=float(chance))
    if found.severity == "note":
        return found
    # By one batch: it is a question of which call, and each answer takes a run of the model.
    of_batch = np.sort(parts[0])
    some = ([head[of_batch] for head in heads] for heads in pairs[0])
    return replace(found, makers=_makers(again, parts[0], *some))


def _in_other_batches(parts: list[Rows], rng: Any) -> list[Rows]:
    """Put batches together otherwise; each sample keeps its place in the batch."""
    others = [part.copy() for part in parts]
    for place in range(len(parts[0])):
        there = [number for number, part in enumerate(parts) if place < len(part)]
        for number, of in zip(there, rng.permutation(there), strict=True):
            others[number][place] = parts[of][place]
    return others


def _in_common(parts: list[Rows], others: list[Rows]) -> float:
    """Return which part of those beside a sample stay beside it, on average."""
    shared = pairs = 0
    for part in others:
        for before in parts:
            both = len(np.intersect1d(part, before))
            shared += both * (both - 1)
        pairs += len(part) * (len(part) - 1)
    return min(shared / pairs, 0.9)


def _makers(
    again: Again, batch: Rows, inference: Heads, training: Heads
) -> tuple[tuple[Call, float], ...]:
    """Return the calls that make most of the difference between training mode and inference.

    Calls up to one, in the order in which the model makes them, normalize by the batch and those
    after it by the moving statistics. The first with which half of the distance is gone makes it;
    then the first with which half of the rest is.
    """
    calls = again.calls

    def left(first: int) -> float:
        switched = _from_start(again, lambda rows: again.switched(rows, calls[:first]))
        return _relative(_run(switched, [batch]), training, inference)

    whole = rest = _relative(inference, training, inference)
    found: list[tuple[Call, float]] = []
    low = 0
    while np.isfinite(rest) and rest > whole / 4 and low < len(calls) and len(found) < _MOST_MAKERS:
        high = len(calls)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if left(middle) <= rest / 2 else (middle, high)
        rest = left(high) if high < len(calls) else 0.0
        found.append((calls[high - 1], float(rest / whole)))
        low = high
    return tuple(found)


def _called(effects: Effects, again: Again) -> Effects:
    """Call the model without `training`, on several samples and on one."""
    by_batch: dict[str, None] = {}
    told: list[str] = []
    rounding, model = effects.rounding, again.model

    def answer(norm: Norm, heard: Heard) -> None:
        if heard.training:
            by_batch[norm.name] = None

    def noting(path: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training") is True:
            told.append(path)
        return call(*args, **kwargs)

    def found(difference: float | None) -> Effects:
        return replace(
            effects,
            alone_if_called=difference,
            called_by_batch=tuple(by_batch),
            flag_from=next(iter(told), "") if by_batch else "",
        )

    rows = np.arange(min(again.sample.rows, _BESIDE))
    others = layers_by_path(model, lambda one: one is not model and takes_training(one))
    with ExitStack() as stack:
        # Those of the norms come last, and so are the first to be asked.
        for path, layer in others.items():
            stack.enter_context(intercepted(layer, functools.partial(noting, path)))
        stack.enter_context(listening(again.norms, answer))
        together = again.plainly(rows)
        if not by_batch:
            return found(None)
        first = [head[:1] for head in together]
        difference = _relative(again.plainly(rows[:1]), first, together)
        if not difference > rounding < _relative(again.plainly(rows), together, together):
            return found(difference)
        # Its output is random: what does the first sample get beside others?
        call = _from_start(again, again.plainly)
        together = call(rows)
        if _relative(call(rows), together, together) > rounding or len(rows) < 3:
            return found(None)
        # The others once more, in the place of one another; the last is there twice.
        beside = call(np.array([0, *rows[2:], rows[-1]]))
        first, other = ([head[:1] for head in heads] for heads in (together, beside))
        return found(_relative(other, first, together))


def _rounding(model: Any) -> float:
    dtypes = {tf.as_dtype(layer.compute_dtype) for layer in layers_in(model)}
    steps = [float(ml_dtypes.finfo(one.as_numpy_dtype).eps) for one in dtypes if one.is_floating]
    return 3 * float(np.sqrt(max(steps) / 2))


def _run(run: Run, parts: list[Rows]) -> Heads:
    """Return the outputs for all samples in their own order, run in these batches."""
    outputs = [run(rows) for rows in parts]
    back = np.argsort(np.concatenate(parts))
    return [np.concatenate(head)[back] for head in zip(*outputs, strict=True)]


def _parts(order: Rows, size: int) -> list[Rows]:
    return np.array_split(order, -(-len(order) // size))


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
