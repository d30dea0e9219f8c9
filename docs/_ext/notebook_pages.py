"""The notebooks' pages: executed where that was done, else as their scripts have them."""

from pathlib import Path

import jupytext

_HEAD = """\
# Notebooks

Each is a script of the repository, run at every change. Read them here, with their outputs, or open
the scripts in Jupyter, VS Code or Colab.

```{toctree}
:maxdepth: 1

"""


def pages(scripts: Path, executed: Path) -> dict[str, str]:
    """Return the pages by name; none where there are no notebooks.

    Args:
        scripts: folder of the scripts, as jupytext has them.
        executed: folder of what was run of them.
    """
    names = sorted(path.stem for path in scripts.glob("[0-9]*.py"))
    if not names:
        return {}
    made = {"index.md": _HEAD + "\n".join(names) + "\n```\n"}
    for name in names:
        run = executed / f"{name}.ipynb"
        if run.exists():
            made[f"{name}.ipynb"] = run.read_text(encoding="utf-8")
        else:
            made[f"{name}.ipynb"] = jupytext.writes(
                jupytext.read(scripts / f"{name}.py"), fmt="ipynb"
            )
    return made
