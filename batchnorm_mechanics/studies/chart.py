"""What all charts of the report are made of: one view in the width of the page, rows with names.

Vega-Lite can fit a single view to its container, but not several side by side. How charts look is
the theme's, which who shows them adds.

Altair takes a second to import: whoever must start fast imports these modules when it draws.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from batchnorm_mechanics._io.charts import BLUE, GREEN, GREY, ORANGE

_LINE_BREAK = "|"
# How many characters a line holds on the narrowest page, and its height.
_BOLD, _PLAIN, _LINE = 36, 42, 14

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


def of_rows(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Begin a chart of rows that stand in it; Altair sets no limit to their number."""
    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))


def one_view(
    section: str, title: str, description: str, layers: Sequence[alt.Chart], *, height: int
) -> Chart:
    """Return the layers as a chart that fits its container."""
    chart = alt.layer(
        *layers, description=description, width="container", height=height, autosize="fit-x"
    )
    return Chart(section, title, description, chart.to_dict())


def tips(*fields: str) -> list[alt.Tooltip]:
    """Return what to show of a mark under the pointer."""
    return [
        alt.Tooltip(f"{field}:Q", format=_FORMATS[field])
        if field in _FORMATS
        else alt.Tooltip(f"{field}:N")
        for field in fields
    ]


def color_by_length(studies: Sequence[Mapping[str, Any]]) -> alt.Color:
    """Colour by batches an epoch, the fewest first."""
    domain = [str(steps) for steps in sorted({study["steps"] for study in studies})]
    scale = alt.Scale(domain=domain, range=[ORANGE, BLUE, GREEN, GREY][: len(domain)])
    return alt.Color("batches:N", scale=scale, legend=alt.Legend(title="batches an epoch"))


@dataclass(frozen=True)
class Rows:
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
    def of(cls, about: Mapping[str, Iterable[str]]) -> "Rows":
        """Lay out rows by their names, in their order, each with the lines that are about it."""
        heads = {name: _wrapped([name], _BOLD) for name in about}
        bodies = {name: _wrapped(texts, _PLAIN) for name, texts in about.items()}
        most = max((len(heads[name] + bodies[name]) for name in about), default=0)
        step = _LINE * most + 30
        y = alt.Y("name:N", sort=list(about), axis=None)
        top: dict[str, Any] = {
            "align": "left",
            "baseline": "top",
            "lineBreak": _LINE_BREAK,
            "lineHeight": _LINE,
        }

        def written(lines: Mapping[str, Sequence[str]], below: int, **mark: Any) -> alt.Chart:
            rows = [{"name": name, "text": _LINE_BREAK.join(lines[name])} for name in lines]
            texts = of_rows(rows).mark_text(**top, dy=4 - step / 2 + below * _LINE, **mark)
            return texts.encode(y=y, x=alt.value(0), text="text:N")

        # A mark has one distance from the middle: what is below two lines of head is another one.
        below = sorted({len(lines) for lines in heads.values()})
        layers = [written(heads, 0, fontWeight=600)]
        for count in below:
            names = [name for name in about if len(heads[name]) == count]
            layers.append(written({name: bodies[name] for name in names}, count))
        return cls(list(about), y, step / 2 - 14, layers, step * len(about) + 10)

    def zero(self, x: Mapping[str, Any]) -> alt.Chart:
        """Draw a mark at zero in each row; a line through all would cross the names."""
        return (
            of_rows([{"name": name, "zero": 0} for name in self.names])
            .mark_tick(style="ink-fill", size=20, thickness=2, yOffset=self.offset)
            .encode(y=self.y, x=alt.X("zero:Q", **x))
        )


def _wrapped(texts: Iterable[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, width, break_on_hyphens=False)]
