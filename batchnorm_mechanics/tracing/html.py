"""A trace as HTML: a page of its own, or a fragment for a notebook."""

from pathlib import Path

import jinja2

from batchnorm_mechanics.tracing.figures import dimensions, error_text, shown, ulps_text
from batchnorm_mechanics.tracing.record import Trace

_TEMPLATES = Path(__file__).parent / "templates"
# Columns of a value; what is wider scrolls in its own box.
_WIDTH = 90


def page(trace: Trace) -> str:
    """Return a page that needs nothing but a browser: no script, no request."""
    return _environment().get_template("page.html.jinja").render(trace=trace)


def fragment(trace: Trace) -> str:
    """Return the trace for a notebook's output, in the notebook's own colours.

    Its style reaches nothing outside of it.
    """
    return _environment().get_template("fragment.html.jinja").render(trace=trace)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value: shown(value, _WIDTH)
    environment.filters["error"] = error_text
    environment.filters["ulps"] = ulps_text
    environment.filters["first"] = lambda value: (
        f"{float(value.flat[0]):.9g}" if value.size else "none"
    )
    environment.globals["dimensions"] = dimensions
    return environment
