"""Run the command `bnm`, once or many times in one process: TensorFlow takes seconds to import."""

import json
import subprocess
import sys
from dataclasses import dataclass

BNM = [sys.executable, "-m", "batchnorm_mechanics"]
# It reads command lines, and writes for each its exit code and what it printed.
MANY = """
import contextlib, io, json, sys
from batchnorm_mechanics.cli import main

ends = []
for arguments in json.load(sys.stdin):
    sys.argv = ["bnm", *arguments]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    ends.append([code, out.getvalue(), err.getvalue()])
sys.__stdout__.write(json.dumps(ends))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def bnm(*arguments, cwd):
    """Run one command in a process of its own."""
    done = subprocess.run(
        [*BNM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def bnm_many(commands, *, cwd):
    """Run commands one after another in one process."""
    done = subprocess.run(
        [sys.executable, "-c", MANY],
        input=json.dumps([list(map(str, command)) for command in commands]),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return [Ended(*end) for end in json.loads(done.stdout)]


def strict_json(text):
    """Read JSON, and nothing else: neither NaN nor text around it."""

    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")

    return json.loads(text, parse_constant=refuse)
