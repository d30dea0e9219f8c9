"""BN105: a momentum that averages next to nothing, or never moves."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batchnorm_mechanics.doctor.rule import Action, Case, Findings, NewValues, Rule, Stage

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm

# PyTorch's default is 0.1; from 0.5 down the last batch outweighs all others together.
_LARGEST_REVERSED = 0.5
# Where the momentum has no complement that averages: Keras's default.
_USUAL = 0.99


def better(momentum: float) -> float:
    """Return the momentum that is proposed, and set by repair, in place of one.

    Example:
        >>> better(0.1), better(0.0), better(1.0)
        (0.9, 0.99, 0.99)
    """
    return 1 - momentum if 0 < momentum < 1 else _USUAL


def _better_momentum(norm: "Norm") -> Iterator[NewValues]:
    momentum, layer = better(norm.momentum or 0.0), norm.layer
    if norm.is_ours and layer.statistics is not None:
        policy: Any = layer.statistics
        values = {"statistics": dataclasses.replace(policy, decay=momentum)}
    else:
        values = {"momentum": momentum}
    yield NewValues(norm.name, layer, values)


def _obstacle(_model: Any, norm: "Norm") -> str | None:
    is_half = norm.momentum == _LARGEST_REVERSED
    return "a momentum of 0.5 is its own complement" if is_half else None


CORRECT = Action(
    name="momentum",
    words="correct the momentum",
    stage=Stage.SETTINGS,
    new_values=_better_momentum,
    obstacle=_obstacle,
    heals=False,
)


class SuspiciousMomentum(Rule):
    """PyTorch's momentum is the complement of Keras's; at 1 nothing moves."""

    severity = "warning"
    may_explain = ("BN201",)
    actions = (CORRECT,)

    def check(self, case: Case) -> Findings:
        """Look at the momentum of every moving average."""
        for norm in case.norms:
            momentum = norm.momentum
            if momentum is None or _LARGEST_REVERSED < momentum < 1:
                continue
            cause, remedy = _words(momentum)
            # A frozen layer's average does not move, whatever its momentum; and 0.5 is no mistake
            # of whoever took it for the complement.
            is_mistake = norm.layer.trainable and momentum != _LARGEST_REVERSED
            yield self.finding(
                norm.name,
                severity="warning" if is_mistake else "note",
                cause=cause,
                remedy=remedy,
                momentum=momentum,
                complement=1 - momentum,
                batches_averaged=0.0 if momentum == 1 else (1 + momentum) / (1 - momentum),
            )


def _words(momentum: float) -> tuple[str, str]:
    """Return why a momentum is suspicious, and what to do about it."""
    as_repair_does = f"Set the momentum to {better(momentum):g}, as `bnm repair` does"
    if momentum == 1:
        return (
            "With momentum 1 the moving statistics keep their start for ever.",
            f"{as_repair_does}, and re-estimate the statistics.",
        )
    if momentum == 0:
        return (
            "Keras's momentum is the weight of the old value: at 0 the statistics are those of "
            "the last batch alone.",
            f"{as_repair_does}, unless that is meant.",
        )
    if momentum == _LARGEST_REVERSED:
        return (
            "Keras's momentum is the weight of the old value: at 0.5 the last batch weighs as much "
            "as all before it. PyTorch's, the complement, is the same number.",
            "Set the momentum to 0.99 or 0.9, unless so short an average is meant.",
        )
    return (
        f"Keras's momentum is the weight of the old value: {momentum:g} makes the statistics "
        "follow the last few batches; it looks like PyTorch's, which is the complement.",
        f"{as_repair_does}, if it is PyTorch's.",
    )
