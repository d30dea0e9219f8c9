"""How a function of batch normalization is called, and what it gives back.

Values go where the function's own names want them: to parameters, or to entries of a dictionary
such as `bn_param`, whose keys are those that the function asks for.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from batchnorm_mechanics.conformance.subjects.roles import (
    OF_FUNCTIONS,
    Role,
    find_roles,
    stands_for,
)

_OF_RECORDS = (*OF_FUNCTIONS, Role.X)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class UntoldError(Exception):
    """What a thing takes could not be told.

    Args:
        why: what is known of it, to follow its name.
        found: the parameters of which it could be told.
        wrappable: whether there is something to call, and so to wrap.
    """

    def __init__(
        self, why: str, found: Mapping[Role, str] | None = None, *, wrappable: bool = True
    ) -> None:
        super().__init__(why)
        self.found, self.wrappable = dict(found or {}), wrappable

    @classmethod
    def of(cls, unknown: Sequence[str], found: Mapping[Role, str]) -> "UntoldError":
        """Return the error for parameters whose names say nothing."""
        names = " and ".join(f"`{name}`" for name in unknown)
        whose = "its name" if len(unknown) == 1 else "their names"
        return cls(f"whose {names} could not be told from {whose}", found)


@dataclass(frozen=True)
class Parameters:
    """Which of a function's parameters stands for what.

    Attributes:
        signature: the function's.
        names: from roles to parameters.
        records: parameters that are dictionaries of more.
        defaults: the values that the function has itself.
    """

    signature: inspect.Signature
    names: Mapping[Role, str]
    records: tuple[str, ...] = ()
    defaults: Mapping[Role, Any] = field(default_factory=dict)

    def bound(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments by position and by name for values of parameters."""
        bound = self.signature.bind_partial()
        # In the order of the signature, in which they are handed on.
        bound.arguments.update(
            {name: values[name] for name in self.signature.parameters if name in values}
        )
        return bound.args, bound.kwargs


def read_parameters(function: Callable[..., Any], among: Sequence[Role]) -> Parameters:
    """Return which parameter of a function stands for what.

    Args:
        function: any that can be called.
        among: the roles that its parameters may have, besides the input and dictionaries.

    Raises:
        UntoldError: it has no signature, or needs what no role is known for.

    Example:
        >>> def batch_norm(X, gamma, beta, bn_param): ...
        >>> found = read_parameters(batch_norm, OF_FUNCTIONS)
        >>> found.names[Role.X], found.records
        ('X', ('bn_param',))
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise UntoldError(f"which has no signature: {error}") from error
    if among is OF_FUNCTIONS and _takes_anything(signature):
        return _as_we_ask(signature)
    own = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind not in _VARIADIC
    }
    required = [name for name, each in own.items() if each.default is each.empty]
    x = next((name for name in own if stands_for(name, Role.X)), next(iter(own), None))
    if x is None:
        raise UntoldError("which takes no input")
    names = find_roles([name for name in own if name != x], among)
    taken = {x, *names.values()}
    records = tuple(
        name
        for name in own
        if name not in taken
        and stands_for(name, Role.RECORD)
        and (name in required or own[name].default in (None, {}))
    )
    unknown = [name for name in required if name not in taken and name not in records]
    names = {Role.X: x, **names}
    if unknown:
        raise UntoldError.of(unknown, names)
    defaults = {
        role: own[name].default
        for role, name in names.items()
        if own[name].default is not own[name].empty
    }
    return Parameters(signature, names, records, defaults)


def _ours(  # noqa: PLR0913 - what batch normalization takes
    x: Any,
    gamma: Any,
    beta: Any,
    moving_mean: Any,
    moving_variance: Any,
    /,
    *,
    axis: Any,
    momentum: Any,
    epsilon: Any,
    training: Any,
) -> None:
    """Take things in the order, and by the names, in which we hand them to what takes anything."""


_OURS = inspect.signature(_ours)


def _takes_anything(signature: inspect.Signature) -> bool:
    """Return whether a function takes arguments that it does not name, and so takes ours."""
    if all(each.kind not in _VARIADIC for each in signature.parameters.values()):
        return False
    options = {
        name: None for name, each in _OURS.parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    try:
        signature.bind(*(None for _ in range(len(_OURS.parameters) - len(options))), **options)
    except TypeError:
        return False
    return True


def _as_we_ask(signature: inspect.Signature) -> Parameters:
    names = find_roles(list(_OURS.parameters)[1:], OF_FUNCTIONS)
    own = signature.parameters
    defaults = {
        role: own[name].default
        for role, name in names.items()
        if name in own and own[name].default is not own[name].empty
    }
    return Parameters(_OURS, {Role.X: "x", **names}, defaults=defaults)


class Record(dict[str, Any]):
    """A dictionary that notes what is asked of it, and gives what a key's name stands for.

    Attributes:
        asked: the role of each key that was asked for and has one.
        defaults: what the function would take where there is no such entry.
    """

    def __init__(self, values: Mapping[Role, Any]) -> None:
        super().__init__()
        self._values = values
        self.asked: dict[str, Role] = {}
        self.defaults: dict[Role, Any] = {}

    def _role(self, key: Any) -> Role | None:
        if not isinstance(key, str):
            return None
        role = next(iter(find_roles([key], _OF_RECORDS)), None)
        if role is not None and role in self._values and role not in self.asked.values():
            self.asked[key] = role
        return self.asked.get(key)

    def __missing__(self, key: Any) -> Any:
        role = self._role(key)
        if role is None:
            raise KeyError(key)
        return self._values[role]

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(key) or self._role(key) is not None

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the entry, and note the default."""
        if super().__contains__(key):
            return self[key]
        role = self._role(key)
        if role is None:
            return default
        if default is not None:
            self.defaults[role] = default
        return self._values[role]

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Do the same, and keep it."""
        self[key] = self.get(key, default)
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """Return the entry, as `get` does where there is a default."""
        return self.get(key, *default) if default else self[key]


class Outputs(NamedTuple):
    """What a function gave back.

    Attributes:
        y: the output.
        mean, variance: moving statistics, None where it gave none.
        cache: the rest, as a backward pass takes it; None if there is none.
    """

    y: Any
    mean: Any = None
    variance: Any = None
    cache: Any = None


def split(given: Any, shape: tuple[int, ...], channels: int, names: Sequence[str] = ()) -> Outputs:
    """Return what each part of a function's outputs is.

    Args:
        given: what it returned.
        shape: the input's.
        channels: how many numbers a statistic has.
        names: what the function calls what it returns, where that is known.

    Example:
        >>> y, cache = np.zeros((2, 3)), ("x_hat", "gamma")
        >>> split((y, cache), (2, 3), 3).cache
        ('x_hat', 'gamma')
    """
    if isinstance(given, dict):
        names, given = [str(key) for key in given], tuple(given.values())
    if not isinstance(given, tuple | list) or not given:
        return Outputs(given)
    named = len(names) == len(given)
    first = next((i for i, part in enumerate(given) if _shape(part) == shape), 0)
    places = [i for i in range(len(given)) if i != first]
    # A statistic that keeps axes of size 1 has the shape of a batch of one.
    sized = [i for i in places if _size(given[i]) == channels]
    smaller = [i for i in sized if _shape(given[i]) != shape]
    fitting = smaller if len(smaller) >= 2 else sized
    roles = find_roles([names[i] for i in fitting], (Role.VARIANCE, Role.MEAN)) if named else {}
    if len(roles) == 2:
        mean, variance = (
            next(i for i in fitting if names[i] == roles[role])
            for role in (Role.MEAN, Role.VARIANCE)
        )
    elif len(fitting) >= 2:
        mean, variance = fitting[:2]
    else:
        return _with_nested(given, first, places, channels)
    rest = [given[i] for i in places if i not in (mean, variance)]
    return Outputs(given[first], given[mean], given[variance], _cache(rest))


def _with_nested(given: Sequence[Any], first: int, places: Sequence[int], channels: int) -> Outputs:
    """Look for statistics that come in a pair or a dictionary of their own."""
    for place in places:
        part = given[place]
        pair: Sequence[Any] = ()
        if isinstance(part, dict):
            roles = find_roles([key for key in part if isinstance(key, str)], OF_FUNCTIONS)
            keys = [roles.get(role) for role in (Role.MEAN, Role.VARIANCE)]
            pair = [part[key] for key in keys if key is not None]
        elif isinstance(part, tuple | list) and len(part) == 2:
            pair = part
        if len(pair) == 2 and all(_size(each) == channels for each in pair):
            rest = [given[i] for i in places if i != place]
            return Outputs(given[first], pair[0], pair[1], _cache(rest) if rest else part)
    return Outputs(given[first], cache=_cache([given[i] for i in places]))


def _cache(rest: Sequence[Any]) -> Any:
    return rest[0] if len(rest) == 1 else tuple(rest) or None


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(int(size) for size in shape)


def _size(value: Any) -> int | None:
    shape = _shape(value)
    return None if shape is None else int(np.prod(shape))


def returned_names(function: Callable[..., Any]) -> list[str]:
    """Return what a function calls what it returns, by its last `return`; none where it is silent.

    Example:
        >>> returned_names(inspect.cleandoc)
        []
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
    returns.sort(key=lambda node: node.lineno)
    tuples = [node.value.elts for node in returns if isinstance(node.value, ast.Tuple)]
    return [_called(each) for each in tuples[-1]] if tuples else []


def _called(node: ast.expr) -> str:
    """Return the name in an expression, its last part if it has several."""
    while isinstance(node, ast.Call):
        node = node.args[0] if node.args else node.func
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return getattr(node, "id", getattr(node, "attr", ""))
