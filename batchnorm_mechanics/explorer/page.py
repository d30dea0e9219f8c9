"""The explorer as one HTML file that needs nothing but a browser."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics._io.html import family_elements, family_style, templates
from batchnorm_mechanics.explorer.network import stored_run

_FOLDER = Path(__file__).parent


def script_file() -> Path:
    """Return where the module is that `make explorer` joins from the sources in `js/`."""
    return _FOLDER / "explorer.js"


def script() -> str:
    """Return that module in a form that a page may hold inline."""
    text = script_file().read_text(encoding="utf-8")
    # Nothing in a script may look like its end; in JavaScript the backslash means nothing there.
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def style() -> str:
    """Return how it looks, within its own element; the colours that this names are not in it."""
    own = (_FOLDER / "explorer.css").read_text(encoding="utf-8")
    return f"{family_elements('.bnm-explorer')}\n{own}"


def render(data: Mapping[str, Any] | None = None) -> str:
    """Return the page.

    Args:
        data: what the rooms are given besides the run that is stored; it must be JSON.

    Example:
        >>> "data-bnm-explorer" in render()
        True
    """
    page = templates(_FOLDER / "templates").get_template("page.html.jinja")
    known = json.dumps({"network": stored_run(), **(data or {})}, separators=(",", ":"))
    return page.render(colours=family_style(), style=style(), script=script(), data=known)


def write_page(path: Path, data: Mapping[str, Any] | None = None) -> None:
    """Write the page; the file appears whole or not at all.

    Args:
        path: where to.
        data: as `render` takes it.
    """
    write_atomically(path, render(data))
