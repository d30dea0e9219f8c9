"""What data say about a model: one pass as `predict` makes it, and a few samples seen again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics.doctor.calls import Runner
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.fitting import Fitting
from batchnorm_mechanics.doctor.norms import Norm
from batchnorm_mechanics.doctor.outputs import Effects, effects_on
from batchnorm_mechanics.doctor.pools import Pool, pools_of
from batchnorm_mechanics.doctor.sample import Again, Batch, Sample, kept
from batchnorm_mechanics.doctor.scores import Scores, severity_by_labels


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
    run = Runner(model, norms, call=data.call)
    counting = run.otherwise(count=True)
    # A model of which nothing trains was frozen for its use, once training was over.
    trains = bool(model.trainable_variables)
    frozen = {norm.name: trains and not norm.layer.trainable for norm in norms}
    trained = tuple(name for name in frozen if not frozen[name])
    fitting = Fitting(model, is_called_otherwise=data.call is not None)
    sample = Sample()
    pools = pools_of(norms)
    both = {"": Scores(model), "_by_batch": Scores(model)}
    by_batch = run.otherwise(heard=trained, by_batch=trained)
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
    scores = {
        name + mode: value for mode, of in both.items() for name, value in of.results().items()
    }
    with kept(model) as restart:
        again = Again(run, trained, sample, widest, restart)
        effects = effects_on(again)
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
