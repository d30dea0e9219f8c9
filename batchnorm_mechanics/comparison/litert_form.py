"""Run a LiteRT file so that every tensor in it is kept; ai-edge-litert on opening."""

# An extra need not be installed.
# pyright: reportMissingImports=false

from collections.abc import Sequence
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

_EXTRA = "litert"
# By operation, which axes of a kernel are summed over.
_SUMMED = {
    "CONV_2D": (1, 2, 3),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1,),
    "TRANSPOSE_CONV": (1, 2, 3),
    "CONV_3D": (0, 1, 2, 3),
}
# Beyond it a file declares a tensor that no network of its size has.
_LARGEST = 2**30
_HALF = 2.0**-11


def open_litert(path: Path, most: int, refuse: Refusal) -> Opened:
    """Open a LiteRT file, a .tflite.

    Args:
        path: of it.
        most: how many bytes a tensor in it may take, 1 GiB at least.
        refuse: makes the error of a reason.

    Raises:
        InputError: it is damaged, too large, or has operations that this runtime lacks.
    """
    runtime = needed(_EXTRA, "ai_edge_litert.interpreter", refuse)
    schema = needed(_EXTRA, "ai_edge_litert.schema_py_generated", refuse)
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise refuse("is no LiteRT file: its first bytes are not those of one")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[0]
        declared = [_count(tensor.shape) for tensor in graph.tensors]
        names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
        kinds = [
            names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
            for code in model.operatorCodes
        ]
        operators = [
            (kinds[one.opcodeIndex], list(one.inputs), list(one.outputs)) for one in graph.operators
        ]
    except Exception as error:
        # The reader follows offsets wherever they lead, and fails there in many ways.
        raise refuse(f"is no sound LiteRT file ({first_line(error)})") from error
    largest = 4 * max(declared, default=0)
    if largest > max(most, _LARGEST):
        raise refuse(f"holds a tensor of {largest:,} bytes: give a larger --max-size")
    try:
        interpreter = runtime.Interpreter(
            model_content=content,
            # The fast kernels keep nothing between operations.
            experimental_op_resolver_type=(
                runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
            experimental_preserve_all_tensors=True,
        )
    except Exception as error:
        raise refuse(f"LiteRT cannot run ({first_line(error)})") from error
    return _LiteRT(interpreter, operators, refuse)


def _count(shape: Any) -> int:
    return 1 if shape is None else int(np.prod([int(size) for size in shape], dtype=object))


class _LiteRT:
    form = "LiteRT"

    def __init__(
        self, interpreter: Any, operators: list[tuple[str, list[int], list[int]]], refuse: Refusal
    ) -> None:
        self._interpreter, self._refuse = interpreter, refuse
        self._operators = operators
        self._inputs, self._names = _by_signature(interpreter)
        self.names = self._names

    def run(self, inputs: Sequence[Array]) -> Ran:
        """Run it on arrays, in the order of its names."""
        sizes = [
            tuple(None if size < 0 else int(size) for size in one["shape_signature"])
            for one in self._inputs
        ]
        sizes = [size or tuple(one["shape"]) for size, one in zip(sizes, self._inputs, strict=True)]
        batches, whole = fed(inputs, sizes, self._refuse)
        try:
            parts = [self._batch(batch) for batch in batches]
        except Exception as error:
            # Only what is allocated for inputs of a size tells that a kernel is missing.
            if "Flex delegate" in str(error):
                raise self._refuse(
                    "holds operations of TensorFlow's own, which LiteRT runs by a delegate of the "
                    "app alone: export it without them, recurrent layers with unroll=True"
                ) from error
            raise self._refuse(f"fails on the data ({first_line(error)})") from error
        rows = len(batches[0][0])
        arrays = {at: together([part[at] for part in parts], rows) for at in parts[0]}
        return self._ran(arrays, whole)

    def _batch(self, batch: Sequence[Array]) -> dict[int, Array]:
        interpreter = self._interpreter
        for one, array in zip(self._inputs, batch, strict=True):
            if tuple(one["shape"]) != array.shape:
                interpreter.resize_tensor_input(one["index"], array.shape)
        interpreter.allocate_tensors()
        for one, array in zip(self._inputs, batch, strict=True):
            interpreter.set_tensor(one["index"], _quantized(array, one))
        interpreter.invoke()
        depends = {one["index"] for one in self._inputs}
        found = {index: interpreter.get_tensor(index) for index in depends}
        for _, inputs, outputs in self._operators:
            if depends & set(inputs):
                depends |= set(outputs)
                for one in outputs:
                    array = _tensor(interpreter, int(one))
                    if array is not None:
                        found[int(one)] = array
        return found

    def _ran(self, arrays: dict[int, Array], whole: Sequence[Array]) -> Ran:
        details = {one["index"]: one for one in self._interpreter.get_tensor_details()}
        values, places = [], {}
        for one, array in zip(self._inputs, whole, strict=True):
            grid = _grid(one)
            places[one["index"]] = len(values)
            held = _real(arrays[one["index"]], one)
            values.append(Value(one["name"], held if grid else array, grid))
        makers = {out: (kind, ins) for kind, ins, outs in self._operators for out in outs}
        steps = []
        for kind, inputs, outputs in self._operators:
            before = tuple(places[at] for at in inputs if at in places)
            # Of a damaged file the runtime leaves some out.
            after = [int(at) for at in outputs if int(at) in arrays and int(at) in details]
            if not before:
                continue
            for at in after:
                places[at] = len(values)
                array, grid = _real(arrays[at], details[at]), _grid(details[at])
                values.append(Value(details[at]["name"], array, grid))
            numbers = tuple(places[at] for at in after)
            noise = 0.0
            if numbers:
                # As they are stored, through what makes them wider on the way.
                stored = [
                    makers[at][1][0] if makers.get(at, ("",))[0] == "DEQUANTIZE" else at
                    for at in inputs
                ]
                held = [details.get(int(at)) for at in stored]
                noise = _noise(kind, held, values[before[0]], values[numbers[0]])
            name = details[after[0]]["name"] if after else kind
            steps.append(Step(name, kind, before, numbers, noise))
        outputs = tuple(places.get(one["index"]) for one in self._interpreter.get_output_details())
        return Ran(self.form, values, steps, tuple(range(len(self._inputs))), outputs)


def _noise(kind: str, held: Sequence[dict[str, Any] | None], given: Value, output: Value) -> float:
    """Return what the rounding of weights, and of inputs on the way, does to an output.

    Args:
        kind: of the operation.
        held: details of its inputs, as they are stored; None of one that is not there.
        given: the first that depends on the model's inputs.
        output: what it gave.
    """
    if any(one is not None and one["dtype"] == np.float16 for one in held):
        return _HALF * output.size
    kernel = held[0 if kind == "TRANSPOSE_CONV" else 1] if kind in _SUMMED else None
    if kernel is None:
        return 0.0
    scales = kernel["quantization_parameters"]["scales"]
    if not len(scales) or not given.is_real:
        return 0.0
    length = int(np.prod([kernel["shape"][axis] for axis in _SUMMED[kind]]))
    noise = noise_of(scales, length, given.size)
    if given.grid is None and output.grid is None and given.size > 0:
        # Floating inputs are rounded row by row to 8 bits before they meet such a kernel.
        largest = float(np.max(np.abs(given.array)))
        noise = np.hypot(noise, largest / 127 / np.sqrt(12) / given.size * output.size)
    return float(noise)


def _by_signature(interpreter: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return details of the inputs, and their names: those of the signature where there is one."""
    details = interpreter.get_input_details()
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        (key,) = signatures
        runner = interpreter.get_signature_runner(key).get_input_details()
        names = {one["index"]: name for name, one in runner.items()}
        if set(names) == {one["index"] for one in details}:
            return details, [names[one["index"]] for one in details]
    return details, [one["name"] for one in details]


def _tensor(interpreter: Any, index: int) -> Array | None:
    """Return what a tensor held; None of one that holds no numbers, as a list of tensors."""
    try:
        array = interpreter.get_tensor(index)
    except ValueError:
        return None
    return array if array.dtype.kind in "fiub" else None


def _grid(details: dict[str, Any]) -> Grid | None:
    """Return the grid of a tensor that is quantized as a whole."""
    parameters, dtype = details["quantization_parameters"], np.dtype(details["dtype"])
    if len(parameters["scales"]) != 1 or dtype.kind not in "iu" or dtype == np.int32:
        return None
    return Grid.of(float(parameters["scales"][0]), int(parameters["zero_points"][0]), dtype)


def _real(array: Array, details: dict[str, Any]) -> Array:
    grid = _grid(details)
    if grid is not None:
        return grid.real(array)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _quantized(array: Array, details: dict[str, Any]) -> Array:
    grid, dtype = _grid(details), np.dtype(details["dtype"])
    if grid is None or array.dtype.kind != "f":
        return np.ascontiguousarray(array, dtype)
    limits = np.iinfo(dtype)
    integers = np.clip(np.round(array / grid.scale) + grid.zero, limits.min, limits.max)
    return integers.astype(dtype)
