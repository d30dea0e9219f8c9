"""What a comparison found: outputs, stages, where the difference begins and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._io.terminal import Shown, plain_text
from batchnorm_mechanics.comparison.causes import Cause
from batchnorm_mechanics.comparison.same_graph import Change

# Outputs that are nearer than this differ by rounding, where no stage can be looked at.
_ROUNDING = 80.0


@dataclass(frozen=True)
class Output:
    """How far an output of B is from A's.

    Attributes:
        name: as A has it.
        sqnr: of all numbers, the signal to the difference, in decibels.
        relative: the largest difference, relative to the largest number in A.
        same_top: share of samples whose largest number is in the same place; None where there are
            no classes.
        is_rounding: whether they are no farther apart than a unit in the last place of 1, and come
            from a function that ends there, as a sigmoid: small ones are apart by many decibels.
    """

    name: str
    sqnr: float
    relative: float
    same_top: float | None
    is_rounding: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "name": self.name,
            "sqnr": self.sqnr,
            "relative": plain(self.relative),
            "same_top": self.same_top,
            "is_rounding": self.is_rounding,
        }


@dataclass(frozen=True)
class Row:
    """A stage: one layer of A, or several that are one in B.

    Attributes:
        layers: their paths in A.
        counterpart: what B calls the value, which labels it and decides nothing.
        own: decibels of signal to what the stage itself adds, on B's values; None where it could
            not be computed on them.
        inherited: decibels of A's own value to the distance of both, all stages before included.
        floor: decibels that rounding leaves at least; None where it is not known.
        differs: whether the stage adds more than rounding; None where that is not known.
        cause: why, where it does.
        by: how it was matched: by "value", by "graph", or as an "output" of the model.
        saturated: share of numbers that lie beyond what B's quantized tensor can hold.
    """

    layers: tuple[str, ...]
    counterpart: str
    own: float | None
    inherited: float
    floor: float | None
    differs: bool | None
    cause: Cause | None = None
    by: str = "value"
    saturated: float = 0.0

    @property
    def name(self) -> str:
        """The layer that a reader looks for: the batch norm if the cause names it, or the last."""
        return self.layers[-1] if self.cause is None else self.cause.layer

    @property
    def verdict(self) -> str:
        """In a word or three."""
        if self.differs is None:
            return "not judged"
        return "differs" if self.differs else "agrees"

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        cause = self.cause
        return {
            "layers": list(self.layers),
            "counterpart": self.counterpart,
            "matched_by": self.by,
            "own": self.own,
            "inherited": self.inherited,
            "floor": self.floor,
            "verdict": self.verdict,
            "saturated": self.saturated,
            "cause": cause
            and {
                "code": cause.code,
                "layer": cause.layer,
                "words": cause.words,
                "remainder": cause.remainder,
                "is_batch_norm": cause.is_norm,
            },
        }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """Two models on the same data.

    Attributes:
        names: of both, as given.
        forms: "Keras", "ONNX", "LiteRT" or "OpenVINO", of both.
        samples: how many were compared.
        outputs: how far each output is from its counterpart.
        rows: the stages, in the order of A.
        lost: paths of A's layers that have no counterpart.
        changes: what weights and settings differ, where both are Keras models of one graph.
        notes: what could not be done, in sentences.
        is_quantized: whether B computes in integers anywhere.
        min_sqnr: how near the outputs must be, in decibels; None where the stages decide.
    """

    names: tuple[str, str]
    forms: tuple[str, str]
    samples: int
    outputs: tuple[Output, ...]
    rows: tuple[Row, ...]
    lost: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    is_quantized: bool = False
    min_sqnr: float | None = field(default=None)

    @property
    def sqnr(self) -> float:
        """Of the output that is farthest from its counterpart, in decibels."""
        return min((output.sqnr for output in self.outputs), default=0.0)

    @property
    def start(self) -> Row | None:
        """The first stage that adds more than rounding; None where none does."""
        return next((row for row in self.rows if row.differs), None)

    @property
    def is_judged(self) -> bool:
        """Whether of any stage its own error is known, and not only what it inherits."""
        return any(row.differs is not None for row in self.rows)

    @property
    def agrees(self) -> bool | None:
        """Whether both models agree: by `min_sqnr` if it is given, else but for rounding.

        None where that cannot be told.
        """
        if self.min_sqnr is not None:
            return self.sqnr >= self.min_sqnr
        if self.start is not None:
            return False
        if all(output.sqnr >= _ROUNDING or output.is_rounding for output in self.outputs):
            return True
        # Rounding that makes another thing of the outputs is no agreement, either.
        if self.is_judged and not self.lost and self.sqnr > 0:
            return True
        return None if self.is_judged or self.is_quantized else False

    @property
    def summary(self) -> str:
        """The answer, in a sentence."""
        from batchnorm_mechanics.comparison.wording import sentence

        return sentence(self)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as `bnm compare --json` prints it."""
        return {
            "models": [
                {"name": name, "form": form}
                for name, form in zip(self.names, self.forms, strict=True)
            ],
            "agrees": self.agrees,
            "answer": self.summary,
            "sqnr": self.sqnr,
            "min_sqnr": self.min_sqnr,
            "samples": self.samples,
            "outputs": [output.as_json() for output in self.outputs],
            "stages": [row.as_json() for row in self.rows],
            "without_counterpart": list(self.lost),
            "changes": [change.as_json() for change in self.changes],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        # Here: only what is printed needs it.
        from batchnorm_mechanics.comparison.showing import print_comparison

        return plain_text(lambda console: print_comparison(self, console))


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of stages."""
    return [row.name for row in rows]
