"""How an object is called, and how it is told whether it trains."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from batchnorm_mechanics.conformance.subjects.backends import Backend
from batchnorm_mechanics.conformance.subjects.calling import read_parameters
from batchnorm_mechanics.conformance.subjects.roles import Role, stands_for
from batchnorm_mechanics.conformance.subjects.trial import modes_for

_MODES = (Role.TRAINING, Role.INFERENCE)
_BACKWARDS = ("backward", "backprop", "bwd", "bprop", "grad", "gradient")
_EVALS = ("eval", "test", "evaluate", "inference")


@dataclass(frozen=True)
class ObjectCall:
    """One way.

    Attributes:
        method: the one that gives the output.
        parameter: the one of its parameters that takes the mode.
        attribute: or the object's attribute that holds it.
        methods: or those that switch to training and to inference.
        by_grad: or whether PyTorch's recording of gradients tells it too.
        pairs: what may be said for training and inference.
        said: what is said.
        has_default: whether it can be called without one.
    """

    method: str
    parameter: str | None = None
    attribute: str | None = None
    methods: tuple[str, str] | None = None
    by_grad: bool = False
    pairs: Sequence[tuple[Any, Any]] = ()
    said: tuple[Any, Any] | None = None
    has_default: bool = True

    def spoken(self) -> "list[ObjectCall]":
        """Return the same with each of the things that may be said."""
        return [replace(self, said=pair) for pair in self.pairs] or [self]

    @property
    def words(self) -> str | None:
        """How the mode is told, None where it is not."""
        either = "" if self.said is None else f" ({' or '.join(map(repr, self.said))})"
        if self.by_grad:
            return "`torch.is_grad_enabled()`"
        if self.methods is not None:
            return " and ".join(f"`{name}()`" for name in self.methods)
        name = self.parameter or (self.attribute and f".{self.attribute}")
        return f"`{name}`{either}" if name else None

    def run(self, thing: Any, x: Any, training: bool | None, backend: Backend) -> Any:
        """Call an object for its output.

        Args:
            thing: the object.
            x: a tensor.
            training: the mode; None to say nothing.
            backend: whose tensor it is.
        """
        arguments: dict[str, Any] = {}
        if training is not None:
            said = None if self.said is None else self.said[0 if training else 1]
            if self.methods is not None:
                getattr(thing, self.methods[0 if training else 1])()
            if self.attribute is not None:
                setattr(thing, self.attribute, said)
            if self.parameter is not None:
                arguments[self.parameter] = said
        with backend.in_mode(training=training) if self.by_grad else ExitStack():
            y = getattr(thing, self.method)(x, **arguments)
        return y[0] if isinstance(y, tuple | list) else y


def call_method(of_class: type) -> str | None:
    """Return the method that gives the output, None if there is none.

    Example:
        >>> call_method(int) is None
        True
    """
    # A class can always be called; what counts is whether its objects can.
    own = {name for each in of_class.__mro__ for name in vars(each)}
    return next((name for name in ("__call__", "forward") if name in own), None)


def find_calls(of_class: type, sample: Any) -> Iterator[ObjectCall]:
    """Yield the ways in which an object may be told its mode, those that are told surely first.

    Args:
        of_class: its class.
        sample: an object; None if there is none to be had.

    Raises:
        UntoldError: the method needs what no role is known for.
    """
    method = call_method(of_class) or "__call__"
    # PyTorch's own `__call__` takes anything, and hands it to `forward`.
    telling = "forward" if hasattr(of_class, "forward") else method
    parameters = read_parameters(getattr(of_class, telling).__get__(object()), _MODES)
    for role in _MODES:
        if role in parameters.names:
            name, default = parameters.names[role], parameters.defaults.get(role)
            has = role in parameters.defaults
            yield ObjectCall(method, name, pairs=modes_for(name, default), has_default=has)
    is_torch = any(each.__module__.startswith("torch.") for each in of_class.__mro__)
    switches = _switches(of_class)
    if switches is not None:
        yield ObjectCall(method, methods=switches)
    for name, value in {**_plain_attributes(of_class), **getattr(sample, "__dict__", {})}.items():
        told = next((role for role in _MODES if stands_for(name, role)), None)
        if told is not None and isinstance(value, bool | str | int) and switches is None:
            yield ObjectCall(method, attribute=name, pairs=modes_for(name, value))
    if is_torch:
        yield ObjectCall(method, methods=switches, by_grad=True)
    yield ObjectCall(method)


def _switches(of_class: type) -> tuple[str, str] | None:
    evals = [name for name in _EVALS if callable(getattr(of_class, name, None))]
    if not evals or not callable(getattr(of_class, "train", None)):
        return None
    return "train", evals[0]


def _plain_attributes(of_class: type) -> dict[str, Any]:
    """Return what a class itself holds besides methods, for all of its objects."""
    return {
        name: value
        for cls in reversed(of_class.__mro__)
        for name, value in vars(cls).items()
        if not name.startswith("__") and not callable(value)
    }


def find_backward_method(of_class: type) -> str | None:
    """Return the method that takes the output's gradient alone, None if there is none.

    Example:
        >>> find_backward_method(int) is None
        True
    """
    for name in _BACKWARDS:
        method = getattr(of_class, name, None)
        if not inspect.isfunction(method):
            continue
        required = [
            each
            for each in inspect.signature(method).parameters.values()
            if each.default is each.empty and each.kind is not each.VAR_KEYWORD
        ]
        if len(required) == 2:
            return name
    return None
