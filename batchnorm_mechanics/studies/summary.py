"""From runs to findings: what each study gave, and what each factor alone changes.

Pure functions of the runs; `conclusion` puts the findings into words.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics.studies.conclusion import conclusion, misses
from batchnorm_mechanics.studies.dataset import steps_in_epoch
from batchnorm_mechanics.studies.registry import (
    BATCHES,
    EPOCHS,
    FACTORS,
    STUDIES,
    Factor,
    Run,
    Settings,
    Study,
)

# Of what `results` returns. Raise it when that changes;
# tests/formats keeps one of each version.
_FORMAT = 1

METRICS = ("train", "val", "test")

# A published figure counts as reproduced in our seeds' range widened by this many points on each
# side: a few seeds do not reach the ends of what is possible.
MARGIN = 0.5

# 94.45 + 0.5 must hold 94.95, which binary fractions alone would leave to chance.
_ROUNDING = 1e-9

MNIST_ROWS = 60_000


def summarize(study: Study, runs: Sequence[Run], *, comparable: bool) -> dict[str, dict[str, Any]]:
    """Summarize the accuracies of a study's runs, in percent.

    Args:
        study: the study, with its published figures if it has any.
        runs: at least one run of it.
        comparable: whether the runs had the data that the published figures were measured on.

    Returns:
        For train, val and test a dict of mean, std (n - 1; None with one seed), min, max,
        published (None where the source gives nothing), and within: whether the published figure
        lies in [min - MARGIN, max + MARGIN], None where there is nothing to compare.

    Example:
        >>> runs = [Run(s, 98.8, 97.0, test, 1.0, {}) for s, test in enumerate([97.0, 97.2])]
        >>> summarize(STUDIES["keras-916-baked"], runs, comparable=True)["test"]["within"]
        True
    """
    summary = {}
    for metric in METRICS:
        values = np.array([getattr(run, metric) for run in runs])
        published = getattr(study.published, metric) if study.published else None
        low, high = float(values.min()), float(values.max())
        within = None
        if comparable and published is not None:
            within = low - MARGIN - _ROUNDING <= published <= high + MARGIN + _ROUNDING
        summary[metric] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if len(values) > 1 else None,
            "min": low,
            "max": high,
            "published": published,
            "within": within,
        }
    return summary


def effects(
    runs_by_study: Mapping[str, Sequence[Run]],
    *,
    studies: Mapping[str, Study] = STUDIES,
    train_rows: int = MNIST_ROWS,
) -> list[dict[str, Any]]:
    """Measure what each factor alone does to test accuracy.

    Seeds that both studies ran are paired: the two runs of a seed begin with the same weights, so
    what the seeds vary by falls out of the difference.

    Args:
        runs_by_study: the runs of each study by its name; studies may be missing.
        studies: the studies as they were run, for the steps that an epoch had.
        train_rows: rows of the whole training file.

    Returns:
        For each factor whose two studies both ran: factor, from, to (names of studies),
        from_value, to_value (in words), on, difference (mean of `to` minus `from` over the paired
        seeds, in points), low and high (its 95% Student t interval; None with fewer than two
        pairs), and seeds (the number of pairs). A factor without a common seed is left out.

    Example:
        >>> runs = {
        ...     name: [Run(seed, 0.0, 0.0, test + 0.1 * seed, 1.0, {}) for seed in range(3)]
        ...     for name, test in {"keras-100": 94.5, "keras-916": 97.0}.items()
        ... }
        >>> effect = effects(runs)[0]
        >>> effect["from_value"], effect["to_value"], round(effect["difference"], 6)
        ('100 of 916', 'all 916', 2.5)
    """
    found = []
    for factor in FACTORS:
        before = {run.seed: run.test for run in runs_by_study.get(factor.from_study, ())}
        after = {run.seed: run.test for run in runs_by_study.get(factor.to_study, ())}
        common = sorted(before.keys() & after.keys())
        if not common:
            continue
        mean, low, high = mean_interval([after[seed] - before[seed] for seed in common])
        from_value, to_value = _values(factor, studies, train_rows)
        found.append(
            {
                "factor": factor.name,
                "from": factor.from_study,
                "to": factor.to_study,
                "from_value": from_value,
                "to_value": to_value,
                "on": "test accuracy",
                "difference": mean,
                "low": low,
                "high": high,
                "seeds": len(common),
            }
        )
    return found


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of values and the ends of its 95% Student t interval.

    The ends are None with one value, and the mean itself if all values are equal.

    Example:
        >>> mean_interval([2.0, 2.0, 2.0])
        (2.0, 2.0, 2.0)
        >>> mean_interval([2.0])
        (2.0, None, None)
    """
    # SciPy is imported here because it takes a second and `bnm --help` must not wait for it.
    from scipy.special import stdtrit

    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, None, None
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def steps_per_epoch(settings: Settings, train_rows: int = MNIST_ROWS) -> int:
    """Return how many steps an epoch has with a training file of so many rows.

    Example:
        >>> steps_per_epoch(STUDIES["keras-916"].settings)
        916
    """
    rows = min(settings.rows or train_rows, train_rows)
    return steps_in_epoch(rows - round(rows * settings.validation_fraction), settings)


def _values(factor: Factor, studies: Mapping[str, Study], train_rows: int) -> tuple[str, str]:
    """Return a factor's two values in words; a quick run has other numbers than the registry."""
    one, other = (studies[name].settings for name in (factor.from_study, factor.to_study))
    if factor.name == EPOCHS:
        return str(one.epochs), str(other.epochs)
    if factor.name == BATCHES:
        return _batches(one, train_rows), _batches(other, train_rows)
    return factor.from_value, factor.to_value


def _batches(settings: Settings, train_rows: int) -> str:
    steps = steps_per_epoch(settings, train_rows)
    every = steps_per_epoch(replace(settings, steps_per_epoch=None), train_rows)
    return f"all {every}" if steps == every else f"{steps} of {every}"


def not_comparable(data: Mapping[str, Any]) -> str | None:
    """Say why runs on this data cannot be compared with the published figures; None if they can.

    Example:
        >>> not_comparable({"name": "MNIST", "quick": True})
        'a quick run on a tenth of the data'
    """
    if data["quick"]:
        return "a quick run on a tenth of the data"
    if data["name"] != "MNIST":
        return f"runs on other data than MNIST ({data['name']})"
    return None


def results(
    environment: Mapping[str, Any],
    data: Mapping[str, Any],
    studies: Mapping[str, Study],
    runs_by_study: Mapping[str, Sequence[Run]],
    *,
    planned_runs: int | None = None,
) -> dict[str, Any]:
    """Gather everything that `results.json` holds, ready for `json.dumps`.

    Args:
        environment: versions and machine.
        data: name, sha256, shipped, train, test (rows) and quick.
        studies: the studies as they were run, by name.
        runs_by_study: their runs; a study without runs is left out.
        planned_runs: how many runs there were to be; None if these are all.

    Returns:
        format, the version of this form; environment, data, finished, planned_runs, studies (in
        the registry's order), effects, misses and conclusion, as JSON gives them back; see
        `_io.json.plain`.
    """
    order = {name: place for place, name in enumerate(STUDIES)}
    names = sorted(
        (name for name in studies if runs_by_study.get(name)),
        key=lambda name: order.get(name, len(order)),
    )
    ran = {name: sorted(runs_by_study[name], key=lambda run: run.seed) for name in names}
    caveat = not_comparable(data)
    summaries = {
        name: summarize(studies[name], ran[name], comparable=caveat is None) for name in names
    }
    found = effects(ran, studies=studies, train_rows=data["train"])
    done = sum(len(runs) for runs in ran.values())
    planned = done if planned_runs is None else planned_runs
    return plain(
        {
            "format": _FORMAT,
            "environment": environment,
            "data": data,
            "finished": done >= planned,
            "planned_runs": planned,
            "studies": [
                {
                    "name": name,
                    "title": studies[name].title,
                    "source": studies[name].source,
                    "settings": asdict(studies[name].settings),
                    "steps": steps_per_epoch(studies[name].settings, data["train"]),
                    "published": asdict(published)
                    if (published := studies[name].published)
                    else None,
                    "runs": [asdict(run) for run in ran[name]],
                    "summary": summaries[name],
                }
                for name in names
            ],
            "effects": found,
            "misses": misses(summaries, ran, studies, margin=MARGIN),
            "conclusion": conclusion(found, caveat=caveat),
        },
        digits=6,
    )


def caveats(results: Mapping[str, Any]) -> list[str]:
    """Say what keeps the results from being the whole: other data, or runs that are missing.

    Example:
        >>> caveats({"finished": True, "data": {"name": "MNIST", "quick": False}})
        []
    """
    found = []
    caveat = not_comparable(results["data"])
    if caveat is not None:
        verb = "They are" if caveat.startswith("runs") else "It is"
        found.append(
            f"{caveat[0].upper()}{caveat[1:]}. {verb} not comparable with the published figures, "
            f"which stand beside ours without a verdict."
        )
    if not results["finished"]:
        done = sum(len(study["runs"]) for study in results["studies"])
        found.append(f"Not finished: {done} of {results['planned_runs']} runs.")
    return found


def agreement(results: Mapping[str, Any]) -> str:
    """Say what the marks mean, and how many published figures have the good one."""
    verdicts = [
        figures["within"]
        for study in results["studies"]
        for figures in study["summary"].values()
        if figures["within"] is not None
    ]
    if not verdicts:
        return ""
    return (
        f"✓ {sum(verdicts)} of {count(len(verdicts), 'published figure')} within our seeds' range "
        f"widened by {MARGIN} points."
    )


def effect_groups(effects: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group effects of the same change by its name: 'batches an epoch: 100 of 916 → all 916'."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for effect in effects:
        change = f"{effect['factor']}: {effect['from_value']} → {effect['to_value']}"
        groups.setdefault(change, []).append(effect)
    return groups


def count(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun, whose plural has an s unless it is given.

    Example:
        >>> count(1, "seed"), count(3, "seed"), count(3, "batch", "batches")
        ('1 seed', '3 seeds', '3 batches')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"
