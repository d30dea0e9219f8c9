"""Pages made from templates: escaped, and without a name that nobody gave."""

from pathlib import Path

import jinja2

# In the notebook's own colours. What is wider than the page scrolls.
_LINES = '<pre style="overflow-x: auto; white-space: pre">{{ text }}</pre>'


def templates(folder: Path) -> jinja2.Environment:
    """Return the environment that renders a folder's templates.

    What is put into a page is text, whatever it holds; a name that is missing raises.

    Args:
        folder: where the templates are.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.html.jinja").write_text("<p>{{ name }}</p>")
        >>> templates(folder).get_template("a.html.jinja").render(name="<b>")
        '<p>&lt;b&gt;</p>'
    """
    return _environment(jinja2.FileSystemLoader(folder))


def family_style() -> str:
    """Return the style sheet of what all our pages share: their colours, light and dark.

    Example:
        >>> "--accent" in family_style()
        True
    """
    return (Path(__file__).parent / "family.css").read_text(encoding="utf-8")


def preformatted(text: str) -> str:
    """Return text for a notebook's output, in the lines that it has.

    Example:
        >>> preformatted("<b>")
        '<pre style="overflow-x: auto; white-space: pre">&lt;b&gt;</pre>'
    """
    return (
        _environment(jinja2.DictLoader({"lines": _LINES})).get_template("lines").render(text=text)
    )


def _environment(loader: jinja2.BaseLoader | None) -> jinja2.Environment:
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
