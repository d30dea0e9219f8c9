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

_FONTS = {
    "text-font": 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif',
    "code-font": 'ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace',
}

# In the notebook's own colours. What is wider than the page scrolls.
_LINES = '<pre style="overflow-x: auto; white-space: pre">{{ text }}</pre>'


def templates(folder: Path) -> jinja2.Environment:
    """Return the environment that renders a folder's templates.

    What is put into a page is text, whatever it holds; a name that is missing raises. `family` is
    the style sheet that all pages share: `family_style`, `family_elements`, and what a page has
    that is read from top to bottom, with how it is printed.

    Args:
        folder: where the templates are.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.html.jinja").write_text("<p>{{ name }}</p>")
        >>> templates(folder).get_template("a.html.jinja").render(name="<b>")
        '<p>&lt;b&gt;</p>'
    """
    environment = _environment(jinja2.FileSystemLoader(folder))
    page = _sheet("page.css.jinja", light=_colours(0))
    parts = (family_style(), family_elements(), page)
    environment.globals["family"] = "\n".join(parts)
    return environment


def family_style(scope: str = ":root") -> str:
    """Return the colours, light and dark, and the fonts that all our pages share, as variables.

    Args:
        scope: the selector that they hold for. In a notebook, where it is not the whole page, they
            follow JupyterLab's theme.

    Example:
        >>> "--accent: #1f6fb2;" in family_style()
        True
    """
    light, dark = _colours(0), _colours(1)
    fonts = " ".join(f"--{name}: {value};" for name, value in _FONTS.items())
    rules = [f"{scope} {{ {light} {fonts} }}"]
    rules.append(f"@media (prefers-color-scheme: dark) {{ {scope} {{ {dark} }} }}")
    if scope != ":root":
        rules.append(f'[data-jp-theme-light="true"] {scope} {{ {light} }}')
        rules.append(f'[data-jp-theme-light="false"] {scope} {{ {dark} }}')
    return "\n".join(rules)


def family_elements(scope: str = "") -> str:
    """Return how text, notes, code, figures and controls look on all our pages.

    Args:
        scope: the selector that they lie within; by default they are those of the whole page.

    Example:
        >>> ".bnm-explorer button {" in family_elements(".bnm-explorer")
        True
    """
    return _sheet("elements.css.jinja", scope=scope, s=f"{scope} " if scope else "")


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


def _colours(index: int) -> str:
    return " ".join(f"--{name}: {pair[index]};" for name, pair in _COLOURS.items())


def _sheet(name: str, **values: str) -> str:
    sheets = _environment(jinja2.FileSystemLoader(Path(__file__).parent / "templates"))
    return sheets.get_template(name).render(**values)
