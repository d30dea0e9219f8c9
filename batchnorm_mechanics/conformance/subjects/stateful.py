"""An object that holds its parameters and statistics itself as a subject, whatever made it.

It is asked which of its variables are what, which inputs it takes, and what its settings mean.
"""

from collections.abc import Callable, Mapping, Sequence
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
    as_type,
)
from batchnorm_mechanics.conformance.subjects.form import Form, Made, Wanted
from batchnorm_mechanics.conformance.subjects.roles import FIELDS, SOURCES, STATISTICS, Role
from batchnorm_mechanics.conformance.subjects.state_roles import find_variables
from batchnorm_mechanics.conformance.subjects.stateful_session import StatefulSession
from batchnorm_mechanics.conformance.subjects.trial import (
    RANKS,
    SHAPES,
    Ask,
    Layout,
    Settled,
    Types,
    answered,
    find_types,
    first_taken,
    has_no_epsilon,
    kept_by,
    layouts,
    meaning_of_momentum,
    quietly,
    settle,
    taken,
    tiny,
)


class Stateful(Subject):
    """Objects of a form under judgement.

    Args:
        name: see `Subject`.
        form: how they are made.
        source: see `Subject`.
    """

    def __init__(self, name: str, form: Form, *, source: str | None = None) -> None:
        self.name, self.description, self.source = name, form.description, source
        self._form = form
        self._layouts: dict[int, Settled] = {}
        self._types: dict[tuple[str, int], Types | None] = {}
        self._variables: dict[int, Mapping[Role, Sequence[str]]] = {}

    @cached_property
    def taken_as(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its form says, and what its variables were found to be."""
        roles = self._roles(self._sample[0])
        named = [f"{FIELDS[role]} in `{roles[role][0]}`" for role in STATISTICS if role in roles]
        wide = self.types("float32", self._sample[0]) == Types("float64", "float64")
        return ", ".join([self._form.words, *named, *(["float64 alone"] if wide else [])])

    def _wanted(
        self, shape: tuple[int, ...], layout: Layout, options: Mapping[Role, Any], dtype: str
    ) -> Wanted:
        if self._form.axes is not None:
            reduced = tuple(axis for axis in range(len(shape)) if axis not in layout.kept)
            one = layout.kept[0] if len(layout.kept) == 1 else layout.kept
            options = {**options, Role.AXIS: one if self._form.axes == "kept" else reduced}
        return Wanted(shape, layout, options, dtype)

    def _made(self, x: np.ndarray, layout: Layout, options: Mapping[Role, Any]) -> Made:
        """Return a new object whose variables have the dtype that goes with the input's."""
        made = self._form.make(self._wanted(x.shape, layout, options, x.dtype.name))
        wanted = Types.usual(x.dtype.name).parameters
        made.assign(
            {
                path: as_type(value, wanted)
                for path, value in made.variables().items()
                if _is_floating(value) and value.dtype != wanted
            }
        )
        return made

    def _asking(
        self, layout: Layout, options: Mapping[Role, Any] | None = None, *, training: bool = True
    ) -> Ask:
        """Return how a new object each time is asked for an output."""
        return lambda x: self._made(x, layout, options or {}).output(x, training)

    @cached_property
    def _works(self) -> bool:
        return any(self.layout(rank) is not None for rank in RANKS)

    @cached_property
    def _dtype(self) -> str:
        """Of an input that it takes."""
        for dtype in ("float32", "float64"):
            for rank in RANKS:
                for layout in layouts(rank):
                    if answered(self._asking(layout), tiny(SHAPES[rank], dtype)) is not None:
                        return dtype
        return "float32"

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
        if self._form.axes is not None:
            return Layout(kept or (self._form.own_axis % rank,))
        return taken(rank, self._found)

    def _found(self, rank: int) -> Settled:
        if rank not in self._layouts:
            self._layouts[rank] = settle(
                rank, self._asking, layouts(rank), self._claims(rank), self._dtype
            )
        return self._layouts[rank]

    def _claims(self, rank: int) -> Callable[[Layout], bool]:
        """Return whether an object has parameters with as many axes as its input."""

        def claims(layout: Layout) -> bool:
            made = quietly(self._made, tiny(SHAPES[rank], self._dtype), layout, {})
            return made is not None and any(each.ndim == rank for each in made.variables().values())

        return claims

    def _roles(self, rank: int) -> Mapping[Role, Sequence[str]]:
        """Return the paths of the variables by their roles; the first is the one to be read."""
        if rank not in self._variables:
            layout = self.layout(rank) or self._sample[1]
            x = tiny(SHAPES[rank], self._dtype)
            found = quietly(find_variables, lambda: self._made(x, layout, {}), x, layout.kept)
            self._variables[rank] = found or {}
        return self._variables[rank]

    @cached_property
    def abilities(self) -> frozenset[Ability]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the form has a way to, and what the variables let one ask."""
        form, roles = self._form, self._roles(self._sample[0])
        ways = {
            Ability.INFER: form.has_modes,
            Ability.CALL: form.own_mode,
            Ability.STATISTICS: {*STATISTICS} <= roles.keys(),
            Ability.GRADIENTS: form.differentiates,
            Ability.RELOAD: form.saves,
        }
        return frozenset({Ability.TRAIN, *(ability for ability, has in ways.items() if has)})

    @cached_property
    def keeps(self) -> Kept:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Any one axis, or any set, for what chooses; else what its inputs show."""
        if self._form.axes is not None:
            return ONE if self._form.axes == "kept" else NOT_ALL
        return kept_by({rank: self.layout(rank) for rank in SHAPES})

    @cached_property
    def declared_momentum(self) -> Literal["old", "new"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By its default, its name, or what it does."""
        form = self._form
        if (
            Role.MOMENTUM not in form.options
            or not {*STATISTICS} <= self._roles(self._sample[0]).keys()
        ):
            return None
        default = form.defaults.get(Role.MOMENTUM)
        return meaning_of_momentum(self, form.options[Role.MOMENTUM], default, self._dtype)

    @cached_property
    def takes_epsilon(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it can be set; an object that adds none at all has forgotten it."""
        rank, layout = self._sample
        return Role.EPSILON in self._form.options or has_no_epsilon(
            self._asking(layout), rank, layout.kept
        )

    @cached_property
    def lacks(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Gamma and beta, where no variable was found for them."""
        roles = self._roles(self._sample[0])
        return frozenset(FIELDS[role] for role in SOURCES if role not in roles)

    @cached_property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its constructor has no default for."""
        own = self._form.defaults
        return frozenset(role.value for role in self._form.options if role not in own)

    def refusal(self, setting: Setting) -> str | None:
        """Refuse dtypes, statistics and settings that it does not take; see `Subject.refusal`."""
        refused, rank = super().refusal(setting), len(setting.shape)
        if refused is None and self._works and self.types(setting.dtype, rank) is None:
            refused = f"it gives no {setting.dtype}"
        roles = self._roles(len(setting.shape))
        for role, name in FIELDS.items():
            if getattr(setting, name) is not None and role not in roles and self._works:
                return refused or f"it has no {name}"
        if setting.momentum is not None and Role.MOMENTUM not in self._form.options:
            return refused or "it has no momentum"
        if setting.epsilon is not None and not self.takes_epsilon:
            return refused or "it has no epsilon"
        return refused

    def types(self, dtype: str, rank: int) -> Types | None:
        """Return in which dtypes it computes for an input of this one, None if in none."""
        if (dtype, rank) not in self._types:
            found = find_types(dtype, lambda types: self._output_dtype(types, rank))
            self._types[dtype, rank] = found
        return self._types[dtype, rank]

    def _output_dtype(self, types: Types, rank: int) -> str | None:
        layout = self.layout(rank)
        if layout is None:
            return None
        y = quietly(self._asking(layout), tiny(SHAPES[rank], types.x))
        return None if y is None or y.shape != SHAPES[rank] else y.dtype.name

    def open(self, setting: Setting) -> "StatefulSession":
        """Return a new object with the setting's values assigned."""
        rank = len(setting.shape)
        layout = self.layout(rank, setting.kept)
        layout = layout or Layout(setting.kept or self._sample[1].kept)
        types = self.types(setting.dtype, rank) or Types.usual(setting.dtype)
        options = {Role.MOMENTUM: setting.momentum, Role.EPSILON: setting.epsilon}
        told = {
            role: value
            for role, value in options.items()
            if value is not None and role in self._form.options
        }
        x = np.zeros(setting.shape, as_type(np.zeros(0), types.x).dtype)

        def fresh() -> Made:
            return self._made(x, layout, told)

        return StatefulSession(fresh, setting, layout, types, self._roles(rank))


def _is_floating(value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"
