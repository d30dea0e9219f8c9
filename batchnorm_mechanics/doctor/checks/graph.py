"""What is wrong with a layer can be seen from the graph around it: rules BN107, 108, 109, 113."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.doctor.checks.past import LINEAR
from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.making import finding
from batchnorm_mechanics.doctor.structure.norms import KINDS, Call, Norm, graphs_in, nodes_in

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

_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)

# Layers that hold layers, each with the (node, graph) of its calls.
_Containers = list[tuple[Any, list[tuple[Any, Any]]]]


def check_graph(model: Any, norms: tuple[Norm, ...]) -> list[Finding]:
    """Return what the functional graphs in a model show: BN107, 108, 109 and 113.

    A subclassed model has no graph, and nothing is found in it but in its functional parts.

    Args:
        model: any Keras model.
        norms: its batch norm layers, as `norms_in` returns them.

    Example:
        >>> from batchnorm_mechanics.doctor.structure.norms import norms_in
        >>> inputs = keras.layers.Input((3,))
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Model(inputs, layer(inputs, training=True))
        >>> [(found.code, found.layer) for found in check_graph(model, norms_in(model))]
        [('BN107', 'bn')]
    """
    graphs = graphs_in(model)
    containers = _calls_of_containers(graphs)
    findings: list[Finding] = []
    for norm in norms:
        around = [
            (container, nodes)
            for container, nodes in containers
            if any(layer is norm.layer for layer in container._flatten_layers())
        ]
        findings += _baked(norm, around)
        findings += _wrong_axis(norm)
        findings += _redundant_bias(norm)
        findings += _shared(norm, around)
    return findings


def _calls_of_containers(graphs: tuple[Any, ...]) -> _Containers:
    """Return the layers that hold layers, each with the nodes that call it, of all graphs."""
    calls: dict[int, tuple[Any, dict[int, Any]]] = {}
    for graph in graphs:
        for node in nodes_in(graph):
            if isinstance(node.operation, keras.Layer) and node.operation._layers:
                _, nodes = calls.setdefault(id(node.operation), (node.operation, {}))
                nodes[id(node)] = (node, graph)
    return [(container, list(nodes.values())) for container, nodes in calls.values()]


def _baked(norm: Norm, around: _Containers) -> list[Finding]:
    # Frozen, a layer infers whatever it is told.
    if not norm.layer.trainable:
        return []
    calls = [(norm.layer, call.node, call.graph) for call in norm.calls]
    calls += [(container, *call) for container, nodes in around for call in nodes]
    for layer, node, graph in calls:
        if node.arguments.kwargs.get("training") is True:
            return [
                finding(
                    "BN107",
                    norm.name,
                    cause="The graph calls it with `training=True`: `fit` and `predict` of Keras 3 "
                    "override that, but `model(x)` obeys, normalizes by the batch, moves the "
                    "statistics, and hands the flag on to the layers that run next.",
                    remedy="Remove the flag with `bnm repair`, or call `model(x, training=False)`.",
                    training="True",
                    flag_on=layer.name,
                    norms_that_inherit_it=_inheriting(node, graph),
                )
            ]
    for layer, node, _ in calls:
        # Keras writes the default of a subclassed layer's `training=False` into the graph, too.
        meant = layer is norm.layer or bool(graphs_in(layer))
        if meant and node.arguments.kwargs.get("training") is False:
            return [
                finding(
                    "BN107",
                    norm.name,
                    severity="note",
                    cause="The graph calls it with `training=False`, which `fit` of Keras 3 "
                    "overrides: the layer normalizes by the batch, and its statistics move.",
                    remedy="To keep the layer still, set `trainable = False` on it and compile.",
                    training="False",
                    flag_on=layer.name,
                )
            ]
    return []


def _inheriting(node: Any, graph: Any) -> int:
    """Count the batch norm layers after a call to which `model(x)` passes the call's own flag."""
    order = nodes_in(graph)
    position = next(index for index, other in enumerate(order) if other is node)
    count = 0
    for later in order[position + 1 :]:
        if later.arguments.kwargs.get("training") is not None:
            break  # Keras wrote a flag here too, were it only the default of a Dropout
        if isinstance(later.operation, keras.Layer):
            layers = later.operation._flatten_layers()
            count += sum(isinstance(layer, KINDS) and layer.trainable for layer in layers)
    return count


def _wrong_axis(norm: Norm) -> list[Finding]:
    for call in norm.calls:
        rank = len(call.shape)
        source = _layout_before(call, rank)
        if source is None:
            continue
        layer, expected, data_format = source
        axis = norm.layer.axis % rank
        if axis != expected:
            return [
                finding(
                    "BN108",
                    norm.name,
                    # Statistics for each step of a sequence may be meant.
                    severity="warning" if isinstance(layer, _DENSE) else "error",
                    cause=f"{layer.name} puts its features on axis {expected} "
                    f"({data_format}), and the layer keeps axis {axis}: its statistics are "
                    "of positions, over all features.",
                    remedy=f"Build the layer with axis={expected if expected == 1 else -1} and "
                    "train again; the weights cannot be carried over.",
                    axis=axis,
                    axis_of_features=expected,
                    layer_before=layer.name,
                    data_format=data_format,
                    channels_of_layer=norm.channels,
                    features=call.shape[expected] or 0,
                )
            ]
    return []


def _layout_before(call: Call, rank: int) -> tuple[Any, int, str] | None:
    """Return the nearest layer before a call that has a layout, its axis of features, and which."""
    (tensor, *_) = call.node.input_tensors
    for operation in _chain(tensor):
        data_format = getattr(operation, "data_format", None)
        if data_format in {"channels_first", "channels_last"}:
            return operation, 1 if data_format == "channels_first" else rank - 1, data_format
        if _makes_features_last(operation):
            return operation, rank - 1, "channels_last"
        if type(operation).__name__.lower() not in _KEEPS_LAYOUT:
            return None
    return None


def _makes_features_last(operation: Any) -> bool:
    if isinstance(operation, keras.layers.EinsumDense):
        # Its equation says: an axis that the input has not is of features.
        inputs, outputs = operation.equation.replace(" ", "").split("->")
        return outputs[-1] not in inputs.split(",")[0]
    return isinstance(operation, keras.layers.Dense)


def _chain(tensor: Any) -> Iterator[Any]:
    """Yield the operations that made a tensor, last first, along first inputs."""
    while tensor is not None:
        operation, node_index, tensor_index = tensor._keras_history
        graph = getattr(operation, "_functional", None) or operation
        if isinstance(graph, keras.Model) and hasattr(graph, "_nodes_by_depth"):
            tensor = graph.outputs[tensor_index]
            continue
        yield operation
        before = operation._inbound_nodes[node_index].input_tensors
        tensor = before[0] if before else None


def _redundant_bias(norm: Norm) -> list[Finding]:
    for call in norm.calls:
        layer = call.before
        if not isinstance(layer, LINEAR) or getattr(layer, "bias", None) is None:
            continue
        if layer.activation is not keras.activations.linear or not _feeds_only(call):
            continue
        features = 1 if getattr(layer, "data_format", "") == "channels_first" else -1
        if norm.layer.axis % len(call.shape) != features % len(call.shape):
            continue
        bias = keras.ops.convert_to_numpy(layer.bias).astype(np.float64)
        return [
            finding(
                "BN109",
                norm.name,
                cause=f"The bias of {layer.name} is subtracted again with the mean; beta does its "
                "work.",
                remedy=f"Build {layer.name} with use_bias=False; for inference `bnm fold` merges "
                "both.",
                layer_before=layer.name,
                parameters=bias.size,
                largest_bias=float(np.abs(bias).max()),
            )
        ]
    return []


def _feeds_only(call: Call) -> bool:
    """Whether nothing but this call uses the tensor that it takes."""
    (tensor, *_) = call.node.input_tensors
    if any(output is tensor for output in call.graph.outputs):
        return False
    users = [
        node
        for node in nodes_in(call.graph)
        if any(taken is tensor for taken in node.input_tensors)
    ]
    return len(users) == 1


def _shared(norm: Norm, around: _Containers) -> list[Finding]:
    own = _inputs([call.node for call in norm.calls])
    if len(own) > 1:
        return [
            finding(
                "BN113",
                norm.name,
                cause="The graph feeds this one layer from several places: in training each input "
                "is normalized by its own batch, in inference all by one mixture of their "
                "statistics.",
                remedy="Give each input a layer of its own, as `bnm repair` does.",
                inputs=len(own),
                fed_by=", ".join(own.values()),
            )
        ]
    for container, nodes in around:
        inputs = _inputs([node for node, _ in nodes])
        if len(inputs) > 1:
            return [
                finding(
                    "BN113",
                    norm.name,
                    severity="note",
                    cause=f"{container.name}, which holds it, is called on several inputs, and "
                    "their statistics are mixed; that is right where they are alike, as in a "
                    "siamese network.",
                    remedy="Nothing if the inputs are alike; else give each its own batch norm.",
                    inputs=len(inputs),
                    fed_by=", ".join(inputs.values()),
                )
            ]
    return []


def _inputs(nodes: list[Any]) -> dict[int, str]:
    """Return the different tensors that calls take, by identity, each with its maker's name."""
    tensors = {id(node.input_tensors[0]): node.input_tensors[0] for node in nodes}
    return {key: tensor._keras_history.operation.name for key, tensor in tensors.items()}
