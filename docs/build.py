"""Build the site: `python docs/build.py` writes docs/_build/html, and ends with 1 at any warning.

Pages come from where they are true: docs/ holds what people wrote, `_ext` makes the others of the
code (rules, commands, reference, the picture of the floors), notebooks bring their outputs.
"""

import argparse
import sys
from pathlib import Path

DOCS = Path(__file__).parent.resolve()
sys.path[0] = str(DOCS / "_ext")

# What is documented is this checkout, whatever is installed.
sys.path.insert(0, str(DOCS.parent))

import gathering  # noqa: E402 - found by the lines above

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly  # noqa: E402


def build(out: Path, *, work: Path, notebooks: Path) -> int:
    """Gather the sources and have Sphinx make pages of them.

    Args:
        out: the folder of the pages.
        work: the folder of what is gathered and remembered.
        notebooks: where executed notebooks are.

    Returns:
        0, or what Sphinx ends with: 1 after any warning.
    """
    from sphinx.cmd.build import main

    gathering.gather(work, notebooks=notebooks)
    # Autodoc imports it, and it would tell of the processor.
    import_tensorflow_quietly()
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-b", "html", "-c", str(DOCS)]
    places = [f"-Dhtml_static_path={DOCS / '_static'},{work / 'static'}"]
    places += [f"-Dhtml_extra_path={work / 'extra'}", "-d", str(work / "doctrees")]
    return main([*options, *places, str(work / "source"), str(out)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the site.")
    parser.add_argument("--out", type=Path, default=DOCS / "_build" / "html")
    parser.add_argument("--work", type=Path, default=DOCS / "_build")
    parser.add_argument("--notebooks", type=Path, default=DOCS.parent / "build" / "notebooks")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    code = build(given.out.resolve(), work=given.work.resolve(), notebooks=given.notebooks)
    if code == 0:
        sys.stdout.write(f"{given.out / 'index.html'}\n")
    sys.exit(code)
