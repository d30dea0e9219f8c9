"""Build the site: `python docs/build.py` writes docs/_build/html, and ends with 1 at any warning.

Pages come from where they are true: docs/ holds what people wrote, `_ext` makes the others of the
code (rules, commands, reference, the picture of the floors), notebooks bring their outputs.

A site that was made of the same files is left as it is; tests and `make docs` share it.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

DOCS = Path(__file__).parent.resolve()
ROOT = DOCS.parent
sys.path[0] = str(DOCS / "_ext")
# What is documented is this checkout, whatever is installed.
sys.path.insert(0, str(ROOT))

import gathering  # noqa: E402 - found by the lines above

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly  # noqa: E402


def build(out: Path, *, work: Path, notebooks: Path) -> int:
    """Gather the sources and have Sphinx make pages of them, unless that was done.

    Args:
        out: the folder of the pages.
        work: the folder of what is gathered and remembered.
        notebooks: where executed notebooks are.

    Returns:
        0, or what Sphinx ends with: 1 after any warning.
    """
    work.mkdir(parents=True, exist_ok=True)
    mark = work / "made_of"
    with FileLock(work / ".lock"):
        current = fingerprint(notebooks)
        if mark.exists() and mark.read_text() == current and (out / "index.html").exists():
            return 0
        mark.unlink(missing_ok=True)
        # All anew: Sphinx warns of a page when it reads it, and says nothing when it knows it.
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(work / "doctrees", ignore_errors=True)
        gathering.gather(work, notebooks=notebooks)
        code = _sphinx(out, work)
        if code == 0:
            mark.write_text(current)
        return code


def _sphinx(out: Path, work: Path) -> int:
    from sphinx.cmd.build import main

    # Autodoc imports it, and it would tell of the processor.
    import_tensorflow_quietly()
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-b", "html", "-c", str(DOCS)]
    places = [f"-Dhtml_static_path={DOCS / '_static'},{work / 'static'}"]
    places += [f"-Dhtml_extra_path={work / 'extra'}", "-d", str(work / "doctrees")]
    return main([*options, *places, str(work / "source"), str(out)])


def fingerprint(notebooks: Path) -> str:
    """Return a digest of all that the pages are made of."""
    digest = hashlib.sha256(sys.version.encode())
    for path in _inputs(notebooks):
        digest.update(f"{path} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _inputs(notebooks: Path) -> Iterator[Path]:
    for folder in (DOCS, ROOT / "batchnorm_mechanics", ROOT / "notebooks"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not {"_build", "__pycache__"} & {*path.parts}:
                yield path
    yield from sorted(notebooks.glob("*.ipynb"))
    yield from (ROOT / name for name in gathering.OUTSIDE)
    yield from (ROOT / "requirements-dev.lock", ROOT / "javascript" / "package-lock.json")
    yield ROOT / "tests" / "imports.py"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=DOCS / "_build" / "html")
    parser.add_argument("--work", type=Path, default=DOCS / "_build")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "build" / "notebooks")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    code = build(given.out.resolve(), work=given.work.resolve(), notebooks=given.notebooks)
    if code == 0:
        sys.stdout.write(f"{given.out / 'index.html'}\n")
    sys.exit(code)
