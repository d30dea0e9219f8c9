"""What data say about a model: one pass as `predict` makes it, and a few samples seen again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics.distribute.executors import Workers
from batchnorm_mechanics.doctor.calls import Runner
from batchnorm_mechanics.doctor.outputs import Effects, effects_on
from batchnorm_mechanics.doctor.pools import Pool, pools_of
from batchnorm_mechanics.doctor.sample import Again, Batch, Sample, kept
from batchnorm_mechanics.doctor.scores import Scores, severity_by_labels
from batchnorm_mechanics.doctor.shards import ModelHost, shards_of
from batchnorm_mechanics.layers.freeze import follows_batches
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.fitting import Fitting
from batchnorm_mechanics.models.norms import Norm


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
        again: a few samples, to be asked more.
    """

    norms: Mapping[str, NormMeasured]
    unseen: Mapping[str, str]
    samples: int
    batches: int
    full: bool
    non_finite_outputs: int
    effects: Effects
    scores: Mapping[str, float]
    again: Again


def measure(
    model: keras.Model, norms: tuple[Norm, ...], data: Data, workers: Workers | None = None
) -> Measured:
    """Measure what data say about a model and its batch norm layers.

    The data are gone through once, as `predict` does, and each layer's input is summed up on the
    way; 128 to 512 samples, spread over the data, are then looked at again. Memory does not grow
    with the data, and nothing of the model changes.

    Args:
        model: any Keras model with weights.
        norms: its batch norm layers.
        data: batches that the model takes.
        workers: with `ModelHost`s, which take shards of the data; None for this process.

    Returns:
        `Measured`. A layer that runs inside a function that is compiled or vectorized by the model
        itself cannot be seen from outside.

    Raises:
        InputError: the data do not fit the model, hold NaN or infinite values, or are empty.

    Numerics:
        Moments of a batch are float32 or wider, by two passes; they are merged in float64.

    Example:
        >>> from batchnorm_mechanics.models.norms import norms_in
        >>> model = keras.Sequential(
        ...     [keras.layers.Input((1,)), keras.layers.BatchNormalization(name="bn")]
        ... )
        >>> data = Data(np.array([[1.0], [2.0], [6.0]], "float32"))
        >>> pool = measure(model, norms_in(model), data).norms["bn"].pool
        >>> pool.count, pool.mean.item(), round(pool.variance.item(), 4)
        (3.0, 3.0, 4.6667)
    """
    with kept(model):
        return _measured(model, norms, data, workers)


class _Passed:
    """What a pass over data, or over a shard of them, says; each attribute as in `_measured`."""

    def __init__(self, model: Any, norms: tuple[Norm, ...]) -> None:
        self.pools = pools_of(norms)
        self.sample = Sample()
        self.both = {"": Scores(model), "_by_batch": Scores(model)}
        self.widest = Batch(-math.inf, 0, 0, None)
        self.batches = self.bad_outputs = self.samples = 0
        self.dtypes: dict[str, str] = {}
        self.in_loops: set[str] = set()
        self.told_to_train: set[str] = set()
        # By which it was made: another one would trace the model once more.
        self.run: Runner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "run": None}

    def join(self, other: "_Passed") -> None:
        """Take in what was said of a shard that comes after."""
        for name, pools in other.pools.items():
            self.pools[name].join(pools)
        self.sample.join(other.sample)
        for mode, scores in other.both.items():
            self.both[mode].join(scores)
        wide = other.widest
        if wide.scale > self.widest.scale:
            self.widest = Batch(
                wide.scale, wide.number + self.batches, wide.row + self.samples, wide.inputs
            )
        self.batches += other.batches
        self.bad_outputs += other.bad_outputs
        self.samples += other.samples
        self.dtypes |= {
            name: dtype for name, dtype in other.dtypes.items() if name not in self.dtypes
        }
        self.in_loops |= other.in_loops
        self.told_to_train |= other.told_to_train


def _trained(model: Any, norms: tuple[Norm, ...]) -> tuple[str, ...]:
    """Return the names of the layers that normalize by the batch in training."""
    # A model of which nothing trains was frozen for its use, once training was over.
    trains = bool(model.trainable_variables)
    return tuple(norm.name for norm in norms if not trains or follows_batches(norm.layer))


def _pass_over(host: ModelHost, data: Data) -> _Passed:
    """Make a pass over data, in whatever process holds the model."""
    model, norms = host.model, host.norms
    passed = _Passed(model, norms)
    run = Runner(model, norms, call=data.call)
    counting = run.otherwise(count=True)
    trained = _trained(model, norms)
    by_batch = run.otherwise(heard=trained, by_batch=trained)
    fitting = Fitting(model, is_called_otherwise=data.call is not None)
    for inputs, labels, quick in run.over(data, fitting):
        # One such value makes the mean so; counting them in each batch costs a pass over memory.
        is_finite = all(np.isfinite(said.mean).all() for said in quick.calls.values())
        ran = quick if is_finite else counting(inputs)
        passed.batches += 1
        passed.bad_outputs += ran.bad_outputs
        passed.sample.add(inputs)
        for number, (name, said) in enumerate(ran.by_layer.items()):
            scale = passed.pools[name].add(said)
            if number == 0 and scale > passed.widest.scale:
                rows = fitting.samples - len(tf.nest.flatten(inputs)[0])
                passed.widest = Batch(scale, passed.batches - 1, rows, inputs)
        passed.both[""].add(labels, ran.outputs)
        if labels is not None and trained and passed.both[""].results():
            passed.both["_by_batch"].add(labels, by_batch(inputs).outputs)
    passed.samples = fitting.samples
    passed.dtypes, passed.in_loops = run.dtypes, run.in_loops
    passed.told_to_train, passed.run = run.told_to_train, run
    return passed


def _measured(
    model: keras.Model, norms: tuple[Norm, ...], data: Data, workers: Workers | None
) -> Measured:
    if workers is None:
        passed = _pass_over(ModelHost(model, norms), data)
    else:
        passed = _Passed(model, norms)
        for done in workers.map(_pass_over, shards_of(data, caller="diagnose")):
            passed.join(done.result)
    run = passed.run
    if run is None:
        run = Runner(model, norms, call=data.call)
        run.in_loops, run.dtypes = passed.in_loops, passed.dtypes
    trained = _trained(model, norms)
    pools, sample = passed.pools, passed.sample
    sample.without({number for of_layer in pools.values() for number in of_layer.settle().odd})
    scores = {
        name + mode: value
        for mode, of in passed.both.items()
        for name, value in of.results().items()
    }
    with kept(model) as restart:
        again = Again(run, trained, sample, passed.widest, restart)
        effects = effects_on(again)
    effects = replace(effects, by_labels=severity_by_labels(scores, passed.samples))
    own = again.own()
    measured = {
        name: NormMeasured(
            dtype=dtype,
            frozen=name not in trained,
            by_batch=name in passed.told_to_train,
            pool=pools[name].together,
            calls=tuple(pools[name].calls),
            own=tuple(own[name].calls),
            odd=pools[name].odd,
        )
        for name, dtype in passed.dtypes.items()
        if pools[name].together.batches
    }
    return Measured(
        norms=MappingProxyType(measured),
        unseen=MappingProxyType(
            {name: run.reason_unheard(name) for name in pools if name not in measured}
        ),
        samples=passed.samples,
        batches=passed.batches,
        full=passed.batches > 1 or data.rows is None or sample.most >= data.batch_size,
        non_finite_outputs=passed.bad_outputs,
        effects=effects,
        scores=MappingProxyType(scores),
        again=again,
    )
