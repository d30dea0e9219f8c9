"""What every notebook must hold: each check yields a line for each place where it does not."""

import re
from pathlib import Path

from notebooks.figures import unfounded

MAX_CELL_SECONDS = 60
MAX_SECONDS = 180
SCREEN = 40
PIXELS_A_LINE = 20

_LOADED = re.compile(
    r"""
    <(?:script|img|iframe|image|source|video|audio|embed|object)\b[^>]*
        \b(?:src|href|data)\s*=\s*["']?(?:https?:)?//[^"'\s>]*
    | <link\b[^>]*\bhref\s*=\s*["']?(?:https?:)?//[^"'\s>]*
    | url\(\s*["']?(?:https?:)?//[^)]* | @import\s+["'](?:https?:)?//[^"']*
    | !\[[^\]]*\]\((?:https?:)?//[^)]*
    | \b(?:import|fetch|require|importScripts)\b[^;\n]{0,80}["']https?://[^"']*
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)")


def problems(notebook, folder):
    """Yield all that is wrong with an executed notebook whose script lies in a folder."""
    yield from errors(notebook)
    yield from warnings(notebook)
    yield from slow_cells(notebook)
    yield from more_than_a_screen(notebook)
    yield from first_cell(notebook)
    yield from broken_links(notebook, folder)
    yield from requests(notebook)
    yield from unfounded(notebook)


def _code(notebook):
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def errors(notebook):
    """Look for cells that failed, or that were not run."""
    for number, cell in _code(notebook):
        if cell.source.strip() and cell.execution_count is None:
            yield f"cell {number}: it was not run"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {number}: {output.ename}: {output.evalue}"


def warnings(notebook):
    """Look for what went to standard error: warnings, messages of TensorFlow."""
    for number, cell in _code(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"cell {number}: standard error has {output.text.strip()[:200]!r}"


def slow_cells(notebook):
    """Look for a cell, or a whole notebook, that takes too long.

    In seconds of the processor: with two cores and nothing else to do it takes fewer by the clock.
    """
    total = 0.0
    for number, cell in _code(notebook):
        if cell.source.strip():
            total += (took := cell.metadata["cpu_seconds"])
            if took > MAX_CELL_SECONDS:
                yield f"cell {number}: it took {took:.0f} s, more than {MAX_CELL_SECONDS}"
    if total > MAX_SECONDS:
        yield f"all cells together took {total:.0f} s, more than {MAX_SECONDS}"


def more_than_a_screen(notebook):
    """Look for cells that show more than one screen: 40 lines, or a figure of as many."""
    for number, cell in _code(notebook):
        lines = sum(map(_lines, cell.outputs))
        if lines > SCREEN:
            yield f"cell {number}: it shows {lines:.0f} lines, more than {SCREEN}"


def _lines(output):
    """Return how many lines an output takes, as a front end that runs no JavaScript shows it."""
    if output.output_type == "stream":
        return len(output.text.splitlines())
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return _svg_lines(data["image/svg+xml"])
    if "text/html" in data:
        html = data["text/html"]
        rows = len(re.findall(r"<tr\b", html, re.IGNORECASE))
        breaks = re.findall(r"<(?:p|br|div|li|h\d)\b", html, re.IGNORECASE)
        pictures = re.findall(r"<svg\b.*?</svg>", html, re.DOTALL)
        return rows + len(breaks) + sum(map(_svg_lines, pictures))
    text = data.get("text/markdown") or data.get("text/plain") or ""
    return len(text.splitlines())


def _svg_lines(svg):
    tag = re.search(r"<svg\b[^>]*>", svg)[0]
    height = re.search(r'\bheight="([\d.]+)(?:px)?"', tag)
    box = re.search(r'\bviewBox="[-\d.]+[ ,]+[-\d.]+[ ,]+[\d.]+[ ,]+([\d.]+)"', tag)
    return float((height or box)[1]) / PIXELS_A_LINE


def first_cell(notebook):
    """Look whether the first code installs what is missing, and only then."""
    cells = _code(notebook)
    source = cells[0][1].source if cells else ""
    if "find_spec(" not in source:
        yield "the first code cell does not ask find_spec whether the package is there"
    if not re.search(r"(?m)^[ \t]+%pip install .*batchnorm-mechanics", source):
        yield "the first code cell has no `%pip install` of the package within a condition"


def broken_links(notebook, folder):
    """Look for relative links to what is not there; a notebook's stands for its script."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        text = re.sub(r"(`+).+?\1", " ", cell.source, flags=re.DOTALL)
        for target in _LINK.findall(text):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            path, _, anchor = target.partition("#")
            if path and not _is_there(Path(folder) / path):
                yield f"cell {number}: there is no {target}"
            elif not path and anchor not in _anchors(notebook):
                yield f"cell {number}: there is no heading #{anchor}"


def _is_there(path):
    return path.exists() or (path.suffix == ".ipynb" and path.with_suffix(".py").exists())


def headings(notebook):
    """Return the texts of all headings."""
    return [
        heading.strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for heading in re.findall(r"(?m)^#{1,6} (.+)$", cell.source)
    ]


def _anchors(notebook):
    # As Jupyter makes them, and as the site does.
    made = headings(notebook)
    return {text.replace(" ", "-") for text in made} | {
        re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in made
    }


def requests(notebook):
    """Look for outputs that would ask another host for something."""
    for number, cell in _code(notebook):
        for output in cell.outputs:
            for kind, content in output.get("data", {}).items():
                if not isinstance(content, str) or kind == "text/plain":
                    continue
                for found in _LOADED.finditer(content):
                    yield f"cell {number}: its output asks for {found[0][:120]!r}"
