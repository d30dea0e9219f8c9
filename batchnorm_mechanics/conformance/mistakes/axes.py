"""Reducing over axes that are not those of the setting."""

from collections.abc import Callable
from types import MappingProxyType

from batchnorm_mechanics.conformance.mistakes.hypothesis import Hypothesis
from batchnorm_mechanics.conformance.steps import Axes


def _axes_mistake(choose: Callable[[int, Axes], Axes], *, along: bool) -> Hypothesis:
    """Reduce over a fixed choice of axes; along: gamma and the statistics lie along the others."""

    def wrong(rank: int, axes: Axes) -> Axes | None:
        chosen = tuple(sorted(choose(rank, axes)))
        return chosen if chosen and chosen != tuple(sorted(axes)) else None

    changes = {"axes": wrong, "place": wrong} if along else {"axes": wrong}
    return Hypothesis("reduced over the wrong axes", "forward", MappingProxyType(changes))


_CHOICES: tuple[Callable[[int, Axes], Axes], ...] = (
    lambda rank, axes: (0,),
    lambda rank, axes: tuple(range(rank - 1)),
    lambda rank, axes: (0, *range(2, rank)),
    lambda rank, axes: tuple(range(1, rank)),
    lambda rank, axes: tuple(range(rank)),
    lambda rank, axes: tuple(axis for axis in axes if axis != 0),
    lambda rank, axes: tuple(axis for axis in range(rank) if axis not in axes),
    lambda rank, axes: tuple(axis for axis in axes if axis != max(axes)),
    lambda rank, axes: (rank - 1,),
)


AXES: tuple[Hypothesis, ...] = (
    *(_axes_mistake(choose, along=False) for choose in _CHOICES),
    *(_axes_mistake(choose, along=True) for choose in _CHOICES),
)
