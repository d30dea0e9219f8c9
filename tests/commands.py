"""Run `bnm`, in a process of its own or in this one: TensorFlow takes seconds to import."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from batchnorm_mechanics._workers import Call
from batchnorm_mechanics.cli import main

BNM = [sys.executable, "-m", "batchnorm_mechanics"]


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


def bnm_here(*arguments, cwd):
    """Run one command in this process, as if it had no terminal."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["bnm", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        # What it adds for a user's own files must not stay.
        patch.setattr(sys, "path", [*sys.path])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def workers_here(courses, *, count):
    """Follow workers' courses as `side_by_side` does, in this process: workers take seconds."""
    del count
    for course in courses:
        host, item = course.host(), next(course.steps)
        with contextlib.suppress(StopIteration):
            while True:
                if isinstance(item, Call):
                    item = course.steps.send(item.function(host, *item.args))
                else:
                    yield item
                    item = next(course.steps)


def python_here(code, *, cwd):
    """Run a program in this process, and return what it printed."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(cwd)
        exec(compile(code, "<shown to users>", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def strict_json(text):
    """Read JSON, and nothing else: neither NaN nor text around it."""

    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")

    return json.loads(text, parse_constant=refuse)
