"""What the explorer's rooms compute, by Node.js and without a page."""

import contextlib
import io
import json
import subprocess

import node

JS = node.ROOT / "batchnorm_mechanics" / "explorer" / "js"


def evaluated(script, **given):
    """Return the value of JavaScript in which the modules and what is given are known by name.

    Of numbers that JSON has no literal for, the text comes back.
    """
    modules = {path.stem.replace("-", "_"): path.as_uri() for path in sorted(JS.glob("*-*.js"))}
    imports = "".join(
        f"import * as {name} from {json.dumps(uri)};\n"
        for name, uri in modules.items()
        if name in script
    )
    known = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    words = (
        "(key, value) => typeof value === 'number' && !Number.isFinite(value) "
        "? String(value) : value"
    )
    program = f"{imports}{known}console.log(JSON.stringify({script}, {words}));"
    done = subprocess.run(
        [node.node(), "--input-type=module", "--eval", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def printed(code):
    """Run Python that the page gives, and return the lines that it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<copied from the page>", "exec"), {"__name__": "copied"})
    return out.getvalue().splitlines()
