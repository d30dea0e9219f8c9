"""Which published figures our seeds miss, and what our runs show of the reason.

No reason is written here for a study: each sentence follows from a comparison of numbers, and other
numbers give another sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchnorm_mechanics.studies.registry import Settings, Study
from batchnorm_mechanics.studies.runs import Run
from batchnorm_mechanics.studies.wording import count

# Training accuracies closer than this, in points, print as the same number.
_SAME = 0.005


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
    found = []
    for name, summary in summaries.items():
        for metric, figures in summary.items():
            if figures["within"] is not False:
                continue
            why = [_distance(figures, len(runs_by_study[name]))]
            twin = _twin(name, runs_by_study, studies)
            evidence = _beside_twin(metric, name, twin, runs_by_study, studies) if twin else []
            why += evidence or [
                "The source gives one run and no spread, and nothing that our runs vary explains "
                "the difference."
            ]
            found.append(
                {
                    "study": name,
                    "metric": metric,
                    "published": figures["published"],
                    "low": figures["min"] - margin,
                    "high": figures["max"] + margin,
                    "why": " ".join(why),
                }
            )
    return found


def _distance(figures: Mapping[str, Any], seeds: int) -> str:
    """Say how far a published figure is from what our seeds gave."""
    below = figures["published"] < figures["min"]
    end, word, side = (
        (figures["min"], "lowest", "below") if below else (figures["max"], "highest", "above")
    )
    far = f"{abs(figures['published'] - end):.2f} points"
    if seeds == 1:
        return f"It is {far} {side} our only seed ({end:.2f}), which has no spread to compare with."
    text = f"It is {far} {side} the {word} of our {seeds} seeds ({end:.2f})"
    if not figures["std"]:
        return f"{text}, which all gave the same."
    deviations = abs(figures["published"] - figures["mean"]) / figures["std"]
    return f"{text} and {deviations:.1f} of their standard deviations from their mean."


def _twin(
    name: str, runs_by_study: Mapping[str, Sequence[Run]], studies: Mapping[str, Study]
) -> str | None:
    """Find a study that trains alike and differs in its running statistics only.

    One with a published training accuracy is preferred. Keras's own layer has no twin: another
    layer rounds otherwise.
    """

    def training(settings: Settings) -> Settings:
        return replace(settings, statistics="moving-average", reset_each_epoch=False)

    def published(study: Study) -> bool:
        return study.published is not None and study.published.train is not None

    if studies[name].settings.statistics in ("keras-layer", "none"):
        return None
    seeds = {run.seed for run in runs_by_study[name]}
    twins = [
        other
        for other, runs in runs_by_study.items()
        if other != name
        and studies[other].settings.statistics not in ("keras-layer", "none")
        and training(studies[other].settings) == training(studies[name].settings)
        and seeds & {run.seed for run in runs}
    ]
    return max(twins, key=lambda other: published(studies[other]), default=None)


def _beside_twin(
    metric: str,
    name: str,
    twin: str,
    runs_by_study: Mapping[str, Sequence[Run]],
    studies: Mapping[str, Study],
) -> list[str]:
    """Say what the twin's runs show: whether the running statistics can move a figure."""
    mine = {run.seed: run for run in runs_by_study[name]}
    other = {run.seed: run for run in runs_by_study[twin]}
    seeds = sorted(mine.keys() & other.keys())
    largest = max(abs(mine[seed].train - other[seed].train) for seed in seeds)
    if largest >= _SAME:
        return [
            f"{twin} differs from it in its running statistics only, yet with the same seed the "
            f"training accuracies differ by up to {largest:.2f} points, which they should not."
        ]
    ours, theirs = studies[name].published, studies[twin].published
    gap = None
    if ours and theirs and ours.train is not None and theirs.train is not None:
        gap = abs(ours.train - theirs.train)
    alike = f"largest difference {largest:.2f} points, {count(len(seeds), 'seed')}"
    if metric == "train":
        return _training(twin, alike, gap, [run.train for run in mine.values()])

    sentences = []
    if gap is not None and gap >= _SAME:
        sentences.append(
            f"The published runs of it and of {twin}, which differ in their running statistics "
            f"only, are {gap:.2f} points apart in training accuracy already, where ours are equal "
            f"with the same seed ({alike})."
        )
    ours_here, theirs_here = getattr(ours, metric, None), getattr(theirs, metric, None)
    if ours_here is not None and theirs_here is not None:
        mean = sum(getattr(mine[s], metric) - getattr(other[s], metric) for s in seeds) / len(seeds)
        sentences.append(
            f"On {metric} it scored {_higher(ours_here - theirs_here)} than that one; ours, "
            f"trained alike, {_higher(mean)}."
        )
    return sentences


def _higher(difference: float) -> str:
    return f"{abs(difference):.2f} points {'lower' if difference < 0 else 'higher'}"


def _training(twin: str, alike: str, gap: float | None, accuracies: Sequence[float]) -> list[str]:
    """Say why a training accuracy cannot be missed on account of the running statistics."""
    sentences = [
        f"{twin} differs from it in its running statistics only, and with the same seed has the "
        f"same training accuracy ({alike}): training normalizes each batch by its own moments and "
        f"never reads the running statistics."
    ]
    if gap is None or gap < _SAME:
        return sentences
    sentences.append(
        f"Yet the two published runs, one each, differ by {gap:.2f} points in training accuracy. "
        f"No choice of statistics can cause that; something else was not the same in them, such as "
        f"the random start."
    )
    if len(accuracies) > 1:
        spread = max(accuracies) - min(accuracies)
        enough = "that much" if spread >= gap else "less"
        sentences.append(
            f"Random starts alone move ours by {enough}: {spread:.2f} points from the lowest to "
            f"the highest of {len(accuracies)} seeds."
        )
    return sentences
