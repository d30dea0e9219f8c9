"""The look of every chart of ours: in the report, the notebooks and the site.

The colours are of Okabe and Ito's palette, can be told apart by everyone and are legible on white
and on black. Installed, the theme goes by name: `altair.theme.enable("batchnorm_mechanics")`.
"""

from typing import Any

BLUE, ORANGE, GREEN, GREY = "#3b8fd6", "#d55e00", "#009e73", "#8c8c8c"


def theme() -> dict[str, Any]:
    """Return the theme, as Altair takes one: nothing behind the marks, lines that recede.

    Example:
        >>> import altair as alt
        >>> with alt.theme.enable("batchnorm_mechanics"):
        ...     alt.theme.get()()["config"]["range"]["category"][0]
        '#3b8fd6'
    """
    return {
        "config": {
            "background": None,
            "view": {"stroke": None, "continuousWidth": 480, "continuousHeight": 240},
            "font": 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif',
            "axis": {
                "domainColor": GREY,
                "gridColor": GREY,
                "gridOpacity": 0.25,
                "labelColor": GREY,
                "labelFontSize": 12,
                "tickColor": GREY,
                "titleColor": GREY,
                "titleFontSize": 12,
                "titleFontWeight": "normal",
            },
            "header": {"labelColor": GREY, "labelFontSize": 12, "titleColor": GREY},
            "legend": {"labelColor": GREY, "labelFontSize": 12, "titleColor": GREY},
            "title": {"anchor": "start", "color": GREY, "fontSize": 14, "fontWeight": 600},
            "line": {"strokeWidth": 2},
            "range": {"category": [BLUE, ORANGE, GREEN, GREY]},
            "mark": {"color": BLUE},
        }
    }
