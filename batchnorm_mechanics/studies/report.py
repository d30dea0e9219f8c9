"""The results as one HTML page that needs nothing but a browser.

Jinja, Altair and vl-convert are imported by the functions that need them: the command line must
start fast, and most commands write no report.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.studies.summary import (
    MARGIN,
    METRICS,
    agreement,
    caveats,
    count,
    effect_groups,
)
from batchnorm_mechanics.studies.verdicts import headlines, verdicts

if TYPE_CHECKING:
    from batchnorm_mechanics.studies.charts import Chart

_TEMPLATES = Path(__file__).parent / "templates"

_DRAW = "window.bnmDraw(vegaEmbed);"


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the results as a page with curves, in one file that asks for no other.

    The file appears whole or not at all.

    Args:
        results: what `results` in `summary` returned, or `results.json` holds.
        path: where to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(results))


def render(results: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        results: what `results` in `summary` returned, or `results.json` holds.
    """
    from batchnorm_mechanics._io.charts import theme
    from batchnorm_mechanics._io.html import templates

    by_section: dict[str, list[Any]] = {}
    for number, chart in enumerate(_charts(results)):
        by_section.setdefault(chart.section, []).append({"id": f"chart-{number}", "chart": chart})
    environment = templates(_TEMPLATES)
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.2f}"
    environment.filters["signed"] = lambda value: f"{value:+z.2f}".replace("-", "−")
    environment.filters["setting"] = _setting
    environment.globals["count"] = count
    return environment.get_template("report.html.jinja").render(
        results=results,
        headlines=headlines(verdicts(results["effects"])),
        titles={study["name"]: study["title"] for study in results["studies"]},
        charts=by_section,
        look=theme(ink="var(--ink)", soft="var(--soft)", line="var(--line)")["config"],
        metrics=METRICS,
        margin=MARGIN,
        caveats=caveats(results),
        agreement=agreement(results),
        groups=effect_groups(results["effects"]),
        runs=sum(len(study["runs"]) for study in results["studies"]),
        seconds=sum(run["seconds"] for study in results["studies"] for run in study["runs"]),
        shared=_shared_settings(results["studies"]),
        bundle=_bundle() if by_section else "",
    )


def _charts(results: Mapping[str, Any]) -> "list[Chart]":
    """Draw what there is to draw of the results."""
    from batchnorm_mechanics.studies import charts

    studies = results["studies"]
    mnist = [study for study in studies if not study["settings"]["track_inputs"]]
    paper = [study for study in studies if study["settings"]["track_inputs"]]
    found = []
    if results["effects"]:
        found.append(charts.conclusions(verdicts(results["effects"])))
    if mnist:
        found += [charts.accuracies(mnist, metric) for metric in METRICS]
    if any(of["within"] is not None for study in studies for of in study["summary"].values()):
        found.append(charts.distances(studies))
    if results["effects"]:
        found.append(charts.effect_sizes(results["effects"], studies))
    if mnist:
        found.append(charts.by_step(mnist))
    # The paper's runs have a chart of their own, and would stretch the scale of the others.
    shown = mnist or paper
    found += [charts.learning_curves(shown, place) for place in range(min(2, len(shown)))]
    if paper:
        found.append(charts.paper_accuracy(paper))
        found += [charts.percentiles(study, paper) for study in paper]
    return found


def _bundle() -> str:
    """Return the JavaScript that draws, with everything that it needs."""
    import altair as alt
    import vl_convert

    # The version that Altair wrote the charts for, or the newest there is.
    version = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    known = vl_convert.get_vegalite_versions()
    bundle = vl_convert.javascript_bundle(_DRAW, version if version in known else None)
    # Nothing in a script may look like its end; in JavaScript the backslash means nothing there.
    return bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _shared_settings(studies: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that all studies have in common."""
    if not studies:
        return {}
    first, *others = (study["settings"] for study in studies)
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def _setting(value: Any) -> str:
    """Write a setting as people do.

    Example:
        >>> _setting([100, 100]), _setting(None), _setting(False), _setting(1 / 12)
        ('100, 100', 'all', 'no', '0.0833333')
    """
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
