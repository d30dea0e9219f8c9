"""What a trace is: frozen steps, checks and comparisons, and what JSON has of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from batchnorm_mechanics._difference import Difference
from batchnorm_mechanics._io import json

# Of what `to_json` returns. Raise it when that changes;
# tests/formats keeps one of each version.
_FORMAT = 1

Mode = Literal["training", "inference"]


@dataclass(frozen=True, eq=False)
class Step(json.Record):
    """One value of a computation, with what it is and where the paper has it.

    Attributes:
        name: what the step is called, such as "mean"; `trace["mean"]` finds it.
        symbol: as in the paper, such as "μ_B".
        formula: how it comes from the steps before.
        source: the place in the paper, "" where the paper has none.
        value: a read-only copy of the array.
        note: what there is to know about this value, or "".

    Example:
        >>> step = Step("count", "m′", "", "sec. 3.2", 2.0)
        >>> step.shape, step.dtype, step.value.flags.writeable
        ((), 'float64', False)
    """

    name: str
    symbol: str
    formula: str
    source: str
    value: np.ndarray
    note: str = ""

    def __post_init__(self) -> None:
        """Keep a copy that nobody can change, neither by the trace nor by the array given."""
        object.__setattr__(self, "value", _frozen(self.value))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return self.value.shape

    @property
    def dtype(self) -> str:
        """The name of the value's dtype."""
        return self.value.dtype.name

    def to_dict(self) -> dict[str, Any]:
        """Return the step for JSON; see `Trace.to_dict`."""
        return json.plain({**self.fields(), "shape": self.shape, "dtype": self.dtype})


@dataclass(frozen=True)
class Check(json.Record):
    """Something that must hold between the values of a trace.

    Attributes:
        what: the statement, such as "the sum of d_x over the batch is 0".
        error: the largest distance from it, NaN where the values are not numbers.
        bound: how far rounding alone can bring it, where the error is largest against it.
    """

    what: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains the error; a NaN is not explained."""
        return self.error <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Return the check for JSON; see `Trace.to_dict`."""
        return json.plain({**self.fields(), "passed": self.passed})


@dataclass(frozen=True, eq=False)
class Beside(json.Record):
    """The value that one implementation has for a step, and how far it is from a judge's.

    Attributes:
        step: name of the step.
        by: who computed it, such as "tf.nn".
        value: a read-only copy of the array.
        difference: largest absolute, relative and ULP difference from the judge's value.
        note: what there is to know about this value, or "".
    """

    step: str
    by: str
    value: np.ndarray
    difference: Difference
    note: str = ""

    def __post_init__(self) -> None:
        """Keep a copy that nobody can change."""
        object.__setattr__(self, "value", _frozen(self.value))

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON; see `Trace.to_dict`."""
        found = self.fields()
        difference = found.pop("difference")._asdict()
        shape, dtype = self.value.shape, self.value.dtype.name
        return json.plain({**found, "shape": shape, "dtype": dtype, **difference})


@dataclass(frozen=True)
class Backward(json.Record):
    """The backward pass of a trace.

    Attributes:
        gradients: dy, and the six gradients in the paper's order.
        checks: the sums that must come out.
        tape: what `tf.GradientTape` gives, beside the gradients of the same name.
        notes: sentences.
    """

    gradients: tuple[Step, ...]
    checks: tuple[Check, ...]
    tape: tuple[Beside, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison(json.Record):
    """Several implementations side by side, each against the float64 oracle.

    Attributes:
        rows: grouped by step, in the order of the computation.
        notes: sentences: who could not take part and why, and how to read the numbers.
    """

    rows: tuple[Beside, ...]
    notes: tuple[str, ...]


class View(Protocol):
    """How a trace is shown. A record knows no more of it; `tracing` gives it one."""

    def plain_text(self, trace: "Trace", /) -> str:
        """Return it as a terminal of 80 columns has it."""
        ...

    def page(self, trace: "Trace", /) -> str:
        """Return it as a page of HTML."""
        ...

    def fragment(self, trace: "Trace", /) -> str:
        """Return it as a part of a page that is there."""
        ...


@dataclass(frozen=True, eq=False)
class Trace(json.Record):
    """One batch-norm computation, step by step.

    `trace["mean"]` is the step of that name, among the steps, the statistics and the gradients.
    `print(trace)` shows it in 80 columns, a notebook shows it as HTML, `to_html()` is a page and
    `to_dict()` goes into JSON. Nothing in it can be changed.

    Attributes:
        title: what was traced.
        mode: "training" (batch statistics) or "inference" (given or moving statistics).
        why: sentences on which statistics were used, and why.
        steps: in the order of the computation.
        statistics: the moving statistics before and after the call, if there are any.
        notes: sentences on what is special about these data.
        checks: for a layer, whether what it really gave agrees with the steps.
        backward: the backward pass, if `dy` was given.
        comparison: implementations side by side, if asked for.
        view: how all traces are shown.
    """

    view: ClassVar[View]

    title: str
    mode: Mode
    why: tuple[str, ...]
    steps: tuple[Step, ...]
    statistics: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    backward: Backward | None = None
    comparison: Comparison | None = None

    def all_steps(self) -> Iterator[Step]:
        """Return the steps, the statistics and the gradients, one after another."""
        yield from self.steps
        yield from self.statistics
        yield from self.backward.gradients if self.backward else ()

    def __getitem__(self, name: str) -> Step:
        for step in self.all_steps():
            if step.name == name:
                return step
        names = [step.name for step in self.all_steps()]
        raise KeyError(
            f"Trace: `name` must be that of a step. Received: name={name!r}. "
            f"This trace has {', '.join(names)}."
        )

    def __contains__(self, name: object) -> bool:
        return any(step.name == name for step in self.all_steps())

    def with_notes(self, *notes: str) -> "Trace":
        """Return this trace with more notes, before those that it has."""
        return replace(self, notes=(*notes, *self.notes))

    def to_json(self) -> str:
        """Return `to_dict` as JSON text, with `format`, the version of its form."""
        return json.text({"format": _FORMAT, **self.to_dict()}, indent=None)

    def to_html(self) -> str:
        """Return a page of its own, which asks for no other file."""
        return self.view.page(self)

    def _repr_html_(self) -> str:
        return self.view.fragment(self)

    def __str__(self) -> str:
        return self.view.plain_text(self)

    def __repr__(self) -> str:
        return f"<Trace: {self.title}, {self.mode} mode, {len(self.steps)} steps>"


def _frozen(value: Any) -> np.ndarray:
    """Return a copy of the array that cannot be written to."""
    copy = np.array(value)
    copy.setflags(write=False)
    return copy
