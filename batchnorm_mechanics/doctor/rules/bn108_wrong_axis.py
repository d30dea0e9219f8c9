"""BN108: the layer keeps another axis than that of the features before it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from batchnorm_mechanics._keras import functional_of, origin_of
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Call, Norm

# What keeps the layout of its input, and says nothing of it: layers, and the operations of the same
# names that Keras makes of functions, in lower case since the two differ in theirs.
_KEEPS_LAYOUT = frozenset(
    {
        "activation",
        "activityregularization",
        "add",
        "alphadropout",
        "average",
        "batchnormalization",
        "concatenate",
        "dropout",
        "elu",
        "gaussiandropout",
        "gaussiannoise",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "identity",
        "layernormalization",
        "leakyrelu",
        "maximum",
        "minimum",
        "mish",
        "multiply",
        "prelu",
        "relu",
        "relu6",
        "rescaling",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "softsign",
        "subtract",
        "swish",
        "tanh",
    }
)


class Layout(NamedTuple):
    """Where a layer puts its features.

    Attributes:
        layer: it.
        axis: that of its features, from 0.
        data_format: as Keras names it.
        is_dense: whether it is a dense layer, and no convolution or pooling.
    """

    layer: Any
    axis: int
    data_format: str
    is_dense: bool


class WrongAxis(Rule):
    """Statistics of positions, over all features, where those of features are meant."""

    severity = "error"
    keeps_effects = True
    refusal = (
        "its weights are of positions and not of features: build it with the right axis, and "
        "train again"
    )

    def check(self, case: Case) -> Findings:
        """Hold the axis of each layer against the layout that reaches it."""
        for norm in case.norms:
            found = (self._at(norm, call) for call in norm.calls)
            first = next((one for one in found if one is not None), None)
            if first is not None:
                yield first

    def _at(self, norm: "Norm", call: "Call") -> Finding | None:
        rank = len(call.shape)
        axis, layout = norm.layer.axis % rank, _layout_before(call, rank)
        if layout is None or axis == layout.axis:
            return None
        return self.finding(
            norm.name,
            # Statistics for each step of a sequence may be meant.
            severity="warning" if layout.is_dense else "error",
            cause=f"{layout.layer.name} puts its features on axis {layout.axis} "
            f"({layout.data_format}), and the layer keeps axis {axis}: its statistics are of "
            "positions, over all features.",
            remedy=f"Build the layer with axis={layout.axis if layout.axis == 1 else -1} and "
            "train again; the weights cannot be carried over.",
            axis=axis,
            axis_of_features=layout.axis,
            layer_before=layout.layer.name,
            data_format=layout.data_format,
            channels_of_layer=norm.channels,
            features=call.shape[layout.axis] or 0,
        )


def _layout_before(call: "Call", rank: int) -> Layout | None:
    """Return the layout of the nearest layer before a call that has one."""
    import keras

    dense = (keras.layers.Dense, keras.layers.EinsumDense)
    (tensor, *_) = call.node.input_tensors
    for operation in _chain(tensor):
        is_dense = isinstance(operation, dense)
        data_format = getattr(operation, "data_format", None)
        if data_format in {"channels_first", "channels_last"}:
            axis = 1 if data_format == "channels_first" else rank - 1
            return Layout(operation, axis, data_format, is_dense)
        if is_dense and _makes_features_last(operation):
            return Layout(operation, rank - 1, "channels_last", is_dense)
        if type(operation).__name__.lower() not in _KEEPS_LAYOUT:
            return None
    return None


def _makes_features_last(dense: Any) -> bool:
    if not hasattr(dense, "equation"):
        return True
    # Of an EinsumDense, it says: an axis that the input has not is of features.
    inputs, outputs = dense.equation.replace(" ", "").split("->")
    return outputs[-1] not in inputs.split(",")[0]


def _chain(tensor: Any) -> Iterator[Any]:
    """Yield the operations that made a tensor, last first, along first inputs."""
    while tensor is not None:
        operation, node, position = origin_of(tensor)
        graph = functional_of(operation)
        if graph is not None:
            tensor = graph.outputs[position]
            continue
        yield operation
        before = node.input_tensors
        tensor = before[0] if before else None
