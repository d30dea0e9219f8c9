"""One object that holds its variables itself, set up for one setting."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from batchnorm_mechanics.conformance.subject import (
    Array,
    Mask,
    Session,
    Setting,
    Slopes,
    Statistics,
    as_type,
    in_shape,
)
from batchnorm_mechanics.conformance.subjects.form import Made
from batchnorm_mechanics.conformance.subjects.roles import FIELDS, SOURCES, STATISTICS, Role
from batchnorm_mechanics.conformance.subjects.trial import Layout, Types, as_input, tiny

# A start-up correction such as 1 - decay**counter has worn off after so many batches.
_MANY = 1_000_000


class StatefulSession(Session):
    """One object, set up for one setting.

    Args:
        fresh: makes a new one like it.
        setting, layout, types: what for.
        roles: the paths of its variables by their roles.
    """

    def __init__(
        self,
        fresh: Callable[[], Made],
        setting: Setting,
        layout: Layout,
        types: Types,
        roles: Mapping[Role, Sequence[str]],
    ) -> None:
        self._fresh, self._setting, self._types, self._roles = fresh, setting, types, roles
        self._kept_shape = tuple(setting.shape[axis] for axis in layout.kept)
        self._made = fresh()
        given = {role: getattr(setting, name) for role, name in FIELDS.items()}
        there = self._made.variables()
        values = {
            path: as_type(np.reshape(value, there[path].shape), there[path].dtype.name)
            for role, value in given.items()
            if value is not None
            for path in roles[role]
        }
        if given[Role.MEAN] is not None:
            values |= self._as_after_many(there)
        self._made.assign(values)

    def _as_after_many(self, there: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return counters and flags as they are when statistics are no longer those of the start.

        Integers count batches. A flag has the value that it has after one.
        """
        counters = {path: each for path, each in there.items() if each.ndim == 0}
        flags = [path for path, each in counters.items() if each.dtype == bool]
        values = {
            path: np.asarray(_MANY, each.dtype)
            for path, each in counters.items()
            if np.issubdtype(each.dtype, np.integer)
        }
        if flags:
            trained = self._fresh()
            trained.output(tiny(self._setting.shape, self._types.x), True)
            after = trained.variables()
            values |= {path: after[path] for path in flags}
        return values

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Call the object in a mode."""
        y = self._made.output(as_input(x, self._types.x), training)
        return self._types.handed_back(y, self._setting.dtype)

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return its own gradients, or the library's; 0 where that finds no way."""
        paths = {role: self._roles[role][0] for role in SOURCES if role in self._roles}
        given = [as_input(array, self._types.x) for array in (x, dy)]
        found = self._made.slopes(given[0], given[1], paths)
        dx = found.get(Role.X)
        of_parameters = [None if role not in paths else found.get(role) for role in SOURCES]
        shape = self._kept_shape
        return Slopes(
            np.zeros(x.shape) if dx is None else dx,
            *(None if slope is None else in_shape(slope, shape) for slope in of_parameters),
        )

    def statistics(self) -> Statistics:
        """Return what its variables hold."""
        there = self._made.variables()
        return Statistics(
            *(in_shape(there[self._roles[role][0]], self._kept_shape) for role in STATISTICS)
        )

    def reload(self) -> "StatefulSession":
        """Save and load as the form does; settings are the program's."""
        session = object.__new__(type(self))
        vars(session).update(vars(self))
        session._made = self._fresh()
        self._made.reloaded(session._made)
        return session
