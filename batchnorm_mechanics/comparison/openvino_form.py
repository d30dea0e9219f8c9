"""Run OpenVINO's files so that every tensor in them comes out; openvino on opening."""

# An extra need not be installed.
# pyright: reportMissingImports=false

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

_EXTRA = "openvino"
_HALF = 2.0**-11
# Operations with a kernel, and how many axes of it in front are not summed over; of products of
# matrices the input says how many numbers are.
_SUMMED = {"Convolution": 1, "GroupConvolution": 2, "MatMul": None}
# Between a stored kernel and the operation that takes it.
_WIDENING = {"Convert", "Reshape", "Transpose", "Multiply", "Subtract"}


def open_openvino(path: Path, most: int, refuse: Refusal) -> Opened:
    """Open a model of OpenVINO's, an .xml with the weights of a .bin beside it.

    Args:
        path: of the .xml.
        most: how many bytes both may hold.
        refuse: makes the error of a reason.

    Raises:
        InputError: they are damaged or too large.
    """
    runtime = needed(_EXTRA, "openvino", refuse)
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise refuse(f"needs {weights.name!r} beside it, which is not there")
    total = path.stat().st_size + weights.stat().st_size
    if total > most:
        raise refuse(f"holds {total:,} bytes with its weights, more than {most:,}")
    try:
        return _OpenVino(runtime, runtime.Core().read_model(path, weights), refuse)
    except Exception as error:
        # Its errors are RuntimeError and IndexError, of whatever is wrong.
        raise refuse(f"OpenVINO cannot run ({first_line(error)})") from error


class _OpenVino:
    form = "OpenVINO"

    def __init__(self, runtime: Any, model: Any, refuse: Refusal) -> None:
        self._refuse = refuse
        self.names = [one.get_any_name() if one.get_names() else "" for one in model.inputs]
        self._sizes = [
            tuple(size.get_length() if size.is_static else None for size in one.partial_shape)
            for one in model.inputs
        ]
        self._types = [one.get_element_type().to_dtype() for one in model.inputs]
        # By node and number of the output, for none needs a name.
        key = _key
        depends = {key(one) for one in model.inputs}
        self._nodes: list[_Node] = []
        wanted = []
        for node in model.get_ordered_ops():
            given = [one.get_source_output() for one in node.inputs()]
            taken = [key(one) for one in given if key(one) in depends]
            kind = node.get_type_name()
            if not taken or kind == "Result":
                continue
            outputs = [key(one) for one in node.outputs()]
            depends |= set(outputs)
            self._nodes.append(_Node.of(node, taken, outputs))
            wanted += [one for one in node.outputs() if one.get_element_type().is_static()]
        self._first = [key(one) for one in model.inputs]
        self._outputs = [key(one.get_node().input(0).get_source_output()) for one in model.outputs]
        model.add_outputs(wanted)
        self._keys = [key(one.get_node().input(0).get_source_output()) for one in model.outputs]
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        if any(node.kind == "FakeQuantize" for node in self._nodes):
            # As integers some come out as zeros where what is between operations is asked for.
            options["LP_TRANSFORMS_MODE"] = "NO"
        self._compiled = runtime.Core().compile_model(model, "CPU", options)

    def run(self, inputs: Sequence[Array]) -> Ran:
        """Run it on arrays, in the order of its names."""
        batches, whole = fed(inputs, self._sizes, self._refuse)
        try:
            parts = [self._batch(batch) for batch in batches]
        except Exception as error:
            raise self._refuse(f"fails on the data ({first_line(error)})") from error
        rows = len(batches[0][0])
        arrays = {key: together([part[key] for part in parts], rows) for key in parts[0]}
        values = [Value(name, array) for name, array in zip(self.names, whole, strict=True)]
        places = {key: at for at, key in enumerate(self._first)}
        steps = []
        for node in self._nodes:
            halves = node.is_half
            after = [one for one in node.outputs if one in arrays]
            for key in after:
                places[key] = len(values)
                array = arrays.pop(key)
                is_half = array.dtype == np.float16
                array = array.astype(np.float32) if is_half else array
                values.append(Value(node.name, array, node.grid))
                halves |= is_half
            numbers = tuple(places[one] for one in after)
            before = tuple(places[one] for one in node.taken if one in places)
            noise = _HALF * values[numbers[0]].size if halves and numbers else 0.0
            if node.scales is not None and before:
                given = values[before[0]]
                length = node.length or given.array.shape[-1]
                noise = float(np.hypot(noise, noise_of(node.scales, length, given.size)))
            steps.append(Step(node.name, node.kind, before, numbers, noise))
        ends = tuple(places.get(key) for key in self._outputs)
        return Ran(self.form, values, steps, tuple(range(len(self._first))), ends)

    def _batch(self, batch: Sequence[Array]) -> dict[Any, Array]:
        given = [
            np.ascontiguousarray(array, dtype)
            for array, dtype in zip(batch, self._types, strict=True)
        ]
        found = self._compiled(given)
        # What it gives lies in memory that the next batch writes to.
        return {key: np.array(found[at]) for at, key in enumerate(self._keys)}


class _Node(NamedTuple):
    """An operation.

    Attributes:
        name, kind: of it.
        taken: keys of those inputs that depend on the model's.
        outputs: keys of what it gives.
        is_half: whether it has weights of half precision.
        grid: of its output, where it rounds to one.
        scales: distances of the numbers of its kernel, where that is quantized.
        length: how many products are summed; 0 where the input says it.
    """

    name: str
    kind: str
    taken: list[Any]
    outputs: list[Any]
    is_half: bool
    grid: Grid | None
    scales: Array | None
    length: int

    @classmethod
    def of(cls, node: Any, taken: list[Any], outputs: list[Any]) -> "_Node":
        """Return what is to know of a node."""
        kind = node.get_type_name()
        given = [one.get_source_output() for one in node.inputs()]
        scales, length = None, 0
        if kind in _SUMMED and _key(given[1]) not in taken:
            scales, kept = _scales(given[1]), _SUMMED[kind]
            length = 0 if kept is None else int(np.prod(given[1].get_shape()[kept:]))
        return cls(
            node.get_friendly_name(),
            kind,
            taken,
            outputs,
            any(_is_half(one) for one in given),
            _grid(node) if kind == "FakeQuantize" else None,
            scales,
            length,
        )


def _key(output: Any) -> tuple[str, int]:
    """Return the node, by the name that is its own, and which of its outputs it is."""
    return output.get_node().get_name(), output.get_index()


def _is_half(output: Any) -> bool:
    """Return whether a stored tensor is of half precision, through what makes it wider again."""
    stored = _stored(output)
    return stored is not None and stored.get_element_type().get_type_name() in {"f16", "bf16"}


def _stored(output: Any) -> Any:
    """Return the constant that a tensor is made of, or None."""
    node = output.get_node()
    while node.get_type_name() in _WIDENING:
        node = node.input(0).get_source_output().get_node()
    return node.output(0) if node.get_type_name() == "Constant" else None


def _numbers(output: Any) -> Array | None:
    """Return the numbers of a tensor that is a constant, or one in another type."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input(0).get_source_output().get_node()
    return np.asarray(node.data, np.float64) if node.get_type_name() == "Constant" else None


def _scales(output: Any) -> Array | None:
    """Return how far apart the numbers of a quantized kernel are: in all, or by channel."""
    node, found = output.get_node(), None
    while node.get_type_name() in _WIDENING:
        if node.get_type_name() == "Multiply":
            found = _numbers(node.input(1).get_source_output())
        node = node.input(0).get_source_output().get_node()
    if node.get_type_name() == "FakeQuantize":
        return _ends(node)[2]
    is_integer = node.get_type_name() == "Constant" and np.asarray(node.data).dtype.kind in "iu"
    return found if is_integer else None


def _ends(node: Any) -> tuple[Array | None, Array | None, Array | None]:
    """Return the least and the largest numbers that a FakeQuantize gives, and their distance."""
    least, most = (_numbers(node.input(at).get_source_output()) for at in (3, 4))
    if least is None or most is None:
        return None, None, None
    return least, most, np.abs(most - least) / (node.get_attributes()["levels"] - 1)


def _grid(node: Any) -> Grid | None:
    least, most, scale = _ends(node)
    if least is None or most is None or scale is None or scale.size != 1:
        return None
    step, low, high = (float(one.reshape(-1)[0]) for one in (scale, least, most))
    return Grid(step, low, high)
