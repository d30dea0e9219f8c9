"""Follow a page: run its blocks in their order, and compare what comes with what it shows.

A block of Python runs in one namespace with the others of its page, a line of `sh` is a command
`bnm`, and a block of text right behind either is what it prints, compared word by word:

- white space does not count, since commands wrap lines by the length of their numbers;
- `...` stands for anything, or nothing;
- a number with a point or an exponent is right to one unit of its last digit, a whole one exactly;
- `0.90..0.97` is any number from the one to the other, where processors differ.
"""

import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import pytest
from commands import bnm_here

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
WORD = re.compile(rf"{NUMBER}\.\.{NUMBER}|\.\.\.|{NUMBER}|[^\W\d]+|[^\s\w]")
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\n", flags=re.M | re.S)


@dataclass(frozen=True)
class Step:
    """A block to run, and what the page shows of its output: None where it shows nothing."""

    kind: str
    code: str
    shown: str | None


def steps_of(page):
    """Return the blocks that run, each with the text right behind it."""
    blocks = list(FENCE.finditer(page))
    steps = []
    for block, after in zip(blocks, [*blocks, None][1:], strict=True):
        kind, code = block.groups()
        if kind not in ("python", "sh"):
            continue
        follows = (
            after is not None
            and after[1] in ("", "text")
            and not page[block.end() : after.start()].strip()
        )
        steps.append(Step(kind, code, after[2] if follows else None))
    return steps


def follow(steps, folder, *, programs=False):
    """Run the steps in a folder, and say where one prints something else than the page shows.

    With `programs`, each block of Python is a program of its own.
    """
    scope = {"__name__": "__main__"}
    for step in steps:
        if step.kind == "sh":
            printed = "".join(_command(line, folder) for line in step.code.splitlines())
        elif programs:
            printed = _program(step.code, folder)
        else:
            printed = _here(step.code, scope, folder)
        if step.shown is not None:
            assert agrees(step.shown, printed), f"{step.code}\nshown:\n{step.shown}\n{printed}"


def _command(line, folder):
    words = shlex.split(line, comments=True)
    assert words[0] == "bnm", line
    ended = bnm_here(*words[1:], cwd=folder)
    # 1 says that the doctor found something, or that nothing could be folded.
    assert ended.code in (0, 1), f"{line}\n{ended.out}{ended.err}"
    return ended.out


def _here(code, scope, folder):
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        exec(compile(code, "<shown to users>", "exec"), scope)
    return out.getvalue()


def _program(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def agrees(shown, printed):
    """Say whether the output is what is shown."""
    parts = [[]]
    for word in WORD.findall(shown):
        if word == "...":
            parts.append([])
        else:
            parts[-1].append(word)
    words = WORD.findall(printed)
    if len(parts) == 1:
        return _same(parts[0], words)
    first, last = parts[0], parts[-1]
    if not _same(first, words[: len(first)]) or not _same(last, words[len(words) - len(last) :]):
        return False
    start, end = len(first), len(words) - len(last)
    for part in parts[1:-1]:
        places = range(start, end - len(part) + 1)
        found = next((at for at in places if _same(part, words[at : at + len(part)])), None)
        if found is None:
            return False
        start = found + len(part)
    return start <= end


def _same(shown, words):
    return len(shown) == len(words) and all(map(_fits, shown, words))


def _fits(shown, word):
    if shown == word:
        return True
    if not shown[0].isdigit() or not re.fullmatch(NUMBER, word):
        return False
    value = float(word.replace(",", ""))
    if ".." in shown:
        low, high = map(float, shown.split(".."))
        return low <= value <= high
    digits, _, exponent = shown.replace(",", "").partition("e")
    if "." not in digits and not exponent:
        return False
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(value - float(shown.replace(",", ""))) <= 1.001 * unit
