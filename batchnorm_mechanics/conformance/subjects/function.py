"""A function as a subject, in whatever order and by whatever names it takes things.

The session keeps the moving statistics for it: the arrays that it returns, writes to, or puts into
its dictionary.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from batchnorm_mechanics.conformance.subject import (
    NOT_ALL,
    ONE,
    Ability,
    Kept,
    Setting,
    Subject,
)
from batchnorm_mechanics.conformance.subjects.calling import Parameters, returned_names
from batchnorm_mechanics.conformance.subjects.function_session import (
    DEFAULTS,
    Calls,
    FunctionSession,
    called,
)
from batchnorm_mechanics.conformance.subjects.manner import MODES, Call, fields_of, find_manner
from batchnorm_mechanics.conformance.subjects.pairs import Backward
from batchnorm_mechanics.conformance.subjects.roles import FIELDS, STATISTICS, Role
from batchnorm_mechanics.conformance.subjects.trial import (
    SHAPES,
    Layout,
    Settled,
    Types,
    find_types,
    first_taken,
    has_no_epsilon,
    kept_by,
    layouts,
    meaning_of_momentum,
    quietly,
    settle,
    shared_axes,
    taken,
    tiny,
)

_CANONICAL = {*FIELDS, Role.AXIS, Role.MOMENTUM, Role.EPSILON, Role.TRAINING}


class Function(Subject):
    """A function of tensors, or of arrays, and perhaps its backward pass.

    Beside half-precision inputs it is given gamma, beta and statistics in float32, unless it only
    works with all of one dtype. How it is to be called is found out on tiny inputs when that is
    first asked for.

    Args:
        name: see `Subject`.
        function: any.
        parameters: what its parameters stand for; their defaults count as its own.
        backward: its backward pass, if it has one.
        source: see `Subject`.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        parameters: Parameters,
        *,
        backward: Backward | None = None,
        source: str | None = None,
    ) -> None:
        self.name = name
        self.description = f"function {called(function)}"
        self.source = source
        self.function, self.parameters, self.backward = function, parameters, backward
        self._layouts: dict[int, Settled] = {}
        self._types: dict[tuple[str, int], Types | None] = {}

    @cached_property
    def call(self) -> Call:
        """The function in the manner in which it is called."""
        manner = find_manner(self.function, self.parameters)
        return Call(self.function, self.parameters, manner)

    @cached_property
    def _calls(self) -> Calls:
        return Calls(self.call, returned_names(self.function), self.backward)

    @cached_property
    def _roles(self) -> set[Role]:
        return set(self.parameters.names).union(*self.call.manner.keys.values())

    @cached_property
    def _is_canonical(self) -> bool:
        return self.parameters.names.keys() >= _CANONICAL

    @cached_property
    def taken_as(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How it is called, unless it is called as we ask for it."""
        manner = self.call.manner
        if self._is_canonical:
            return None
        said = [f"function of {manner.backend.name}"]
        said += [f"settings in `{parameter}`" for parameter, keys in manner.keys.items() if keys]
        if manner.by_grad:
            said.append("training and inference by `torch.is_grad_enabled()`")
        elif manner.modes is not None:
            modes = " or ".join(map(repr, manner.modes))
            said.append(f"training and inference by `{self._mode_name}` ({modes})")
        else:
            said.append("training alone" if self._trains else "inference alone")
        if self.backward is not None:
            said.append(f"gradients by `{self.backward.name}`")
        return ", ".join(said)

    @property
    def _mode_name(self) -> str:
        for parameter, keys in self.call.manner.keys.items():
            for role in MODES:
                if role in keys:
                    return f"{parameter}[{keys[role]!r}]"
        return next(self.parameters.names[role] for role in MODES if role in self.parameters.names)

    @cached_property
    def _trains(self) -> bool:
        """Whether the output depends on the batch, where nothing is said of a mode."""
        manner = self.call.manner
        if manner.has_modes or not manner.works or not {*STATISTICS} <= self._roles:
            return True
        rank, layout = self._sample
        x = tiny(SHAPES[rank], manner.dtype)
        return shared_axes(self.call.asking(layout, rank), x) != ()

    @cached_property
    def abilities(self) -> frozenset[Ability]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its parameters and its outputs let one ask."""
        manner = self.call.manner
        abilities = {Ability.TRAIN} if self._trains else {Ability.INFER}
        if manner.has_modes:
            abilities.add(Ability.INFER)
        own_mode = {*self.parameters.defaults, *manner.starts} & {*MODES}
        if own_mode or (manner.by_grad and not self._is_canonical):
            abilities.add(Ability.CALL)
        moves = Role.MOMENTUM in self._roles or not manner.works or self._moves
        if {*STATISTICS} <= self._roles and self._trains and moves:
            abilities.add(Ability.STATISTICS)
        if self._trains and self._has_gradients:
            abilities.add(Ability.GRADIENTS)
        return frozenset(abilities)

    @cached_property
    def _moves(self) -> bool:
        """Whether a batch of training changes the statistics in any way."""
        session = quietly(self.open, self._small_setting)
        if session is None:
            return False
        before = session.statistics()
        quietly(session.train, tiny(self._small_setting.shape, self.call.manner.dtype))
        return not all(map(np.array_equal, before, session.statistics()))

    @cached_property
    def _has_gradients(self) -> bool:
        manner = self.call.manner
        if self.backward is not None or not manner.works:
            return self.backward is not None or manner.backend.differentiates
        if not manner.backend.differentiates:
            return False
        x = tiny(self._small_setting.shape, manner.dtype)
        session = self.open(self._small_setting)
        found = quietly(session.autodiff, x, x)
        # What raises has gradients of which its cases say what they raise.
        return found is None or found[0] is not None

    @cached_property
    def _small_setting(self) -> Setting:
        rank, layout = self._sample
        return Setting(SHAPES[rank], layout.kept, self.call.manner.dtype)

    @cached_property
    def _sample(self) -> tuple[int, Layout]:
        """A rank that it takes, and how."""
        return first_taken(self.layout)

    def layout(self, rank: int, kept: tuple[int, ...] | None = None) -> Layout | None:
        """Return how an input of a rank is taken, None if it is not.

        Args:
            rank: 2 to 5.
            kept: the axes to keep, for what has an axis to choose.
        """
        manner = self.call.manner
        if manner.axes is not None:
            return Layout(kept or (rank - 1,), self._is_aligned)
        return taken(rank, self._found)

    def _found(self, rank: int) -> Settled:
        if rank not in self._layouts:
            tried = layouts(rank) if self.call.manner.works else []
            self._layouts[rank] = self._settled(rank, tried)
        return self._layouts[rank]

    def _settled(self, rank: int, tried: list[Layout]) -> Settled:
        call, mode = self.call, True if self.call.manner.has_modes else None
        return settle(
            rank,
            lambda layout: call.asking(layout, rank, mode),
            tried,
            lambda layout: layout.aligned,
            call.manner.dtype,
        )

    @cached_property
    def _is_aligned(self) -> bool:
        """Whether what chooses its axes takes parameters with an axis for each of the input's."""
        found = self._settled(3, [Layout((1,), aligned) for aligned in (False, True)]).layout
        return found is not None and found.aligned

    @cached_property
    def keeps(self) -> Kept:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Any one axis, or any set, for what chooses; else what its inputs show."""
        if self.call.manner.axes is not None:
            return ONE if self.call.manner.axes == "kept" else NOT_ALL
        return kept_by({rank: self.layout(rank) for rank in SHAPES})

    @cached_property
    def declared_momentum(self) -> Literal["old", "new"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By its default, its name, or what it does; in our own signature it is Keras's."""
        if Role.MOMENTUM not in self._roles:
            return None
        own = {**self.call.manner.starts, **self.parameters.defaults}
        default = own.get(Role.MOMENTUM)
        if self._is_canonical:
            return "old"
        keys = [keys.get(Role.MOMENTUM, "") for keys in self.call.manner.keys.values()]
        name = "".join([self.parameters.names.get(Role.MOMENTUM, ""), *keys])
        return meaning_of_momentum(self, name, default, self.call.manner.dtype)

    @cached_property
    def takes_epsilon(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it has the parameter; a function that adds none at all has forgotten it."""
        if Role.EPSILON in self._roles or not self._trains:
            return Role.EPSILON in self._roles
        rank, layout = self._sample
        return has_no_epsilon(self.call.asking(layout, rank), rank, layout.kept)

    @cached_property
    def lacks(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Gamma and beta, where it takes none."""
        return frozenset({"gamma", "beta"} - fields_of(self.call.manner, self.parameters))

    @cached_property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its signature has no default for."""
        own = {*self.parameters.defaults, *self.call.manner.starts}
        lacking = {role.value for role in DEFAULTS if role in self._roles and role not in own}
        given = {*STATISTICS} <= self._roles and not {*STATISTICS} <= own
        return frozenset(lacking | ({"statistics"} if given else set()))

    def refusal(self, setting: Setting) -> str | None:
        """Refuse statistics, and dtypes, that it does not take; see `Subject.refusal`."""
        refused, rank = super().refusal(setting), len(setting.shape)
        if refused is None and self.types(setting.dtype, rank) is None:
            refused = f"it gives no {setting.dtype}"
        has = fields_of(self.call.manner, self.parameters)
        for name in FIELDS.values():
            if getattr(setting, name) is not None and name not in has:
                return refused or f"it has no {name}"
        for role, name in ((Role.MOMENTUM, "momentum"), (Role.EPSILON, "epsilon")):
            settable = role in self._roles or (role == Role.EPSILON and self.takes_epsilon)
            if getattr(setting, name) is not None and not settable:
                return refused or f"it has no {name}"
        return refused

    def types(self, dtype: str, rank: int) -> Types | None:
        """Return in which dtypes it computes for an input of this one, None if in none."""
        if (dtype, rank) not in self._types:
            self._types[dtype, rank] = self._found_types(dtype, rank)
        return self._types[dtype, rank]

    def _found_types(self, dtype: str, rank: int) -> Types | None:
        usual = Types.usual(dtype)
        if not self.call.manner.works:
            return usual
        if not self._is_canonical:
            return find_types(dtype, lambda types: self._output_dtype(types, rank))
        # In our own signature it has to take what it is given, and be right about it.
        wider = self._output_dtype(usual, rank)
        return usual if wider is not None else Types(dtype, dtype)

    def _output_dtype(self, types: Types, rank: int) -> str | None:
        layout = self.layout(rank)
        if layout is None:
            return None
        setting = Setting(SHAPES[rank], layout.kept, types.x)
        session: FunctionSession | None = quietly(
            FunctionSession, self._calls, setting, layout, types
        )
        if session is None:
            return None
        ask = session.train if self._trains else session.infer
        y = quietly(ask, tiny(setting.shape, types.x))
        return None if y is None or y.shape != setting.shape else y.dtype.name

    def open(self, setting: Setting) -> "FunctionSession":
        """Return a session; statistics that the setting leaves out begin at mean 0, variance 1."""
        rank = len(setting.shape)
        own_axis = setting.kept is None and self.call.manner.axes == "kept"
        layout = self.layout(rank, self._own_axis(rank) if own_axis else setting.kept)
        if setting.kept is None and layout is not None:
            setting = replace(setting, kept=layout.kept)
        setting = setting.keeping(-1)
        layout = layout or Layout(setting.kept or (rank - 1,))
        types = self.types(setting.dtype, rank) or Types.usual(setting.dtype)
        return FunctionSession(self._calls, setting, layout, types, own_axis=own_axis)

    def _own_axis(self, rank: int) -> tuple[int, ...]:
        axis = self.parameters.defaults.get(Role.AXIS, -1)
        return (axis % rank,) if isinstance(axis, int) else (rank - 1,)
