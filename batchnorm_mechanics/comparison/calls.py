"""A functional Keras model as single calls of layers, each of which can be run by itself."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import ml_dtypes
import numpy as np

from batchnorm_mechanics._keras import filled_in, nodes_in, with_mask_of
from batchnorm_mechanics.comparison.ran import Array
from batchnorm_mechanics.models.norms import KINDS
from batchnorm_mechanics.models.wiring import graph_of

L = keras.layers

# They move numbers, or leave them, and compute none.
_MOVING = (
    L.Activation,
    L.ActivityRegularization,
    L.Cropping1D,
    L.Cropping2D,
    L.Cropping3D,
    L.Dropout,
    L.SpatialDropout1D,
    L.SpatialDropout2D,
    L.SpatialDropout3D,
    L.Flatten,
    L.GaussianDropout,
    L.GaussianNoise,
    L.Identity,
    L.Masking,
    L.Permute,
    L.RepeatVector,
    L.Reshape,
    L.UpSampling1D,
    L.ZeroPadding1D,
    L.ZeroPadding2D,
    L.ZeroPadding3D,
)


@dataclass(frozen=True, eq=False)
class Stage:
    """One call of a layer or operation.

    Attributes:
        name: path of the layer; of a layer that is called again, with the number of the call.
        operation: the layer or operation.
        node: Keras's record of the call.
        inputs: numbers of the tensors that it takes.
        outputs: numbers of those that it gives.
    """

    name: str
    operation: Any
    node: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def moves(self) -> bool:
        """Whether it only moves numbers, or leaves them as they are."""
        if type(self.operation) is L.Activation:
            return self.operation.activation is keras.activations.linear
        return isinstance(self.operation, _MOVING)

    @cached_property
    def weights(self) -> list[Any]:
        """The variables of the layer and of those in it; an operation has none."""
        return list(self.operation.weights) if isinstance(self.operation, keras.Layer) else []

    @cached_property
    def length(self) -> int:
        """How many products are summed for a number of the output, 1 where none are."""
        if isinstance(self.operation, L.BatchNormalization):
            return 1
        kernels = [weight for weight in self.weights if len(weight.shape) > 1]
        depthwise = isinstance(self.operation, L.DepthwiseConv1D | L.DepthwiseConv2D)
        last = 2 if depthwise else 1
        return sum(int(np.prod(weight.shape[:-last])) for weight in kernels) or 1

    def run(self, given: Sequence[Any], weights: Mapping[int, Any] | None = None) -> list[Any]:
        """Run it on tensors, in inference; nothing of the layer changes.

        Args:
            given: tensors, as many as `inputs`.
            weights: by id of a variable what stands for it.
        """
        tensors = {id(one): new for one, new in zip(self.node.input_tensors, given, strict=True)}
        args, kwargs = filled_in(self.node, tensors)
        mapping = [
            (one, weights[id(one)]) for one in self.weights if weights and id(one) in weights
        ]
        # In the scope what a call changes, such as statistics, stays in the scope.
        with keras.StatelessScope(state_mapping=mapping):
            return keras.tree.flatten(self.operation(*args, **kwargs))


@dataclass(frozen=True, eq=False)
class Calls:
    """The calls of a model, those within models in it too.

    Attributes:
        stages: in an order in which they can run.
        inputs: numbers of the tensors that go in.
        outputs: numbers of those that come out.
    """

    stages: tuple[Stage, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def last_use(self) -> dict[int, int]:
        """Of each tensor, which stage takes it last; of outputs, one behind all."""
        found = {number: at for at, stage in enumerate(self.stages) for number in stage.inputs}
        return found | dict.fromkeys(self.outputs, len(self.stages))

    @cached_property
    def is_by_sample(self) -> bool:
        """Whether each sample of a batch has an output of its own, as far as is known.

        Of an operation or a layer of one's own it is not known, nor where the size of a batch is.
        """
        layers = [stage.operation for stage in self.stages]
        fixed = any(
            one.shape[:1] != (None,) for stage in self.stages for one in stage.node.input_tensors
        )
        return not fixed and all(_is_by_sample(layer) for layer in layers)

    def run(self, inputs: Sequence[Any]) -> dict[int, Any]:
        """Run all of them, and return each tensor by its number."""
        found = dict(zip(self.inputs, map(keras.ops.convert_to_tensor, inputs), strict=True))
        for stage in self.stages:
            outputs = stage.run([found[one] for one in stage.inputs])
            found.update(zip(stage.outputs, outputs, strict=True))
        return found

    @property
    def form(self) -> tuple[Any, ...]:
        """What two models with the same graph have in common."""
        kinds = tuple(
            (type(stage.operation).__name__, stage.inputs, stage.outputs) for stage in self.stages
        )
        return kinds, self.inputs, self.outputs


def _is_by_sample(operation: Any) -> bool:
    is_keras_s = type(operation).__module__.startswith("keras.")
    is_layer = isinstance(operation, L.Layer) and not isinstance(operation, L.Lambda)
    return isinstance(operation, KINDS) or (is_keras_s and is_layer)


def calls_of(model: Any) -> Calls | None:
    """Return the calls of a functional or sequential model; None where its own code decides.

    Example:
        >>> inner = keras.Sequential([L.Input((2,)), L.Dense(2, name="dense")], name="inner")
        >>> model = keras.Sequential([L.Input((2,)), inner, L.ReLU(name="relu")])
        >>> [stage.name for stage in calls_of(model).stages]
        ['inner/dense', 'relu']
    """
    graph = graph_of(model)
    if graph is None:
        return None
    flat = _Flat()
    inputs = tuple(flat.number() for _ in graph.inputs)
    outputs = flat.visit(graph, inputs, "")
    return Calls(tuple(flat.stages), inputs, outputs)


class _Flat:
    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._numbers = 0
        self._names: dict[str, int] = {}

    def number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def visit(self, graph: Any, given: Sequence[int], prefix: str) -> tuple[int, ...]:
        numbers = dict(zip(map(id, graph.inputs), given, strict=True))
        for node in nodes_in(graph):
            if node.is_input or any(id(one) not in numbers for one in node.input_tensors):
                continue
            inputs = tuple(numbers[id(one)] for one in node.input_tensors)
            inner = graph_of(node.operation) if isinstance(node.operation, keras.Layer) else None
            path = f"{prefix}{node.operation.name}"
            if inner is not None and len(inner.inputs) == len(inputs):
                outputs = self.visit(inner, inputs, f"{path}/")
            else:
                outputs = tuple(self.number() for _ in node.output_tensors)
                stage = Stage(self._name(path), node.operation, node, inputs, outputs)
                self.stages.append(stage)
            numbers.update(zip(map(id, node.output_tensors), outputs, strict=True))
        return tuple(numbers[id(one)] for one in graph.outputs)

    def _name(self, path: str) -> str:
        self._names[path] = self._names.get(path, 0) + 1
        return path if self._names[path] == 1 else f"{path} (call {self._names[path]})"


def moved(array: Any, like: Any) -> Any:
    """Return a tensor with each number a unit in the last place up or down, by chance.

    Args:
        array: a tensor or variable of floating numbers; others come back as they are.
        like: whose mask the new one carries.

    Example:
        >>> one = moved(np.ones(1000, np.float32), None).numpy()
        >>> sorted(set(((one - 1) / np.finfo(np.float32).eps).tolist()))
        [-1.0, 1.0]
    """
    dtype = keras.backend.standardize_dtype(array.dtype)
    if "float" not in dtype:
        return array
    values = np.asarray(array)
    factors = _factors(values.dtype, float(ml_dtypes.finfo(dtype).eps))
    flat = values.reshape(-1)
    new = np.empty_like(flat)
    # The factors again and again, without writing them out as often: this runs for every tensor.
    end = flat.size - flat.size % _MANY
    whole, rest = (-1, _MANY), flat.size - end
    np.multiply(flat[:end].reshape(whole), factors, out=new[:end].reshape(whole))
    np.multiply(flat[end:], factors[:rest], out=new[end:])
    return with_mask_of(new.reshape(values.shape), like)


# A prime, so that no channel has the same ones again.
_MANY = 65_537


@functools.cache
def _factors(dtype: np.dtype[Any], unit: float) -> Array:
    """Return 1 with a unit more or less, by chance."""
    chances = np.random.default_rng(0).choice([-1.0, 1.0], _MANY)
    return (1 + unit * chances).astype(dtype)
