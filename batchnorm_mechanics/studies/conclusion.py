"""Say why the published custom runs scored lower, from nothing but the measured effects.

No outcome is written here: each sentence follows from a comparison of numbers, and other numbers
give another sentence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchnorm_mechanics.studies.registry import BAKED, LAYER, STATISTICS, STEPS, STUDIES, Study
from batchnorm_mechanics.studies.wording import capital, join, signed

# A factor is a reason for a gap if it alone makes at least this share of it, and is ruled out as
# one if even the upper end of its interval makes less.
REASON_SHARE = 0.5


@dataclass(frozen=True)
class _Words:
    """How sentences speak of a factor: its place in them, and which value the custom runs had."""

    custom_side: str
    subject: str
    because: str
    noun: str


# What the published custom runs had otherwise than the published Keras run.
_WORDS = {
    STEPS: _Words(
        "from",
        "training {custom} steps an epoch instead of {keras}",
        "training on {custom} steps an epoch instead of {keras}",
        "the steps an epoch",
    ),
    STATISTICS: _Words(
        "to",
        "taking other running statistics than the moving average",
        "their running statistics",
        "the running statistics",
    ),
    LAYER: _Words("to", "taking our layer instead of Keras's", "the layer", "the layer"),
    BAKED: _Words(
        "from",
        "leaving out the baked training=True",
        "leaving out the baked training=True",
        "the baked training=True",
    ),
}


@dataclass(frozen=True)
class _Loss:
    """What the custom runs' value of a factor takes from test accuracy, in points."""

    size: float
    low: float | None
    high: float | None
    studies: tuple[str, str]
    custom: str
    keras: str


@dataclass(frozen=True)
class _Judgement:
    """Which factors are the reasons for a gap, which are not, and which are open or unmeasured."""

    reasons: tuple[str, ...]
    ruled_out: tuple[str, ...]
    undecided: tuple[str, ...]
    unmeasured: tuple[str, ...]


def conclusion(
    effects: Sequence[Mapping[str, Any]],
    *,
    caveat: str | None = None,
    studies: Mapping[str, Study] = STUDIES,
) -> str:
    """Say why the published custom runs scored lower, as far as the measured effects tell.

    Args:
        effects: what `effects` in `summary` returned.
        caveat: why the runs cannot be compared with the published ones; None if they can.
        studies: the studies that the published figures are taken from.

    Returns:
        The published gap, what each factor does alone, and last the reason.
    """
    parts = reasoning(effects, caveat=caveat, studies=studies)
    return " ".join([parts["gap"], *parts["measured"], parts["verdict"]])


def reasoning(
    effects: Sequence[Mapping[str, Any]],
    *,
    caveat: str | None = None,
    studies: Mapping[str, Study] = STUDIES,
) -> dict[str, Any]:
    """Return the sentences of `conclusion` by what they are.

    A factor is a reason for a published gap if all its comparisons show a loss (95% intervals above
    0) that makes at least half of the gap. It is ruled out if all its intervals end below that. It
    is not decided in between, and without an interval.

    Args:
        effects: what `effects` in `summary` returned.
        caveat: why the runs cannot be compared with the published ones; None if they can.
        studies: the studies that the published figures are taken from.

    Returns:
        gap, how much lower the custom runs scored; measured, a list with a sentence for each
        factor, the largest effect first; and verdict.
    """
    keras, gaps = _published_gaps(studies)
    losses = _losses(effects)
    ranked = sorted(losses, key=lambda name: -max(abs(loss.size) for loss in losses[name]))
    measured = []
    for place, name in enumerate(ranked):
        shares = _shares(name, losses[name], gaps, studies) if place == 0 and not caveat else ""
        measured.append(_measured(name, losses[name]) + shares + ".")
    if measured:
        where = "" if caveat is None else f" in {caveat}"
        measured[0] = f"Changed alone{where}: {measured[0][0].lower()}{measured[0][1:]}"

    gap_texts = [f"{gap:.2f} ({name})" for name, gap in gaps.items()]
    return {
        "gap": f"On test, the published custom runs scored {join(gap_texts)} points lower than the "
        f"published Keras run ({keras}).",
        "measured": measured,
        "verdict": f"{capital(caveat)} cannot say why the published custom runs scored lower."
        if caveat
        else " ".join(_verdicts(losses, gaps, studies)),
    }


def _published_gaps(studies: Mapping[str, Study]) -> tuple[str, dict[str, float]]:
    """Return the published Keras study, and by how much each custom one scored lower on test."""
    tests = {
        name: study.published.test
        for name, study in studies.items()
        if study.published and study.published.test is not None
    }
    keras = next(name for name in tests if studies[name].settings.statistics == "keras-layer")
    gaps = {name: tests[keras] - test for name, test in tests.items() if name != keras}
    return keras, {name: gap for name, gap in gaps.items() if gap > 0}


def _losses(effects: Sequence[Mapping[str, Any]]) -> dict[str, list[_Loss]]:
    """Turn effects so that a positive size means: lower with the custom runs' value."""
    losses: dict[str, list[_Loss]] = {}
    for effect in effects:
        words = _WORDS.get(effect["factor"])
        if words is None:
            continue
        size, low, high = effect["difference"], effect["low"], effect["high"]
        custom, keras = effect["from_value"], effect["to_value"]
        if words.custom_side == "to":
            custom, keras = keras, custom
            size = -size
            low, high = (None, None) if low is None else (-high, -low)
        studies = (effect["from"], effect["to"])
        loss = _Loss(size, low, high, studies, custom, keras)
        losses.setdefault(effect["factor"], []).append(loss)
    return losses


def _measured(name: str, losses: Sequence[_Loss]) -> str:
    """Say what a factor does when it alone is changed."""
    subject = _WORDS[name].subject.format(custom=losses[0].custom, keras=losses[0].keras)
    low, high = (round(size, 2) for size in _ends(loss.size for loss in losses))
    if low > 0:
        change, sign = f"lowers test accuracy by {_range(low, high)} points", 1
    elif low == high == 0:
        change, sign = "does not change test accuracy, to 0.01 points", -1
    else:
        change, sign = f"changes test accuracy by {_signed_range(-high, -low)} points", -1
    return f"{capital(subject)} {change} ({_certainty(losses, sign)})"


def _ends(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    return min(values), max(values)


def _range(low: float, high: float) -> str:
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def _signed_range(low: float, high: float) -> str:
    return signed(low) if low == high else f"{signed(low)} to {signed(high)}"


def _certainty(losses: Sequence[_Loss], sign: int) -> str:
    """Say how many comparisons there were, and what their intervals hold.

    Args:
        losses: the comparisons.
        sign: 1 to give the intervals of the loss, -1 for those of the change.
    """
    intervals = [
        (loss.low, loss.high) for loss in losses if loss.low is not None and loss.high is not None
    ]
    comparisons = "" if len(losses) == 1 else f"{len(losses)} comparisons, "
    if not intervals:
        return f"{comparisons}one seed, so no interval"
    low, high = _ends(sign * end for interval in intervals for end in interval)
    ends = f"{low:.2f} to {high:.2f}" if sign == 1 and low > 0 else _signed_range(low, high)
    holding = sum(low <= 0 <= high for low, high in intervals)
    if len(intervals) == 1:
        holds = "which includes 0" if holding else "without 0"
        return f"{comparisons}95% interval {ends}, {holds}"
    holds = {0: "none with 0 in it", len(intervals): "all with 0 in them"}.get(
        holding, f"{holding} of them with 0 in it"
    )
    return f"{comparisons}95% intervals within {ends}, {holds}"


def _shares(
    name: str, losses: Sequence[_Loss], gaps: Mapping[str, float], studies: Mapping[str, Study]
) -> str:
    """Compare the largest effect with the published gaps."""
    parts = []
    for run, gap in gaps.items():
        size = _mean_size(_relevant(name, losses, studies[run], studies))
        if size is not None and size > 0:
            parts.append(f"{100 * size / gap:.0f}% of the gap of {run}")
    return f": {join(parts)}" if parts else ""


def _relevant(
    name: str, losses: Sequence[_Loss], run: Study, studies: Mapping[str, Study]
) -> list[_Loss]:
    """Choose the comparisons of a factor that speak for a published run.

    Those with the same running statistics, if there are any; else all of them, unless the factor
    is the statistics themselves: what one kind does says nothing of another.
    """
    kind = run.settings.statistics
    own = [
        loss for loss in losses if any(studies[s].settings.statistics == kind for s in loss.studies)
    ]
    return own or ([] if name == STATISTICS else list(losses))


def _mean_size(losses: Sequence[_Loss]) -> float | None:
    return sum(loss.size for loss in losses) / len(losses) if losses else None


def _judge(
    losses: Mapping[str, Sequence[_Loss]], run: Study, gap: float, studies: Mapping[str, Study]
) -> _Judgement:
    """Sort the factors by what their intervals say of one published gap."""
    sorted_out: dict[str, list[str]] = {"reason": [], "out": [], "open": [], "unmeasured": []}
    needed = REASON_SHARE * gap
    for name in _WORDS:
        mine = _relevant(name, losses.get(name, ()), run, studies)
        size = _mean_size(mine)
        if size is None:
            kind = "unmeasured"
        elif all(_above(loss.low, 0) for loss in mine) and size >= needed:
            kind = "reason"
        elif all(loss.high is not None and loss.high < needed for loss in mine):
            kind = "out"
        else:
            kind = "open"
        sorted_out[kind].append(name)
    return _Judgement(*(tuple(names) for names in sorted_out.values()))


def _above(value: float | None, bound: float) -> bool:
    return value is not None and value > bound


def _verdicts(
    losses: Mapping[str, Sequence[_Loss]], gaps: Mapping[str, float], studies: Mapping[str, Study]
) -> list[str]:
    """Say the reason, once for all published runs that have the same."""
    if not losses:
        return [
            "None of the differences between those runs was measured here, so these runs do not "
            "say why."
        ]
    by_judgement: dict[_Judgement, list[str]] = {}
    for run, gap in gaps.items():
        by_judgement.setdefault(_judge(losses, studies[run], gap, studies), []).append(run)
    return [_verdict(judgement, runs, losses) for judgement, runs in by_judgement.items()]


def _verdict(
    judgement: _Judgement, runs: Sequence[str], losses: Mapping[str, Sequence[_Loss]]
) -> str:
    nouns = {
        kind: [_WORDS[name].noun for name in getattr(judgement, kind)]
        for kind in ("ruled_out", "undecided", "unmeasured")
    }
    limits = [
        f"{text}: {join(nouns[kind])}"
        for kind, text in (("undecided", "not decided"), ("unmeasured", "not measured"))
        if nouns[kind]
    ]
    limit = f" ({'; '.join(limits)})" if limits else ""

    if not judgement.reasons:
        if not limits:
            limit = ": none of the measured differences makes half of the gap"
        return f"These runs do not show why {join(runs)} scored lower{limit}."
    because = join(
        [
            _WORDS[name].because.format(custom=losses[name][0].custom, keras=losses[name][0].keras)
            for name in judgement.reasons
        ]
    )
    out = nouns["ruled_out"]
    instead = f", and not because of {join(out, 'or')}" if out else ""
    return (
        f"The published {'run' if len(runs) == 1 else 'runs'} {join(runs)} scored lower mainly "
        f"because of {because}{instead}{limit}."
    )
