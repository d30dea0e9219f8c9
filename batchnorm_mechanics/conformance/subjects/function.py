"""A user's function as a subject; the session keeps the moving statistics for it."""

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.subject import (
    ONE,
    Ability,
    Array,
    Mask,
    Session,
    Setting,
    Slopes,
    Statistics,
    Subject,
    as_type,
    given,
    in_shape,
    wide,
)
from batchnorm_mechanics.conformance.subjects.tensor_functions import taped

SIGNATURE = (
    "f(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training) -> "
    "(y, new_moving_mean, new_moving_variance)"
)
_TENSORS = ("x", "gamma", "beta", "moving_mean", "moving_variance")
# Keras's values, given where the function has no default of its own.
_DEFAULTS: Mapping[str, Any] = {"axis": -1, "momentum": 0.99, "epsilon": 1e-3}


class _Manner(NamedTuple):
    """How the function is called.

    Attributes:
        in_numpy: whether it takes and gives NumPy arrays.
        narrow: whether gamma, beta and statistics must have the dtype of x.
        gradients: whether a gradient flows from y to x.
    """

    in_numpy: bool = False
    narrow: bool = False
    gradients: bool = True


class Function(Subject):
    """A function of tensors, or of NumPy arrays.

    Beside half-precision inputs it is given gamma, beta and statistics in float32, unless it only
    works with all of one dtype. How it is to be called is found out on a tiny input when that is
    first asked for.

    Args:
        name: see `Subject`.
        function: with the signature `SIGNATURE`; defaults of `axis`, `momentum`, `epsilon` and
            `training` count as its own.
        source: see `Subject`.

    Raises:
        InputError: it cannot be called in this way.
    """

    keeps = ONE

    def __init__(
        self, name: str, function: Callable[..., Any], *, source: str | None = None
    ) -> None:
        self._function = function
        self._defaults = _defaults(name, function)
        self._manners: dict[str, _Manner] = {}
        self.name = name
        self.description = f"function {_name(function)}"
        self.source = source
        self.declared_momentum = "old"
        self.needs = frozenset({"statistics", *(_DEFAULTS.keys() - self._defaults.keys())})

    @cached_property
    def abilities(self) -> frozenset[Ability]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Both modes and moving statistics, and gradients if any flow."""
        abilities = {Ability.TRAIN, Ability.INFER, Ability.STATISTICS}
        if "training" in self._defaults:
            abilities.add(Ability.CALL)
        if self._float32_manner.gradients:
            abilities.add(Ability.GRADIENTS)
        return frozenset(abilities)

    def open(self, setting: Setting) -> "FunctionSession":
        """Return a session; statistics that the setting leaves out begin at mean 0, variance 1."""
        axis = None if setting.kept is None else setting.kept[0]
        own = {**_DEFAULTS, **self._defaults}
        own.pop("training", None)
        told = given(axis=axis, momentum=setting.momentum, epsilon=setting.epsilon)
        options = {**own, **told}
        setting = setting.keeping(options["axis"])
        return FunctionSession(self._function, setting, options, self._manner(setting.dtype))

    @cached_property
    def _float32_manner(self) -> _Manner:
        return _find_manner(self._function)

    def _manner(self, dtype: str) -> _Manner:
        """Return how the function is called in a dtype: narrow or not may differ between them."""
        if dtype not in self._manners:
            manner = self._float32_manner
            narrow = _must_be_narrow(self._function, dtype, manner)
            self._manners[dtype] = manner._replace(narrow=narrow)
        return self._manners[dtype]


class FunctionSession(Session):
    """A function together with the statistics that it returned last."""

    def __init__(
        self,
        function: Callable[..., Any],
        setting: Setting,
        options: Mapping[str, Any],
        manner: _Manner,
    ) -> None:
        dtype = setting.dtype if manner.narrow else wide(setting.dtype)
        self._function = function
        self._options = options
        self._manner = manner
        self._kept_shape = setting.kept_shape
        self._gamma, self._beta, self._mean, self._variance = (
            self._given(as_type(value, dtype)) for value in setting.parameters
        )

    def _given(self, array: np.ndarray) -> Any:
        return array if self._manner.in_numpy else tf.constant(array)

    def _outputs(self, x: Any, training: bool | None) -> tuple[Any, Any, Any]:
        settings = {**self._options, **given(training=training)}
        outputs = self._function(x, self._gamma, self._beta, self._mean, self._variance, **settings)
        if not isinstance(outputs, tuple | list) or len(outputs) != 3:
            raise TypeError(
                f"conform: the function {_name(self._function)} must return (y, new_moving_mean, "
                f"new_moving_variance). Received: {_in_words(outputs)}. Return these three, also "
                "in inference."
            )
        return outputs[0], outputs[1], outputs[2]

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Call the function and keep the statistics, also what it says of them in inference."""
        y, self._mean, self._variance = self._outputs(self._given(x), training)
        return _array(y)

    def trial(self, x: np.ndarray) -> Any:
        """Return the training output for this input, None where the function does not work."""
        try:
            return self._outputs(self._given(x), training=True)[0]
        except Exception:
            # It may be called in another manner. If it works in none, the cases say why.
            return None

    def can_be_traced(self, x: np.ndarray) -> bool:
        """Return whether the function computes without values: NumPy's take tensors only with."""

        def traced(x: tf.Tensor) -> Any:
            return self._outputs(x, training=True)

        try:
            tf.function(traced, autograph=False).get_concrete_function(tf.constant(x))
        except Exception:
            return False
        return True

    def slopes(self, x: np.ndarray, dy: np.ndarray, *, unconnected: str = "zero") -> list[Any]:
        """Return the gradients for x, gamma and beta: see `taped`."""
        sources = [self._given(x), self._gamma, self._beta]
        return taped(
            lambda x, *_: self._outputs(x, training=True)[0], sources, dy, unconnected=unconnected
        )

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return the gradients that `tf.GradientTape` finds; 0 where it finds no way."""
        shapes = (x.shape, self._kept_shape, self._kept_shape)
        return Slopes(*map(in_shape, map(_array, self.slopes(x, dy)), shapes))

    def statistics(self) -> Statistics:
        """Return the statistics that the function returned last."""
        mean, variance = (
            in_shape(_array(value).copy(), self._kept_shape)
            for value in (self._mean, self._variance)
        )
        return Statistics(mean, variance)


def _find_manner(function: Callable[..., Any]) -> _Manner:
    """Try on a tiny float32 input whether a function is one of tensors or of arrays.

    If it works in no way, it is called with tensors, and each case fails with what it raises.
    """
    x = _tiny("float32")
    in_tensors = _tried(function, "float32", _Manner())
    array = _tried(function, "float32", _Manner(in_numpy=True)).trial(x)
    # TensorFlow's functions take arrays too, and give tensors.
    if array is not None and not tf.is_tensor(array) and not in_tensors.can_be_traced(x):
        return _Manner(in_numpy=True, gradients=False)
    works = in_tensors.trial(x) is not None
    stopped = works and in_tensors.slopes(x, x, unconnected="none")[0] is None
    return _Manner(gradients=not stopped)


def _must_be_narrow(function: Callable[..., Any], dtype: str, manner: _Manner) -> bool:
    """Try whether a function works with all of one dtype and not with float32 variables."""
    wider, narrower = (
        _tried(function, dtype, manner._replace(narrow=narrow)).trial(_tiny(dtype)) is not None
        for narrow in (False, True)
    )
    return narrower and not wider


def _tiny(dtype: str) -> np.ndarray:
    return as_type(np.array([[1.0, -1.0], [2.0, 0.5], [4.0, 3.0]]), dtype)


def _tried(function: Callable[..., Any], dtype: str, manner: _Manner) -> FunctionSession:
    options = {"axis": 1, "momentum": 0.5, "epsilon": 0.1}
    return FunctionSession(function, Setting(_tiny(dtype).shape, (1,), dtype), options, manner)


def _defaults(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the function's own defaults of its options, if it can be called at all."""
    try:
        signature = inspect.signature(function)
        signature.bind(*_TENSORS, axis=-1, momentum=0.99, epsilon=1e-3, training=True)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"conform: `subject` must be a function {SIGNATURE}. "
            f"Received: subject={name!r}, {error}. Wrap it in one with that signature."
        ) from error
    return {
        option: parameter.default
        for option, parameter in signature.parameters.items()
        if option in {*_DEFAULTS, "training"} and parameter.default is not parameter.empty
    }


def _array(value: Any) -> np.ndarray:
    # NumPy asks a tensor for its array in a way that some dtypes of TensorFlow do not know.
    return value.numpy() if tf.is_tensor(value) else np.asarray(value)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _in_words(outputs: Any) -> str:
    kind = type(outputs).__name__
    return f"a {kind} of {len(outputs)}" if isinstance(outputs, tuple | list) else f"a {kind}"
