"""Run OpenVINO's files so that every tensor in them comes out; openvino on opening."""

# An extra need not be installed.
# pyright: reportMissingImports=false

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import first_line
from batchnorm_mechanics.comparison.opening import Opened, Refusal, fed, needed, together
from batchnorm_mechanics.comparison.ran import Array, Ran, Step, Value

_EXTRA = "openvino"
_HALF = 2.0**-11


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
        # Of each its name and kind, what it takes and gives, and whether it has half-precision
        # weights.
        self._nodes: list[tuple[str, str, list[Any], list[Any], bool]] = []
        wanted = []
        for node in model.get_ordered_ops():
            given = [one.get_source_output() for one in node.inputs()]
            taken = [key(one) for one in given if key(one) in depends]
            kind = node.get_type_name()
            if not taken or kind == "Result":
                continue
            outputs = [key(one) for one in node.outputs()]
            depends |= set(outputs)
            halves = any(_is_half(one) for one in given)
            self._nodes.append((node.get_friendly_name(), kind, taken, outputs, halves))
            wanted += [one for one in node.outputs() if one.get_element_type().is_static()]
        self._first = [key(one) for one in model.inputs]
        self._outputs = [key(one.get_node().input(0).get_source_output()) for one in model.outputs]
        model.add_outputs(wanted)
        self._keys = [key(one.get_node().input(0).get_source_output()) for one in model.outputs]
        self._compiled = runtime.Core().compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )

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
        for name, kind, taken, outputs, stored in self._nodes:
            halves = stored
            after = [one for one in outputs if one in arrays]
            for key in after:
                places[key] = len(values)
                array = arrays.pop(key)
                is_half = array.dtype == np.float16
                values.append(Value(name, array.astype(np.float32) if is_half else array))
                halves |= is_half
            numbers = tuple(places[one] for one in after)
            before = tuple(places[one] for one in taken if one in places)
            noise = _HALF * values[numbers[0]].size if halves and numbers else 0.0
            steps.append(Step(name, kind, before, numbers, noise))
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


def _key(output: Any) -> tuple[str, int]:
    """Return the node, by the name that is its own, and which of its outputs it is."""
    return output.get_node().get_name(), output.get_index()


def _is_half(output: Any) -> bool:
    """Return whether a stored tensor is of half precision, through what makes it wider again."""
    node = output.get_node()
    while node.get_type_name() in {"Convert", "Reshape", "Transpose", "Multiply"}:
        node = node.input(0).get_source_output().get_node()
    is_stored = node.get_type_name() == "Constant"
    return is_stored and node.output(0).get_element_type().get_type_name() in {"f16", "bf16"}
