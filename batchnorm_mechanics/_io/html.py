"""Pages made from templates: escaped, and without a name that nobody gave."""

from pathlib import Path

import jinja2


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
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
