"""Charts of figures: ours and the published ones, and the effects."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from batchnorm_mechanics.studies.charts import (
    BLUE,
    ORANGE,
    Chart,
    inline,
    one_view,
    steps_color,
    steps_label,
    tips,
)
from batchnorm_mechanics.studies.summary import MARGIN
from batchnorm_mechanics.studies.wording import count, join

_METRIC_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}
_BREAK = "|"


def accuracies(studies: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """Draw each seed's accuracy, the mean and the published figure, a row for each study."""
    order = [study["name"] for study in studies]
    seeds = [
        {"study": s["name"], "steps": steps_label(s), "seed": r["seed"], "accuracy": r[metric]}
        for s in studies
        for r in s["runs"]
    ]
    means = [
        {"study": s["name"], "steps": steps_label(s), "mean": s["summary"][metric]["mean"]}
        for s in studies
    ]
    published = [
        {"study": s["name"], "published": s["summary"][metric]["published"]}
        for s in studies
        if s["summary"][metric]["published"] is not None
    ]
    y = alt.Y("study:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=140))
    scale = alt.Scale(zero=False, nice=True)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="accuracy, %", scale=scale, axis=alt.Axis(tickCount=6))

    color = steps_color(studies)
    layers = [
        alt.Chart(inline(means))
        .mark_tick(thickness=3, size=20, opacity=1)
        .encode(y=y, x=x("mean"), color=color, tooltip=tips("study", "mean")),
        alt.Chart(inline(seeds))
        .mark_circle(size=45, opacity=0.55)
        .encode(y=y, x=x("accuracy"), color=color, tooltip=tips("study", "seed", "accuracy")),
    ]
    if published:
        layers.append(
            alt.Chart(inline(published))
            .mark_point(shape="diamond", size=110, style="ink")
            .encode(y=y, x=x("published"), tooltip=tips("study", "published"))
        )
    name = _METRIC_NAMES[metric]
    return one_view(
        "accuracies",
        name,
        f"{name} accuracy of each seed, the mean and the published figure for "
        f"{join(order)}; the table of figures has the same numbers.",
        layers,
        height=22 * len(studies) + 10,
    )


def distances(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw how far our seeds and their widened range are from each published figure."""
    rows, seeds = [], []
    for study in studies:
        for metric, figures in study["summary"].items():
            if figures["within"] is None:
                continue
            label = f"{study['name']}, {metric}"
            published = figures["published"]
            rows.append(
                {
                    "label": label,
                    "published": published,
                    "mean": figures["mean"],
                    "low": figures["min"] - MARGIN - published,
                    "high": figures["max"] + MARGIN - published,
                    "verdict": "inside" if figures["within"] else "outside",
                }
            )
            seeds += [
                {"label": label, "seed": run["seed"], "distance": run[metric] - published}
                for run in study["runs"]
            ]
    y = alt.Y(
        "label:N",
        sort=[row["label"] for row in rows],
        title=None,
        axis=alt.Axis(labelLimit=170, grid=True),
    )
    x = {"title": "ours − published, points", "axis": alt.Axis(tickCount=8)}
    layers = [
        alt.Chart(inline(rows))
        .mark_bar(height=14, opacity=0.35, cornerRadius=3)
        .encode(
            y=y,
            x=alt.X("low:Q", **x),
            x2="high:Q",
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=["inside", "outside"], range=[BLUE, ORANGE]),
                legend=alt.Legend(title="published figure", orient="top"),
            ),
            tooltip=tips("published", "mean", "verdict"),
        ),
        alt.Chart(inline([{"zero": 0}])).mark_rule(style="ink", strokeWidth=2).encode(x="zero:Q"),
        alt.Chart(inline(seeds))
        .mark_circle(size=36, style="ink-fill", opacity=0.8)
        .encode(y=y, x=alt.X("distance:Q", **x), tooltip=tips("seed", "distance")),
    ]
    outside = [row["label"] for row in rows if row["verdict"] == "outside"]
    return one_view(
        "distances",
        "Distance from the published figure",
        f"Our seeds' range widened by {MARGIN} points, beside each of {len(rows)} published "
        f"figures. Outside: {join(outside) if outside else 'none'}.",
        layers,
        height=22 * len(rows) + 10,
    )


def effect_sizes(effects: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw each effect with its interval, beside a mark at no effect.

    The labels stand above the rows: at the side of a narrow page they would leave no room.
    """
    rows = [
        {
            **{key: effect[key] for key in ("factor", "difference", "low", "high", "seeds")},
            "change": f"{effect['factor']}: {effect['from_value']} → {effect['to_value']}"
            f"{_BREAK}{effect['from']} → {effect['to']}",
            "zero": 0,
        }
        for effect in effects
    ]
    y = alt.Y("change:N", sort=[row["change"] for row in rows], axis=None)
    x = {"title": "change in test accuracy, points", "axis": alt.Axis(tickCount=5)}
    shown = tips("factor", "difference", "low", "high", "seeds")
    layers = [
        alt.Chart(inline(rows))
        .mark_text(align="left", baseline="bottom", dy=-9, fontSize=11, lineBreak=_BREAK)
        .encode(y=y, x=alt.value(0), text="change:N"),
        alt.Chart(inline(rows))
        .mark_tick(style="ink-fill", orient="vertical", size=16, thickness=2, yOffset=13)
        .encode(y=y, x=alt.X("zero:Q", **x)),
        alt.Chart(inline([row for row in rows if row["low"] is not None]))
        .mark_rule(strokeWidth=3, color=BLUE, yOffset=13)
        .encode(y=y, x=alt.X("low:Q", **x), x2="high:Q", tooltip=shown),
        alt.Chart(inline(rows))
        .mark_circle(size=90, color=BLUE, opacity=1, yOffset=13)
        .encode(y=y, x=alt.X("difference:Q", **x), tooltip=shown),
    ]
    return one_view(
        "effects",
        "Effect on test accuracy, with 95% intervals",
        f"{count(len(rows), 'effect')} with 95% intervals and a mark at zero; the table of effects "
        "has the same numbers.",
        layers,
        height=54 * len(rows) + 10,
    )
