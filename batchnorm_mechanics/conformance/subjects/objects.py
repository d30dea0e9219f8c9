"""Classes and objects that hold tensors as attributes: of lectures, of PyTorch, of Sonnet."""

# A peer need not be installed.
# pyright: reportMissingImports=false

import io
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.subject import as_type
from batchnorm_mechanics.conformance.subjects.backends import NUMPY, TORCH, Backend, backend_of
from batchnorm_mechanics.conformance.subjects.calling import UntoldError
from batchnorm_mechanics.conformance.subjects.cells import find_cells
from batchnorm_mechanics.conformance.subjects.form import (
    ByRole,
    Form,
    Made,
    Wanted,
    class_of,
    described,
)
from batchnorm_mechanics.conformance.subjects.object_calls import (
    ObjectCall,
    call_method,
    find_backward_method,
    find_calls,
)
from batchnorm_mechanics.conformance.subjects.object_recipe import ClassRecipe, CopyRecipe
from batchnorm_mechanics.conformance.subjects.pairs import named_slopes
from batchnorm_mechanics.conformance.subjects.roles import (
    OF_VARIABLES,
    STATISTICS,
    Role,
    find_roles,
    slope_of,
    stands_for,
)
from batchnorm_mechanics.conformance.subjects.trial import (
    RANKS,
    SHAPES,
    Ask,
    Layout,
    layouts,
    quietly,
    shared_axes,
    tiny,
)


class ObjectForm(Form):
    """Objects of a class of Python's own, made by calling it, or copies of one.

    Args:
        thing: the class, something that makes its objects, or an object.

    Raises:
        UntoldError: the constructor needs what no role is known for, or there is nothing to call.
    """

    def __init__(self, thing: Any) -> None:
        is_class = isinstance(thing, type | partial)
        self._class = class_of(thing)
        if call_method(self._class) is None:
            kind = f"{'the class' if is_class else 'of type'} {self._class.__name__}"
            raise UntoldError(f"{kind}, without `__call__` and `forward`", wrappable=False)
        self._recipe = ClassRecipe(thing) if is_class else CopyRecipe(thing)
        self.description = described(self._class, is_class=is_class)

    def make(self, wanted: Wanted) -> "ObjectMade":
        """Return a new object; one that has no variables before its first call is called once."""
        made = self._made(wanted, self._call)
        if not made.is_built():
            # Some make them in float32 whatever they see, and stumble over another dtype then.
            inputs = [as_type(np.ones(wanted.shape), dtype) for dtype in (wanted.dtype, "float32")]
            tried = (quietly(made.output, x, mode) for mode in (False, True) for x in inputs)
            if all(y is None for y in tried):
                made.output(inputs[0], True)
        return made

    def _made(self, wanted: Wanted, call: ObjectCall) -> "ObjectMade":
        thing = self._recipe.make(wanted)
        for role, name in self._attributes.items():
            if role in wanted.options:
                setattr(thing, name, wanted.options[role])
        return ObjectMade(thing, call)

    @cached_property
    def _sample(self) -> Any:
        """An object with nothing set; None where that raises."""
        tried = (
            quietly(self._recipe.make, Wanted(SHAPES[rank], layout, {}, "float32"))
            for rank in RANKS
            for layout in layouts(rank)
        )
        return next((made for made in tried if made is not None), None)

    @cached_property
    def _attributes(self) -> Mapping[Role, str]:
        """Where an object keeps its epsilon and its momentum, if its constructor takes none."""
        numbers = [
            name
            for name, value in getattr(self._sample, "__dict__", {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        found = find_roles(numbers, (Role.EPSILON, Role.MOMENTUM))
        return {role: name for role, name in found.items() if role not in self._recipe.takes}

    @cached_property
    def options(self) -> Mapping[Role, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the constructor takes, and what can be set afterwards."""
        return {**self._attributes, **self._recipe.takes}

    @cached_property
    def defaults(self) -> Mapping[Role, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What these are when nothing is said."""
        after = {role: getattr(self._sample, name) for role, name in self._attributes.items()}
        return {**after, **self._recipe.defaults}

    def _asking(self, call: ObjectCall, layout: Layout, *, training: bool) -> Ask:
        def ask(x: np.ndarray) -> np.ndarray:
            made = self._made(Wanted(x.shape, layout, {}, x.dtype.name), call)
            return made.output(x, training)

        return ask

    @cached_property
    def _call(self) -> ObjectCall:
        """The first way in which the modes differ, or else the first that works."""
        ways = list(find_calls(self._class, self._sample))
        works = None
        for dtype, rank in product(("float32", "float64"), RANKS):
            x = tiny(SHAPES[rank], dtype)
            for layout, way in product(layouts(rank), ways):
                for call in way.spoken():
                    shared = [
                        shared_axes(self._asking(call, layout, training=mode), x)
                        for mode in (True, False)
                    ]
                    if shared[0] and shared[1] == ():
                        return call
                    if shared[0] is not None:
                        works = works or call
            if works is not None:
                return works
        return ways[0]

    @property
    def words(self) -> str:
        """Return how it was recognized."""
        told = self._call.words
        way = f"training and inference by {told}" if told else "training alone"
        by = f", gradients by `{self._backward}`" if self._backward else ""
        return f"object of {self._backend.name}, {way}{by}"

    @property
    def _backward(self) -> str | None:
        return find_backward_method(self._class)

    @cached_property
    def _backend(self) -> Backend:
        return _backend_in(self._sample)

    @cached_property
    def has_modes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a way was found to say one."""
        return self._call.words is not None

    @cached_property
    def own_mode(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it is called without one as well."""
        return self._call.has_default

    @cached_property
    def differentiates(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it has a backward pass, or a library that derives one."""
        return self._backward is not None or self._backend.differentiates

    @cached_property
    def saves(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether `state_dict` holds all of its statistics: plain attributes are not among them."""
        if not hasattr(self._sample, "state_dict") or self._backend is not TORCH:
            return False
        saved = {id(value) for value in self._sample.state_dict(keep_vars=True).values()}
        return all(
            id(cell.value) in saved or not find_roles(path.split("/"), OF_VARIABLES)
            for path, cell in find_cells(self._sample).items()
        )


class ObjectMade(Made):
    """One object, its tensors reached through the places where it keeps them."""

    def __init__(self, thing: Any, call: "ObjectCall") -> None:
        self._thing, self._call = thing, call

    @property
    def _backend(self) -> Backend:
        return _backend_in(self._thing)

    def is_built(self) -> bool:
        """Return whether it has its variables already, and needs no first call for them."""
        there = quietly(self.variables)
        to_come = [
            name
            for name, value in getattr(self._thing, "__dict__", {}).items()
            if value is None and find_roles([name], STATISTICS)
        ]
        return there is not None and any(each.ndim for each in there.values()) and not to_come

    def variables(self) -> dict[str, np.ndarray]:
        """Return what lies in its places."""
        return {path: _array(cell.value) for path, cell in find_cells(self._thing).items()}

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Lay other values there, in the tensors themselves where that can be."""
        cells = find_cells(self._thing)
        for path, value in values.items():
            old = cells[path].value
            backend = backend_of(old) or NUMPY
            with backend.precise(wide=value.dtype == np.float64):
                cells[path].put(backend.assign(old, value))

    def _given(self, x: np.ndarray) -> Any:
        return self._backend.input(x)

    def output(self, x: np.ndarray, training: bool | None) -> np.ndarray:
        """Call it in the way that was found."""
        with self._backend.precise(wide=x.dtype == np.float64):
            return _array(self._call.run(self._thing, self._given(x), training, self._backend))

    def slopes(self, x: np.ndarray, dy: np.ndarray, paths: Mapping[Role, str]) -> ByRole:
        """Return what its backward pass gives, or what the library derives."""
        name = find_backward_method(type(self._thing))
        with self._backend.precise(wide=x.dtype == np.float64):
            if name is not None:
                return self._by_method(getattr(self._thing, name), x, dy)
            return self._by_library(x, dy, paths)

    def _by_library(self, x: np.ndarray, dy: np.ndarray, paths: Mapping[Role, str]) -> ByRole:
        there, backend = find_cells(self._thing), self._backend
        cells = [there[path] for path in paths.values()]
        usual = [cell.value for cell in cells]

        def forward(x: Any, *values: Any) -> Any:
            for cell, value in zip(cells, values, strict=True):
                cell.put(value)
            return self._call.run(self._thing, x, True, backend)

        try:
            found = backend.slopes(forward, [self._given(x), *usual], dy)
        finally:
            for cell, value in zip(cells, usual, strict=True):
                cell.put(value)
        zero = {role: np.zeros(value.shape) for role, value in zip(paths, usual, strict=True)}
        return zero | {
            role: slope
            for role, slope in zip((Role.X, *paths), found, strict=True)
            if slope is not None
        }

    def _by_method(self, backward: Callable[..., Any], x: np.ndarray, dy: np.ndarray) -> ByRole:
        self._call.run(self._thing, self._given(x), True, self._backend)
        named = dict(named_slopes(backward(self._given(dy))))
        for path, cell in find_cells(self._thing).items():
            role = _slope_in(path)
            if role is not None:
                named.setdefault(role, cell.value)
        return {role: _array(slope) for role, slope in named.items() if slope is not None}

    def reloaded(self, fresh: Made) -> None:
        """Save its `state_dict` and load that into the new one."""
        import torch

        file = io.BytesIO()
        torch.save(self._thing.state_dict(), file)
        file.seek(0)
        other = fresh._thing  # pyright: ignore[reportAttributeAccessIssue]
        other.load_state_dict(torch.load(file, weights_only=True))


def _backend_in(thing: Any) -> Backend:
    """Return whose tensors an object holds; NumPy where it holds none."""
    values = (cell.value for cell in find_cells(thing).values())
    return next((found for value in values if (found := backend_of(value))), NUMPY)


def _array(value: Any) -> np.ndarray:
    return (backend_of(value) or NUMPY).array(value)


def _slope_in(path: str) -> Role | None:
    """Return whose gradient lies at a path: by its name, or in a place for gradients.

    Example:
        >>> _slope_in("grads/gamma"), _slope_in("dbeta"), _slope_in("gamma")
        (<Role.GAMMA: 'gamma'>, <Role.BETA: 'beta'>, None)
    """
    *places, name = path.split("/")
    if any(place.strip("_").startswith("grad") for place in places):
        return next(
            (role for role in (Role.GAMMA, Role.BETA) if stands_for(name, role)), slope_of(name)
        )
    return slope_of(name)
