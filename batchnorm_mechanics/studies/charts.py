"""The charts that compare studies: what changed the accuracy, and ours beside the published."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from batchnorm_mechanics._io.charts import BLUE, GREY, ORANGE
from batchnorm_mechanics.studies.chart import Chart, Rows, color_by_length, of_rows, one_view, tips
from batchnorm_mechanics.studies.summary import MARGIN, count
from batchnorm_mechanics.studies.verdicts import Verdict, headlines

_METRIC_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}
_KINDS = {"changes it": BLUE, "no effect shown": GREY, "cannot be told": ORANGE}


def conclusions(found: Sequence[Verdict]) -> Chart:
    """Draw what each change did, beside a mark at no effect: a bar for each interval."""
    rows = Rows.of({verdict.change: [f"{verdict.points}: {verdict.kind}"] for verdict in found})
    effects = [
        {
            "name": verdict.change,
            "verdict": verdict.kind,
            **{key: effect[key] for key in ("from", "to", "difference", "low", "high", "seeds")},
        }
        for verdict in found
        for effect in verdict.effects
    ]
    x = {"title": "change in test accuracy, points", "axis": alt.Axis(tickCount=7)}
    kinds = [kind for kind in _KINDS if any(verdict.kind == kind for verdict in found)]
    color = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=kinds, range=[_KINDS[kind] for kind in kinds]),
        legend=alt.Legend(title=None),
    )
    shown = tips("from", "to", "difference", "low", "high", "seeds")
    layers = [
        *rows.layers,
        rows.zero(x),
        of_rows([row for row in effects if row["low"] is not None])
        .mark_bar(height=14, opacity=0.4, cornerRadius=3, yOffset=rows.offset)
        .encode(y=rows.y, x=alt.X("low:Q", **x), x2="high:Q", color=color, tooltip=shown),
        of_rows(effects)
        .mark_circle(size=60, opacity=1, yOffset=rows.offset)
        .encode(y=rows.y, x=alt.X("difference:Q", **x), color=color, tooltip=shown),
    ]
    return one_view(
        "conclusion",
        "What changed the test accuracy, and what did not",
        " ".join(f"{begin} {text}" for begin, text in headlines(found)),
        layers,
        height=rows.height,
    )


def accuracies(studies: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """Draw each seed's accuracy, the mean and the published figure, a row for each study."""
    rows = [
        {"name": study["name"], "batches": str(study["steps"]), **study["summary"][metric]}
        for study in studies
    ]
    seeds = [
        {**row, "study": row["name"], "seed": run["seed"], "accuracy": run[metric]}
        for row, study in zip(rows, studies, strict=True)
        for run in study["runs"]
    ]
    published = [row for row in rows if row["published"] is not None]
    named = Rows.of({study["name"]: [study["title"]] for study in studies})
    x = {
        "title": "accuracy, %",
        "scale": alt.Scale(zero=False, nice=True),
        "axis": alt.Axis(tickCount=6),
    }
    below: dict[str, Any] = {"yOffset": named.offset}
    color = color_by_length(studies)
    layers = [
        *named.layers,
        of_rows(rows)
        .mark_tick(thickness=3, size=20, opacity=1, **below)
        .encode(y=named.y, x=alt.X("mean:Q", **x), color=color, tooltip=tips("name", "mean")),
        of_rows(seeds)
        .mark_circle(size=45, opacity=0.55, **below)
        .encode(
            y=named.y,
            x=alt.X("accuracy:Q", **x),
            color=color,
            tooltip=tips("study", "seed", "accuracy"),
        ),
        of_rows(published)
        .mark_point(shape="diamond", size=110, style="ink", **below)
        .encode(y=named.y, x=alt.X("published:Q", **x), tooltip=tips("name", "published")),
    ]
    name = _METRIC_NAMES[metric]
    return one_view(
        "accuracies",
        name,
        f"{name} accuracy of each seed, the mean and the published figure for "
        f"{', '.join(study['name'] for study in studies)}; the table of figures has the same "
        "numbers.",
        layers,
        height=named.height,
    )


def distances(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw how far our seeds and their widened range are from each published figure."""
    rows, seeds, about = [], [], {}
    for study in studies:
        for metric, summary in study["summary"].items():
            if summary["within"] is None:
                continue
            label, published = f"{study['name']}, {metric}", summary["published"]
            about[label] = [study["title"]]
            rows.append(
                {
                    **summary,
                    "name": label,
                    "low": summary["min"] - MARGIN - published,
                    "high": summary["max"] + MARGIN - published,
                    "verdict": "inside" if summary["within"] else "outside",
                }
            )
            seeds += [
                {"name": label, "seed": run["seed"], "distance": run[metric] - published}
                for run in study["runs"]
            ]
    named = Rows.of(about)
    x = {"title": "ours − published, points", "axis": alt.Axis(tickCount=8)}
    verdict = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=["inside", "outside"], range=[BLUE, ORANGE]),
        legend=alt.Legend(title="published figure"),
    )
    shown = tips("name", "published", "mean", "verdict")
    layers = [
        *named.layers,
        of_rows(rows)
        .mark_bar(height=14, opacity=0.35, cornerRadius=3, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("low:Q", **x), x2="high:Q", color=verdict, tooltip=shown),
        named.zero(x),
        of_rows(seeds)
        .mark_circle(size=36, style="ink-fill", opacity=0.8, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("distance:Q", **x), tooltip=tips("seed", "distance")),
    ]
    outside = [row["name"] for row in rows if row["verdict"] == "outside"]
    return one_view(
        "distances",
        "Distance from the published figure",
        f"Our seeds' range widened by {MARGIN} points, beside each of {len(rows)} published "
        f"figures. Outside: {'; '.join(outside) or 'none'}.",
        layers,
        height=named.height,
    )


def effect_sizes(
    effects: Sequence[Mapping[str, Any]], studies: Sequence[Mapping[str, Any]]
) -> Chart:
    """Draw each comparison of two studies with its interval, beside a mark at no effect."""
    titles = {study["name"]: study["title"] for study in studies}
    rows = [
        {
            "name": f"{effect['from']} → {effect['to']}",
            **{key: effect[key] for key in ("factor", "difference", "low", "high", "seeds")},
        }
        for effect in effects
    ]
    named = Rows.of(
        {
            row["name"]: [titles[effect["from"]], f"→ {titles[effect['to']]}"]
            for row, effect in zip(rows, effects, strict=True)
        }
    )
    x = {"title": "change in test accuracy, points", "axis": alt.Axis(tickCount=5)}
    shown = tips("factor", "difference", "low", "high", "seeds")
    layers = [
        *named.layers,
        named.zero(x),
        of_rows([row for row in rows if row["low"] is not None])
        .mark_rule(strokeWidth=3, color=BLUE, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("low:Q", **x), x2="high:Q", tooltip=shown),
        of_rows(rows)
        .mark_circle(size=90, color=BLUE, opacity=1, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("difference:Q", **x), tooltip=shown),
    ]
    return one_view(
        "effects",
        "Effect on test accuracy, with 95% intervals",
        f"{count(len(rows), 'effect')} with 95% intervals and a mark at zero; the table of effects "
        "has the same numbers.",
        layers,
        height=named.height,
    )
