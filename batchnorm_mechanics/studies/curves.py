"""Charts along training: learning curves, and the paper's experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from batchnorm_mechanics.studies.charts import (
    BLUE,
    GREY,
    ORANGE,
    Chart,
    inline,
    one_view,
    steps_color,
    steps_label,
    tips,
)


def _curve_rows(study: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "study": study["name"],
            "seed": run["seed"],
            "epoch": epoch,
            "step": epoch * study["steps"],
            "series": key,
            "value": value,
        }
        for run in study["runs"]
        for key in keys
        for epoch, value in enumerate(run["history"].get(key, ()), 1)
    ]


def by_step(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw validation accuracy against steps, which an epoch's length does not change."""
    rows = [
        {**row, "steps": steps_label(study), "line": f"{study['name']} {row['seed']}"}
        for study in studies
        for row in _curve_rows(study, ["val_accuracy"])
    ]
    lines = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=1, opacity=0.6, point={"size": 14, "opacity": 0.6})
        .encode(
            x=alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y(
                "value:Q",
                title="validation accuracy",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(format=".0%"),
            ),
            detail="line:N",
            color=steps_color(studies),
            tooltip=[
                *tips("study", "seed", "epoch", "step"),
                alt.Tooltip("value:Q", format=".2%"),
            ],
        )
    )
    return one_view(
        "by-step",
        "Validation accuracy against the training step",
        "Validation accuracy of every seed of every study against the number of training steps, "
        "coloured by steps an epoch.",
        [lines],
        height=300,
    )


_SERIES = {"accuracy": "training", "val_accuracy": "validation"}


def learning_curves(studies: Sequence[Mapping[str, Any]], place: int) -> Chart:
    """Draw the learning curves of a study to choose, a thin line for each seed."""
    names = [study["name"] for study in studies]
    rows = [
        {**row, "series": _SERIES[row["series"]], "line": f"{row['seed']} {row['series']}"}
        for study in studies
        for row in _curve_rows(study, list(_SERIES))
    ]
    values = [row["value"] for row in rows if isinstance(row["value"], float)] or [0.0]
    # The first study, and beside it the first that differs in the length of its epochs alone.
    first = studies[0]
    length = len(first["runs"][0]["history"].get("accuracy", ()))
    other = next(
        (
            study["name"]
            for study in studies
            if study["steps"] != first["steps"]
            and len(study["runs"][0]["history"].get("accuracy", ())) == length
        ),
        names[-1],
    )
    chosen = alt.param(
        name=f"study{place}",
        value=names[0] if place == 0 else other,
        bind=alt.binding_select(options=names, name="Study "),
    )
    lines = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=1.3, opacity=0.75, point={"size": 16, "opacity": 0.75})
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y(
                "value:Q",
                title="accuracy",
                scale=alt.Scale(domain=[min(values), 1], nice=True, zero=False),
                axis=alt.Axis(format=".0%"),
            ),
            detail="line:N",
            color=alt.Color(
                "series:N",
                scale=alt.Scale(domain=list(_SERIES.values()), range=[BLUE, ORANGE]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=[*tips("seed", "epoch", "series"), alt.Tooltip("value:Q", format=".2%")],
        )
        .transform_filter(f"datum.study == study{place}")
    )
    return one_view(
        "curves",
        "One study" if place == 0 else "Beside another",
        "Training and validation accuracy of each seed by epoch, for a study to choose from "
        f"{len(names)}.",
        [lines.add_params(chosen)],
        height=260,
    )


def paper_accuracy(studies: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw test accuracy along training, as the paper's figure 1(a)."""
    rows = [
        {**row, "batch norm": _with_or_without(study), "line": f"{study['name']} {row['seed']}"}
        for study in studies
        for row in _curve_rows(study, ["test_accuracy"])
    ]
    domain = ["with", "without"]
    colors = alt.Scale(domain=domain, range=[BLUE, ORANGE])
    dashes = alt.Scale(domain=domain, range=[[1, 0], [6, 4]])
    legend = alt.Legend(title="batch norm", orient="top")
    lines = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=1.3, opacity=0.8)
        .encode(
            x=alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=6)),
            y=alt.Y(
                "value:Q",
                title="test accuracy",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(format=".0%"),
            ),
            detail="line:N",
            color=alt.Color("batch norm:N", legend=legend, scale=colors),
            strokeDash=alt.StrokeDash("batch norm:N", legend=legend, scale=dashes),
            tooltip=[*tips("study", "seed", "step"), alt.Tooltip("value:Q", format=".2%")],
        )
    )
    return one_view(
        "paper",
        "Test accuracy along training",
        "Test accuracy of each seed against the training step, with and without batch norm.",
        [lines],
        height=280,
    )


def _with_or_without(study: Mapping[str, Any]) -> str:
    return "without" if study["settings"]["statistics"] == "none" else "with"


def percentiles(study: Mapping[str, Any], paper: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw the percentiles of one sigmoid input of the first seed, as the paper's figure 1(b, c).

    Both panels share their axis, or the steadier one would look as restless as the other.
    """
    keys = [f"percentile_{p}" for p in (15, 50, 85)]
    every = [row["value"] for s in paper for row in _curve_rows(_first_seed(s), keys)]
    shown = [value for value in every if isinstance(value, float)] or [0.0]
    rows = [
        {**row, "series": row["series"].removeprefix("percentile_")}
        for row in _curve_rows(_first_seed(study), keys)
    ]
    word = _with_or_without(study)
    lines = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=2, color=BLUE if word == "with" else ORANGE)
        .encode(
            x=alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=6)),
            y=alt.Y(
                "value:Q",
                title="input of one sigmoid",
                scale=alt.Scale(domain=[min(shown), max(shown)], nice=True, zero=False),
            ),
            strokeDash=alt.StrokeDash(
                "series:N",
                scale=alt.Scale(domain=["15", "50", "85"], range=[[2, 3], [1, 0], [7, 4]]),
                legend=alt.Legend(title="percentile", orient="top", symbolStrokeColor=GREY),
            ),
            tooltip=tips("step", "series", "value"),
        )
    )
    return one_view(
        "percentiles",
        f"{word.capitalize()} batch norm, seed {study['runs'][0]['seed']}",
        f"The 15th, 50th and 85th percentile of one sigmoid input of the last hidden layer along "
        f"training, {word} batch norm.",
        [lines],
        height=220,
    )


def _first_seed(study: Mapping[str, Any]) -> dict[str, Any]:
    return {**study, "runs": study["runs"][:1]}
