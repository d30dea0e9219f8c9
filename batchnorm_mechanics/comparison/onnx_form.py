"""Run an ONNX file so that every tensor in it comes out; onnx and onnxruntime on opening."""

# An extra need not be installed.
# pyright: reportMissingImports=false

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import first_line
from batchnorm_mechanics.comparison.opening import (
    Opened,
    Refusal,
    fed,
    needed,
    noise_of,
    together,
)
from batchnorm_mechanics.comparison.ran import Array, Grid, Ran, Step, Value

_EXTRA = "onnx"
# Axes of a kernel that are summed over: all but the first, or but the last.
_BY_OUTPUTS, _BY_INPUTS = {"Conv", "Gemm", "QLinearConv", "QGemm"}, {"MatMul", "QLinearMatMul"}
# They hand integers on as they are.
_MOVING = {
    "Flatten",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_HALF = 2.0**-11


def open_onnx(path: Path, most: int, refuse: Refusal) -> Opened:
    """Open an ONNX file.

    Args:
        path: of it.
        most: how many bytes it may hold, those of its weights in other files included.
        refuse: makes the error of a reason.

    Raises:
        InputError: it is damaged or too large, or names files outside of its folder.
    """
    onnx, runtime = needed(_EXTRA, "onnx", refuse), needed(_EXTRA, "onnxruntime", refuse)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        # protobuf and its C++ part each raise errors of their own.
        raise refuse(f"is no sound ONNX file ({first_line(error)})") from error
    if not model.graph.node or not model.graph.output:
        raise refuse("holds no operation")
    try:
        external = [_entries(one) for one in _tensors(model.graph) if one.data_location == 1]
        if external:
            _check_external(external, path, most, refuse)
            onnx.load_external_data_for_model(model, str(path.parent))
        return _Onnx(onnx, model, runtime, refuse)
    except UnicodeDecodeError as error:
        # Names are taken for text when they are asked for.
        raise refuse(f"is no sound ONNX file (a name in it is no text: {error.reason})") from error


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the stored tensors of a graph, of its nodes' attributes and of graphs in it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in _graphs(attribute):
                yield from _tensors(inner)


def _graphs(attribute: Any) -> Iterator[Any]:
    yield from (one for one in (attribute.g, *attribute.graphs) if one.node or one.initializer)


def _entries(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_external(
    external: Sequence[dict[str, str]], path: Path, most: int, refuse: Refusal
) -> None:
    """Refuse weights outside of the folder of the model, or more of them than may be read."""
    folder = path.parent.resolve()
    total = path.stat().st_size
    for entry in external:
        location = entry.get("location", "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder) or file == path.resolve():
            raise refuse(f"names weights outside of its folder, {location!r}")
        if not file.is_file():
            raise refuse(f"needs the file {location!r} beside it, which is not there")
        length = entry.get("length", "")
        total += int(length) if length.isdecimal() else file.stat().st_size
    if total > most:
        raise refuse(f"holds {total:,} bytes with its weights, more than {most:,}")


class _Onnx:
    form = "ONNX"

    def __init__(self, onnx: Any, model: Any, runtime: Any, refuse: Refusal) -> None:
        self._refuse = refuse
        graph = model.graph
        self._stored = {one.name: one for one in graph.initializer}
        self._array = onnx.numpy_helper.to_array
        self._makers = {name: node for node in graph.node for name in node.output}
        self._grids = self._grids_of_integers(graph.node)
        self.names = [one.name for one in graph.input if one.name not in self._stored]
        self._outputs = [one.name for one in graph.output]
        # Nodes with those of their inputs that depend on the model's.
        self._nodes: list[tuple[Any, list[str]]] = []
        depends = set(self.names)
        for node in graph.node:
            taken = [one for one in dict.fromkeys(_taken(node)) if one in depends]
            if taken:
                self._nodes.append((node, taken))
                depends |= set(filter(None, node.output))
        self._wanted = list(
            dict.fromkeys(name for node, _ in self._nodes for name in node.output if name)
        )
        # ONNX Runtime finds out the types by itself.
        new = [name for name in self._wanted if name not in self._outputs]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
        options = runtime.SessionOptions()
        # Merged, operations would not give what is between them.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # Its errors have no class of their own in common.
            raise refuse(f"ONNX Runtime cannot run ({first_line(error)})") from error
        taken = {one.name: one for one in self._session.get_inputs()}
        self._types = {name: _type(one.type) for name, one in taken.items()}
        self._sizes = [
            tuple(size if isinstance(size, int) else None for size in taken[name].shape)
            for name in self.names
        ]

    def run(self, inputs: Sequence[Array]) -> Ran:
        """Run it on arrays, in the order of its names."""
        batches, whole = fed(inputs, self._sizes, self._refuse)
        try:
            parts = [
                self._session.run(
                    self._wanted,
                    {
                        name: np.ascontiguousarray(array, self._types[name])
                        for name, array in zip(self.names, batch, strict=True)
                    },
                )
                for batch in batches
            ]
        except Exception as error:
            raise self._refuse(f"fails on the data ({first_line(error)})") from error
        rows = len(batches[0][0])
        arrays = {
            name: together([part[at] for part in parts], rows)
            for at, name in enumerate(self._wanted)
        }
        return self._ran(arrays, dict(zip(self.names, whole, strict=True)))

    def _ran(self, arrays: dict[str, Any], inputs: dict[str, Array]) -> Ran:
        values = [Value(name, array) for name, array in inputs.items()]
        places = {name: at for at, name in enumerate(inputs)}
        steps = []
        for node, taken in self._nodes:
            outputs = [one for one in node.output if isinstance(arrays.get(one), np.ndarray)]
            noise = 0.0
            for name in outputs:
                # Sequences and the like come as lists, and have no places.
                array, grid = arrays.pop(name), self._grids.get(name)
                places[name] = len(values)
                is_half = array.dtype == np.float16
                if is_half:
                    array = array.astype(np.float32)
                elif grid is not None:
                    array = grid.real(array)
                elif node.op_type == "DequantizeLinear":
                    grid = self._grid(node.input[1:3])
                values.append(Value(name, array, grid))
                noise = _HALF * values[-1].size if is_half else noise
            before = tuple(places[one] for one in taken if one in places)
            if before:
                noise = float(np.hypot(noise, self._noise(node, values[before[0]])))
            numbers = tuple(places[one] for one in outputs)
            steps.append(Step(node.name or node.op_type, node.op_type, before, numbers, noise))
        outputs = tuple(places.get(one) for one in self._outputs)
        return Ran(self.form, values, steps, tuple(range(len(inputs))), outputs)

    def _grids_of_integers(self, nodes: Sequence[Any]) -> dict[str, Grid]:
        """Return the grids of integers between operations that compute with integers.

        Behind each tensor that such an operation takes come its scale and its zero point. Those
        before a DequantizeLinear are left out: what comes out of it has the same numbers.
        """
        found: dict[str, Grid] = {}
        for node in reversed(nodes):
            if node.op_type.startswith("QLinear") or node.op_type == "QGemm":
                for at, name in enumerate(node.input[:-2]):
                    grid = self._grid(node.input[at + 1 : at + 3]) if name in self._makers else None
                    if grid is not None:
                        found.setdefault(name, grid)
            elif node.op_type in _MOVING and node.output[0] in found:
                found.setdefault(node.input[0], found[node.output[0]])
        return found

    def _grid(self, names: Sequence[str]) -> Grid | None:
        """Return the grid of a stored scale and zero point; None of several, or of none."""
        if not names or not set(names) <= set(self._stored):
            return None
        scale = self._array(self._stored[names[0]])
        zero = self._array(self._stored[names[1]]) if len(names) > 1 else np.uint8(0)
        if (
            scale.size != 1
            or scale.dtype.kind != "f"
            or zero.size != 1
            or zero.dtype.kind not in "iu"
        ):
            return None
        return Grid.of(float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), zero.dtype)

    def _noise(self, node: Any, given: Value) -> float:
        """Return what the rounding of quantized weights does to a node's output."""
        if node.op_type not in _BY_OUTPUTS | _BY_INPUTS or len(node.input) < 2:
            return 0.0
        names = node.input[3:5]
        if not node.op_type.startswith("Q"):
            maker = self._makers.get(node.input[1])
            names = maker.input[:2] if maker and maker.op_type == "DequantizeLinear" else ()
        if len(names) < 2 or not set(names) <= set(self._stored) or not given.is_real:
            return 0.0
        kernel, scales = (self._array(self._stored[one]) for one in names)
        summed = kernel.shape[1:] if node.op_type in _BY_OUTPUTS else kernel.shape[:-1]
        return noise_of(scales, int(np.prod(summed)), given.size)


def _taken(node: Any) -> Iterator[str]:
    """Yield the names that a node takes in, and those that graphs in it take from outside."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            for inner in graph.node:
                yield from _taken(inner)
            yield from (one.name for one in graph.output)


def _type(text: str) -> Any:
    """Return NumPy's type for ONNX Runtime's name of one, as "tensor(float)"."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64", "string": "object"}.get(name, name))
