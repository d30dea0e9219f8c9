"""What data say about a model: one pass as `predict` makes it, and a few samples seen again."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.probing.effects import Effects, effects_on
from batchnorm_mechanics.doctor.probing.fitting import Fitting
from batchnorm_mechanics.doctor.probing.keeping import kept
from batchnorm_mechanics.doctor.probing.pooling import Pool
from batchnorm_mechanics.doctor.probing.running import Ran, Runner
from batchnorm_mechanics.doctor.probing.sample import Sample
from batchnorm_mechanics.doctor.probing.scores import Scores
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector


@dataclass(frozen=True, eq=False)
class NormMeasured:
    """What data say about one layer.

    Attributes:
        order: its place in the order of first calls, from 0.
        dtype: of its input.
        frozen: whether training, too, normalizes by the moving statistics.
        by_batch: whether it normalizes by the batch although the model predicts.
        largest: of |input|; only for a float16 input, which can overflow, else 0.
        pool: moments of its input over all the data, at inference.
        own: mean and biased variance of its input, float64, when the layers before it normalize by
            the batch: what is left is the layer's own. Of a few samples; None if it was not called.
        own_samples: how many.
    """

    order: int
    dtype: str
    frozen: bool
    by_batch: bool
    largest: float
    pool: Pool
    own: tuple[Vector, Vector] | None
    own_samples: int


@dataclass(frozen=True, eq=False)
class Measured:
    """What data say about a model.

    Attributes:
        norms: by the layers' names; those that the model called, where it could be seen.
        unseen: the others, and why nothing is known of them.
        samples: how many the data held.
        batches: how many batches they came in.
        full: whether a batch was as large as it can be; not if a few samples made one small batch.
        non_finite_outputs: values of the model's output that are NaN or infinite.
        effects: of the batch and of batch statistics on the output.
        scores: "loss" and "accuracy", as far as there are labels to know them by.
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
        `Measured`. A layer that runs inside a loop of the graph, as in a recurrent cell, cannot be
        seen from outside.

    Raises:
        InputError: the data do not fit the model, hold NaN or infinite values, or are empty.

    Numerics:
        Moments of a batch are float32 or wider, by two passes; they are merged in float64.

    Example:
        >>> from batchnorm_mechanics.doctor.structure.norms import norms_in
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
    trained = {norm.name for norm in norms if not is_frozen(model, norm)}
    # A few batches: to trace the model once more would take longer.
    training = Runner(model, norms, by_batch=trained, eagerly=True)
    fitting = Fitting(model)
    sample, scores = Sample(), Scores(model)
    pools, own = ({norm.name: Pool(norm.channels) for norm in norms} for _ in range(2))
    largest = dict.fromkeys(pools, 0.0)
    batches = bad_outputs = 0
    for given, labels in data:
        inputs = fitting.checked(given)
        if fitting.bad:
            continue
        with fitting.explained(inputs):
            ran = run(inputs)
            if not _all_finite(ran):
                ran = counting(inputs)
        batches += 1
        bad_outputs += ran.bad_outputs
        sample.add(inputs)
        for said in ran.calls:
            pools[said.name].add(said.count, said.mean, said.variance, said.non_finite)
            largest[said.name] = max(largest[said.name], said.largest)
        scores.add(labels, ran.outputs)
    fitting.finish()

    def train(inputs: Any) -> Any:
        ran = training(inputs)
        for said in ran.calls:
            own[said.name].add(said.count, said.mean, said.variance, said.non_finite)
        return ran.outputs

    effects = effects_on(
        model, norms, sample, predict=lambda inputs: run(inputs).outputs, train=train
    )
    order = list(run.dtypes)
    measured = {
        name: NormMeasured(
            order=order.index(name),
            dtype=run.dtypes[name],
            frozen=is_frozen(model, norm),
            by_batch=name in run.told_to_train,
            largest=largest[name],
            pool=pools[name],
            own=(own[name].mean, own[name].variance) if own[name].batches else None,
            own_samples=sample.rows,
        )
        for name, norm in {norm.name: norm for norm in norms}.items()
        if pools[name].batches
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
        scores=MappingProxyType(scores.results()),
    )


def is_frozen(model: Any, norm: Norm) -> bool:
    """Return whether training, too, has the layer normalize by its moving statistics.

    A model of which nothing trains was frozen for its use, once training was over.
    """
    return not norm.layer.trainable and bool(model.trainable_variables)


def _all_finite(ran: Ran) -> bool:
    """Return whether no input of a layer was NaN or infinite: one such value makes the mean so.

    Counting the values in each batch would cost a pass over memory.
    """
    return all(np.isfinite(said.mean).all() for said in ran.calls)
