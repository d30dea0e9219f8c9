"""Pages made from templates: escaped, and without a name that nobody gave."""

from pathlib import Path

import jinja2

# Each light and dark.
_COLOURS = {
    "paper": ("#fff", "#15171b"),
    "ink": ("#1c1e21", "#e8eaed"),
    "soft": ("#5c636b", "#a3aab3"),
    "line": ("#dcdfe3", "#363b42"),
    "card": ("#f6f7f9", "#1c1f24"),
    "good": ("#00704f", "#3cc79a"),
    "bad": ("#b04500", "#ff8f4d"),
    "accent": ("#1f6fb2", "#76b7f0"),
    "note": ("#fdf3e1", "#3a2d14"),
}

# In the notebook's own colours. What is wider than the page scrolls.
_LINES = '<pre style="overflow-x: auto; white-space: pre">{{ text }}</pre>'


def templates(folder: Path) -> jinja2.Environment:
    """Return the environment that renders a folder's templates.

    What is put into a page is text, whatever it holds; a name that is missing raises. `family` is
    the style sheet that all pages share.

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


def family_style(scope: str = ":root") -> str:
    """Return the style sheet that all our pages share: their colours, light and dark.

    Args:
        scope: the selector that they hold for. In a notebook, where it is not the whole page, they
            follow JupyterLab's theme.

    Example:
        >>> "--accent: #1f6fb2;" in family_style()
        True
    """
    light, dark = (
        " ".join(f"--{name}: {pair[index]};" for name, pair in _COLOURS.items()) for index in (0, 1)
    )
    rules = [f"{scope} {{ {light} }}"]
    rules.append(f"@media (prefers-color-scheme: dark) {{ {scope} {{ {dark} }} }}")
    if scope != ":root":
        rules.append(f'[data-jp-theme-light="true"] {scope} {{ {light} }}')
        rules.append(f'[data-jp-theme-light="false"] {scope} {{ {dark} }}')
    return "\n".join(rules)


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
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["family"] = family_style()
    return environment
