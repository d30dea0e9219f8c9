"""The charts along training: curves of each seed, and the paper's experiment."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from batchnorm_mechanics._io.charts import BLUE, GREY, ORANGE
from batchnorm_mechanics.studies.chart import Chart, color_by_length, of_rows, one_view, tips

_SERIES = {"accuracy": "training", "val_accuracy": "validation"}
_PERCENTILES = ("percentile_15", "percentile_50", "percentile_85")


def _titles(studies: Sequence[Mapping[str, Any]]) -> str:
    """Return the expression that says what the study of a row is, which no row then repeats."""
    return f"({json.dumps({study['name']: study['title'] for study in studies})})[datum.study]"


def _along_training(
    studies: Sequence[Mapping[str, Any]], keys: Sequence[str], name: str
) -> list[dict[str, Any]]:
    """Return what was measured along training, a row for each epoch, with its value by a name.

    There are a thousand rows: what follows from the study's name, `_lines` has the chart compute.
    """
    return [
        {
            "study": study["name"],
            "seed": run["seed"],
            "epoch": epoch,
            "series": _SERIES.get(key, key.removeprefix("percentile_")),
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
    studies: Sequence[Mapping[str, Any]],
    *,
    height: int,
    points: bool = False,
    choice: alt.Parameter | None = None,
    **encoding: Any,
) -> Chart:
    """Draw a line for each seed and series; a choice holds the name of the study to show."""
    steps = json.dumps({study["name"]: study["steps"] for study in studies})
    norms = json.dumps({study["name"]: _with_or_without(study) for study in studies})
    point = alt.OverlayMarkDef(size=15, opacity=0.7) if points else False
    lines = of_rows(rows).mark_line(strokeWidth=1.3, opacity=0.75, point=point)
    lines = lines.encode(detail=["study:N", "seed:N", "series:N"], **encoding)
    lines = lines.transform_calculate(
        **{
            "what it is": _titles(studies),
            "batches": f"toString(({steps})[datum.study])",
            "step": f"datum.epoch * ({steps})[datum.study]",
            "batch norm": f"({norms})[datum.study]",
        }
    )
    if choice is not None:
        lines = lines.add_params(choice).transform_filter(f"datum.study == {choice.name}")
    return one_view(*texts, [lines], height=height)


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
        studies,
        height=300,
        points=True,
        x=alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False)),
        y=_share_axis("validation accuracy"),
        color=color_by_length(studies),
        tooltip=tips("study", "what it is", "seed", "epoch", "step", "share"),
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
        studies,
        height=260,
        points=True,
        choice=alt.param(
            name=f"study{place}",
            value=names[0] if place == 0 else max(studies, key=is_beside_the_first)["name"],
            bind=alt.binding_select(
                options=names,
                labels=[f"{study['name']}: {study['title']}" for study in studies],
                name="Study ",
            ),
        ),
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d")),
        y=_share_axis("accuracy", domain=[_range(rows, "share")[0], 1], nice=True),
        color=alt.Color(
            "series:N",
            scale=alt.Scale(domain=list(_SERIES.values()), range=[BLUE, ORANGE]),
            legend=alt.Legend(title=None),
        ),
        tooltip=tips("seed", "epoch", "series", "share"),
    )


def paper_accuracy(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw test accuracy along training, as the paper's figure 1(a)."""
    domain = ["with", "without"]
    legend = alt.Legend(title="batch norm")
    colors = alt.Scale(domain=domain, range=[BLUE, ORANGE])
    dashes = alt.Scale(domain=domain, range=[[1, 0], [6, 4]])
    return _lines(
        (
            "paper",
            "Test accuracy along training",
            "Test accuracy of each seed against the training step, with and without batch norm.",
        ),
        _along_training(studies, ["test_accuracy"], "share"),
        studies,
        height=280,
        x=_step_axis(),
        y=_share_axis("test accuracy"),
        color=alt.Color("batch norm:N", legend=legend, scale=colors),
        strokeDash=alt.StrokeDash("batch norm:N", legend=legend, scale=dashes),
        tooltip=tips("study", "what it is", "seed", "step", "share"),
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
        [study],
        height=220,
        x=_step_axis(),
        y=alt.Y("percentile:Q", title="input of one sigmoid", scale=scale),
        color=alt.value(BLUE if word == "with" else ORANGE),
        strokeDash=alt.StrokeDash(
            "series:N",
            scale=alt.Scale(domain=["15", "50", "85"], range=[[2, 3], [1, 0], [7, 4]]),
            legend=alt.Legend(title="percentile", symbolStrokeColor=GREY),
        ),
        tooltip=tips("step", "series", "percentile"),
    )
