"""The batch norm layers of a model: where they are, what they hold, and how graphs call them."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics._keras import (
    direct_layers,
    functional_of,
    layers_by_path,
    layers_in,
    nodes_in,
    origin_of,
)
from batchnorm_mechanics.distribute.replicas import on_each_replica
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.layers.accelerate import Renorm
from batchnorm_mechanics.layers.intercept import own_call
from batchnorm_mechanics.models import linear
from batchnorm_mechanics.statistics import ExponentialMovingAverage, Policy

Vector = NDArray[np.float64]

KINDS = (keras.layers.BatchNormalization, BatchNormalization)
# Layers that are linear in their input, and begin with a bias of zero unless told otherwise.
LINEAR = tuple(linear.KINDS)
_MOVING = "moving_mean", "moving_variance"
# Layers that call what they hold for each step of their input's second axis.
_LOOPS = (keras.layers.TimeDistributed, keras.layers.RNN)
_WRAPPERS = (keras.layers.Wrapper, keras.layers.Bidirectional)
_USUAL_STARTS = {keras.initializers.Zeros: 0.0, keras.initializers.Ones: 1.0}


class Call(NamedTuple):
    """How a functional graph calls a layer.

    Attributes:
        node: Keras's record of the call.
        graph: the functional model that it belongs to.
    """

    node: Any
    graph: Any

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of the input, None where a size is not known."""
        return tuple(self.node.input_tensors[0].shape)

    @property
    def before(self) -> Any:
        """The layer or operation that makes the input; None where it is the graph's own."""
        maker = origin_of(self.node.input_tensors[0]).operation
        return None if isinstance(maker, keras.layers.InputLayer) else maker

    @property
    def linear_before(self) -> Any | None:
        """The layer that makes the input where that is dense or a convolution, or None."""
        return self.before if isinstance(self.before, LINEAR) else None


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm layer, Keras's or ours.

    Attributes:
        name: its path in the model, as "encoder/bn_1"; of several with one path, the second is
            "encoder/bn_1 (2)".
        layer: the layer itself, with weights.
        calls: how functional graphs within the model call it; none in a subclassed model.
        per_pass: how often it is called in one forward pass, as far as graphs tell, in models that
            are called several times and for each step of a loop too; 1 where they do not.
    """

    name: str
    layer: Any
    calls: tuple[Call, ...]
    per_pass: int = 1

    def weight(self, name: str) -> Vector:
        """Return a weight of one number a channel by the layer's name for it, float64."""
        return _vector(getattr(self.layer, name))

    @property
    def mean(self) -> Vector:
        """The moving mean, float64 of shape (channels,)."""
        return self.weight("moving_mean")

    @property
    def variance(self) -> Vector:
        """The moving variance, likewise; biased with Keras and by default with ours."""
        return self.weight("moving_variance")

    @property
    def moving(self) -> tuple[Vector, Vector]:
        """Both."""
        return self.mean, self.variance

    @property
    def moving_on_replicas(self) -> list[tuple[Vector, Vector]]:
        """Both on each replica, where the layer was made in a strategy's scope; else just once."""
        held = (on_each_replica(getattr(self.layer, name).value) for name in _MOVING)
        return [(_vector(mean), _vector(variance)) for mean, variance in zip(*held, strict=True)]

    @property
    def gamma(self) -> Vector | None:
        """Gamma likewise, or None where the layer does not scale."""
        return None if self.layer.gamma is None else self.weight("gamma")

    @property
    def beta(self) -> Vector | None:
        """Beta likewise, or None where the layer does not shift."""
        return None if self.layer.beta is None else self.weight("beta")

    @property
    def by_channel(self) -> dict[str, Vector]:
        """All weights of one number a channel by their names, float64."""
        return {
            weight.name: _vector(weight)
            for weight in self.layer.weights
            if tuple(weight.shape) == (self.channels,)
        }

    @property
    def is_finite(self) -> NDArray[np.bool_]:
        """Where mean, variance, gamma and beta are all finite, of shape (channels,)."""
        parts = [self.mean, self.variance, self.gamma, self.beta]
        return np.all([np.isfinite(part) for part in parts if part is not None], axis=0)

    @property
    def gain(self) -> Vector:
        """|gamma| / sqrt(variance + epsilon); 0 where there is no such root."""
        gamma = np.ones(self.channels) if self.gamma is None else np.abs(self.gamma)
        total = self.variance + float(self.layer.epsilon)
        defined = np.isfinite(total) & (total >= 0) & np.isfinite(gamma)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(defined, gamma / np.sqrt(np.where(defined, total, 1)), 0)

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return int(self.layer.moving_mean.shape[0])

    @property
    def is_ours(self) -> bool:
        """Whether it is our layer, whose policy keeps the statistics, and not Keras's."""
        return isinstance(self.layer, BatchNormalization)

    @property
    def subtracts_the_mean_first(self) -> bool:
        """Whether it is computed so that a large mean costs no digits, as ours and not Keras's."""
        return self.is_ours or own_call(self.layer) is not None

    @property
    def policy(self) -> Policy:
        """The policy by which its statistics move; Keras's layer has a moving average."""
        if self.is_ours:
            return self.layer.policy
        return ExponentialMovingAverage(decay=self.layer.momentum)

    @property
    def momentum(self) -> float | None:
        """The weight of the old value in its moving average; None where the policy is no such."""
        return self.policy.decay if self.is_ours else float(self.layer.momentum)

    @property
    def renorm(self) -> bool:
        """Whether the layer is one of batch renormalization, which derives its moving variance."""
        return self.policy.renormalizes if self.is_ours else bool(self.layer.renorm)

    def correction(self, mean: Any, variance: Any) -> tuple[Any, Any]:
        """Return r and d, by which a layer of renorm corrects a batch in training."""
        if self.is_ours:
            return self.layer.correction(mean, variance)
        return Renorm(self.layer).correction(mean, variance)

    def begun(self, name: str) -> Any:
        """Return what a weight of the layer's began with, by its own initializer.

        Args:
            name: such as "moving_mean".

        Returns:
            float64 of shape (channels,); None where the layer has no such weight.
        """
        weight, initializer = getattr(self.layer, name), getattr(self.layer, f"{name}_initializer")
        if weight is None:
            return None
        # The usual ones, without TensorFlow's operations: rules are checked after each epoch.
        for kind, number in _USUAL_STARTS.items():
            if type(initializer) is kind:
                return np.full(tuple(weight.shape), number)
        # In the weight's own type: float16 rounds a start of 0.1.
        return _vector(initializer(tuple(weight.shape), dtype=weight.dtype))

    def _has_moved(self, name: str) -> bool:
        begun = self.begun(name)
        return begun is not None and not np.array_equal(self.weight(name), begun)

    @property
    def mean_is_at_start(self) -> bool:
        """Whether the moving mean is exactly what it began with, in all channels."""
        return not self._has_moved("moving_mean")

    @property
    def variance_is_at_start(self) -> bool:
        """Whether the moving variance is exactly what it began with, in all channels."""
        return not self._has_moved("moving_variance")

    @property
    def is_at_start(self) -> bool:
        """Whether both moving statistics are exactly what they began with, in all channels."""
        return self.mean_is_at_start and self.variance_is_at_start

    @property
    def affine_has_moved(self) -> bool:
        """Whether gamma or beta has left its start in any channel."""
        return self._has_moved("gamma") or self._has_moved("beta")


class Held(Norm):
    """A layer as it is when it is first asked: rules ask for the same weights some ten times."""

    @cached_property
    def _read(self) -> dict[str, Vector]:
        return {}

    def weight(self, name: str) -> Vector:
        """Return a weight by its name, read the first time."""
        if name not in self._read:
            self._read[name] = super().weight(name)
        return self._read[name]


def held(norm: Norm) -> Norm:
    """Return a layer whose weights are read once; nothing may change them meanwhile.

    Example:
        >>> layer = keras.layers.BatchNormalization()
        >>> layer.build((None, 2))
        >>> norm = held(Norm("bn", layer, ()))
        >>> norm.mean is norm.mean
        True
    """
    return Held(norm.name, norm.layer, norm.calls, norm.per_pass)


def _vector(weight: Any) -> Vector:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float64)


def norms_in(model: Any) -> tuple[Norm, ...]:
    """Return the batch norm layers of a model that have weights, nested ones included.

    Args:
        model: any Keras model or layer.

    Returns:
        Each layer once, in the order in which the model tracks its layers, which is that of the
        graph for functional and sequential models.

    Example:
        >>> inner = keras.Sequential(
        ...     [keras.layers.Input((4,)), keras.layers.BatchNormalization(name="bn")], name="inner"
        ... )
        >>> model = keras.Sequential([keras.layers.Input((4,)), inner])
        >>> [(norm.name, norm.channels) for norm in norms_in(model)]
        [('inner/bn', 4)]
    """
    calls, per_pass = calls_in(model), _per_pass(model)
    found = layers_by_path(
        model, lambda layer: isinstance(layer, KINDS) and layer.moving_mean is not None
    )
    return tuple(
        Norm(path, layer, tuple(calls.get(id(layer), ())), per_pass.get(id(layer), 1))
        for path, layer in found.items()
    )


def norm_layers_in(operation: Any) -> list[Any]:
    """Return the batch norm layers in a layer, itself included; an operation has none."""
    layers = layers_in(operation) if isinstance(operation, keras.Layer) else []
    return [layer for layer in layers if isinstance(layer, KINDS)]


def _per_pass(model: Any) -> Counter[int]:
    """Return by id how often each batch norm layer is called in one forward pass."""
    counts: Counter[int] = Counter()

    def visit(layer: Any, times: int, shape: Any = ()) -> None:
        graph = functional_of(layer) if isinstance(layer, keras.Layer) else None
        if isinstance(layer, KINDS):
            counts[id(layer)] += times
        elif graph is not None:
            for node in nodes_in(graph):
                if not node.is_input:
                    visit(node.operation, times, node.input_tensors[0].shape)
        elif isinstance(layer, keras.Layer):
            if isinstance(layer, _LOOPS) and len(shape) > 1:
                times, shape = times * (shape[1] or 1), ()
            # What wraps a recurrent layer hands it its own input.
            inner = shape if isinstance(layer, _WRAPPERS) else ()
            for one in direct_layers(layer):
                visit(one, times, inner)

    visit(model, 1)
    return counts


def graphs_in(model: Any) -> tuple[Any, ...]:
    """Return the functional graphs in a model: itself, nested ones, and those of sequential models.

    Args:
        model: any Keras model or layer.
    """
    layers = layers_in(model)
    graphs = [graph for layer in layers if (graph := functional_of(layer)) is not None]
    return tuple({id(graph): graph for graph in graphs}.values())


def calls_in(model: Any) -> dict[int, list[Call]]:
    """Return by id of each layer and operation how the functional graphs of a model call it."""
    calls: dict[int, list[Call]] = {}
    for graph in graphs_in(model):
        for node in nodes_in(graph):
            calls.setdefault(id(node.operation), []).append(Call(node, graph))
    return calls
