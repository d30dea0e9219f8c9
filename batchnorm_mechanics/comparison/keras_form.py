"""A Keras model, run layer by layer so that every tensor in it is at hand."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._keras import as_graph_inputs, functional_of
from batchnorm_mechanics.comparison.calls import Calls, calls_of
from batchnorm_mechanics.comparison.ran import Array, Ran, Step, Value


class KerasForm:
    """A Keras model of any kind; of one with its own code the outputs alone.

    Attributes:
        form: "Keras".
        model: the model.
        calls: its single calls; None where its own code makes them.
        names: of its inputs.
    """

    form = "Keras"

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, calls_of(model)
        inputs = getattr(model, "inputs", None) or ()
        self.names = [one.name for one in inputs]

    def tensors(self, inputs: Any) -> list[Any]:
        """Return data in the order and shapes of the model's inputs, as `predict` makes them."""
        graph = functional_of(self.model)
        if graph is None:
            return list(map(keras.ops.convert_to_tensor, keras.tree.flatten(inputs)))
        return list(as_graph_inputs(graph, keras.tree.map_structure(_tensor, inputs)))

    def run(self, inputs: Sequence[Array]) -> Ran:
        """Run it on arrays, in the order of its names."""
        values = [
            Value(name, np.asarray(array))
            for name, array in zip(self.names or _numbered(inputs), inputs, strict=True)
        ]
        if self.calls is None:
            return self._outputs_alone(values, inputs)
        return _by_calls(self.calls, values, inputs)

    def _outputs_alone(self, values: list[Value], inputs: Sequence[Array]) -> Ran:
        given = inputs[0] if len(inputs) == 1 else list(inputs)
        outputs = keras.tree.flatten(self.model(given, training=False))
        before = tuple(range(len(values)))
        places = tuple(range(len(values), len(values) + len(outputs)))
        values += [Value(f"output {at}", _array(one)) for at, one in enumerate(outputs)]
        steps = [Step(self.model.name, type(self.model).__name__, before, places)]
        return Ran(self.form, values, steps, before, places)


def _by_calls(calls: Calls, values: list[Value], inputs: Sequence[Array]) -> Ran:
    tensors = calls.run(inputs)
    places = dict(zip(calls.inputs, range(len(values)), strict=True))
    steps = []
    for stage in calls.stages:
        for number in stage.outputs:
            places[number] = len(values)
            values.append(Value(stage.name, _array(tensors[number])))
        steps.append(
            Step(
                stage.name,
                type(stage.operation).__name__,
                tuple(places[one] for one in stage.inputs),
                tuple(places[one] for one in stage.outputs),
            )
        )
    ins, outs = ([places[one] for one in part] for part in (calls.inputs, calls.outputs))
    return Ran(KerasForm.form, values, steps, tuple(ins), tuple(outs))


def _tensor(part: Any) -> Any:
    tensor = keras.ops.convert_to_tensor(part)
    is_real = keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
    return keras.ops.cast(tensor, keras.config.floatx()) if is_real else tensor


def _array(tensor: Any) -> Array:
    array = np.asarray(tensor)
    # Half types are compared as what they are in float32; bfloat16 is no type of NumPy's own.
    return (
        array.astype(np.float32)
        if array.dtype.itemsize == 2 and array.dtype.kind in "fV"
        else array
    )


def _numbered(inputs: Sequence[Array]) -> list[str]:
    return [f"input {at}" for at in range(len(inputs))]
