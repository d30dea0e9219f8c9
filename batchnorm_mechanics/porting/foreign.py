"""The batch norms in what other libraries hold, in the words and conventions of Keras's layer."""

# A peer need not be installed.
# pyright: reportMissingImports=false

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics._exceptions import InputError

Vector = NDArray[np.float64]
# Of ONNX's operator, where a node leaves the attribute out.
_ONNX_DEFAULTS = {"epsilon": 1e-5, "momentum": 0.9}
# What PyTorch's modules hold that normalize by the batch, in other words than these alone.
_TORCH = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
_FLAX = {"gamma": "scale", "beta": "bias", "mean": "mean", "variance": "var"}


@dataclass(frozen=True, eq=False)
class Foreign:
    """A batch norm of another library.

    Attributes:
        library: as it is called.
        name: where the library has it, such as "layer1.0.bn1".
        mean: the moving mean, float64 of shape (channels,).
        variance: the moving variance, likewise.
        gamma: likewise, or None where it does not scale.
        beta: likewise, or None where it does not shift.
        epsilon: None where what was given does not say it.
        momentum: the weight of the old value, as in Keras; likewise.
        keeps_unbiased_variance: whether training goes on towards the unbiased variance.
    """

    library: str
    name: str
    mean: Vector
    variance: Vector
    gamma: Vector | None
    beta: Vector | None
    epsilon: float | None
    momentum: float | None
    keeps_unbiased_variance: bool = False

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return len(self.mean)


def norms_of(source: Any) -> list[Foreign]:
    """Return the batch norms in what another library holds.

    Args:
        source: a torch.nn.Module or a state_dict, in its order; an nnx.Module, or the variables of
            a linen module, by their paths; an ONNX model or its file, in the order of its nodes.

    Raises:
        InputError: it is none of these, or what it holds is no batch norm.
    """
    norms = list(_read(source))
    if not norms:
        raise InputError(
            "port: `source` must hold batch normalization with moving statistics. Received: a "
            f"{type(source).__name__} without. Pass the whole model."
        )
    for norm in norms:
        sizes = {len(part) for part in (norm.mean, norm.variance, norm.gamma, norm.beta)
                 if part is not None}  # fmt: skip
        if len(sizes) > 1:
            raise InputError(
                "port: `source` must hold one number for each channel in all four arrays. "
                f"Received: {norm.name} with {sorted(sizes)}. Look at what wrote it."
            )
        if not np.all(norm.variance >= 0):
            raise InputError(
                "port: `source` must hold variances of 0 or more. Received: "
                f"{norm.name} with {np.min(norm.variance):.3g}. "
                "Mean and variance may be in each other's place."
            )
    return norms


def _read(source: Any) -> Iterator[Foreign]:
    if isinstance(source, str | Path):
        if Path(source).suffix != ".onnx":
            raise _refusal(source)
        import onnx

        yield from _of_onnx(onnx.load(str(source)))
    elif hasattr(source, "opset_import"):
        yield from _of_onnx(source)
    elif isinstance(source, Mapping) and "batch_stats" in source:
        yield from _of_linen(source)
    elif isinstance(source, Mapping) and all(isinstance(key, str) for key in source):
        yield from _of_state_dict(source)
    elif hasattr(source, "named_modules"):
        yield from _of_torch(source)
    elif any(kind.__module__.startswith("flax.nnx") for kind in type(source).__mro__):
        yield from _of_nnx(source)
    else:
        raise _refusal(source)


def _refusal(source: Any) -> InputError:
    return InputError(
        "port: `source` must be a torch.nn.Module, a state_dict, an nnx.Module, the variables of a "
        "linen module, an ONNX model or its file. Received: "
        f"source={source if isinstance(source, str | Path) else type(source)!s}. "
        "Load a file with its own library first."
    )


def _of_torch(module: Any) -> Iterator[Foreign]:
    for name, one in module.named_modules():
        # By name: importing torch, to ask for the class, takes seconds.
        if not any(kind.__name__ == "_BatchNorm" for kind in type(one).__mro__):
            continue
        if one.running_mean is None:
            raise InputError(
                "port: `source` must hold moving statistics. Received: "
                f"{name or 'a module'} with track_running_stats=False. Keras's layer infers by "
                "moving statistics; let the module gather some."
            )
        yield _foreign(
            "PyTorch",
            name or type(one).__name__,
            {key: getattr(one, theirs) for key, theirs in _TORCH.items()},
            float(one.eps),
            # None stands for an average over all batches, which is no moving one.
            None if one.momentum is None else 1 - float(one.momentum),
            keeps_unbiased_variance=True,
        )


def _of_state_dict(state: Mapping[str, Any]) -> Iterator[Foreign]:
    for key in state:
        prefix, _, last = key.rpartition("running_mean")
        if last == "" and key.endswith("running_mean"):
            arrays = {name: state.get(prefix + theirs) for name, theirs in _TORCH.items()}
            yield _foreign(
                "PyTorch",
                prefix.rstrip(".") or "batch norm",
                arrays,
                None,
                None,
                keeps_unbiased_variance=True,
            )


def _of_linen(variables: Mapping[str, Any]) -> Iterator[Foreign]:
    parameters = dict(_leaves(variables.get("params", {})))
    statistics = dict(_leaves(variables["batch_stats"]))
    paths = {path[:-1] for path in statistics if path[-1] == "mean"}
    for path in sorted(paths, key=_by_number):
        arrays = {
            name: (statistics if name in {"mean", "variance"} else parameters).get((*path, theirs))
            for name, theirs in _FLAX.items()
        }
        yield _foreign("flax", "/".join(path) or "batch norm", arrays, None, None)


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from _leaves(part, (*path, str(key)))
    else:
        yield path, tree


def _of_nnx(module: Any) -> Iterator[Foreign]:
    from flax import nnx

    found = {
        tuple(map(str, path)): one
        for path, one in nnx.iter_graph(module)
        if isinstance(one, nnx.BatchNorm)
    }
    for path in sorted(found, key=_by_number):
        one = found[path]
        # A parameter that is not there is None, or a variable of it.
        held = {name: getattr(one, theirs) for name, theirs in _FLAX.items()}
        arrays = {
            name: value[...] if getattr(value, "shape", None) is not None else None
            for name, value in held.items()
        }
        name = "/".join(path) or "BatchNorm"
        yield _foreign("flax", name, arrays, float(one.epsilon), float(one.momentum))


def _by_number(path: tuple[str, ...]) -> list[Any]:
    """Order BatchNorm_2 before BatchNorm_10."""
    parts = [part for name in path for part in re.split(r"(\d+)", name)]
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _of_onnx(model: Any) -> Iterator[Foreign]:
    from onnx import helper, numpy_helper

    tensors = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [at.t for at in node.attribute if at.name == "value"]
            tensors |= dict(zip(node.output, values, strict=False))
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        name = node.name or node.output[0]
        missing = [one for one in node.input[1:5] if one not in tensors]
        if missing:
            raise InputError(
                "port: `source` must hold the arrays of each BatchNormalization as constants. "
                f"Received: {name} with {missing[0]!r}, which is computed. Export it for inference."
            )
        keys = ("gamma", "beta", "mean", "variance")
        arrays = {
            key: numpy_helper.to_array(tensors[one])
            for key, one in zip(keys, node.input[1:5], strict=True)
        }
        settings = _ONNX_DEFAULTS | {
            at.name: helper.get_attribute_value(at) for at in node.attribute
        }
        yield _foreign("ONNX", name, arrays, settings["epsilon"], settings["momentum"])


def _foreign(
    library: str,
    name: str,
    arrays: Mapping[str, Any],
    epsilon: float | None,
    momentum: float | None,
    *,
    keeps_unbiased_variance: bool = False,
) -> Foreign:
    values = {key: None if value is None else _vector(value) for key, value in arrays.items()}
    mean, variance = values["mean"], values["variance"]
    if mean is None or variance is None:
        raise InputError(
            "port: `source` must hold a moving mean and a moving variance. "
            f"Received: {name} with one of them. Look at what wrote it."
        )
    return Foreign(
        library,
        name,
        mean,
        variance,
        values["gamma"],
        values["beta"],
        epsilon,
        momentum,
        keeps_unbiased_variance,
    )


def _vector(value: Any) -> Vector:
    # Tensors of torch that are trained refuse to be arrays.
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.atleast_1d(np.asarray(value).astype(np.float64))
