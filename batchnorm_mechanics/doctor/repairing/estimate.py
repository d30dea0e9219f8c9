"""Statistics of the inputs of batch norm layers, in one pass over data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.probing.hooks import Heard, axes_of, listening
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector

IN_A_LOOP = "it runs in a loop inside the graph, as in TimeDistributed or RNN"
NOT_CALLED = "the model does not call it"

# core refuses an epsilon of 0, which Keras takes.
_LEAST_EPSILON = 1e-30
# Of |mean| to standard deviation: beyond it the fused kernel errs in the mean by more than 1e-4 of
# a deviation, and in the end by whole ones.
_LARGEST_RATIO = 30.0


class Estimate(NamedTuple):
    """What all batches say of a layer's input; each of shape (channels,), float64.

    Attributes:
        count: samples.
        mean: of all samples.
        deviations: sum of the squared deviations from that mean.
        within: sum of the squared deviations from the means of their own batches.
        freedom: degrees of freedom of `within`, samples less batches.
    """

    count: Vector
    mean: Vector
    deviations: Vector
    within: Vector
    freedom: Vector


class Estimates(NamedTuple):
    """What a pass found.

    Attributes:
        by_name: of the layers that were called, in the order of their first calls.
        left: the others, and why nothing is known of them.
        samples: samples of data.
    """

    by_name: Mapping[str, Estimate]
    left: Mapping[str, str]
    samples: int


def merged(estimate: Estimate | None, mean: Vector, variance: Vector, count: Vector) -> Estimate:
    """Return an estimate with one more batch in it.

    Implements: Chan, Golub and LeVeque (1983), the pairwise update.

    Args:
        estimate: of the batches so far, or None.
        mean: of the batch.
        variance: of the batch, biased.
        count: of the batch; where it is 0, mean and variance do not matter.

    Example:
        >>> one = np.ones(1)
        >>> half = merged(None, 1.5 * one, 0.25 * one, 2 * one)
        >>> both = merged(half, 6 * one, 0 * one, 1 * one)
        >>> both.mean.item(), (both.deviations / both.count).round(4).item()
        (3.0, 4.6667)
    """
    squares = count * variance
    freedom = np.maximum(count - 1, 0)
    if estimate is None:
        return Estimate(count, mean, squares, squares, freedom)
    total = estimate.count + count
    share = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
    delta = mean - estimate.mean
    return Estimate(
        total,
        estimate.mean + delta * share,
        estimate.deviations + squares + delta**2 * share * estimate.count,
        estimate.within + squares,
        estimate.freedom + freedom,
    )


def estimate(
    model: Any, wanted: Sequence[Norm], others: Sequence[Norm], data: Data, *, caller: str
) -> Estimates:
    """Run the data through the model in inference mode, and estimate the wanted layers' statistics.

    The wanted layers normalize by the batch, as in training; all others, and everything else such
    as dropout, run as in inference. No weight is changed. What comes after the last wanted layer
    is not computed.

    Args:
        model: with weights.
        wanted: layers to estimate.
        others: all other batch norm layers of the model.
        data: whose labels are not looked at.
        caller: the function to name in an error.

    Raises:
        InputError: the data do not fit the model, or give a statistic that is not finite.
    """
    collector = _Collector(model, {norm.name: norm for norm in wanted}, caller)
    found: dict[str, Estimate] = {}
    samples = 0
    with listening((*wanted, *others), collector.answer):
        for number, (inputs, rows) in enumerate(_without_a_last_single(data)):
            for name, *moments in collector.run(inputs, number):
                found[name] = merged(found.get(name), *moments)
            samples += rows
    # What one batch showed, another may have hidden in a loop.
    found = {name: found[name] for name in found if name not in collector.in_loops}
    left = {
        norm.name: IN_A_LOOP if norm.name in collector.in_loops else NOT_CALLED
        for norm in wanted
        if norm.name not in found
    }
    return Estimates(found, left, samples)


class _Collector:
    """Moments that hooked layers saw in the call of the model that runs or is traced now."""

    def __init__(self, model: Any, wanted: Mapping[str, Norm], caller: str) -> None:
        self.model, self.wanted, self.caller = model, wanted, caller
        self.seen: list[tuple[str, core.Moments]] = []
        self.layout: list[tuple[str, Any]] = []
        self.in_loops: set[str] = set()
        self.graph: Any = None
        self.exactly = False
        self.compiled: Any = None

    def run(self, inputs: Any, number: int) -> list[tuple[str, Vector, Vector, Vector]]:
        """Return (name, mean, variance, count) of each call in a batch."""
        if self.compiled is None:
            self.compiled = self._compile(inputs)
        calls = list(self._split(np.asarray(self.compiled(inputs)), number, inputs))
        far = any(
            (mean**2 > _LARGEST_RATIO**2 * (variance + self.wanted[name].layer.epsilon)).any()
            for name, mean, variance, _ in calls
        )
        if self.exactly or not far:
            return calls
        self.exactly, self.compiled = True, None
        return self.run(inputs, number)

    def step(self, inputs: Any) -> tf.Tensor:
        """Return the moments of all calls, in order, in one vector: one transfer to the host."""
        self.seen, self.graph = [], tf.compat.v1.get_default_graph()
        if self.model._call_has_training_arg:
            self.model(inputs, training=False)
        else:
            self.model(inputs)  # as `predict` does
        self.layout = [(name, moments.mean.shape.num_elements()) for name, moments in self.seen]
        parts = [tf.cast(value, tf.float64) for _, moments in self.seen for value in moments]
        return tf.concat([tf.zeros([0], tf.float64), *parts], axis=0)

    def _compile(self, inputs: Any) -> Any:
        """Return the step, traced for batches of any size: a last smaller one costs nothing."""
        if getattr(self.model, "run_eagerly", False):
            return self.step
        step = tf.function(self.step, reduce_retracing=True, autograph=False)
        try:
            step.get_concrete_function(tf.nest.map_structure(_of_any_size, inputs))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            shapes = tf.nest.map_structure(lambda part: tuple(np.shape(part)), inputs)
            raise InputError(
                f"{self.caller}: `data` must fit the model. Received: a batch of shape {shapes}. "
                f"The model says: {error}"
            ) from error
        return step

    def answer(self, norm: Norm, heard: Heard) -> tf.Tensor | None:
        """Normalize by the batch and keep its moments, where the layer is one of the wanted."""
        if norm.name not in self.wanted:
            return None
        if self._is_in_a_loop():
            self.in_loops.add(norm.name)
            return None
        outputs, moments = _by_batch(norm, heard, exactly=self.exactly)
        self.seen.append((norm.name, moments))
        return tf.cast(outputs, norm.layer.compute_dtype)

    def _is_in_a_loop(self) -> bool:
        if tf.executing_eagerly():
            return False
        # Tensors of an inner graph cannot be handed out of it; of the body of a vectorized map
        # they can, and would be those of the first pass alone. TensorFlow names it so.
        inner = tf.compat.v1.get_default_graph() is not self.graph
        return inner or "loop_body" in tf.get_current_name_scope().split("/")

    def _split(
        self, flat: Vector, number: int, inputs: Any
    ) -> Iterator[tuple[str, Vector, Vector, Vector]]:
        start = 0
        for name, channels in self.layout:
            mean, variance, count = flat[start : start + 3 * channels].reshape(3, channels)
            start += 3 * channels
            if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
                raise InputError(self._not_finite(name, mean, variance, number, inputs))
            yield name, mean, variance, count

    def _not_finite(
        self, name: str, mean: Vector, variance: Vector, number: int, inputs: Any
    ) -> str:
        bad = int((~(np.isfinite(mean) & np.isfinite(variance))).sum())
        data_are_finite = all(
            np.isfinite(part).all()
            for part in map(np.asarray, tf.nest.flatten(inputs))
            if np.issubdtype(part.dtype, np.floating)
        )
        return (
            f"{self.caller}: `data` must give finite statistics. Received: {bad} of {len(mean)} "
            f"channels not finite at the input of {name}, in batch {number + 1}, whose samples are "
            + (
                "finite. A layer before it makes NaN or overflows: `bnm doctor` says which."
                if data_are_finite
                else "not all finite. Take NaN and infinity out of the data."
            )
        )


def _by_batch(norm: Norm, heard: Heard, *, exactly: bool) -> tuple[tf.Tensor, core.Moments]:
    """Return a layer's input normalized by the batch, and the batch's moments.

    Exactly means by `core.normalize_batch`, right for any mean. What it has for that and for
    gradients takes longer to trace than many a data set to run.
    """
    layer, x = norm.layer, heard.inputs
    axes = axes_of(norm, x.shape.rank)
    epsilon = max(layer.epsilon, _LEAST_EPSILON)
    settings: dict[str, Any] = {"axes": axes, "epsilon": epsilon, "mask": heard.mask}
    if exactly:
        return core.normalize_batch(x, layer.gamma, layer.beta, **settings)
    kernel = core.choose_kernel(x.shape.as_list(), x.dtype, axes, masked=heard.mask is not None)
    if kernel != "fused":
        outputs, cache = core.forward(x, layer.gamma, layer.beta, **settings)
        return outputs, core.Moments(cache.mean, cache.variance, cache.count)
    outputs, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, [-1, 1, 1, norm.channels]) if x.shape.rank != 4 else x,
        scale=tf.ones(norm.channels) if layer.gamma is None else tf.cast(layer.gamma, tf.float32),
        offset=tf.zeros(norm.channels) if layer.beta is None else tf.cast(layer.beta, tf.float32),
        mean=[],
        variance=[],
        epsilon=epsilon,
    )
    count = tf.cast(tf.size(x) // norm.channels, tf.float32) * tf.ones_like(mean)
    # The kernel's variance is the unbiased one.
    moments = core.Moments(mean, unbiased * (count - 1) / count, count)
    return tf.ensure_shape(tf.reshape(outputs, tf.shape(x)), x.shape), moments


def _of_any_size(part: Any) -> Any:
    if isinstance(part, tf.RaggedTensor | tf.SparseTensor):
        return part
    part = part if hasattr(part, "shape") else np.asarray(part)
    return tf.TensorSpec([None, *part.shape[1:]], tf.as_dtype(part.dtype))


def _without_a_last_single(data: Data) -> Iterator[tuple[Any, int]]:
    """Yield inputs and their numbers of rows, a last single row together with the batch before.

    Normalized by itself, one row of a dense layer is all zeros, whatever it holds.
    """
    held, held_rows = None, 0
    for inputs, _ in data:
        rows = int(tf.nest.flatten(inputs)[0].shape[0])
        if rows == 1 and held_rows > 1:
            together = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), held, inputs)
            yield together, held_rows + 1
            held, held_rows = None, 0
            continue
        if held is not None:
            yield held, held_rows
        held, held_rows = inputs, rows
    if held is not None:
        yield held, held_rows
