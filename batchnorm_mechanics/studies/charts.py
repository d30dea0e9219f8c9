"""What the charts of the report have in common.

Each chart is one view as wide as the page gives it: Vega-Lite can fit a single view to its
container, but not several side by side. The colours are of Okabe and Ito's palette, can be told
apart by everyone and are legible on white and on black; what must follow the page (ink, text) is
styled by it.

Altair takes a second to import: whoever must start fast imports this module when it draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

BLUE, ORANGE, GREEN, GREY = "#3b8fd6", "#d55e00", "#009e73", "#8c8c8c"


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


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Return rows as data that stand in the chart; Altair sets no limit to their number."""
    return alt.InlineData(values=[dict(row) for row in rows])


def one_view(
    section: str, title: str, description: str, layers: Sequence[alt.Chart], *, height: int
) -> Chart:
    """Return the layers as a chart that fits its container."""
    chart = alt.layer(
        *layers, description=description, width="container", height=height, autosize="fit-x"
    )
    return Chart(section, title, description, chart.to_dict())


def steps_label(study: Mapping[str, Any]) -> str:
    """Say how many steps an epoch of a study had."""
    return str(study["steps"])


def steps_color(studies: Sequence[Mapping[str, Any]]) -> alt.Color:
    """Colour by steps an epoch, the fewest first."""
    labels = {study["steps"]: steps_label(study) for study in studies}
    domain = [labels[steps] for steps in sorted(labels)]
    scale = alt.Scale(domain=domain, range=[ORANGE, BLUE, GREEN, GREY][: len(domain)])
    return alt.Color(
        "steps:N", scale=scale, legend=alt.Legend(title="steps an epoch", orient="top")
    )


def tips(*fields: str) -> list[alt.Tooltip]:
    """Return what to show of a mark under the pointer."""
    names = {"study", "change", "factor", "series", "verdict"}
    whole = {"seed", "seeds", "epoch", "step"}
    return [
        alt.Tooltip(f"{field}:N")
        if field in names
        else alt.Tooltip(f"{field}:Q", format="d" if field in whole else ".2f")
        for field in fields
    ]
