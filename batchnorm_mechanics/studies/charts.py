"""The charts of the report.

Each chart is one view as wide as the page gives it: Vega-Lite can fit a single view to its
container, but not several side by side. How they look is the theme's, which who shows them adds.

Altair takes a second to import: whoever must start fast imports this module when it draws.
"""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from batchnorm_mechanics._io.charts import BLUE, GREEN, GREY, ORANGE
from batchnorm_mechanics.studies.summary import MARGIN, count
from batchnorm_mechanics.studies.verdicts import Verdict, headlines

_METRIC_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}
_SERIES = {"accuracy": "training", "val_accuracy": "validation"}
_PERCENTILES = ("percentile_15", "percentile_50", "percentile_85")
_LINE_BREAK = "|"
# How many characters a line holds on the narrowest page, and its height.
_BOLD, _PLAIN, _LINE = 36, 42, 14
_KINDS = {"changes it": BLUE, "no effect shown": GREY, "cannot be told": ORANGE}

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
    return alt.Color("batches:N", scale=scale, legend=alt.Legend(title="batches an epoch"))


def _titles(studies: Sequence[Mapping[str, Any]]) -> str:
    """Return the expression that says what the study of a row is, which no row then repeats."""
    return f"({json.dumps({study['name']: study['title'] for study in studies})})[datum.study]"


@dataclass(frozen=True)
class _Rows:
    """Rows with their names, and what each is, above them: at a side a narrow page has no room.

    Attributes:
        names: of the rows.
        y: where the marks of a row are, of whatever has its `name`.
        offset: how far below the middle of its row a mark stands.
        layers: the names.
        height: of all rows.
    """

    names: Sequence[str]
    y: alt.Y
    offset: float
    layers: list[alt.Chart]
    height: int

    @classmethod
    def of(cls, about: Mapping[str, Iterable[str]]) -> "_Rows":
        """Lay out rows by their names, in their order, each with the lines that are about it."""
        heads = {name: _wrapped([name], _BOLD) for name in about}
        bodies = {name: _wrapped(texts, _PLAIN) for name, texts in about.items()}
        most = max((len(heads[name] + bodies[name]) for name in about), default=0)
        step = _LINE * most + 30
        y = alt.Y("name:N", sort=list(about), axis=None)
        # The lines of the other text are blank, so that each is a single mark; empty ones and
        # spaces would take no height in SVG.
        texts = _of(
            [
                {
                    "name": name,
                    "head": _LINE_BREAK.join(heads[name]),
                    "body": _LINE_BREAK.join(
                        [*("\N{NO-BREAK SPACE}" for _ in heads[name]), *bodies[name]]
                    ),
                }
                for name in about
            ]
        ).encode(y=y, x=alt.value(0))
        top = {"align": "left", "baseline": "top", "lineBreak": _LINE_BREAK, "lineHeight": _LINE}
        return cls(
            list(about),
            y,
            step / 2 - 14,
            [
                texts.mark_text(**top, dy=4 - step / 2, fontWeight=600).encode(text="head:N"),
                texts.mark_text(**top, dy=4 - step / 2).encode(text="body:N"),
            ],
            step * len(about) + 10,
        )

    def zero(self, x: Mapping[str, Any]) -> alt.Chart:
        """Draw a mark at zero in each row; a line through all would cross the names."""
        return (
            _of([{"name": name, "zero": 0} for name in self.names])
            .mark_tick(style="ink-fill", size=20, thickness=2, yOffset=self.offset)
            .encode(y=self.y, x=alt.X("zero:Q", **x))
        )


def _wrapped(texts: Iterable[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, width, break_on_hyphens=False)]


def conclusions(found: Sequence[Verdict]) -> Chart:
    """Draw what each change did, beside a mark at no effect: a bar for each interval."""
    rows = _Rows.of({verdict.change: [f"{verdict.points}: {verdict.kind}"] for verdict in found})
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
    shown = _tips("from", "to", "difference", "low", "high", "seeds")
    layers = [
        *rows.layers,
        rows.zero(x),
        _of([row for row in effects if row["low"] is not None])
        .mark_bar(height=14, opacity=0.4, cornerRadius=3, yOffset=rows.offset)
        .encode(y=rows.y, x=alt.X("low:Q", **x), x2="high:Q", color=color, tooltip=shown),
        _of(effects)
        .mark_circle(size=60, opacity=1, yOffset=rows.offset)
        .encode(y=rows.y, x=alt.X("difference:Q", **x), color=color, tooltip=shown),
    ]
    return _one_view(
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
    named = _Rows.of({study["name"]: [study["title"]] for study in studies})
    x = {
        "title": "accuracy, %",
        "scale": alt.Scale(zero=False, nice=True),
        "axis": alt.Axis(tickCount=6),
    }
    below = {"yOffset": named.offset}
    color = _color_by_length(studies)
    layers = [
        *named.layers,
        _of(rows)
        .mark_tick(thickness=3, size=20, opacity=1, **below)
        .encode(y=named.y, x=alt.X("mean:Q", **x), color=color, tooltip=_tips("name", "mean")),
        _of(seeds)
        .mark_circle(size=45, opacity=0.55, **below)
        .encode(
            y=named.y,
            x=alt.X("accuracy:Q", **x),
            color=color,
            tooltip=_tips("study", "seed", "accuracy"),
        ),
        _of(published)
        .mark_point(shape="diamond", size=110, style="ink", **below)
        .encode(y=named.y, x=alt.X("published:Q", **x), tooltip=_tips("name", "published")),
    ]
    name = _METRIC_NAMES[metric]
    return _one_view(
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
    named = _Rows.of(about)
    x = {"title": "ours − published, points", "axis": alt.Axis(tickCount=8)}
    verdict = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=["inside", "outside"], range=[BLUE, ORANGE]),
        legend=alt.Legend(title="published figure"),
    )
    shown = _tips("name", "published", "mean", "verdict")
    layers = [
        *named.layers,
        _of(rows)
        .mark_bar(height=14, opacity=0.35, cornerRadius=3, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("low:Q", **x), x2="high:Q", color=verdict, tooltip=shown),
        named.zero(x),
        _of(seeds)
        .mark_circle(size=36, style="ink-fill", opacity=0.8, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("distance:Q", **x), tooltip=_tips("seed", "distance")),
    ]
    outside = [row["name"] for row in rows if row["verdict"] == "outside"]
    return _one_view(
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
    named = _Rows.of(
        {
            row["name"]: [titles[effect["from"]], f"→ {titles[effect['to']]}"]
            for row, effect in zip(rows, effects, strict=True)
        }
    )
    x = {"title": "change in test accuracy, points", "axis": alt.Axis(tickCount=5)}
    shown = _tips("factor", "difference", "low", "high", "seeds")
    layers = [
        *named.layers,
        named.zero(x),
        _of([row for row in rows if row["low"] is not None])
        .mark_rule(strokeWidth=3, color=BLUE, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("low:Q", **x), x2="high:Q", tooltip=shown),
        _of(rows)
        .mark_circle(size=90, color=BLUE, opacity=1, yOffset=named.offset)
        .encode(y=named.y, x=alt.X("difference:Q", **x), tooltip=shown),
    ]
    return _one_view(
        "effects",
        "Effect on test accuracy, with 95% intervals",
        f"{count(len(rows), 'effect')} with 95% intervals and a mark at zero; the table of effects "
        "has the same numbers.",
        layers,
        height=named.height,
    )


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
    lines = _of(rows).mark_line(strokeWidth=1.3, opacity=0.75, point=point)
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
        studies,
        height=300,
        points=True,
        x=alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False)),
        y=_share_axis("validation accuracy"),
        color=_color_by_length(studies),
        tooltip=_tips("study", "what it is", "seed", "epoch", "step", "share"),
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
        tooltip=_tips("seed", "epoch", "series", "share"),
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
        tooltip=_tips("study", "what it is", "seed", "step", "share"),
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
        tooltip=_tips("step", "series", "percentile"),
    )
