"""What data say about a model: one pass as `predict` makes it, and a few samples seen again."""

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._keras import layers_in, own_state
from batchnorm_mechanics.doctor.calls import Call, Runner, Said
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.fitting import Fitting
from batchnorm_mechanics.doctor.norms import Norm, Vector
from batchnorm_mechanics.doctor.outputs import Effects, Runs, Sample, Scores, effects_on


@dataclass
class Pool:
    """Moments of all batches so far, and how they scatter from one batch to the next.

    It holds a few vectors of one number a channel, however many batches came.

    Attributes:
        count: samples behind each statistic, all batches together.
        mean: of all samples.
        deviations: sum of the squared deviations from the mean.
        within: sum of the squared deviations from the means of their own batches.
        freedom: degrees of freedom of `within`, samples less batches.
        batches: how many.
        non_finite: values that are NaN or infinite.
        largest: of |input|, of a float16 input.
        counts: how often a batch had so many samples behind each statistic.

    Example:
        >>> pool = Pool(1)
        >>> pool.add(2.0, np.array([1.0]), np.array([1.0]), np.array([0.0]))
        >>> pool.add(1.0, np.array([7.0]), np.array([0.0]), np.array([0.0]))
        >>> pool.mean.item(), pool.variance.item()
        (3.0, 8.666666666666666)
    """

    channels: int
    count: float = 0.0
    freedom: float = 0.0
    batches: int = 0
    largest: float = 0.0
    counts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start with nothing."""
        self.mean = np.zeros(self.channels)
        self.deviations = np.zeros(self.channels)
        self.within = np.zeros(self.channels)
        self.non_finite = np.zeros(self.channels)
        self._first = np.zeros(self.channels)
        # Running means and squared deviations, over batches, of the batch's mean and of its
        # second moment about the first batch's mean.
        self._centres = np.zeros((2, self.channels))
        self._squares = np.zeros((2, self.channels))

    def add(
        self, count: float, mean: Vector, variance: Vector, non_finite: Vector, largest: float = 0.0
    ) -> None:
        """Take in what one call of a layer says, as `Said`; its variance is the biased one.

        A batch in which a mask lets nothing count changes no moment.

        Implements: Chan, Golub and LeVeque (1983), the pairwise update.
        """
        self.largest = max(self.largest, largest)
        if not count:
            return
        # Infinite values make NaN here, which is what they should make; quietly.
        with np.errstate(invalid="ignore", over="ignore"):
            if not self.batches:
                self._first = mean.copy()
            total = self.count + count
            delta = mean - self.mean
            squares = variance * count
            self.within += squares
            self.freedom += count - 1
            self.deviations += squares + delta**2 * self.count * count / total
            self.mean += delta * count / total
            self.count = total
            self.batches += 1
            self.counts[round(count)] = self.counts.get(round(count), 0) + 1
            self.non_finite += non_finite
            values = np.stack((mean - self._first, variance + (mean - self._first) ** 2))
            step = values - self._centres
            self._centres += step / self.batches
            self._squares += step * (values - self._centres)

    @property
    def variance(self) -> Vector:
        """The biased variance of all samples, the variance between batch means included."""
        return self.deviations / max(self.count, 1.0)

    @property
    def spread(self) -> tuple[Vector, Vector]:
        """Standard deviations, from batch to batch, of the mean and of the second moment.

        NaN where there is one batch only.
        """
        if self.batches < 2:
            return np.full(self.channels, np.nan), np.full(self.channels, np.nan)
        mean, second = np.sqrt(self._squares / (self.batches - 1))
        return mean, second


# Batches whose variances are held apart, since they may be odd; so much larger than the usual one
# makes a batch odd; and with fewer none is usual.
_HELD, _ODD, _FEWEST = 8, 10.0, 8


class Pools:
    """Moments of what one layer gets: of each of its calls, and of them together.

    A few batches with variances that are far above the usual are held apart while others come. If
    together they make more than half of all, they stay apart: what a layer mostly gets is told by
    the rest.

    Args:
        channels: of the layer.
        epsilon: likewise; variances below it are all the same.

    Attributes:
        together: what all calls get, each forward pass as one batch.
        calls: what each gets.
        odd: numbers of the batches that were left out, once `settle` has run.
    """

    def __init__(self, channels: int, epsilon: float) -> None:
        """Start with nothing."""
        self._epsilon = max(epsilon, 1e-12)
        self.together = Pool(channels)
        self.calls: list[Pool] = []
        self.odd: tuple[int, ...] = ()
        self._scales: list[float] = []
        self._held: list[tuple[float, int, Sequence[Said]]] = []

    def add(self, calls: Sequence[Said]) -> None:
        """Take in what the calls of one forward pass say."""
        # Over channels by the geometric mean, since each may have a unit of its own.
        with np.errstate(invalid="ignore"):
            logs = [np.log(said.variance + self._epsilon).mean() for said in calls]
        scale = float(np.exp(np.mean(logs)))
        number = len(self._scales)
        self._scales.append(scale)
        if not np.isfinite(scale):
            self._take(calls)
            return
        # The last of those that are equal: the numbers differ, and nothing else is compared.
        heapq.heappush(self._held, (scale, -number, calls))
        if len(self._held) > _HELD:
            self._take(heapq.heappop(self._held)[2])

    def settle(self) -> "Pools":
        """Take in what was held apart, but for what is odd."""
        scales = np.array(self._scales)
        usual = float(np.median(scales)) if len(scales) >= _FEWEST else np.inf
        odd = [held for held in self._held if held[0] > _ODD * usual]
        if sum(scale for scale, *_ in odd) > scales.sum() / 2 and len(odd) < len(scales) / 8:
            self.odd = tuple(sorted(-number for _, number, _ in odd))
        for _, number, calls in sorted(self._held, key=lambda held: -held[1]):
            if -number not in self.odd:
                self._take(calls)
        self._held = []
        return self

    def _take(self, calls: Sequence[Said]) -> None:
        while len(self.calls) < len(calls):
            self.calls.append(Pool(self.together.channels))
        for pool, said in zip(self.calls, calls, strict=False):
            pool.add(*said)
        self.together.add(*_joined(calls))


def _joined(calls: Sequence[Said]) -> Said:
    """Return what several calls say together, as if they had come in one batch."""
    if len(calls) == 1:
        return calls[0]
    joined = Pool(len(calls[0].mean))
    for said in calls:
        joined.add(*said)
    return Said(joined.count, joined.mean, joined.variance, joined.non_finite, joined.largest)


@dataclass(frozen=True, eq=False)
class NormMeasured:
    """What data say about one layer.

    Attributes:
        dtype: of its input.
        frozen: whether training, too, normalizes by the moving statistics.
        by_batch: whether it normalizes by the batch although the model predicts.
        pool: moments of its input over all the data, at inference, all calls together.
        calls: likewise of each call in one forward pass.
        own: moments of what each call gets when the layers before it normalize by the batch: what
            is left is the layer's own. Of a few samples; none if it was not called.
        odd: numbers of the batches of data that are left out of these, since they make most of the
            layer's variance.
    """

    dtype: str
    frozen: bool
    by_batch: bool
    pool: Pool
    calls: tuple[Pool, ...]
    own: tuple[Pool, ...]
    odd: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Measured:
    """What data say about a model.

    Attributes:
        norms: by the layers' names, in the order of their first calls; those that the model called,
            where it could be seen.
        unseen: the others, and why nothing is known of them.
        samples: how many the data held.
        batches: how many batches they came in.
        full: whether a batch was as large as it can be; not if a few samples made one small batch.
        non_finite_outputs: values of the model's output that are NaN or infinite.
        effects: of the batch and of batch statistics on the output.
        scores: "loss" and "accuracy", and "loss_by_batch" and "accuracy_by_batch" of training mode,
            as far as there are labels to know them by.
    """

    norms: Mapping[str, NormMeasured]
    unseen: Mapping[str, str]
    samples: int
    batches: int
    full: bool
    non_finite_outputs: int
    effects: Effects
    scores: Mapping[str, float]


def measure(model: keras.Model, norms: tuple[Norm, ...], data: Data) -> Measured:
    """Measure what data say about a model and its batch norm layers.

    The data are gone through once, as `predict` does, and each layer's input is summed up on the
    way; 128 samples, spread over the data, are then looked at again. Memory does not grow with the
    data, and nothing of the model changes.

    Args:
        model: any Keras model with weights.
        norms: its batch norm layers.
        data: batches that the model takes.

    Returns:
        `Measured`. A layer that runs inside a function that is compiled or vectorized by the model
        itself cannot be seen from outside.

    Raises:
        InputError: the data do not fit the model, hold NaN or infinite values, or are empty.

    Numerics:
        Moments of a batch are float32 or wider, by two passes; they are merged in float64.

    Example:
        >>> from batchnorm_mechanics.doctor.norms import norms_in
        >>> model = keras.Sequential(
        ...     [keras.layers.Input((1,)), keras.layers.BatchNormalization(name="bn")]
        ... )
        >>> data = Data(np.array([[1.0], [2.0], [6.0]], "float32"))
        >>> pool = measure(model, norms_in(model), data).norms["bn"].pool
        >>> pool.count, pool.mean.item(), round(pool.variance.item(), 4)
        (3.0, 3.0, 4.6667)
    """
    with kept(model):
        return _measured(model, norms, data)


def _measured(model: keras.Model, norms: tuple[Norm, ...], data: Data) -> Measured:
    run, counting = (Runner(model, norms, count=count) for count in (False, True))
    # A model of which nothing trains was frozen for its use, once training was over.
    trains = bool(model.trainable_variables)
    frozen = {norm.name: trains and not norm.layer.trainable for norm in norms}
    trained = [name for name in frozen if not frozen[name]]
    fitting, sample = Fitting(model), Sample()
    pools, own = (
        {norm.name: Pools(norm.channels, norm.layer.epsilon) for norm in norms} for _ in range(2)
    )
    both = {"": Scores(model), "_by_batch": Scores(model)}
    by_batch = Runner(model, norms, heard=trained, by_batch=trained)
    batches = bad_outputs = 0
    for inputs, labels, quick in run.over(data, fitting):
        # One such value makes the mean so; counting them in each batch costs a pass over memory.
        is_finite = all(np.isfinite(said.mean).all() for said in quick.calls.values())
        ran = quick if is_finite else counting(inputs)
        batches += 1
        bad_outputs += ran.bad_outputs
        sample.add(inputs)
        for name, said in ran.by_layer.items():
            pools[name].add(said)
        both[""].add(labels, ran.outputs)
        if labels is not None and both[""].results():
            both["_by_batch"].add(labels, by_batch(inputs).outputs)
    # A few batches: to trace the model once more would take longer.
    training = Runner(model, norms, by_batch=trained, eagerly=True)
    order: list[Call] = []

    def train(inputs: Any) -> Any:
        training.by_batch = frozenset(trained)
        ran = training(inputs)
        for name, said in ran.by_layer.items():
            own[name].add(said)
        order[:] = [call for call in ran.calls if not frozen[call.name]]
        return ran.outputs

    def switched(inputs: Any, calls: Collection[Call]) -> Any:
        training.by_batch = frozenset(calls)
        return training(inputs).outputs

    start = _States(model)
    effects = effects_on(
        model,
        norms,
        sample,
        Runs(lambda inputs: run(inputs).outputs, train, switched, lambda: order, start.put_back),
    )
    for layer in (*pools.values(), *own.values()):
        layer.settle()
    measured = {
        name: NormMeasured(
            dtype=dtype,
            frozen=frozen[name],
            by_batch=name in run.told_to_train,
            pool=pools[name].together,
            calls=tuple(pools[name].calls),
            own=tuple(own[name].calls),
            odd=pools[name].odd,
        )
        for name, dtype in run.dtypes.items()
        if pools[name].together.batches
    }
    return Measured(
        norms=MappingProxyType(measured),
        unseen=MappingProxyType(
            {name: run.reason_unheard(name) for name in pools if name not in measured}
        ),
        samples=fitting.samples,
        batches=batches,
        full=batches > 1 or data.rows is None or sample.most >= data.batch_size,
        non_finite_outputs=bad_outputs,
        effects=effects,
        scores=MappingProxyType(
            {
                name + mode: value
                for mode, scores in both.items()
                for name, value in scores.results().items()
            }
        ),
    )


@contextmanager
def kept(model: Any) -> Iterator[None]:
    """Put the states of a model's layers back in the end: seeds, and what recurrent layers carry.

    Weights that are frozen are no state: no run moves them, and they may be many.

    Args:
        model: any Keras model, which is run in the block.

    Example:
        >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dropout(0.5)])
        >>> seed = model.layers[0].seed_generator.state
        >>> before = seed.numpy()
        >>> with kept(model):
        ...     _ = model(np.ones((1, 2)), training=True)
        >>> bool((seed.numpy() == before).all())
        True
    """
    states = _States(model)
    try:
        yield
    finally:
        states.put_back()


class _States:
    """The states of a model's layers as they are now."""

    def __init__(self, model: Any) -> None:
        states = {id(state): state for layer in layers_in(model) for state in own_state(layer)}
        self._before = [(state, keras.ops.convert_to_numpy(state)) for state in states.values()]

    def put_back(self) -> None:
        for state, value in self._before:
            if not np.array_equal(keras.ops.convert_to_numpy(state), value, equal_nan=True):
                state.assign(value)
