"""How a function wants to be called: by whose tensors, with which words, found by trying."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from batchnorm_mechanics.conformance.subject import as_type
from batchnorm_mechanics.conformance.subjects.backends import (
    JAX,
    NUMPY,
    TENSORFLOW,
    TORCH,
    Backend,
    backend_of,
    in_use,
    named_in,
)
from batchnorm_mechanics.conformance.subjects.calling import Parameters, Record, split
from batchnorm_mechanics.conformance.subjects.roles import FIELDS, Role
from batchnorm_mechanics.conformance.subjects.trial import (
    RANKS,
    SHAPES,
    Ask,
    Layout,
    layouts,
    modes_for,
    quietly,
    shared_axes,
    tiny,
    which_mode,
)

Values = Mapping[Role, Any]
MODES = (Role.TRAINING, Role.INFERENCE)
_STARTS = {Role.GAMMA: 1.0, Role.BETA: 0.0, Role.MEAN: 0.0, Role.VARIANCE: 1.0}
_OPTIONS = {Role.EPSILON: 0.1, Role.MOMENTUM: 0.5}


@dataclass(frozen=True)
class Manner:
    """How a function is called.

    Attributes:
        backend: whose tensors it takes.
        variables: whether statistics must be something that it can assign to.
        modes: what is said for training and for inference; None where nothing is.
        by_grad: whether PyTorch's recording of gradients is the mode.
        axes: whether its axis is the one kept, or those reduced; None if it has none.
        keys: the keys of its dictionaries, by parameter and role.
        starts: what it takes itself for an entry that is not there, by role.
        dtype: of an input that it takes.
        pure: whether it can be compiled: it writes to no dictionary, and looks at no value.
        works: whether it works at all.
    """

    backend: Backend = TENSORFLOW
    variables: bool = False
    modes: tuple[Any, Any] | None = None
    by_grad: bool = False
    axes: Literal["kept", "reduced"] | None = None
    keys: Mapping[str, Mapping[Role, str]] = field(default_factory=dict)
    starts: Mapping[Role, Any] = field(default_factory=dict)
    dtype: str = "float32"
    pure: bool = False
    works: bool = True

    @property
    def has_modes(self) -> bool:
        """Whether it can be told one."""
        return self.modes is not None or self.by_grad

    def axis(self, kept: tuple[int, ...], rank: int) -> Any:
        """Return what its axis is, for the axes kept."""
        if self.axes == "kept":
            return kept[0] if len(kept) == 1 else kept
        reduced = tuple(axis for axis in range(rank) if axis not in kept)
        return reduced[0] if len(reduced) == 1 else reduced


@dataclass(frozen=True)
class Call:
    """A function, its parameters, and the manner in which it is called."""

    function: Callable[..., Any]
    parameters: Parameters
    manner: Manner

    def run(self, x: Any, values: Values, records: Mapping[str, Any], mode: bool | None) -> Any:
        """Return what the function gives.

        Args:
            x: a tensor.
            values: of all that it takes as parameters.
            records: its dictionaries; the mode goes into them here.
            mode: whether it is training; None to say nothing.
        """
        manner, said = self.manner, dict(values)
        if manner.modes is not None and mode is not None:
            word = manner.modes[0 if mode else 1]
            said |= dict.fromkeys(MODES, word)
            for parameter, record in records.items():
                for role in MODES:
                    if role in manner.keys.get(parameter, {}):
                        record[manner.keys[parameter][role]] = word
        said[Role.X] = x
        names = self.parameters.names
        arguments = {name: said[role] for role, name in names.items() if role in said}
        args, kwargs = self.parameters.bound({**arguments, **records})
        with manner.backend.in_mode(training=mode) if manner.by_grad else ExitStack():
            if manner.pure:
                return manner.backend.call(self.function, args, kwargs)
            return self.function(*args, **kwargs)

    def values(self, layout: Layout, rank: int, kept_shape: tuple[int, ...], dtype: str) -> Values:
        """Return parameters and options to try it with."""
        tensors = {
            role: self.tensor(np.full(kept_shape, start), layout, rank, dtype, role)
            for role, start in _STARTS.items()
        }
        options = {Role.AXIS: self.manner.axis(layout.kept, rank)} if self.manner.axes else {}
        return {**tensors, **_OPTIONS, **options}

    def tensor(self, values: np.ndarray, layout: Layout, rank: int, dtype: str, role: Role) -> Any:
        """Return a parameter or a statistic as the function takes it."""
        array = as_type(layout.shaped(values, rank), dtype)
        moves = role in (Role.MEAN, Role.VARIANCE) and self.manner.variables
        backend = self.manner.backend
        return backend.variable(array) if moves else backend.tensor(array)

    def asking(self, layout: Layout, rank: int, mode: bool | None = True) -> Ask:
        """Return how it is asked for an output, each time with everything new."""

        def ask(x: np.ndarray) -> np.ndarray:
            return self.tried(x, layout, rank, mode)[0]

        return ask

    def tried(
        self, x: np.ndarray, layout: Layout, rank: int, mode: bool | None = True
    ) -> tuple[np.ndarray, Any, dict[str, Any]]:
        """Call it, and return the output as an array, as it came, and its dictionaries."""
        manner = self.manner
        with manner.backend.precise(wide=x.dtype == np.float64):
            kept_shape = tuple(x.shape[axis] for axis in layout.kept)
            values = self.values(layout, rank, kept_shape, x.dtype.name)
            word = {} if manner.modes is None else dict.fromkeys(MODES, manner.modes[not mode])
            records: dict[str, Any] = {
                name: Record({**values, **word}) for name in self.parameters.records
            }
            if manner.pure:
                # What is compiled is given what it will ask for.
                told = {**values, **word}
                records = {
                    name: {key: told[role] for role, key in keys.items()}
                    for name, keys in manner.keys.items()
                }
            given = self.run(manner.backend.input(x), values, records, mode)
            y = split(given, x.shape, int(np.prod(kept_shape))).y
            return (backend_of(y) or NUMPY).array(y), y, records


def find_manner(function: Callable[..., Any], parameters: Parameters) -> Manner:
    """Try small inputs until a function takes one, and look closer at how it took it.

    Args:
        function: any.
        parameters: what its parameters stand for.

    Returns:
        The manner. Of a function that works in none, what its names say, for its cases to fail with
        what it raises.
    """
    first, foreign = None, None
    for manner in _manners(function, parameters):
        first = first or manner
        call = Call(function, parameters, manner)
        for rank in RANKS:
            for layout in layouts(rank):
                x = tiny(SHAPES[rank], manner.dtype)
                tried = quietly(call.tried, x, layout, rank)
                if tried is None or tried[0].shape != x.shape:
                    continue
                found = _looked_at(call, layout, rank, tried[2])
                if manner.backend.owns(tried[1]):
                    return found
                foreign = foreign or found
    if foreign is not None:
        return foreign
    return replace(first or Manner(), works=False)


def _manners(function: Callable[..., Any], parameters: Parameters) -> Iterator[Manner]:
    """Yield the manners to try, the likelier first."""
    names, defaults = parameters.names, parameters.defaults
    named = named_in(function)
    others = [TENSORFLOW, NUMPY, *in_use()]
    axes = ("kept", "reduced") if Role.AXIS in names else (None,)
    role = next((role for role in MODES if role in names), None)
    if role is not None:
        modes = modes_for(names[role], defaults.get(role))
    else:
        # A dictionary may hold it, and says so when it is asked.
        modes = modes_for("mode", None) if parameters.records else [None]
    for backend in dict.fromkeys([*named, *others]):
        assigns = (False, True) if backend is TENSORFLOW and Role.MEAN in names else (False,)
        for variables, dtype, style, pair in product(assigns, ("float32", "float64"), axes, modes):
            yield Manner(backend, variables, pair, False, style, dtype=dtype)


def _looked_at(call: Call, layout: Layout, rank: int, records: Mapping[str, Record]) -> Manner:
    """Return a manner that works, with what can be told of its modes, axes and dictionaries."""
    manner, parameters = call.manner, call.parameters
    quietly(call.tried, tiny(SHAPES[rank], manner.dtype), layout, rank, False)
    keys = {
        name: {role: key for key, role in record.asked.items()} for name, record in records.items()
    }
    starts: dict[Role, Any] = {}
    for record in records.values():
        starts |= record.defaults
    manner = replace(manner, keys=keys, starts=starts)
    if manner.backend is JAX and not any(map(len, records.values())):
        compiled = Call(call.function, parameters, replace(manner, pure=True))
        if quietly(compiled.tried, tiny(SHAPES[rank], manner.dtype), layout, rank) is not None:
            manner = compiled.manner
    said = [(role, name) for role, name in parameters.names.items() if role in MODES]
    said += [(role, key) for each in keys.values() for role, key in each.items() if role in MODES]

    def asking(pair_value: Any) -> Ask:
        told = replace(manner, modes=(pair_value, pair_value))
        return Call(call.function, parameters, told).asking(layout, rank)

    x = tiny(SHAPES[rank], manner.dtype)
    if said:
        [(role, name), *_] = said
        default = {**starts, **parameters.defaults}.get(role)
        pairs = modes_for(name, default)
        manner = replace(manner, modes=which_mode(pairs, asking, x) or manner.modes)
    else:
        manner = replace(manner, modes=None)
        if manner.backend is TORCH:
            by_grad = Call(call.function, parameters, replace(manner, by_grad=True))
            shared = [shared_axes(by_grad.asking(layout, rank, mode), x) for mode in (True, False)]
            manner = replace(manner, by_grad=bool(shared[0]) and shared[1] == ())
    if manner.axes is None:
        return manner
    return replace(manner, axes=_meaning_of_axis(Call(call.function, parameters, manner)))


def _meaning_of_axis(call: Call) -> Literal["kept", "reduced"] | None:
    """Return whether the axis is kept or reduced; as it was tried if neither is seen."""
    for style in ("kept", "reduced"):
        styled = Call(call.function, call.parameters, replace(call.manner, axes=style))
        for rank, aligned in product((3, 2), (False, True)):
            layout = Layout((rank - 1,), aligned)
            x = tiny(SHAPES[rank], call.manner.dtype)
            if shared_axes(styled.asking(layout, rank), x) == tuple(range(rank - 1)):
                return style
    return call.manner.axes


def fields_of(manner: Manner, parameters: Parameters) -> set[str]:
    """Return which of `Setting`'s arrays the function takes, as parameters or in dictionaries."""
    roles = set(parameters.names).union(*manner.keys.values())
    return {FIELDS[role] for role in roles if role in FIELDS}
