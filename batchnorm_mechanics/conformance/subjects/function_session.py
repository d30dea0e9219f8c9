"""A function set up for one setting, with the statistics that it goes on from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.subject import (
    Array,
    Mask,
    Session,
    Setting,
    Slopes,
    Statistics,
    in_shape,
)
from batchnorm_mechanics.conformance.subjects.backends import NUMPY, backend_of
from batchnorm_mechanics.conformance.subjects.calling import Outputs, split
from batchnorm_mechanics.conformance.subjects.manner import Call
from batchnorm_mechanics.conformance.subjects.pairs import Backward
from batchnorm_mechanics.conformance.subjects.roles import FIELDS, SOURCES, STATISTICS, Role
from batchnorm_mechanics.conformance.subjects.trial import Layout, Types, as_input

# Keras's values, given where the function has no default of its own.
DEFAULTS: Mapping[Role, Any] = {Role.AXIS: -1, Role.MOMENTUM: 0.99, Role.EPSILON: 1e-3}


@dataclass(frozen=True)
class Calls:
    """How a session calls a function.

    Attributes:
        forward: the function, and the manner in which it is called.
        returned: what it calls what it returns.
        backward: its backward pass, if it has one.
    """

    forward: Call
    returned: Sequence[str] = ()
    backward: Backward | None = None


class FunctionSession(Session):
    """A function together with the statistics that it returned, wrote or kept last.

    Args:
        calls: how it is called.
        setting: with the axes that are kept.
        layout: how an input of this rank is taken.
        types: in which dtypes it computes.
        own_axis: whether its axis is left to it.
    """

    def __init__(
        self,
        calls: Calls,
        setting: Setting,
        layout: Layout,
        types: Types,
        *,
        own_axis: bool = False,
    ) -> None:
        self._calls, self._setting, self._layout, self._types = calls, setting, layout, types
        self._call = call = calls.forward
        manner, names = call.manner, call.parameters.names
        rank = len(setting.shape)
        with self._precise():
            arrays = {
                role: call.tensor(value, layout, rank, types.parameters, role)
                for role, value in zip(FIELDS, setting.parameters, strict=True)
            }
        options = {Role.MOMENTUM: setting.momentum, Role.EPSILON: setting.epsilon}
        if manner.axes is not None:
            options[Role.AXIS] = None if own_axis else manner.axis(layout.kept, rank)
        own = {*call.parameters.defaults, *manner.starts}
        told = {
            role: DEFAULTS[role] if value is None else value
            for role, value in options.items()
            if value is not None or role not in own
        }
        self._values: dict[Role, Any] = {**arrays, **told}
        given = {role for role in FIELDS if getattr(setting, FIELDS[role]) is not None}
        # What it begins with by itself, it begins with; in a dictionary that is what is not there.
        left = {role for role in STATISTICS if role not in given and role in manner.starts}
        self._records = {
            name: {
                key: self._values[role]
                for role, key in keys.items()
                if role in self._values and role not in left
            }
            for name, keys in manner.keys.items()
        }
        self._places = {
            role: (name, key) for name, keys in manner.keys.items() for role, key in keys.items()
        }
        self._moves = {*STATISTICS} <= {*names, *self._places}

    def _precise(self) -> Any:
        return self._call.manner.backend.precise(wide="float64" in self._types)

    def _outputs(self, x: Any, training: bool | None) -> Outputs:
        """Call the function, and keep the statistics, also what it says of them in inference."""
        given = self._call.run(x, self._values, self._records, training)
        shape = tuple(int(size) for size in x.shape)
        names = self._calls.returned if self._moves else ()
        outputs = split(given, shape, int(np.prod(self._setting.kept_shape)), names)
        if backend_of(outputs.y) is None and not isinstance(outputs.y, np.generic):
            raise TypeError(
                f"conform: the function {called(self._call.function)} must return the output, "
                "alone or before both new moving statistics, or before what its backward pass "
                f"takes. Received: {_in_words(given)}. Return the output first."
            )
        return outputs

    def _taken(self, x: Any, training: bool | None) -> Outputs:
        """Do so, and take the statistics that came back: those that it wrote to are there."""
        before = self._own_statistics() if self._moves else None
        outputs = self._outputs(x, training)
        in_place = before is None or not all(map(_same, before, self._own_statistics()))
        if not in_place and outputs.mean is not None:
            for role, value in zip(STATISTICS, outputs[1:3], strict=True):
                if role in self._places:
                    name, key = self._places[role]
                    self._records[name][key] = value
                else:
                    self._values[role] = value
        return outputs

    def _given(self, array: np.ndarray) -> Any:
        return self._call.manner.backend.input(as_input(array, self._types.x))

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Call the function in a mode."""
        with self._precise():
            y = _array(self._taken(self._given(x), training).y)
        return self._types.handed_back(y, self._setting.dtype)

    def autodiff(self, x: np.ndarray, dy: np.ndarray) -> list[np.ndarray | None]:
        """Return the gradients for x, gamma and beta that the library derives."""
        roles = [role for role in SOURCES if role in self._call.parameters.names]
        kept = [role for role in SOURCES if role in self._places]
        usual = self._values

        def forward(x: Any, *of_roles: Any) -> Any:
            given = dict(zip((*roles, *kept), of_roles, strict=True))
            self._values = {**usual, **given}
            for role in kept:
                name, key = self._places[role]
                self._records[name][key] = given[role]
            return self._outputs(x, training=True).y

        with self._precise():
            sources = [self._given(x), *(usual[role] for role in (*roles, *kept))]
            found = self._call.manner.backend.slopes(forward, sources, dy)
            self._values = usual
        by_role = dict(zip((*roles, *kept), found[1:], strict=True))
        return [found[0], *(by_role.get(role) for role in SOURCES)]

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return what the backward pass gives, or the library; 0 where that finds no way."""
        backward, setting = self._calls.backward, self._setting
        if backward is None:
            found = self.autodiff(x, dy)
            has = [Role.X, *({*SOURCES} & {*self._call.parameters.names, *self._places})]
            zero = [np.zeros(x.shape), *(np.zeros(setting.kept_shape) for _ in SOURCES)]
            slopes = [
                start if slope is None and role in has else slope
                for role, slope, start in zip((Role.X, *SOURCES), found, zero, strict=True)
            ]
        else:
            with self._precise():
                given = self._given(x)
                cache = self._outputs(given, training=True).cache
                values = {**self._values, Role.X: given}
                named = backward.slopes(self._given(dy), cache, values)
                slopes = [named.get(role) for role in (Role.X, *SOURCES)]
        dx, *of_parameters = (None if slope is None else _array(slope) for slope in slopes)
        if dx is None:
            raise TypeError("the backward pass gave no dx")
        return Slopes(
            dx,
            *(
                None if each is None else in_shape(each, setting.kept_shape)
                for each in of_parameters
            ),
        )

    def _own_statistics(self) -> list[np.ndarray]:
        """Return copies of what the statistics hold, those in a dictionary included."""
        found = []
        for role in STATISTICS:
            if role not in self._places:
                found.append(_array(self._values[role]))
                continue
            name, key = self._places[role]
            start = self._call.manner.starts.get(role, self._values[role])
            value = self._records[name].get(key)
            if value is None:
                first = float(np.ravel(_array(start))[0])
                value = np.full(self._setting.kept_shape, first)
            found.append(_array(value))
        return found

    def statistics(self) -> Statistics:
        """Return the statistics as they are now."""
        own = self._own_statistics()
        return Statistics(*(in_shape(value, self._setting.kept_shape) for value in own))


def called(function: Any) -> str:
    """Return a function's name, or its type's."""
    return getattr(function, "__name__", type(function).__name__)


def _array(value: Any) -> np.ndarray:
    return (backend_of(value) or NUMPY).array(value)


def _same(before: np.ndarray, now: np.ndarray) -> bool:
    return np.array_equal(before, now, equal_nan=True)


def _in_words(outputs: Any) -> str:
    kind = type(outputs).__name__
    return f"a {kind} of {len(outputs)}" if isinstance(outputs, tuple | list) else f"a {kind}"
