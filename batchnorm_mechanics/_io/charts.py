"""The look of every chart of ours: in the report, the notebooks and the site.

The colours are of Okabe and Ito's palette, can be told apart by everyone and are legible on white
and on black. Installed, the theme goes by name: `altair.theme.enable("batchnorm_mechanics")`.
"""

from typing import Any

BLUE, ORANGE, GREEN, GREY = "#3b8fd6", "#d55e00", "#009e73", "#8c8c8c"


def theme(ink: str = GREY, soft: str = GREY, line: str = GREY) -> dict[str, Any]:
    """Return the theme, as Altair takes one: nothing behind the marks, lines that recede.

    Args:
        ink: colour of names and of marks in the style `ink` (an outline) and `ink-fill`.
        soft: of titles beside the chart.
        line: of axes. A page of ours gives its own variables, such as `var(--ink)`, which follow
            it when it turns dark; where the page is not known, grey is legible on all.

    Example:
        >>> import altair as alt
        >>> with alt.theme.enable("batchnorm_mechanics"):
        ...     alt.theme.get()()["config"]["range"]["category"][0]
        '#3b8fd6'
    """
    text = {
        "labelColor": ink,
        "labelFontSize": 12,
        "titleColor": soft,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "config": {
            "background": None,
            "view": {"stroke": None, "continuousWidth": 480, "continuousHeight": 240},
            "font": 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif',
            "axis": {
                **text,
                "domainColor": line,
                "gridColor": line,
                "gridOpacity": 0.25 if line == GREY else 1,
                "labelOverlap": True,
                "labelSeparation": 4,
                "tickColor": line,
            },
            "header": text,
            "legend": {**text, "orient": "top", "titleOrient": "left"},
            "title": {"anchor": "start", "color": ink, "fontSize": 14, "fontWeight": 600},
            "line": {"strokeWidth": 2},
            "range": {"category": [BLUE, ORANGE, GREEN, GREY]},
            "mark": {"color": BLUE},
            "text": {"color": ink, "fontSize": 12},
            "style": {
                "ink": {"stroke": ink, "color": ink, "filled": False, "strokeWidth": 2},
                "ink-fill": {"fill": ink, "color": ink},
            },
        }
    }
