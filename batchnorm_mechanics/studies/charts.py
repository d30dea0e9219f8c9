"""The charts of the report.

Each chart is one view as wide as the page gives it: Vega-Lite can fit a single view to its
container, but not several side by side. What must follow the page (ink, text) is styled by it.

Altair takes a second to import: whoever must start fast imports this module when it draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from batchnorm_mechanics._io.charts import BLUE, GREEN, GREY, ORANGE
from batchnorm_mechanics.studies.summary import MARGIN, count

_METRIC_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}
_SERIES = {"accuracy": "training", "val_accuracy": "validation"}
_PERCENTILES = ("percentile_15", "percentile_50", "percentile_85")
_LINE_BREAK = "|"

# How the pointer's tip writes a field; others are names.
_FORMATS = {
    **dict.fromkeys(("seed", "seeds", "epoch", "step"), "d"),
    **dict.fromkeys(("accuracy", "mean", "published", "distance"), ".2f"),
    **dict.fromkeys(("difference", "low", "high", "percentile"), ".2f"),
    "share": ".2%",
}


@dataclass(frozen=True)
class Chart:
    """A chart for the page.

    Attributes:
        section: the part of the page it belongs to.
        title: what it shows.
        description: the same for those who cannot see it.
        spec: Vega-Lite.
    """

    section: str
    title: str
    description: str
    spec: dict[str, Any]


def _of(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Begin a chart of rows that stand in it; Altair sets no limit to their number."""
    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))


def _one_view(
    section: str, title: str, description: str, layers: Sequence[alt.Chart], *, height: int
) -> Chart:
    """Return the layers as a chart that fits its container."""
    chart = alt.layer(
        *layers, description=description, width="container", height=height, autosize="fit-x"
    )
    return Chart(section, title, description, chart.to_dict())


def _tips(*fields: str) -> list[alt.Tooltip]:
    """Return what to show of a mark under the pointer."""
    return [
        alt.Tooltip(f"{field}:Q", format=_FORMATS[field])
        if field in _FORMATS
        else alt.Tooltip(f"{field}:N")
        for field in fields
    ]


def _color_by_length(studies: Sequence[Mapping[str, Any]]) -> alt.Color:
    """Colour by batches an epoch, the fewest first."""
    domain = [str(steps) for steps in sorted({study["steps"] for study in studies})]
    scale = alt.Scale(domain=domain, range=[ORANGE, BLUE, GREEN, GREY][: len(domain)])
    return alt.Color(
        "batches:N", scale=scale, legend=alt.Legend(title="batches an epoch", orient="top")
    )


def _row_axis(field: str, order: Sequence[str], *, width: int) -> alt.Y:
    """Return an axis of names, in their order."""
    return alt.Y(
        f"{field}:N", sort=list(order), title=None, axis=alt.Axis(grid=True, labelLimit=width)
    )


def accuracies(studies: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """Draw each seed's accuracy, the mean and the published figure, a row for each study."""
    rows = [
        {"study": study["name"], "batches": str(study["steps"]), **study["summary"][metric]}
        for study in studies
    ]
    seeds = [
        {**row, "seed": run["seed"], "accuracy": run[metric]}
        for row, study in zip(rows, studies, strict=True)
        for run in study["runs"]
    ]
    published = [row for row in rows if row["published"] is not None]
    names = [study["name"] for study in studies]
    y = _row_axis("study", names, width=140)
    x = {
        "title": "accuracy, %",
        "scale": alt.Scale(zero=False, nice=True),
        "axis": alt.Axis(tickCount=6),
    }
    color = _color_by_length(studies)
    layers = [
        _of(rows)
        .mark_tick(thickness=3, size=20, opacity=1)
        .encode(y=y, x=alt.X("mean:Q", **x), color=color, tooltip=_tips("study", "mean")),
        _of(seeds)
        .mark_circle(size=45, opacity=0.55)
        .encode(
            y=y, x=alt.X("accuracy:Q", **x), color=color, tooltip=_tips("study", "seed", "accuracy")
        ),
        _of(published)
        .mark_point(shape="diamond", size=110, style="ink")
        .encode(y=y, x=alt.X("published:Q", **x), tooltip=_tips("study", "published")),
    ]
    name = _METRIC_NAMES[metric]
    return _one_view(
        "accuracies",
        name,
        f"{name} accuracy of each seed, the mean and the published figure for "
        f"{', '.join(names)}; the table of figures has the same numbers.",
        layers,
        height=22 * len(studies) + 10,
    )


def distances(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw how far our seeds and their widened range are from each published figure."""
    rows, seeds = [], []
    for study in studies:
        for metric, summary in study["summary"].items():
            if summary["within"] is None:
                continue
            label, published = f"{study['name']}, {metric}", summary["published"]
            rows.append(
                {
                    **summary,
                    "label": label,
                    "low": summary["min"] - MARGIN - published,
                    "high": summary["max"] + MARGIN - published,
                    "verdict": "inside" if summary["within"] else "outside",
                }
            )
            seeds += [
                {"label": label, "seed": run["seed"], "distance": run[metric] - published}
                for run in study["runs"]
            ]
    y = _row_axis("label", [row["label"] for row in rows], width=170)
    x = {"title": "ours − published, points", "axis": alt.Axis(tickCount=8)}
    verdict = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=["inside", "outside"], range=[BLUE, ORANGE]),
        legend=alt.Legend(title="published figure", orient="top"),
    )
    shown = _tips("published", "mean", "verdict")
    layers = [
        _of(rows)
        .mark_bar(height=14, opacity=0.35, cornerRadius=3)
        .encode(y=y, x=alt.X("low:Q", **x), x2="high:Q", color=verdict, tooltip=shown),
        _of([{"zero": 0}]).mark_rule(style="ink", strokeWidth=2).encode(x="zero:Q"),
        _of(seeds)
        .mark_circle(size=36, style="ink-fill", opacity=0.8)
        .encode(y=y, x=alt.X("distance:Q", **x), tooltip=_tips("seed", "distance")),
    ]
    outside = [row["label"] for row in rows if row["verdict"] == "outside"]
    return _one_view(
        "distances",
        "Distance from the published figure",
        f"Our seeds' range widened by {MARGIN} points, beside each of {len(rows)} published "
        f"figures. Outside: {'; '.join(outside) or 'none'}.",
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
            f"{_LINE_BREAK}{effect['from']} → {effect['to']}",
            "zero": 0,
        }
        for effect in effects
    ]
    y = alt.Y("change:N", sort=[row["change"] for row in rows], axis=None)
    x = {"title": "change in test accuracy, points", "axis": alt.Axis(tickCount=5)}
    shown = _tips("factor", "difference", "low", "high", "seeds")
    layers = [
        _of(rows)
        .mark_text(align="left", baseline="bottom", dy=-9, fontSize=11, lineBreak=_LINE_BREAK)
        .encode(y=y, x=alt.value(0), text="change:N"),
        _of(rows)
        .mark_tick(style="ink-fill", orient="vertical", size=16, thickness=2, yOffset=13)
        .encode(y=y, x=alt.X("zero:Q", **x)),
        _of([row for row in rows if row["low"] is not None])
        .mark_rule(strokeWidth=3, color=BLUE, yOffset=13)
        .encode(y=y, x=alt.X("low:Q", **x), x2="high:Q", tooltip=shown),
        _of(rows)
        .mark_circle(size=90, color=BLUE, opacity=1, yOffset=13)
        .encode(y=y, x=alt.X("difference:Q", **x), tooltip=shown),
    ]
    return _one_view(
        "effects",
        "Effect on test accuracy, with 95% intervals",
        f"{count(len(rows), 'effect')} with 95% intervals and a mark at zero; the table of effects "
        "has the same numbers.",
        layers,
        height=54 * len(rows) + 10,
    )


def _along_training(
    studies: Sequence[Mapping[str, Any]], keys: Sequence[str], name: str
) -> list[dict[str, Any]]:
    """Return what was measured along training, a row for each epoch, with its value by a name."""
    return [
        {
            "study": study["name"],
            "seed": run["seed"],
            "epoch": epoch,
            "step": epoch * study["steps"],
            "batches": str(study["steps"]),
            "batch norm": _with_or_without(study),
            "series": _SERIES.get(key, key.removeprefix("percentile_")),
            "line": f"{study['name']} {run['seed']} {key}",
            name: value,
        }
        for study in studies
        for run in study["runs"]
        for key in keys
        for epoch, value in enumerate(run["history"].get(key, ()), 1)
    ]


def _with_or_without(study: Mapping[str, Any]) -> str:
    return "without" if study["settings"]["statistics"] == "none" else "with"


def _range(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Return the lowest and the highest value, of those that are finite."""
    values = [row[name] for row in rows if isinstance(row[name], float)] or [0.0]
    return min(values), max(values)


def _step_axis() -> alt.X:
    return alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=6))


def _share_axis(title: str, **scale: Any) -> alt.Y:
    return alt.Y(
        "share:Q",
        title=title,
        scale=alt.Scale(zero=False, **scale),
        axis=alt.Axis(format=".0%"),
    )


def _lines(
    texts: tuple[str, str, str],
    rows: Sequence[Mapping[str, Any]],
    *,
    height: int,
    points: bool = False,
    choice: alt.Parameter | None = None,
    **encoding: Any,
) -> Chart:
    """Draw a line for each `line` of the rows; a choice holds the name of the study to show."""
    point = alt.OverlayMarkDef(size=15, opacity=0.7) if points else False
    lines = _of(rows).mark_line(strokeWidth=1.3, opacity=0.75, point=point)
    lines = lines.encode(detail="line:N", **encoding)
    if choice is not None:
        lines = lines.add_params(choice).transform_filter(f"datum.study == {choice.name}")
    return _one_view(*texts, [lines], height=height)


def by_step(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw validation accuracy against steps, which an epoch's length does not change."""
    return _lines(
        (
            "by-step",
            "Validation accuracy against the training step",
            "Validation accuracy of every seed of every study against the number of training "
            "steps, coloured by batches an epoch.",
        ),
        _along_training(studies, ["val_accuracy"], "share"),
        height=300,
        points=True,
        x=alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False)),
        y=_share_axis("validation accuracy"),
        color=_color_by_length(studies),
        tooltip=_tips("study", "seed", "epoch", "step", "share"),
    )


def learning_curves(studies: Sequence[Mapping[str, Any]], place: int) -> Chart:
    """Draw the learning curves of a study to choose, a thin line for each seed."""
    names = [study["name"] for study in studies]
    rows = _along_training(studies, list(_SERIES), "share")

    def is_beside_the_first(study: Mapping[str, Any]) -> tuple[bool, bool]:
        """Prefer one that differs from the first in the length of its epochs alone."""
        steps, epochs = study["steps"], study["settings"]["epochs"]
        differs = steps != studies[0]["steps"] and epochs == studies[0]["settings"]["epochs"]
        return differs, study is not studies[0]

    return _lines(
        (
            "curves",
            "One study" if place == 0 else "Beside another",
            "Training and validation accuracy of each seed by epoch, for a study to choose from "
            f"{len(names)}.",
        ),
        rows,
        height=260,
        points=True,
        choice=alt.param(
            name=f"study{place}",
            value=names[0] if place == 0 else max(studies, key=is_beside_the_first)["name"],
            bind=alt.binding_select(options=names, name="Study "),
        ),
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d")),
        y=_share_axis("accuracy", domain=[_range(rows, "share")[0], 1], nice=True),
        color=alt.Color(
            "series:N",
            scale=alt.Scale(domain=list(_SERIES.values()), range=[BLUE, ORANGE]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=_tips("seed", "epoch", "series", "share"),
    )


def paper_accuracy(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw test accuracy along training, as the paper's figure 1(a)."""
    domain = ["with", "without"]
    legend = alt.Legend(title="batch norm", orient="top")
    colors = alt.Scale(domain=domain, range=[BLUE, ORANGE])
    dashes = alt.Scale(domain=domain, range=[[1, 0], [6, 4]])
    return _lines(
        (
            "paper",
            "Test accuracy along training",
            "Test accuracy of each seed against the training step, with and without batch norm.",
        ),
        _along_training(studies, ["test_accuracy"], "share"),
        height=280,
        x=_step_axis(),
        y=_share_axis("test accuracy"),
        color=alt.Color("batch norm:N", legend=legend, scale=colors),
        strokeDash=alt.StrokeDash("batch norm:N", legend=legend, scale=dashes),
        tooltip=_tips("study", "seed", "step", "share"),
    )


def percentiles(study: Mapping[str, Any], paper: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw the percentiles of one sigmoid input of the first seed, as the paper's figure 1(b, c).

    Both panels share their axis, or the steadier one would look as restless as the other.
    """
    first_seeds = [{**each, "runs": each["runs"][:1]} for each in paper]
    rows = _along_training(first_seeds, _PERCENTILES, "percentile")
    scale = alt.Scale(domain=list(_range(rows, "percentile")), nice=True, zero=False)
    word = _with_or_without(study)
    return _lines(
        (
            "percentiles",
            f"{word.capitalize()} batch norm, seed {study['runs'][0]['seed']}",
            "The 15th, 50th and 85th percentile of one sigmoid input of the last hidden layer "
            f"along training, {word} batch norm.",
        ),
        [row for row in rows if row["study"] == study["name"]],
        height=220,
        x=_step_axis(),
        y=alt.Y("percentile:Q", title="input of one sigmoid", scale=scale),
        color=alt.value(BLUE if word == "with" else ORANGE),
        strokeDash=alt.StrokeDash(
            "series:N",
            scale=alt.Scale(domain=["15", "50", "85"], range=[[2, 3], [1, 0], [7, 4]]),
            legend=alt.Legend(title="percentile", orient="top", symbolStrokeColor=GREY),
        ),
        tooltip=_tips("step", "series", "percentile"),
    )
