"""Keras 2's and Keras 1's model files as Keras 3 reads them: their layers and weights alone."""

import inspect
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchnorm_mechanics._io.model_archives import CONFIG, METADATA, WEIGHTS

_MODELS = frozenset({"Functional", "Model", "Sequential"})
_NEW_NAMES = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "SeparableConvolution2D": "SeparableConv2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Model": "Functional",
}
# What an argument was called before, and may be called now: the first that the layer has.
_NEW_ARGUMENTS = {
    "batch_input_shape": ("batch_shape", "input_shape"),
    "output_dim": ("units",),
    "nb_filter": ("filters",),
    "filter_length": ("kernel_size",),
    "border_mode": ("padding",),
    "subsample": ("strides",),
    "subsample_length": ("strides",),
    "stride": ("strides",),
    "pool_length": ("pool_size",),
    "dim_ordering": ("data_format",),
    "bias": ("use_bias",),
    "p": ("rate",),
    "alpha": ("negative_slope",),
    "init": ("kernel_initializer", "embeddings_initializer"),
    "inner_init": ("recurrent_initializer",),
    "inner_activation": ("recurrent_activation",),
    "dropout_W": ("dropout",),
    "dropout_U": ("recurrent_dropout",),
    "W_regularizer": ("kernel_regularizer", "embeddings_regularizer"),
    "U_regularizer": ("recurrent_regularizer",),
    "b_regularizer": ("bias_regularizer",),
    "W_constraint": ("kernel_constraint", "embeddings_constraint"),
    "b_constraint": ("bias_constraint",),
    "beta_init": ("beta_initializer",),
    "gamma_init": ("gamma_initializer",),
}
_NEW_VALUES = {
    "data_format": {"tf": "channels_last", "th": "channels_first"},
    "initializer": {
        "zero": "zeros",
        "one": "ones",
        "uniform": "random_uniform",
        "normal": "random_normal",
    },
}
# Arguments that Keras 3 has not, with the values at which nothing is lost without them.
_ANY = object()
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "groups": (1,),
    "mode": (0, "default"),
    "consume_less": (_ANY,),
    "implementation": (_ANY,),
    "fused": (_ANY,),
    "input_dim": (_ANY,),
    "input_length": (_ANY,),
    "input_dtype": (_ANY,),
    "kernel_initializer": (_ANY,),
    "kernel_regularizer": (_ANY,),
    "kernel_constraint": (_ANY,),
    # Of a Lambda, where its code came from.
    "module": (_ANY,),
    "function_type": (_ANY,),
    "output_shape_type": (_ANY,),
    "output_shape_module": (_ANY,),
}
_OF_ALL_LAYERS = frozenset(
    {"name", "trainable", "dtype", "batch_shape", "input_shape", "activity_regularizer"}
)
# What stands in a call for the name of a layer where a number is given.
_CONSTANT = "_CONSTANT_VALUE"
# TensorFlow's functions in a graph, and Keras's operations that compute the same.
_FUNCTIONS = {
    "__operators__.add": ("numpy", "Add"),
    "math.add": ("numpy", "Add"),
    "math.subtract": ("numpy", "Subtract"),
    "math.multiply": ("numpy", "Multiply"),
    "math.truediv": ("numpy", "TrueDivide"),
    "nn.relu": ("nn", "Relu"),
    "nn.relu6": ("nn", "Relu6"),
    "nn.silu": ("nn", "Silu"),
}


class TooOldError(Exception):
    """A model of an older Keras has what Keras 3 cannot compute; the message says what."""


def modernized(config: Any) -> Any:
    """Return the configuration of a model or layer of an older Keras as Keras 3 reads it.

    Args:
        config: as JSON gives it; anything else within is left to whoever checks the result.

    Raises:
        TooOldError: it has an argument or a function that Keras 3 has not.

    Example:
        >>> old = {"nb_filter": 4, "nb_row": 3, "nb_col": 3, "border_mode": "same", "groups": 1}
        >>> new = modernized({"class_name": "Convolution2D", "config": old})
        >>> new["class_name"], new["config"]
        ('Conv2D', {'filters': 4, 'padding': 'same', 'groups': 1, 'kernel_size': [3, 3]})
    """
    if isinstance(config, list):
        return [modernized(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    kind = config.get("class_name")
    if kind in {"Policy", "policy"}:
        return config.get("config", {}).get("name")
    config = {key: modernized(part) for key, part in config.items()}
    if not isinstance(kind, str):
        return config
    config["class_name"] = kind = _NEW_NAMES.get(kind, kind)
    inner = config.get("config")
    if kind == "Sequential":
        config["config"] = _sequence(inner)
    elif kind == "Functional" and isinstance(inner, Mapping):
        config["config"] = _graph(inner)
    elif isinstance(inner, Mapping):
        config["config"] = _arguments(kind, dict(inner))
    return config


def _sequence(config: Any) -> Any:
    """Return a sequential model with its input as a layer, and its layers in a dictionary."""
    config = {"name": "sequential", "layers": config} if isinstance(config, list) else config
    match config:
        case {"layers": [{"config": {"input_shape": shape, **first}, **more}, *others]}:
            # The first layer had the shape of a batch.
            given = {"batch_shape": shape, "dtype": first.get("dtype"), "name": "input"}
            given = {"class_name": "InputLayer", "config": given}
            return {**config, "layers": [given, {**more, "config": first}, *others]}
    return config


def _arguments(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a layer's arguments by the names that they have now."""
    import keras

    made = getattr(keras.layers, kind, None)
    if not inspect.isclass(made) or not issubclass(made, keras.layers.Layer):
        return config
    known = _parameters(made)
    if {"nb_row", "nb_col"} <= config.keys():
        config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
    found = {}
    for key, value in config.items():
        new = next((one for one in (key, *_NEW_ARGUMENTS.get(key, ())) if one in known), None)
        if new is not None:
            if new == "axis" and isinstance(value, list) and len(value) == 1:
                value = value[0]  # noqa: PLW2901 - Keras 2 kept the one axis in a list
            words = _NEW_VALUES.get("initializer" if new.endswith("_initializer") else new, {})
            found[new] = words.get(value, value) if isinstance(value, str) else value
        elif value is not None and value is not False:
            harmless = _WITHOUT_EFFECT.get(key, ())
            if _ANY not in harmless and value not in harmless:
                raise TooOldError(
                    f"Its layer {config.get('name')!r}, a {kind}, has {key}={value!r}, which "
                    "Keras 3 does not have"
                )
    return found


def _parameters(kind: Any) -> frozenset[str]:
    """Return the names of the arguments that a layer takes, those of its base classes too."""
    inits = [vars(base).get("__init__") for base in kind.__mro__]
    names = {name for init in inits if init for name in inspect.signature(init).parameters}
    # A layer takes it that is the first of a sequence, and an input by another name.
    own = {"input_shape"} if "batch_shape" in names else set()
    return frozenset(names | (_OF_ALL_LAYERS - own - {"batch_shape"}))


def _graph(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a functional model with its calls as Keras 3 writes them."""
    layers = [layer for layer in config.get("layers", ()) if isinstance(layer, Mapping)]
    kinds = {layer.get("name"): layer.get("class_name") for layer in layers}

    def tensor(name: str, number: int, position: int) -> dict[str, Any]:
        # The first call of a model was that on its own inputs.
        number -= kinds.get(name) in _MODELS
        history = {"shape": [None], "dtype": "float32", "keras_history": [name, number, position]}
        return {"class_name": "__keras_tensor__", "config": history}

    def argument(value: Any) -> Any:
        if _is_reference(value, kinds):
            return tensor(*value[:3])
        if isinstance(value, list):
            return [argument(part) for part in value]
        return value

    def call(node: Any) -> Any:
        if not isinstance(node, list) or not node:
            return node
        parts = [node] if isinstance(node[0], str) else node
        if not all(_is_reference(part, kinds) or part[:1] == [_CONSTANT] for part in parts):
            return node
        named = {key: argument(value) for part in parts for key, value in (*part, {})[3].items()}
        tensors = [part[2] if part[0] == _CONSTANT else tensor(*part[:3]) for part in parts]
        return {"args": tensors if len(tensors) == 1 else [tensors], "kwargs": named}

    def ends(tensors: Any) -> Any:
        if _is_reference(tensors, kinds):
            name, number, position = tensors[:3]
            return [name, number - (kinds[name] == "Sequential"), position]
        if not isinstance(tensors, list):
            return tensors
        # A list of one was a tensor; Keras 3 would ask for a list, and return one.
        return ends(tensors[0]) if len(tensors) == 1 else [ends(part) for part in tensors]

    new = [
        _function({**layer, "inbound_nodes": [call(node) for node in layer["inbound_nodes"]]})
        if isinstance(layer.get("inbound_nodes"), list)
        else layer
        for layer in layers
    ]
    bounds = {key: ends(config.get(key)) for key in ("input_layers", "output_layers")}
    return {**config, "layers": new, **bounds}


def _is_reference(value: Any, names: Mapping[Any, Any]) -> bool:
    """Return whether it is a tensor of the graph: [layer, call, output], or with keywords."""
    if not (isinstance(value, list) and len(value) in {3, 4} and isinstance(value[0], str)):
        return False
    return value[0] in names and all(isinstance(one, int) for one in value[1:3])


def _function(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a call of a function of TensorFlow's as that of an operation of Keras's."""
    if layer.get("class_name") not in {"TFOpLambda", "SlicingOpLambda"}:
        return layer
    name = layer["config"].get("function")
    if name not in _FUNCTIONS:
        raise TooOldError(f"It calls TensorFlow's function {name!r}, which Keras 3 does not store")
    module, kind = _FUNCTIONS[name]
    nodes = [
        # y is the second of two arguments; the others name the operation.
        {"args": [*node["args"], *(node["kwargs"][key] for key in node["kwargs"].keys() & {"y"})]}
        for node in layer["inbound_nodes"]
    ]
    return {
        "module": f"keras.src.ops.{module}",
        "class_name": kind,
        "registered_name": kind,
        "name": layer["name"],
        "config": {"name": layer["name"]},
        "inbound_nodes": [{**node, "kwargs": {}} for node in nodes],
    }


def write_reduced(old: Path, new: Path, config: Any) -> None:
    """Write a file with the weights of an old one, another configuration, and nothing else.

    Args:
        old: a `.keras` or HDF5 file of an older Keras.
        new: the file to write, of the same format.
        config: of the model.
    """
    import h5py

    if new.suffix == ".keras":
        with zipfile.ZipFile(old) as before, zipfile.ZipFile(new, "w") as after:
            after.writestr(CONFIG, json.dumps(config))
            after.writestr(METADATA, before.read(METADATA))
            after.writestr(WEIGHTS, before.read(WEIGHTS))
        return
    with h5py.File(old) as before, h5py.File(new, "w") as after:
        # Of variable length: HDF5 takes no longer attribute of a fixed one than 64 kB.
        after.attrs["model_config"] = json.dumps(config)
        for key in ("keras_version", "backend"):
            if key in before.attrs:
                after.attrs[key] = before.attrs[key]
        before.copy("model_weights", after)
