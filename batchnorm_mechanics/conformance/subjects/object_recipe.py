"""How an object is made for an input: by its class, or as a copy of one that there is."""

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.subject import wide
from batchnorm_mechanics.conformance.subjects.backends import NUMPY, backend_of, named_in
from batchnorm_mechanics.conformance.subjects.calling import UntoldError
from batchnorm_mechanics.conformance.subjects.cells import find_cells
from batchnorm_mechanics.conformance.subjects.form import Wanted
from batchnorm_mechanics.conformance.subjects.roles import (
    OF_CONSTRUCTORS,
    OF_VARIABLES,
    Role,
    find_roles,
    stands_for,
)

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def constructor(make: Any) -> inspect.Signature:
    """Return what a class is called with, past a metaclass that takes anything.

    Args:
        make: the class, or a `functools.partial` of one, whose arguments are defaults then.

    Example:
        >>> class Layer:
        ...     def __init__(self, dim, eps=1e-5): ...
        >>> list(constructor(partial(Layer, eps=1e-3)).parameters)
        ['dim', 'eps']
    """
    of_class = make.func if isinstance(make, partial) else make
    given = (make.args, make.keywords) if isinstance(make, partial) else ((), {})
    if not inspect.isfunction(of_class.__init__):
        return inspect.signature(make)
    return inspect.signature(partial(of_class.__init__, object(), *given[0], **given[1]))


class ClassRecipe:
    """Makes objects by calling a class.

    Attributes:
        takes: from the roles of settings to the parameters that take them.
        defaults: the values that these have by themselves.
        names: likewise, of all that is told by its name.

    Args:
        make: the class, or a `functools.partial` of one.
        extra: what else its constructors may need, by name.

    Raises:
        UntoldError: it needs what no role is known for.
    """

    def __init__(self, make: Any, extra: Mapping[str, Any] | None = None) -> None:
        self._make = make
        there = constructor(make).parameters
        self._extra = {name: value for name, value in (extra or {}).items() if name in there}
        own = {
            name: each
            for name, each in there.items()
            if each.kind not in _VARIADIC and name not in self._extra
        }
        required = [name for name, each in own.items() if each.default is each.empty]
        self._switches = [name for name in required if stands_for(name, Role.SWITCH)]
        left = [name for name in own if name not in self._switches]
        self.names = find_roles(left, OF_CONSTRUCTORS[1:])
        known = {*self.names.values(), *self._switches}
        arrays = find_roles([name for name in required if name not in known], OF_VARIABLES)
        self._arrays = {name: role for role, name in arrays.items()}
        unknown = [name for name in required if name not in {*known, *self._arrays}]
        if len(unknown) == 1 and Role.FEATURES not in self.names:
            # The one thing that every such class must be told.
            self.names[Role.FEATURES] = unknown.pop()
        if unknown:
            raise UntoldError.of(unknown, self.names)
        settable = (Role.EPSILON, Role.MOMENTUM)
        self.takes = {role: self.names[role] for role in settable if role in self.names}
        self.defaults = {
            role: own[name].default
            for role, name in self.names.items()
            if own[name].default is not own[name].empty
        }

    def make(self, wanted: Wanted) -> Any:
        """Return a new object."""
        layout, rank = wanted.layout, len(wanted.shape)
        sizes = tuple(wanted.shape[axis] for axis in layout.kept)
        features: Any = sizes[0] if len(sizes) == 1 else sizes
        if layout.aligned:
            features = layout.shaped(np.zeros(sizes), rank).shape
        values = {Role.FEATURES: features, Role.RANK: rank, **wanted.options}
        arguments = {name: values[role] for role, name in self.names.items() if role in values}
        # Keras's, for what has no default.
        usual = {Role.EPSILON: 1e-3, Role.MOMENTUM: 0.99, Role.AXIS: -1}
        for role, name in self.names.items():
            if role not in values and role not in self.defaults:
                arguments[name] = usual[role]
        arguments |= dict.fromkeys(self._switches, True)
        [backend, *_] = [*named_in(getattr(self._make, "func", self._make)), NUMPY]
        for name, role in self._arrays.items():
            start = 1.0 if role in (Role.GAMMA, Role.VARIANCE) else 0.0
            arguments[name] = backend.tensor(np.full(sizes, start, wide(wanted.dtype)))
        return self._make(**self._extra, **arguments)


class CopyRecipe:
    """Copies an object, and gives its variables the size that an input needs.

    Attributes:
        takes, defaults, names: as of `ClassRecipe`; a copy is set by its attributes alone.
    """

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self.takes: dict[Role, str] = {}
        self.names: dict[Role, str] = {}
        self.defaults: dict[Role, Any] = {}

    def make(self, wanted: Wanted) -> Any:
        """Return a new copy; what its variables held is kept where it is the same everywhere."""
        made = copy.deepcopy(self._thing)
        sizes = [wanted.shape[axis] for axis in wanted.layout.kept]
        if len(sizes) != 1 or wanted.layout.aligned:
            raise ValueError("a copy keeps one axis")
        there = {path: cell for path, cell in find_cells(made).items() if cell.value.shape}
        counts = [max(cell.value.shape) for cell in there.values()]
        if not counts:
            return made
        old = max(set(counts), key=counts.count)
        for cell in there.values():
            backend = backend_of(cell.value)
            if backend is not None and max(cell.value.shape) == old != sizes[0]:
                array = backend.array(cell.value)
                shape = [sizes[0] if size == old else size for size in array.shape]
                cell.put(backend.assign(cell.value, np.resize(array, shape)))
        for name, value in list(getattr(made, "__dict__", {}).items()):
            if type(value) is int and value == old and stands_for(name, Role.FEATURES):
                setattr(made, name, sizes[0])
        return made
