"""The picture of a comparison: decibels of each stage, its own and so far, over its floor."""

import json
from typing import Any

from batchnorm_mechanics._io.charts import BLUE, GREY, ORANGE, theme

_COLOURS = {"own": BLUE, "so far": ORANGE}


def picture(found: Any) -> str:
    """Return a chart of the stages as SVG, which holds no script.

    Args:
        found: a `Comparison` with rows.
    """
    # Here: they take a second to import.
    import altair as alt
    import vl_convert

    rows = [
        {"stage": at, "name": " + ".join(row.layers), "series": series, "decibels": value}
        for at, row in enumerate(found.rows, start=1)
        for series, value in (("own", row.own), ("so far", row.inherited))
        if value is not None
    ]
    # Where no stage could be looked at by itself there is but one.
    series = [one for one in _COLOURS if any(row["series"] == one for row in rows)]
    floors = [
        {"stage": at, "decibels": row.floor}
        for at, row in enumerate(found.rows, start=1)
        if row.floor is not None
    ]
    faults = [
        {"stage": at, "decibels": row.own, "name": row.name}
        for at, row in enumerate(found.rows, start=1)
        if row.differs and row.own is not None
    ]
    x = alt.X("stage:Q", title="stage of A", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    y = alt.Y("decibels:Q", title="signal to difference (dB)")
    colour = alt.Color(
        "series:N",
        title=None,
        scale=alt.Scale(domain=series, range=[_COLOURS[one] for one in series]),
    )
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True, strokeWidth=1.5)
        .encode(x=x, y=y, color=colour)
    )
    layers = [lines]
    if floors:
        rule = alt.Chart(alt.Data(values=floors)).mark_line(
            color=GREY, strokeDash=[4, 3], interpolate="step"
        )
        layers.insert(0, rule.encode(x=x, y=y))
    if faults:
        marks = alt.Chart(alt.Data(values=faults)).mark_point(
            shape="cross", size=160, filled=True, color=ORANGE
        )
        names = alt.Chart(alt.Data(values=faults[:1])).mark_text(
            align="left", dx=10, dy=12, color=GREY
        )
        layers += [marks.encode(x=x, y=y), names.encode(x=x, y=y, text="name:N")]
    chart = alt.layer(*layers).properties(width=640, height=280)
    specification = json.loads(chart.to_json())
    specification["config"] = theme()["config"]
    return vl_convert.vegalite_to_svg(specification)
