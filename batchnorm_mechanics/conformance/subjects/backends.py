"""The libraries whose tensors a user's code may take: NumPy, TensorFlow, PyTorch, JAX.

Each turns arrays into its tensors and back, and gives the gradients that it derives. None is
imported unless the user's code has done so, or is a class of it.
"""

# A peer need not be installed.
# pyright: reportMissingImports=false

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np


class Backend:
    """NumPy, and what is common to all.

    Attributes:
        name: as one writes it.
        module: whose being imported tells that it may be in use.
        differentiates: whether it derives gradients.
    """

    name = "NumPy"
    module = "numpy"
    differentiates = False

    def owns(self, value: Any) -> bool:
        """Return whether a value is one of its tensors."""
        return isinstance(value, np.ndarray)

    def tensor(self, array: np.ndarray) -> Any:
        """Return a copy of an array as a tensor."""
        return np.array(array)

    def input(self, array: np.ndarray) -> Any:
        """Return an input as a tensor, of the same memory if it can: writing to it shows."""
        return array

    def variable(self, array: np.ndarray) -> Any:
        """Return a tensor that a function may assign to."""
        return self.tensor(array)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a pure function, compiled if the library does that."""
        return function(*args, **kwargs)

    def array(self, value: Any) -> np.ndarray:
        """Return a tensor, or a number, as an array of its own."""
        return np.array(value)

    def assign(self, old: Any, array: np.ndarray) -> Any:
        """Return what stands in a tensor's place with these values, the tensor itself if it can."""
        return self.tensor(array)

    def in_mode(self, *, training: bool | None) -> AbstractContextManager[Any]:
        """Return what the library itself can be told of a mode."""
        return nullcontext()

    def precise(self, *, wide: bool) -> AbstractContextManager[Any]:
        """Return a context in which float64 is float64."""
        return nullcontext()

    def slopes(
        self, function: Callable[..., Any], sources: Sequence[Any], dy: np.ndarray
    ) -> list[np.ndarray | None]:
        """Return the gradients of sum(y * dy).

        Args:
            function: takes a tensor for each source, in float type, and returns y.
            sources: its arguments, tensors.
            dy: in the shape of y.

        Returns:
            One gradient for each source, None where no way leads to it.
        """
        raise NotImplementedError


class TensorFlow(Backend):
    """Tensors and variables of TensorFlow, and `tf.GradientTape`."""

    name = "TensorFlow"
    module = "tensorflow"
    differentiates = True

    def owns(self, value: Any) -> bool:
        """Return whether it is a tensor or a variable."""
        import tensorflow as tf

        return tf.is_tensor(value) or isinstance(value, tf.Variable)

    def tensor(self, array: np.ndarray) -> Any:
        """Return a constant."""
        import tensorflow as tf

        return tf.constant(array)

    def input(self, array: np.ndarray) -> Any:
        """Return a constant, which nothing can write to."""
        return self.tensor(array)

    def variable(self, array: np.ndarray) -> Any:
        """Return a variable."""
        import tensorflow as tf

        return tf.Variable(tf.convert_to_tensor(array))

    def array(self, value: Any) -> np.ndarray:
        """Return its array: NumPy asks for it in a way that some dtypes do not know."""
        return np.array(value.numpy() if hasattr(value, "numpy") else value)

    def assign(self, old: Any, array: np.ndarray) -> Any:
        """Assign to a variable whose form fits."""
        if not hasattr(old, "assign"):
            return self.tensor(array)
        if old.dtype.as_numpy_dtype != array.dtype:
            return self.variable(array)
        old.assign(array)
        return old

    def slopes(
        self, function: Callable[..., Any], sources: Sequence[Any], dy: np.ndarray
    ) -> list[np.ndarray | None]:
        """Return what the tape gives."""
        from batchnorm_mechanics.conformance.subjects.tensor_functions import taped

        found = taped(function, sources, dy, unconnected="none")
        return [None if slope is None else self.array(slope) for slope in found]


class Torch(Backend):
    """Tensors of PyTorch on the CPU, and its autograd."""

    name = "PyTorch"
    module = "torch"
    differentiates = True

    def owns(self, value: Any) -> bool:
        """Return whether it is a tensor, parameters included."""
        import torch

        return isinstance(value, torch.Tensor)

    def tensor(self, array: np.ndarray) -> Any:
        """Return a tensor; neither library knows the other's bfloat16, so bits are passed."""
        import torch

        array = np.array(array)
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def input(self, array: np.ndarray) -> Any:
        """Return a tensor of the same memory; bfloat16's is copied."""
        import torch

        return self.tensor(array) if array.dtype == ml_dtypes.bfloat16 else torch.from_numpy(array)

    def array(self, value: Any) -> np.ndarray:
        """Return a copy of what a tensor holds."""
        import torch

        if not isinstance(value, torch.Tensor):
            return np.array(value)
        value = value.detach().clone()
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()

    def assign(self, old: Any, array: np.ndarray) -> Any:
        """Write into the tensor itself, so that parameters and buffers stay what they are."""
        import torch

        with torch.no_grad():
            old.data = self.tensor(array)
        return old

    def in_mode(self, *, training: bool | None) -> AbstractContextManager[Any]:
        """Return what `torch.is_grad_enabled()` tells the mode by."""
        import torch

        return nullcontext() if training is None else torch.set_grad_enabled(training)

    def slopes(
        self, function: Callable[..., Any], sources: Sequence[Any], dy: np.ndarray
    ) -> list[np.ndarray | None]:
        """Return autograd's gradients."""
        import torch

        leaves = [source.detach().requires_grad_() for source in sources]
        with torch.enable_grad():
            # Copies: what writes to its input may not write to a leaf.
            y = function(*(leaf.clone() for leaf in leaves))
            return self.backwards(y, leaves, dy)

    def backwards(self, y: Any, leaves: Sequence[Any], dy: np.ndarray) -> list[np.ndarray | None]:
        """Return the gradients of an output that there is already."""
        import torch

        if not y.requires_grad:
            return [None for _ in leaves]
        found = torch.autograd.grad(y, leaves, self.tensor(dy).to(y.dtype), allow_unused=True)
        return [None if slope is None else self.array(slope) for slope in found]


class Jax(Backend):
    """Arrays of JAX, and its reverse mode."""

    name = "JAX"
    module = "jax"
    differentiates = True

    def owns(self, value: Any) -> bool:
        """Return whether it is one of JAX's arrays, tracers included."""
        import jax

        return isinstance(value, jax.Array)

    def tensor(self, array: np.ndarray) -> Any:
        """Return an array of JAX; beside `precise` it has no float64."""
        from jax import numpy as jnp

        return jnp.array(array)

    def input(self, array: np.ndarray) -> Any:
        """Return an array of JAX, which nothing can write to."""
        return self.tensor(array)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a pure function compiled, once for each of what is no array among its arguments."""
        import jax
        from jax.core import Tracer

        leaves, structure = jax.tree_util.tree_flatten((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            # It is part of something that is being compiled.
            return function(*args, **kwargs)
        static = tuple(None if self.owns(leaf) else leaf for leaf in leaves)
        arrays = [leaf for leaf in leaves if self.owns(leaf)]
        return _compiled(function, structure, static)(*arrays)

    def precise(self, *, wide: bool) -> AbstractContextManager[Any]:
        """Return the context that JAX has for that."""
        import jax

        return jax.enable_x64(wide)

    def slopes(
        self, function: Callable[..., Any], sources: Sequence[Any], dy: np.ndarray
    ) -> list[np.ndarray | None]:
        """Return what `jax.vjp` gives, compiled as a whole; it has 0 where no way leads."""
        import jax

        def pulled(dy: Any, *sources: Any) -> Any:
            y, pull = jax.vjp(function, *sources)
            return pull(dy.astype(y.dtype))

        found = jax.jit(pulled, compiler_options=QUICKLY)(self.tensor(dy), *sources)
        return [self.array(slope) for slope in found]


# Each shape is compiled for a call or two: what LLVM would gain in speed costs more than it brings,
# and the arithmetic stays as it is.
QUICKLY = {"xla_llvm_disable_expensive_passes": True}


@cache
def _compiled(function: Callable[..., Any], structure: Any, static: tuple[Any, ...]) -> Any:
    """Return a function of the arrays among its arguments alone."""
    import jax

    def of_arrays(*arrays: Any) -> Any:
        left = iter(arrays)
        leaves = [next(left) if leaf is None else leaf for leaf in static]
        args, kwargs = jax.tree_util.tree_unflatten(structure, leaves)
        return function(*args, **kwargs)

    return jax.jit(of_arrays, compiler_options=QUICKLY)


NUMPY, TENSORFLOW, TORCH, JAX = Backend(), TensorFlow(), Torch(), Jax()
# A tensor of NumPy's is one to nobody else, and an array of the others' is none to NumPy.
BACKENDS: tuple[Backend, ...] = (TORCH, JAX, TENSORFLOW, NUMPY)


def backend_of(value: Any) -> Backend | None:
    """Return whose tensor a value is, None for what is none.

    Example:
        >>> backend_of(np.zeros(3)).name, backend_of("x")
        ('NumPy', None)
    """
    return next((each for each in in_use() if each.owns(value)), None)


def in_use() -> list[Backend]:
    """Return the libraries that have been imported: others can own nothing."""
    return [each for each in BACKENDS if each.module in sys.modules]


def named_in(thing: Any) -> list[Backend]:
    """Return the libraries that a function or a class names, or else those that its module does.

    Args:
        thing: of Python's own; one without code names none.

    Example:
        >>> [each.name for each in named_in(named_in)]
        ['NumPy']
    """
    functions = [thing]
    if isinstance(thing, type):
        functions = [each for cls in thing.__mro__ for each in vars(cls).values()]
    known: dict[str, Any] = {}
    own: set[str] = set()
    for function in functions:
        known |= getattr(function, "__globals__", {})
        own |= _names(getattr(function, "__code__", None))
    for names in (own, known.keys()):
        roots = {_root(known[name]) for name in names if name in known}
        found = [each for each in BACKENDS if each.module in roots]
        if found:
            return found
    return []


def _names(code: Any) -> set[str]:
    """Return the global names in a code object, those of functions within it included."""
    if code is None:
        return set()
    inner = [const for const in code.co_consts if hasattr(const, "co_names")]
    return set(code.co_names).union(*map(_names, inner))


def _root(value: Any) -> str:
    """Return the package that a module, or something imported from one, belongs to."""
    name = getattr(value, "__name__", "") if isinstance(value, type(sys)) else ""
    return (name or getattr(value, "__module__", None) or "").partition(".")[0]
