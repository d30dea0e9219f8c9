"""Run a model as `predict` does, and note what its batch norm layers get."""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import takes_training
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.fitting import missing_kernel
from batchnorm_mechanics.doctor.hooks import (
    Heard,
    Raw,
    axes_of,
    by_batch,
    listening,
    moments_of,
)
from batchnorm_mechanics.doctor.norms import Norm, Vector

_IN_A_LOOP = "it runs in a loop inside the graph, as in TimeDistributed or RNN"
_NOT_CALLED = "the model does not call it"
# Of |mean| to standard deviation: beyond it the fused kernel errs in the mean by more than 1e-4 of
# a deviation, and in the end by whole ones.
_LARGEST_RATIO = 30.0


class Said(NamedTuple):
    """What one call of a layer says of its input.

    Attributes:
        name: of the layer.
        count: samples behind each statistic; 0 where a mask lets nothing count.
        mean: of the batch, float64 of shape (channels,).
        variance: likewise, biased.
        non_finite: how many values are NaN or infinite, likewise; zeros unless they are counted.
        largest: of |input|, for a float16 input, which can overflow; else 0.
    """

    name: str
    count: float
    mean: Vector
    variance: Vector
    non_finite: Vector
    largest: float


class Ran(NamedTuple):
    """What a model gave for a batch.

    Attributes:
        outputs: of the model; None where they are not wanted.
        bad_outputs: how many values of them are NaN or infinite.
        calls: of the layers that are listened to, in order.
    """

    outputs: Any
    bad_outputs: int
    calls: list[Said]


class Runner:
    """A model in inference, of which some batch norm layers normalize by the batch.

    Nothing of the model changes. Moments are those of the batch, by the fastest kernel for them; a
    layer with |mean| beyond 30 standard deviations is run again, and from then on, by an exact one.

    Args:
        model: any Keras model with weights.
        norms: all its batch norm layers.
        heard: names of those whose calls are noted; by default all.
        by_batch: names of those, among them, that normalize by the batch; nothing is dropped out
            and no other layer trains.
        outputs: whether the model's outputs are wanted. If not, what comes after the last of the
            layers is not computed.
        count: whether values that are not finite are counted, which costs a pass over memory.
        eagerly: run operation by operation: for a few batches, tracing takes longer.

    Attributes:
        in_loops: names of layers that run inside a loop of the graph, as in a recurrent cell; what
            they get cannot be read from outside.
        told_to_train: names of layers that normalize by the batch since the model's own code says
            so.
        dtypes: of the layers' inputs, by name, in the order of first calls.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.doctor.norms import norms_in
        >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.BatchNormalization()])
        >>> (said,) = Runner(model, norms_in(model))(np.array([[1.0], [3.0]], "float32")).calls
        >>> said.count, said.mean.item(), said.variance.item()
        (2.0, 2.0, 1.0)
    """

    def __init__(
        self,
        model: Any,
        norms: tuple[Norm, ...],
        *,
        heard: Collection[str] | None = None,
        by_batch: Collection[str] = (),
        outputs: bool = True,
        count: bool = False,
        eagerly: bool = False,
    ) -> None:
        self._model, self._norms = model, norms
        self._epsilons = {norm.name: float(norm.layer.epsilon) for norm in norms}
        self._heard = frozenset(self._epsilons if heard is None else heard)
        self._by_batch = frozenset(by_batch)
        self._outputs, self._count = outputs, count
        self._eagerly = eagerly or bool(getattr(model, "run_eagerly", False))
        self._exact: set[str] = set()
        self._layouts: list[list[_Place]] = []
        self._compiled: Any = None
        self.in_loops: set[str] = set()
        self.told_to_train: dict[str, None] = {}
        self.dtypes: dict[str, str] = {}

    def __call__(self, inputs: Any) -> Ran:
        """Run the model on a batch of inputs, tensors or arrays."""
        if self._compiled is None:
            self._compiled = self._step if self._eagerly else _compiled(self._step, inputs)
        outputs, bad, counts, flat = self._compiled(inputs)
        trace, *counts = np.asarray(counts).tolist()
        layout = self._layouts[int(trace)]
        calls = list(_split(layout, counts, np.asarray(flat, np.float64)))
        pairs = zip(layout, calls, strict=True)
        far = {said.name for place, said in pairs if place.fused and self._is_far(said)}
        if not far:
            return Ran(outputs, int(bad), calls)
        self._exact |= far
        self._compiled = None
        return self(inputs)

    def reason_unheard(self, name: str) -> str:
        """Return why nothing is known of a layer that was not heard."""
        return _IN_A_LOOP if name in self.in_loops else _NOT_CALLED

    def _is_far(self, said: Said) -> bool:
        scale = said.variance + self._epsilons[said.name]
        with np.errstate(invalid="ignore", over="ignore"):
            return bool((said.mean**2 > _LARGEST_RATIO**2 * scale).any())

    def _step(self, inputs: Any) -> tuple[Any, ...]:
        """Return outputs, their bad values, and what the layers say in two vectors."""
        here = tf.compat.v1.get_default_graph()
        if tf.executing_eagerly():
            self._layouts.clear()
        # Batches of other sizes may be traced apart, each with kernels of its own.
        counts = [tf.constant(len(self._layouts), tf.float64)]
        values: list[tf.Tensor] = []
        layout: list[_Place] = []

        def answer(norm: Norm, heard: Heard) -> tf.Tensor | None:
            if heard.training:
                self.told_to_train[norm.name] = None
            if norm.name not in self._heard:
                return None
            if _is_in_a_loop(here):
                self.in_loops.add(norm.name)
                return None
            self.dtypes.setdefault(norm.name, heard.inputs.dtype.name)
            outputs, raw = self._answer(norm, heard)
            counts.append(tf.cast(raw.count, tf.float64))
            values.extend((raw.mean, raw.variance))
            if self._count:
                values.append(_non_finite_in(norm, heard))
            has_largest = heard.inputs.dtype == tf.float16
            if has_largest:
                values.append(tf.reshape(tf.reduce_max(tf.abs(heard.inputs)), [1]))
            layout.append(_Place(norm.name, norm.channels, 2 + self._count, raw.fused, has_largest))
            return outputs

        with listening(self._norms, answer):
            outputs = _predicted(self._model, inputs)
        self._layouts.append(layout)
        bad = _non_finite(outputs) if self._outputs else tf.constant(0, tf.int64)
        return outputs if self._outputs else None, bad, tf.stack(counts), _joined(values)

    def _answer(self, norm: Norm, heard: Heard) -> tuple[tf.Tensor | None, Raw]:
        exactly = norm.name in self._exact
        if norm.name in self._by_batch:
            return by_batch(norm, heard, exactly=exactly)
        return None, moments_of(norm, heard, exactly=exactly)


class _Place(NamedTuple):
    """Where a call's numbers stand in the vector of all: `rows` of one number a channel first."""

    name: str
    channels: int
    rows: int
    fused: bool
    has_largest: bool


def _split(layout: list[_Place], counts: list[float], flat: Vector) -> Iterator[Said]:
    at = 0
    for count, place in zip(counts, layout, strict=True):
        end = at + place.rows * place.channels
        mean, variance, *rest = flat[at:end].reshape(place.rows, place.channels)
        if place.fused:
            # The kernel's variance is the unbiased one.
            variance = variance * ((count - 1) / count)
        non_finite = rest[0] if rest else np.zeros(place.channels)
        largest = float(flat[end]) if place.has_largest else 0.0
        yield Said(place.name, count, mean, variance, non_finite, largest)
        at = end + place.has_largest


def build(model: Any, data: Data | None, *, caller: str) -> None:
    """Give a model that was never called its weights, by one call on the first sample.

    Raises:
        InputError: there are no data to call it on, or this machine cannot run it.
    """
    # A model of one's own may be built and have its layers' weights yet to come.
    if model.built and model.variables:
        return
    for inputs, _ in data or ():
        try:
            _predicted(model, tf.nest.map_structure(lambda part: part[:1], inputs))
        except tf.errors.OpError as error:
            if (missing := missing_kernel(error, caller)) is not None:
                raise missing from error
            raise
        return
    if not model.built:
        raise InputError(
            f"{caller}: `model` must have weights. Received: model={model.name!r}, which is not "
            "built. Call it on data once, or pass `data`."
        )


def _predicted(model: Any, inputs: Any) -> Any:
    """Call a model as `predict` does."""
    return model(inputs, training=False) if takes_training(model) else model(inputs)


def _compiled(step: Any, inputs: Any) -> Any:
    """Return a function traced for batches of any size: the last, smaller one needs no trace."""
    compiled = tf.function(step, reduce_retracing=True, autograph=False)
    compiled.get_concrete_function(tf.nest.map_structure(_of_any_size, inputs))
    return compiled


def _of_any_size(part: Any) -> Any:
    if isinstance(part, tf.RaggedTensor | tf.SparseTensor):
        return part
    part = part if hasattr(part, "shape") else np.asarray(part)
    return tf.TensorSpec([None, *part.shape[1:]], tf.as_dtype(part.dtype))


def _is_in_a_loop(graph: Any) -> bool:
    # Tensors of an inner graph cannot be handed out of it; of the body of a vectorized map they
    # can, and would be those of the first pass alone. TensorFlow names it so.
    inner = tf.compat.v1.get_default_graph() is not graph
    return inner or "loop_body" in tf.get_current_name_scope().split("/")


def _non_finite(outputs: Any) -> tf.Tensor:
    """Count the values of an output that are NaN or infinite."""
    counts = [
        tf.math.count_nonzero(~tf.math.is_finite(part))
        for part in map(tf.convert_to_tensor, tf.nest.flatten(outputs))
        if part.dtype.is_floating
    ]
    return tf.add_n(counts) if counts else tf.constant(0, tf.int64)


def _non_finite_in(norm: Norm, heard: Heard) -> tf.Tensor:
    wrong = ~tf.math.is_finite(heard.inputs)
    return tf.math.count_nonzero(wrong, axes_of(norm, heard.inputs.shape.rank), dtype=tf.float32)


def _joined(values: list[tf.Tensor]) -> tf.Tensor:
    """Return vectors as one: one copy to the host, not three a layer."""
    if not values:
        return tf.zeros([0])
    wide = tf.float64 if any(value.dtype == tf.float64 for value in values) else tf.float32
    return tf.concat([tf.cast(value, wide) for value in values], 0)
