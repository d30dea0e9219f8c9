"""How objects that hold their variables themselves are made and asked, whatever they are made of.

A `Form` makes them, a `Made` is one: all that `Stateful` and its session know of a library.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from batchnorm_mechanics.conformance.subjects.roles import Role
from batchnorm_mechanics.conformance.subjects.trial import Layout

ByRole = Mapping[Role, np.ndarray | None]


class Made(ABC):
    """One object, with its own variables.

    Arrays go in and come out; what the object raises comes through.
    """

    @abstractmethod
    def variables(self) -> dict[str, np.ndarray]:
        """Return copies of what it holds now, by paths such as "moving_mean/average"."""

    @abstractmethod
    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Give variables other values, of another dtype or shape perhaps."""

    @abstractmethod
    def output(self, x: np.ndarray, training: bool | None) -> np.ndarray:
        """Return the output in a mode; told none, in its own."""

    @abstractmethod
    def slopes(self, x: np.ndarray, dy: np.ndarray, paths: Mapping[Role, str]) -> ByRole:
        """Return the gradients for x, and for the variables of roles, where there is a way."""

    def reloaded(self, fresh: "Made") -> None:
        """Save what it holds, as its users do, and load that into a new one."""
        raise NotImplementedError


class Wanted(NamedTuple):
    """What a form is to make an object for.

    Attributes:
        shape: of the input.
        layout: which axes are kept.
        options: of epsilon, momentum and axis those that are set.
        dtype: of the input.
    """

    shape: tuple[int, ...]
    layout: Layout
    options: Mapping[Role, Any]
    dtype: str


class Form(ABC):
    """How objects of one kind are made and asked.

    Attributes:
        description: what they are, in a few words.
        words: how that was recognized; see `Subject.taken_as`.
        options: from roles that can be set to what they are called.
        defaults: from roles to the values that they have by themselves.
        axes: whether its axis is the one kept, or those reduced; None if it has none.
        own_axis: the one that is kept when nothing is said, of what has an axis.
        has_modes: whether inference can be asked for.
        own_mode: whether a call without a mode means something.
        differentiates: whether there is a way to gradients.
        saves: whether there is a usual way to save and load all of its variables.
    """

    description: str
    options: Mapping[Role, str]
    defaults: Mapping[Role, Any]
    axes: Literal["kept", "reduced"] | None = None
    own_axis: int = -1
    has_modes: bool = True
    own_mode: bool = True
    differentiates: bool = True
    saves: bool = False

    @property
    @abstractmethod
    def words(self) -> str:
        """Return how objects of this form were recognized."""

    @abstractmethod
    def make(self, wanted: Wanted) -> Made:
        """Return a new object that has its variables, and has seen no batch."""


def class_of(thing: Any) -> type:
    """Return the class that a thing is, or makes by a `functools.partial`, or is an object of.

    Example:
        >>> class_of(int), class_of(partial(int, 3)), class_of(3)
        (<class 'int'>, <class 'int'>, <class 'int'>)
    """
    made_by: Any = thing.func if isinstance(thing, partial) else thing
    return made_by if isinstance(made_by, type) else type(made_by)


def described(of_class: type, *, is_class: bool) -> str:
    """Return in a few words what a class or an object is, with its library's version.

    Example:
        >>> described(int, is_class=True)
        'class int'
    """
    kind = "class" if is_class else "instance of"
    root = of_class.__module__.partition(".")[0]
    version = getattr(sys.modules.get(root), "__version__", None)
    name = of_class.__name__
    return f"{kind} {name}" if version is None else f"{kind} {name} of {root} {version}"
