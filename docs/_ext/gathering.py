"""Gather what the site is made of into one folder: written pages, and those made of the code."""

import shutil
from pathlib import Path

import commands_pages
import floors
import formulas
import links
import looks
import notebook_pages
import reference_pages
import rules_pages

from batchnorm_mechanics.explorer.page import write_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages that are read beside the code, too, and their addresses on the site.
OUTSIDE = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "under_the_hood/contributing.md",
    "SECURITY.md": "security.md",
    "batchnorm_mechanics/explorer/README.md": "under_the_hood/explorer.md",
    "benchmarks/README.md": "under_the_hood/benchmarks.md",
    "benchmarks/worlds.md": "under_the_hood/worlds.md",
    "benchmarks/doctor_models.md": "under_the_hood/doctor_models.md",
}


def written() -> dict[str, str]:
    """Return the pages that people wrote: by path in the repository, path on the site."""
    pages = {
        path.relative_to(ROOT).as_posix(): path.relative_to(DOCS).as_posix()
        for path in sorted(DOCS.rglob("*.md"))
        if not path.relative_to(DOCS).parts[0].startswith("_")
    }
    return {**pages, **OUTSIDE}


def gather(work: Path, *, notebooks: Path) -> None:
    """Write `source`, `static` and `extra` into a folder; what is as it was keeps its time.

    Args:
        work: the folder.
        notebooks: where executed notebooks are; one that is not there comes without its outputs.
    """
    made: dict[str, str | bytes] = {}
    pages = written()
    for path, name in pages.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        made[f"source/{name}"] = links.moved(text, path, name, pages=pages)
    for picture in sorted(DOCS.rglob("*.svg")):
        name = picture.relative_to(DOCS)
        if not name.parts[0].startswith("_"):
            made[f"source/{name.as_posix()}"] = picture.read_bytes()
    for folder, made_pages in (
        ("rules", rules_pages.pages()),
        ("commands", commands_pages.pages()),
        ("reference", reference_pages.pages()),
        ("notebooks", notebook_pages.pages(ROOT / "notebooks", notebooks)),
        ("under_the_hood", floors.pages()),
    ):
        made |= {f"source/{folder}/{name}": text for name, text in made_pages.items()}
    made["static/family.css"] = looks.family()
    made["static/katex/katex.min.css"] = (formulas.KATEX / "katex.min.css").read_bytes()
    for font in sorted((formulas.KATEX / "fonts").glob("*.woff2")):
        made[f"static/katex/fonts/{font.name}"] = font.read_bytes()

    for folder in ("source", "static", "extra"):
        _remove_others(work / folder, {work / name for name in made})
    for name, content in made.items():
        _write(work / name, content)
    (work / "extra" / "live").mkdir(parents=True, exist_ok=True)
    # The very file that `bnm explore` makes.
    write_page(work / "extra" / "live" / "explorer.html")


def _remove_others(folder: Path, kept: set[Path]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in kept:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def _write(path: Path, content: str | bytes) -> None:
    """Write a file, unless it holds that already: Sphinx reads anew what has another time."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
