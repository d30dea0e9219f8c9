"""What each change did to the accuracy, in words, the largest first: what to see before any table.

As in `conclusion` no outcome is written here: other effects give other words and another order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchnorm_mechanics.studies.summary import effect_groups

Kind = Literal["changes it", "no effect shown", "cannot be told"]


@dataclass(frozen=True)
class Verdict:
    """What one change did to test accuracy, over all comparisons that made it.

    Attributes:
        change: the change, in words: 'epochs: 2 → 10'.
        effects: its comparisons, as `effects` in `summary` returned them.
        kind: `changes it` if every interval lies on the same side of zero, `no effect shown` if
            every one holds zero, else `cannot be told`.
    """

    change: str
    effects: Sequence[Mapping[str, Any]]
    kind: Kind

    @property
    def size(self) -> float:
        """The mean difference of its comparisons, in points."""
        return sum(effect["difference"] for effect in self.effects) / len(self.effects)

    @property
    def points(self) -> str:
        """The differences in words, from the lowest to the highest: '+2.53 to +2.68 points'."""
        differences = sorted(effect["difference"] for effect in self.effects)
        ends = [f"{value:+z.2f}".replace("-", "−") for value in (differences[0], differences[-1])]
        return f"{' to '.join(dict.fromkeys(ends))} points"


def verdicts(effects: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Judge each change by the intervals of its comparisons, the largest first.

    Args:
        effects: what `effects` in `summary` returned.

    Example:
        >>> effect = {"factor": "epochs", "from_value": "2", "to_value": "10", "difference": 2.9}
        >>> [found] = verdicts([{**effect, "low": 2.5, "high": 3.3}])
        >>> found.change, found.kind, found.points
        ('epochs: 2 → 10', 'changes it', '+2.90 points')
    """
    found = [
        Verdict(change, group, _kind(group)) for change, group in effect_groups(effects).items()
    ]
    return sorted(found, key=lambda verdict: -abs(verdict.size))


def _kind(group: Sequence[Mapping[str, Any]]) -> Kind:
    if any(effect["low"] is None for effect in group):
        return "cannot be told"
    signs = {(effect["low"] > 0) - (effect["high"] < 0) for effect in group}
    if signs == {0}:
        return "no effect shown"
    return "changes it" if len(signs) == 1 else "cannot be told"


def headlines(found: Sequence[Verdict]) -> list[tuple[str, str]]:
    """Say in a line for each kind which changes are of it; a kind that none is of has no line.

    Args:
        found: what `verdicts` returned.

    Returns:
        Pairs of the words that begin a line, and the changes, the largest first.
    """
    begins: dict[Kind, str] = {
        "changes it": "What changed the test accuracy, most first:",
        "no effect shown": "What is not shown to change it:",
        "cannot be told": "What cannot be told:",
    }
    lines = []
    for kind, begin in begins.items():
        texts = [one.change.replace(": ", " (", 1) + ")" for one in found if one.kind == kind]
        if texts:
            lines.append((begin, f"{', '.join(texts)}."))
    return lines
