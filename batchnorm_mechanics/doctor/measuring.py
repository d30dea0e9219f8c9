"""What data say about a model: one pass as `predict` makes it, and a few samples seen again."""

import functools
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._keras import draws_at_random, layers_by_path, layers_in, own_state
from batchnorm_mechanics.doctor.calls import Call, Runner
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.fitting import Fitting
from batchnorm_mechanics.doctor.norms import Norm
from batchnorm_mechanics.doctor.outputs import Effects, Runs, effects_on
from batchnorm_mechanics.doctor.pools import Pool, Pools
from batchnorm_mechanics.doctor.sample import Sample
from batchnorm_mechanics.doctor.scores import Scores, severity_by_labels
from batchnorm_mechanics.layers.intercept import intercepted


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
        again: the ways to ask a few samples more.
    """

    norms: Mapping[str, NormMeasured]
    unseen: Mapping[str, str]
    samples: int
    batches: int
    full: bool
    non_finite_outputs: int
    effects: Effects
    scores: Mapping[str, float]
    again: "Again"


def measure(model: keras.Model, norms: tuple[Norm, ...], data: Data) -> Measured:
    """Measure what data say about a model and its batch norm layers.

    The data are gone through once, as `predict` does, and each layer's input is summed up on the
    way; 128 to 512 samples, spread over the data, are then looked at again. Memory does not grow
    with the data, and nothing of the model changes.

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
    run, counting = (Runner(model, norms, count=count, call=data.call) for count in (False, True))
    # A model of which nothing trains was frozen for its use, once training was over.
    trains = bool(model.trainable_variables)
    frozen = {norm.name: trains and not norm.layer.trainable for norm in norms}
    trained = tuple(name for name in frozen if not frozen[name])
    fitting = Fitting(model, is_called_otherwise=data.call is not None)
    sample = Sample()
    pools = _pools(norms)
    both = {"": Scores(model), "_by_batch": Scores(model)}
    by_batch = Runner(model, norms, heard=trained, by_batch=trained, call=data.call)
    widest = Batch(-math.inf, 0, 0, None)
    batches = bad_outputs = 0
    for inputs, labels, quick in run.over(data, fitting):
        # One such value makes the mean so; counting them in each batch costs a pass over memory.
        is_finite = all(np.isfinite(said.mean).all() for said in quick.calls.values())
        ran = quick if is_finite else counting(inputs)
        batches += 1
        bad_outputs += ran.bad_outputs
        sample.add(inputs)
        for number, (name, said) in enumerate(ran.by_layer.items()):
            scale = pools[name].add(said)
            if number == 0 and scale > widest.scale:
                rows = fitting.samples - len(tf.nest.flatten(inputs)[0])
                widest = Batch(scale, batches - 1, rows, inputs)
        both[""].add(labels, ran.outputs)
        if labels is not None and trained and both[""].results():
            both["_by_batch"].add(labels, by_batch(inputs).outputs)
    sample.without({number for of_layer in pools.values() for number in of_layer.settle().odd})
    again = Again(model, norms, trained, sample, run, widest, data.call)
    scores = {
        name + mode: value for mode, of in both.items() for name, value in of.results().items()
    }
    effects = effects_on(model, norms, sample, again.runs)
    effects = replace(effects, by_labels=severity_by_labels(scores, fitting.samples))
    own = again.own()
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
        scores=MappingProxyType(scores),
        again=again,
    )


def _pools(norms: tuple[Norm, ...]) -> dict[str, Pools]:
    return {norm.name: Pools(norm.channels, norm.layer.epsilon) for norm in norms}


class Batch(NamedTuple):
    """A batch of data.

    Attributes:
        scale: of what the first layer gets of it.
        number: how many batches came before.
        row: how many samples came before.
        inputs: of the model.
    """

    scale: float
    number: int
    row: int
    inputs: Any


class Again:
    """A few samples once more, for what is asked only where something is wrong.

    Args:
        model: the model.
        norms: its batch norm layers.
        trained: names of those that normalize by the batch in training.
        sample: the samples.
        run: the model at inference.
        widest: the batch in which the first layer's variance was largest.
        call: how to run the model on a batch, as in `Data`.

    Attributes:
        runs: the ways to run the model.
        widest: likewise.
    """

    def __init__(
        self,
        model: Any,
        norms: tuple[Norm, ...],
        trained: tuple[str, ...],
        sample: Sample,
        run: Runner,
        widest: Batch,
        call: Any = None,
    ) -> None:
        self._call = call
        self._model, self._norms, self._trained = model, norms, frozenset(trained)
        self._sample, self._run, self.widest = sample, run, widest
        # A few batches: to trace the model once more would take longer.
        self._training = Runner(model, norms, by_batch=trained, eagerly=True, call=call)
        self._own = _pools(norms)
        self._calls: list[Call] = []
        self._start = _States(model)
        self.runs = Runs(
            predict=lambda inputs: run(inputs).outputs,
            train=self._train,
            switched=self._switched,
            calls=lambda: self._calls,
            restart=self._start.put_back,
            plainly=model if call is None else functools.partial(call, model),
        )

    def own(self) -> dict[str, Pools]:
        """Return what layers got in training mode so far."""
        return {name: pools.settle() for name, pools in self._own.items()}

    def _train(self, inputs: Any) -> Any:
        self._training.by_batch = self._trained
        ran = self._training(inputs)
        for name, said in ran.by_layer.items():
            self._own[name].add(said)
        self._calls = [call for call in ran.calls if call.name in self._trained]
        return ran.outputs

    def _switched(self, inputs: Any, calls: Collection[Call]) -> Any:
        self._training.by_batch = frozenset(calls)
        return self._training(inputs).outputs

    def noisy(self) -> dict[str, "Noisy"]:
        """Return what layers get in training mode with dropout and noise on, behind any of it."""
        random = layers_by_path(self._model, draws_at_random)
        if not random or not self._sample.rows:
            return {}
        before: list[str] = []
        behind: dict[str, tuple[str, ...]] = {}

        def on(path: str) -> Any:
            def answer(call: Any, *args: Any, **kwargs: Any) -> Any:
                before.append(path)
                return call(*args, **{**kwargs, "training": True})

            return answer

        pools = _pools(self._norms)
        run = Runner(
            self._model,
            self._norms,
            by_batch=self._trained,
            eagerly=True,
            call=self._call,
        )
        run.on_call = lambda call: behind.setdefault(call.name, tuple(before))
        with kept(self._model), ExitStack() as stack:
            for path, layer in random.items():
                stack.enter_context(intercepted(layer, on(path)))
            for name, said in run(self._all()).by_layer.items():
                pools[name].add(said)
        return {
            name: Noisy(tuple(dict.fromkeys(behind[name])), tuple(pools[name].settle().calls))
            for name in behind
            if behind[name]
        }

    def with_epsilon(self, epsilon: float) -> dict[str, Pool]:
        """Return what layers get in inference if all had this epsilon."""
        pools = _pools(self._norms)
        before = {norm.name: norm.layer.epsilon for norm in self._norms}
        try:
            for norm in self._norms:
                norm.layer.epsilon = epsilon
            with kept(self._model):
                run = Runner(self._model, self._norms, eagerly=True, call=self._call)
                ran = run(self._all())
        finally:
            for norm in self._norms:
                norm.layer.epsilon = before[norm.name]
        for name, said in ran.by_layer.items():
            pools[name].add(said)
        return {name: pools[name].settle().together for name in ran.by_layer}

    def odd_row(self) -> int:
        """Return which sample of the data makes most of the widest batch's variance."""
        inputs, name = self.widest.inputs, next(iter(self._run.dtypes))
        everything = np.arange(len(tf.nest.flatten(inputs)[0]))

        def scale_without(rows: np.ndarray) -> float:
            left = np.setdiff1d(everything, rows)
            part = tf.nest.map_structure(lambda part: tf.gather(part, left), inputs)
            return _pools(self._norms)[name].add(self._run(part).by_layer[name])

        rows = everything
        with kept(self._model):
            while len(rows) > 1:
                rows = min(np.array_split(rows, 2), key=scale_without)
        return self.widest.row + int(rows[0])

    def _all(self) -> Any:
        return self._sample.take(np.arange(self._sample.rows))


class Noisy(NamedTuple):
    """What a layer gets in training behind dropout or noise.

    Attributes:
        behind: paths of the layers that make it.
        calls: moments of what each of its calls gets.
    """

    behind: tuple[str, ...]
    calls: tuple[Pool, ...]


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
