"""Run a model as `predict` does, note what each call of a batch norm layer gets, and answer it."""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import layers_in, takes_training
from batchnorm_mechanics._tensorflow import missing_kernel
from batchnorm_mechanics.doctor.heard import (
    Heard,
    Said,
    axes_of,
    by_batch,
    fits_fused,
    moments_of,
    on_host,
)
from batchnorm_mechanics.layers.freeze import follows_batches
from batchnorm_mechanics.layers.intercept import intercepted
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.fitting import Fitting
from batchnorm_mechanics.models.norms import Norm

_COMPILED = "it runs inside a function of its own that is compiled or vectorized"
_NOT_CALLED = "the model does not call it"
# Of |mean| to standard deviation: beyond it the fused kernel errs in the mean by more than 1e-4 of
# a deviation, and in the end by whole ones.
_LARGEST_RATIO = 30.0


class Call(NamedTuple):
    """One call of a layer in a forward pass.

    Attributes:
        name: of the layer.
        number: how many calls of it came before.
    """

    name: str
    number: int


class Ran(NamedTuple):
    """What a model gave for a batch.

    Attributes:
        outputs: of the model; None where they are not wanted.
        bad_outputs: how many values of them are NaN or infinite.
        calls: of the layers that are listened to, in the order in which they were called.
    """

    outputs: Any
    bad_outputs: int
    calls: dict[Call, Said]

    @property
    def by_layer(self) -> Mapping[str, list[Said]]:
        """What each layer's calls say, in their order."""
        found: dict[str, list[Said]] = {}
        for call, said in self.calls.items():
            found.setdefault(call.name, []).append(said)
        return found


@contextmanager
def listening(
    norms: tuple[Norm, ...], answer: Callable[[Norm, Heard], Any | None]
) -> Iterator[None]:
    """Have `answer` called in place of each layer, until the block ends.

    No statistic is ever updated: a layer that is told to train normalizes by the batch and no more.

    Args:
        norms: layers with weights.
        answer: takes the layer and the call; returns the layer's output, or None for what the
            layer computes by itself.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.models.norms import norms_in
        >>> norm = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), norm])
        >>> with listening(norms_in(model), lambda norm, heard: print(norm.name, heard.training)):
        ...     _ = model(tf.zeros((1, 2)), training=True)
        bn True
    """

    def answering(norm: Norm, call: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = tf.convert_to_tensor(inputs)
        if not tensor.dtype.is_floating:
            tensor = tf.cast(tensor, tf.float32)
        # Keras hands both over by name, whether the model's code did or not.
        is_training = bool(kwargs.get("training")) and follows_batches(norm.layer)
        heard = Heard(tensor, kwargs.get("mask"), is_training)
        output = answer(norm, heard)
        if output is not None:
            return output
        if heard.training:
            return by_batch(norm, heard, exactly=True)[0]
        return call(inputs, *args, **kwargs)

    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(intercepted(norm.layer, functools.partial(answering, norm)))
        yield


class Runner:
    """A model in inference, of which some batch norm layers normalize by the batch.

    Nothing of the model changes. Moments are those of the batch, by the fastest kernel for them; a
    layer with |mean| beyond 30 standard deviations is run again, and from then on, by an exact one.

    Args:
        model: any Keras model with weights.
        norms: all its batch norm layers.
        heard: names of those whose calls are noted; by default all.
        by_batch: names of those, among them, that normalize by the batch, or single calls of them;
            nothing is dropped out and no other layer trains. Run `eagerly`, others can be put here
            between two batches.
        outputs: whether the model's outputs are wanted. If not, what comes after the last of the
            layers is not computed.
        count: whether values that are not finite are counted, which costs a pass over memory.
        eagerly: run operation by operation: for a few batches, tracing takes longer. So is a model
            that calls a layer in a loop of its graph, as in a recurrent cell: only then is each
            step at hand.
        call: how to run the model on a batch, as in `Data`.

    Attributes:
        model, norms, call: as given.
        on_call: told each call as it comes; does nothing until another is put here.
        in_loops: names of layers that run inside a function of their own, compiled or vectorized;
            what they get there cannot be read from outside.
        told_to_train: names of layers that normalize by the batch since the model's own code says
            so.
        dtypes: of the layers' inputs, by name, in the order of first calls.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.models.norms import norms_in
        >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.BatchNormalization()])
        >>> run = Runner(model, norms_in(model))
        >>> ((_, said),) = run(np.array([[1.0], [3.0]], "float32")).calls.items()
        >>> said.count, said.mean.item(), said.variance.item()
        (2.0, 2.0, 1.0)
    """

    def __init__(  # noqa: PLR0913 - how to run, and what to note on the way
        self,
        model: Any,
        norms: tuple[Norm, ...],
        *,
        heard: Collection[str] | None = None,
        by_batch: Collection[str | Call] = (),
        outputs: bool = True,
        count: bool = False,
        eagerly: bool = False,
        call: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.model, self.norms, self.call = model, norms, call
        held = {id(norm.layer) for norm in norms}
        self._recurrent = [
            one
            for one in layers_in(model)
            if isinstance(one, keras.layers.RNN) and held & {id(part) for part in layers_in(one)}
        ]
        self._epsilons = {norm.name: float(norm.layer.epsilon) for norm in norms}
        self._heard = frozenset(self._epsilons if heard is None else heard)
        self.by_batch = frozenset(by_batch)
        self._outputs, self._count = outputs, count
        self.on_call: Callable[[Call], Any] = lambda _call: None
        self._eagerly = eagerly or bool(getattr(model, "run_eagerly", False))
        # Names of layers whose moments are by the one kernel, and of those that must not be.
        self._fused: set[str] = set()
        self._exact: set[str] = set()
        self._compiled: Any = None
        self.in_loops: set[str] = set()
        self.told_to_train: set[str] = set()
        self.dtypes: dict[str, str] = {}

    def otherwise(self, **options: Any) -> "Runner":
        """Return the same model to be run in another way, with options as of a `Runner`."""
        return Runner(self.model, self.norms, call=self.call, **options)

    def __call__(self, inputs: Any) -> Ran:
        """Run the model on a batch of inputs, tensors or arrays."""
        if self._compiled is None:
            self._compiled = self._step if self._eagerly else _compiled(self._step, inputs)
        outputs, bad, said = self._compiled(inputs)
        if self.in_loops and not self._eagerly:
            # Operation by operation a loop is Python's, and each of its steps is at hand.
            self._eagerly, self._compiled = True, None
            self.in_loops, self.dtypes = set(), {}
            return self(inputs)
        calls = {call: on_host(of_one) for call, of_one in said.items()}
        far = {
            call.name
            for call, of_one in calls.items()
            if call.name in self._fused and self._is_far(call.name, of_one)
        }
        if not far:
            return Ran(outputs, int(bad), calls)
        self._exact |= far
        self._fused -= far
        self._compiled = None
        return self(inputs)

    def over(self, data: Iterable[Any], fitting: Fitting) -> Iterator[tuple[Any, Any, Ran]]:
        """Yield inputs, labels and what came of each batch of data, as long as all fit.

        Raises:
            InputError: the data do not fit the model, are empty, or some are not finite.
        """
        for given, labels in data:
            inputs = fitting.checked(given)
            if not fitting.bad:
                with fitting.explained(inputs):
                    ran = self(inputs)
                yield inputs, labels, ran
        fitting.finish()

    def reason_unheard(self, name: str) -> str:
        """Return why nothing is known of a layer that was not heard."""
        return _COMPILED if name in self.in_loops else _NOT_CALLED

    def _is_far(self, name: str, said: Said) -> bool:
        scale = said.variance + self._epsilons[name]
        with np.errstate(invalid="ignore", over="ignore"):
            return bool((said.mean**2 > _LARGEST_RATIO**2 * scale).any())

    def _step(self, inputs: Any) -> tuple[Any, tf.Tensor, dict[Call, Said]]:
        """Return outputs, how many of their values are bad, and what each call says."""
        here = tf.compat.v1.get_default_graph()
        numbers: Counter[str] = Counter()
        calls: dict[Call, Said] = {}

        def answer(norm: Norm, heard: Heard) -> tf.Tensor | None:
            if heard.training:
                self.told_to_train.add(norm.name)
            if norm.name not in self._heard:
                return None
            if _is_in_a_loop(here):
                self.in_loops.add(norm.name)
                return None
            self.dtypes.setdefault(norm.name, heard.inputs.dtype.name)
            call = Call(norm.name, numbers[norm.name])
            numbers[norm.name] += 1
            self.on_call(call)
            outputs, calls[call] = self._answer(norm, heard, call)
            return outputs

        with listening(self.norms, answer), _unrolled(self._recurrent if self._eagerly else ()):
            outputs = (self.call or _predicted)(self.model, inputs)
        if not self._outputs:
            return None, tf.constant(0, tf.int64), calls
        return outputs, _non_finite(outputs), calls

    def _answer(self, norm: Norm, heard: Heard, call: Call) -> tuple[tf.Tensor | None, Said]:
        x, exactly = heard.inputs, norm.name in self._exact
        if not exactly and fits_fused(norm, heard):
            self._fused.add(norm.name)
        if not self.by_batch.isdisjoint((norm.name, call)):
            outputs, moments = by_batch(norm, heard, exactly=exactly)
        else:
            outputs, moments = None, moments_of(norm, heard, exactly=exactly)
        # None where there is nothing to say: each operation more is to be traced.
        non_finite = largest = None
        if self._count:
            non_finite = tf.math.count_nonzero(~tf.math.is_finite(x), axes_of(norm, x))
        if x.dtype == tf.float16:
            largest = tf.reduce_max(tf.abs(x))
        return outputs, Said(moments.count, moments.mean, moments.variance, non_finite, largest)


@contextmanager
def _unrolled(recurrent: Iterable[Any]) -> Iterator[None]:
    """Have recurrent layers go through their steps one by one.

    Else Keras tries the first one out before the loop, which would count it twice.
    """
    rolled = [one for one in recurrent if not one.unroll]
    for one in rolled:
        one.unroll = True
    try:
        yield
    finally:
        for one in rolled:
            one.unroll = False


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
            first = tf.nest.map_structure(lambda part: part[:1], inputs)
            (_predicted if data is None or data.call is None else data.call)(model, first)
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
