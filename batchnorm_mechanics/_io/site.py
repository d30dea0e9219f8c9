"""Where a page of the documentation is, for a line at the end of what a command prints.

The site is built from a checkout and is not in the wheel: a path that is not there helps nobody, so
the line says then which page it is and what makes it.
"""

from pathlib import Path

_ROOT = Path(__file__).parents[2]


def where(page: str, root: Path = _ROOT) -> str:
    """Say where a page of the documentation is.

    Args:
        page: its address in the site, without the end: `rules/BN201`.
        root: the folder of the checkout, if the package is in one.

    Returns:
        The path of the built page; where there is none, its name and what builds it.

    Example:
        >>> where("rules/BN201", Path("/nowhere"))
        'rules/BN201.html of the documentation, which `make docs` builds in a checkout'
    """
    # Beside an installed package may lie a folder `docs` of anybody.
    is_checkout = (root / "docs" / "conf.py").is_file() and (root / "pyproject.toml").is_file()
    built = root / "docs" / "_build" / "html" / f"{page}.html"
    if is_checkout and built.is_file():
        return str(built)
    return f"{page}.html of the documentation, which `make docs` builds in a checkout"
