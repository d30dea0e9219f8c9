"""What data say about a model: one pass as `predict` makes it, and a few samples seen again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from batchnorm_mechanics import core
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.probing.effects import Effects, effects_on
from batchnorm_mechanics.doctor.probing.fitting import Fitting
from batchnorm_mechanics.doctor.probing.hooks import Heard, axes_of, by_batch, listening, moments_of
from batchnorm_mechanics.doctor.probing.pooling import Pool
from batchnorm_mechanics.doctor.probing.sample import Sample
from batchnorm_mechanics.doctor.probing.scores import Scores
from batchnorm_mechanics.doctor.structure.norms import Norm

Vector = NDArray[np.float64]


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
        samples: how many the data held.
        batches: how many batches they came in.
        full: whether a batch was as large as it can be; not if a few samples made one small batch.
        non_finite_outputs: values of the model's output that are NaN or infinite.
        effects: of the batch and of batch statistics on the output.
        scores: "loss" and "accuracy", as far as there are labels to know them by.
    """

    norms: Mapping[str, NormMeasured]
    samples: int
    batches: int
    full: bool
    non_finite_outputs: int
    effects: Effects
    scores: Mapping[str, float]


@dataclass
class _Seen:
    """What a trace of the model showed of a layer, besides numbers."""

    order: int
    dtype: str
    by_batch: bool = False


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
        seen from outside and is missing.

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
    seen: dict[str, _Seen] = {}
    run, count = (
        _compiled(model, partial(_predict, model, norms, seen, counting))
        for counting in (False, True)
    )
    fitting = Fitting(model)
    sample, scores = Sample(), Scores(model)
    pools = {norm.name: Pool(norm.channels) for norm in norms}
    largest = dict.fromkeys(pools, 0.0)
    batches = bad_outputs = 0
    for given, labels in data:
        inputs = fitting.checked(given)
        if fitting.bad:
            continue
        with fitting.explained(inputs):
            outputs, bad, heard = run(inputs)
            if not _all_finite(heard):
                outputs, bad, heard = count(inputs)
        batches += 1
        bad_outputs += int(bad)
        sample.add(inputs)
        for name, calls in heard.items():
            for packed, highest in calls:
                pools[name].add(*_unpacked(packed))
                largest[name] = max(largest[name], float(highest))
        scores.add(labels, outputs)
    fitting.finish()
    own = {norm.name: Pool(norm.channels) for norm in norms}
    effects = effects_on(
        model,
        norms,
        sample,
        predict=lambda inputs: run(inputs)[0],
        train=_training(model, norms, own),
    )
    measured = {
        name: NormMeasured(
            order=seen[name].order,
            dtype=seen[name].dtype,
            frozen=is_frozen(model, norm),
            by_batch=seen[name].by_batch,
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


def _compiled(model: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as `predict` would run it: in a graph, unless the model refuses one."""
    if model.run_eagerly:
        return function
    compiled = tf.function(function, reduce_retracing=True, autograph=False)
    known = False

    def run(inputs: Any) -> Any:
        nonlocal known
        if not known:
            # Traced for any number of samples, or the last, smaller batch would need a new trace.
            compiled.get_concrete_function(tf.nest.map_structure(_of_any_size, inputs))
            known = True
        return compiled(inputs)

    return run


def _of_any_size(part: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *part.shape[1:]], part.dtype)


def _call(model: Any, inputs: Any) -> Any:
    """Call a model as `predict` does."""
    return model(inputs, training=False) if model._call_has_training_arg else model(inputs)


def _predict(
    model: Any, norms: tuple[Norm, ...], seen: dict[str, _Seen], counting: bool, inputs: Any
) -> tuple[Any, tf.Tensor, dict[str, list[Any]]]:
    """Return the model's output, its non-finite values, and what each layer's calls say."""
    calls: dict[str, list[Any]] = {}

    def answer(norm: Norm, heard: Heard) -> Any:
        found = seen.setdefault(norm.name, _Seen(len(seen), heard.inputs.dtype.name))
        if heard.training:
            found.by_batch = True
            output, moments = by_batch(norm, heard)
        else:
            output, moments = None, moments_of(norm, heard)
        packed = _packed(moments, _non_finite_in(norm, heard) if counting else None)
        calls.setdefault(norm.name, []).append((packed, _largest(heard)))
        return output

    with listening(norms, answer):
        outputs = _call(model, inputs)
    return outputs, _non_finite(outputs), _visible(calls)


def _visible(calls: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Leave out what was computed inside a loop of the graph, which the outside cannot read."""
    if tf.executing_eagerly():
        return calls
    here = tf.compat.v1.get_default_graph()
    return {
        name: found
        for name, found in calls.items()
        if all(packed.graph is here for packed, _ in found)
    }


def _packed(moments: core.Moments, non_finite: tf.Tensor | None) -> tf.Tensor:
    """Return all that a call says as one float64 tensor: one copy to the host, not four."""
    mean, variance, count = (tf.cast(part, tf.float64) for part in moments)
    return tf.stack(
        [count, mean, variance, tf.zeros_like(mean) if non_finite is None else non_finite]
    )


def _all_finite(heard: dict[str, list[Any]]) -> bool:
    """Return whether no input of a layer was NaN or infinite: one such value makes the mean so.

    Counting the values in each batch would cost a pass over memory.
    """
    return all(
        np.isfinite(np.asarray(packed)[1]).all() for calls in heard.values() for packed, _ in calls
    )


def _non_finite_in(norm: Norm, heard: Heard) -> tf.Tensor:
    wrong = ~tf.math.is_finite(heard.inputs)
    return tf.math.count_nonzero(wrong, axes_of(norm, heard.inputs.shape.rank), dtype=tf.float64)


def _largest(heard: Heard) -> tf.Tensor:
    """Return the largest |input| where it can overflow: looking for it costs a pass over memory."""
    if heard.inputs.dtype != tf.float16:
        return tf.zeros(())
    return tf.cast(tf.reduce_max(tf.abs(heard.inputs)), tf.float32)


def _non_finite(outputs: Any) -> tf.Tensor:
    """Count the values of an output that are NaN or infinite."""
    counts = [
        tf.math.count_nonzero(~tf.math.is_finite(part))
        for part in map(tf.convert_to_tensor, tf.nest.flatten(outputs))
        if part.dtype.is_floating
    ]
    return tf.add_n(counts) if counts else tf.constant(0, tf.int64)


def _training(model: Any, norms: tuple[Norm, ...], own: dict[str, Pool]) -> Callable[..., Any]:
    """Return a function that runs the model with batch norm alone in training mode.

    Dropout and the like stay as at inference, and so do frozen layers. The moments of what each
    layer gets go into `own`.
    """

    def train(inputs: Any) -> tuple[Any, dict[str, list[Any]]]:
        calls: dict[str, list[Any]] = {}

        def answer(norm: Norm, heard: Heard) -> Any:
            if is_frozen(model, norm):
                output, moments = None, moments_of(norm, heard)
            else:
                output, moments = by_batch(norm, heard)
            calls.setdefault(norm.name, []).append((_packed(moments, None), _largest(heard)))
            return output

        with listening(norms, answer):
            outputs = _call(model, inputs)
        return outputs, _visible(calls)

    compiled = _compiled(model, train)

    def run(inputs: Any) -> Any:
        outputs, heard = compiled(inputs)
        for name, calls in heard.items():
            for packed, _ in calls:
                own[name].add(*_unpacked(packed))
        return outputs

    return run


def _unpacked(packed: Any) -> tuple[float, Vector, Vector, Vector]:
    counts, mean, variance, non_finite = np.asarray(packed)
    return float(counts[0]), mean, variance, non_finite
