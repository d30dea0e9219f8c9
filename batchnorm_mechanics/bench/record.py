"""What the bench found: samples of each contestant, and what follows from them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Unit = Literal["seconds", "bytes"]


class Spread(NamedTuple):
    """The quartiles of samples; half of the samples lie from `low` to `high`."""

    low: float
    median: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Return the quartiles of samples.

    Args:
        samples: one or more numbers.

    Returns:
        The quartiles, the least and the greatest sample included in what they are taken over, as
        NumPy's percentiles are. All three are the sample where there is but one.

    Raises:
        ValueError: there are no samples.

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(low=2.0, median=3.0, high=4.0)
    """
    if not samples:
        raise ValueError(
            "spread: `samples` must have one number or more. "
            f"Received: samples={samples!r}. Measure at least once."
        )
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    return Spread(*statistics.quantiles(samples, n=4, method="inclusive"))


@dataclass(frozen=True)
class Comparison:
    """One thing that contestants did in turns, and what it took each.

    Attributes:
        part: of the bench: "layer", "model", "study" or "import".
        case: on what, such as "(64, 56, 56, 64)".
        measure: what was measured, such as "forward + backward".
        ours: the contestant that the others are compared with.
        samples: of each contestant, one a repeat, the repeats in the same order for all.
        unit: of the samples.
        how: how a sample was taken.
        floor: the least that ours could take, one a repeat; None where that is not known.
        limit: what the floor is the time of, such as "two passes over memory".
        refused: contestants that computed something else, with what it was; they were not timed.
    """

    part: str
    case: str
    measure: str
    ours: str
    samples: Mapping[str, Sequence[float]]
    unit: Unit = "seconds"
    how: str = ""
    floor: Sequence[float] | None = None
    limit: str = ""
    refused: Mapping[str, str] | None = None

    def spread(self, name: str) -> Spread:
        """Return the quartiles of a contestant's samples."""
        return spread(self.samples[name])

    def ratio(self, name: str) -> Spread | None:
        """Return how many times as much as ours a contestant takes.

        Each repeat is compared with itself, so that a machine that slows down in between slows
        both. None where either was not measured, or was a difference not above zero.
        """
        if name not in self.samples or self.ours not in self.samples:
            return None
        theirs, ours = self.samples[name], self.samples[self.ours]
        if min(*theirs, *ours) <= 0:
            return None
        return spread([a / b for a, b in zip(theirs, ours, strict=True)])

    def fraction(self, name: str) -> float | None:
        """Return the floor as a fraction of what a contestant takes; None if either is missing."""
        if self.floor is None or name not in self.samples:
            return None
        return spread(self.floor).median / self.spread(name).median

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as `bnm bench --json` prints it."""
        return {
            "part": self.part,
            "case": self.case,
            "measure": self.measure,
            "unit": self.unit,
            "how": self.how,
            "ours": self.ours,
            "floor": self._floor(),
            "contestants": {name: self._contestant(name) for name in self.samples},
            "refused": dict(self.refused or {}),
        }

    def _floor(self) -> dict[str, Any] | None:
        if self.floor is None:
            return None
        return {
            "limit": self.limit,
            **spread(self.floor)._asdict(),
            "samples": list(self.floor),
        }

    def _contestant(self, name: str) -> dict[str, Any]:
        ratio = self.ratio(name)
        return {
            "ratio_to_ours": None if ratio is None else ratio._asdict(),
            "fraction_of_floor": self.fraction(name),
            **self.spread(name)._asdict(),
            "samples": list(self.samples[name]),
        }
