"""How a computation is run: eagerly, as a graph, or compiled by XLA."""

from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf

Way = Literal["eager", "graph", "compiled"]


class Execution:
    """Runs functions of tensors in one way, each traced once for each shape of its inputs.

    Args:
        way: "eager" calls them; "graph" makes a `tf.function` of them; "compiled" one with
            `jit_compile=True`.

    Example:
        >>> run = Execution("graph")
        >>> run("double", lambda x: [2 * x], tf.constant(3.0))[0].numpy().item()
        6.0
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._traced: dict[Any, Callable[..., Any]] = {}

    def __call__(self, name: str, function: Callable[..., Any], *tensors: tf.Tensor) -> Any:
        """Return what the function returns.

        Args:
            name: stands for the function; the same name must always come with the same function.
            function: takes the tensors and returns tensors.
            *tensors: its inputs, of known shapes.
        """
        if self._way == "eager":
            return function(*tensors)
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        key = (name, *((tuple(spec.shape), spec.dtype.name) for spec in specs))
        if key not in self._traced:
            # Traced by hand for each shape, as it is meant: left to tf.function, many subjects one
            # after another look like needless retracing, and it warns.
            self._traced[key] = tf.function(
                function, jit_compile=self._way == "compiled"
            ).get_concrete_function(*specs)
        return self._traced[key](*tensors)
