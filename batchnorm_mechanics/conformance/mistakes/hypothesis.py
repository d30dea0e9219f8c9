"""What a hypothesis is: a named mistake, as the steps that it replaces."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from batchnorm_mechanics.conformance.model import Material
from batchnorm_mechanics.conformance.steps import Steps

Kind = Literal["forward", "gradient", "statistics", "inference"]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A mistake that an implementation may make.

    Attributes:
        name: what it does, in words; a mistake's name is the beginning of its label.
        kind: what it is first of all a mistake of: what a batch is turned into, its gradients, the
            moving statistics, or inference.
        changes: the steps that it replaces.
        reloaded: whether it shows only after saving and loading.
    """

    name: str
    kind: Kind
    changes: Mapping[str, Any]
    reloaded: bool = False

    @property
    def steps(self) -> Steps:
        """The model with this mistake in it."""
        return replace(Steps(), **self.changes)

    def label(self, material: Material) -> str:
        """Return the name, with the axes where they are what is wrong."""
        if "axes" not in self.changes:
            return self.name
        wrong = self.changes["axes"](material.rank, material.axes)
        return f"{self.name}: {wrong} instead of {material.axes}"


def together(one: Hypothesis, other: Hypothesis) -> Hypothesis | None:
    """Return both mistakes in one implementation, None if they replace the same step."""
    if one.changes.keys() & other.changes.keys():
        return None
    changes = MappingProxyType({**one.changes, **other.changes})
    return Hypothesis(
        f"{one.name}, and {other.name}", one.kind, changes, one.reloaded or other.reloaded
    )


def mistake(name: str, kind: Kind, **changes: Any) -> Hypothesis:
    """Return a hypothesis that replaces these steps."""
    return Hypothesis(name, kind, MappingProxyType(changes))
