"""Say what the measured numbers mean: why published runs scored lower, and which are missed.

No outcome is written here: each sentence follows from a comparison of numbers, and other numbers
give another sentence. The words are those of the table of effects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchnorm_mechanics.studies.registry import FACTORS, STUDIES, Run, Settings, Study

# A factor is no reason for a gap if even the upper end of its interval makes less of it than this.
REASON_SHARE = 0.5

# Training accuracies closer than this, in points, print as the same number.
_SAME = 0.005


@dataclass(frozen=True)
class _Loss:
    """What a published run's value of a factor costs, in points, in one comparison."""

    change: str
    size: float
    interval: Sequence[float] | None


def conclusion(
    effects: Sequence[Mapping[str, Any]],
    *,
    caveat: str | None = None,
    studies: Mapping[str, Study] = STUDIES,
) -> str:
    """Say why published runs scored lower than that with Keras's layer, as far as effects tell.

    For each such run: how much lower it scored; which factors alone cost accuracy (95% intervals
    above 0 in all comparisons), the largest first, with their shares of the gap; which are not the
    reason (intervals that end below half of the gap); and what cannot be told.

    Args:
        effects: what `effects` in `summary` returned.
        caveat: why the runs cannot be compared with the published ones; None if they can.
        studies: the studies that the published figures are taken from.
    """
    published = {
        study: study.published.test
        for study in studies.values()
        if study.published and study.published.test is not None
    }
    keras = next(study for study in published if study.settings.statistics == "keras-layer")
    sentences = []
    for study, test in published.items():
        gap = published[keras] - test
        if gap > 0:
            sentences.append(
                f"On test, {_named(study)} was published {gap:.2f} points below "
                f"{keras.name if sentences else _named(keras)}."
            )
            if caveat is None:
                sentences += _reasons(study, keras, gap, effects, studies)
    if caveat is not None:
        sentences.append(f"{caveat[0].upper()}{caveat[1:]} cannot say why.")
    return " ".join(sentences)


def _named(study: Study) -> str:
    return f"{study.name} ({study.title})"


def _reasons(
    run: Study,
    keras: Study,
    gap: float,
    effects: Sequence[Mapping[str, Any]],
    studies: Mapping[str, Study],
) -> Iterator[str]:
    """Say what the effects tell of one gap."""
    costs, innocent, undecided = {}, [], []
    for factor, losses in _losses(effects, run, keras, studies).items():
        intervals = [loss.interval for loss in losses]
        if not losses:
            undecided.append(f"{factor} (not measured)")
        elif all(interval and interval[0] > 0 for interval in intervals):
            size = sum(loss.size for loss in losses) / len(losses)
            costs[f"{factor} ({losses[0].change})"] = size
        elif all(interval and interval[1] < REASON_SHARE * gap for interval in intervals):
            innocent.append(factor)
        else:
            undecided.append(factor)
    if costs:
        largest_first = sorted(costs.items(), key=lambda item: -item[1])
        shares = [
            f"{text} costs {size:.2f} points, {size / gap:.0%} of that"
            for text, size in largest_first
        ]
        yield f"Changed alone, {_listed(shares)}."
    else:
        yield "Nothing that was changed alone is shown to cost any of that."
    if innocent:
        yield f"Not the reason, with intervals below half of it: {_listed(innocent)}."
    if undecided:
        yield f"Cannot be told: {_listed(undecided)}."


def _losses(
    effects: Sequence[Mapping[str, Any]],
    run: Study,
    keras: Study,
    studies: Mapping[str, Study],
) -> dict[str, list[_Loss]]:
    """Return what is measured of each factor in which a run differs from the Keras run."""
    found: dict[str, list[_Loss]] = {
        factor.name: []
        for factor in FACTORS
        if _sign(factor.from_study, factor.to_study, run, keras, studies)
    }
    for effect in effects:
        sign = _sign(effect["from"], effect["to"], run, keras, studies)
        if sign == 0:
            continue
        mine, other = (effect["from_value"], effect["to_value"])[::sign]
        interval = None
        if effect["low"] is not None:
            interval = sorted((sign * effect["low"], sign * effect["high"]))
        loss = _Loss(f"{mine} instead of {other}", sign * effect["difference"], interval)
        found.setdefault(effect["factor"], []).append(loss)
    return found


def _sign(
    from_study: str, to_study: str, run: Study, keras: Study, studies: Mapping[str, Study]
) -> int:
    """Say on which side of a comparison of two studies a run is, when the Keras run is opposite.

    Returns:
        1 for the first, whose gain is the run's loss; -1 for the second; 0 if the two runs do not
        differ in what the two studies differ in.
    """
    one, other = (asdict(studies[name].settings) for name in (from_study, to_study))
    changed = [key for key in one if one[key] != other[key]]

    def alike(settings: Mapping[str, Any], study: Study) -> bool:
        return all(settings[key] == getattr(study.settings, key) for key in changed)

    is_from = alike(one, run) or alike(other, keras)
    is_to = alike(other, run) or alike(one, keras)
    return is_from - is_to


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def misses(
    summaries: Mapping[str, Mapping[str, Mapping[str, Any]]],
    runs_by_study: Mapping[str, Sequence[Run]],
    studies: Mapping[str, Study],
    *,
    margin: float,
) -> list[dict[str, Any]]:
    """List the published figures outside our seeds' widened range, and what our runs say of each.

    Args:
        summaries: what `summarize` in `summary` returned, by study.
        runs_by_study: the runs of each study.
        studies: the studies as they were run.
        margin: by how many points the seeds' range was widened.

    Returns:
        For each such figure: study, metric, published, low and high (the widened range), and why.
    """
    return [
        {
            "study": name,
            "metric": metric,
            "published": found["published"],
            "low": found["min"] - margin,
            "high": found["max"] + margin,
            "why": f"{_distance(found, len(runs_by_study[name]))} "
            f"{_beside_twin(name, metric, runs_by_study, studies)}",
        }
        for name, summary in summaries.items()
        for metric, found in summary.items()
        if found["within"] is False
    ]


def _distance(found: Mapping[str, Any], seeds: int) -> str:
    """Say how far a published figure is from what our seeds gave."""
    below = found["published"] < found["min"]
    end, word, side = (
        (found["min"], "lowest", "below") if below else (found["max"], "highest", "above")
    )
    far = f"{abs(found['published'] - end):.2f} points {side}"
    if seeds == 1:
        return f"It is {far} our only seed ({end:.2f}), which has no spread to compare with."
    text = f"It is {far} the {word} of our {seeds} seeds ({end:.2f})"
    if not found["std"]:
        return f"{text}, which all gave the same."
    deviations = abs(found["published"] - found["mean"]) / found["std"]
    return f"{text} and {deviations:.1f} of their standard deviations from their mean."


def _beside_twin(
    name: str,
    metric: str,
    runs_by_study: Mapping[str, Sequence[Run]],
    studies: Mapping[str, Study],
) -> str:
    """Say what a study shows that trains alike: whether running statistics can move the figure."""
    twin = _twin(name, runs_by_study, studies)
    if twin is None:
        return (
            "The source gives one run and no spread, and nothing that our runs vary explains the "
            "difference."
        )
    mine, other = ({run.seed: run for run in runs_by_study[each]} for each in (name, twin))
    pairs = [(mine[seed], other[seed]) for seed in mine.keys() & other.keys()]
    largest = max(abs(one.train - two.train) for one, two in pairs)
    text = f"{_named(studies[twin])} differs from it in its running statistics only"
    if largest >= _SAME:
        return (
            f"{text}, yet with the same seed the training accuracies differ by up to "
            f"{largest:.2f} points, which they should not."
        )
    text += (
        ", which training never reads, and with the same seed has the same training accuracy "
        f"(largest difference {largest:.2f} points, seeds: {len(pairs)})."
    )
    apart = _published_difference(studies[name], studies[twin], "train")
    if apart is None or abs(apart) < _SAME:
        return text
    text += (
        f" The two published runs are {abs(apart):.2f} points apart in training accuracy: "
        "something else than the statistics was not the same in them, such as the random start."
    )
    apart = _published_difference(studies[name], studies[twin], metric)
    if metric == "train" or apart is None:
        return text
    ours = sum(getattr(one, metric) - getattr(two, metric) for one, two in pairs) / len(pairs)
    return f"{text} On {metric} they are {apart:+z.2f} points apart, ours {ours:+z.2f}."


def _published_difference(study: Study, twin: Study, metric: str) -> float | None:
    """Return the difference of two published figures, None where one is missing."""
    one, other = (each.published and getattr(each.published, metric) for each in (study, twin))
    return None if one is None or other is None else one - other


def _twin(
    name: str, runs_by_study: Mapping[str, Sequence[Run]], studies: Mapping[str, Study]
) -> str | None:
    """Find a study that trains alike with a seed of this one, best one with a published training.

    Keras's own layer has no twin: another layer rounds otherwise.
    """

    def training(settings: Settings) -> Settings:
        return replace(settings, statistics="moving-average", reset_each_epoch=False)

    no_twins = ("keras-layer", "none")
    seeds = {run.seed for run in runs_by_study[name]}
    twins = [
        other
        for other, runs in runs_by_study.items()
        if other != name
        and not {studies[each].settings.statistics for each in (name, other)} & {*no_twins}
        and training(studies[other].settings) == training(studies[name].settings)
        and seeds & {run.seed for run in runs}
    ]
    return max(twins, key=lambda other: studies[other].published is not None, default=None)
