"""A page for each command: what its `--help` says, as a terminal of 96 columns has it."""

import re
from typing import Any

import typer

from batchnorm_mechanics.cli import app

_WIDTH = 96
_HEAD = """\
# Commands

Each prints its options with `--help`, as they stand on these pages.

"""


def pages() -> dict[str, str]:
    """Return the pages by name: what the commands have in common, and one for each."""
    program: Any = typer.main.get_command(app)
    listed = {name: _help(command, f"bnm {name}") for name, command in program.commands.items()}
    rows = [f"- [`bnm {name}`]({name}.md): {_first(text)}" for name, text in listed.items()]
    tree = "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(listed) + "\n```\n"
    made = {"index.md": _HEAD + "\n".join(rows) + f"\n\n{_block(_help(program, 'bnm'))}{tree}"}
    for name, text in listed.items():
        made[f"{name}.md"] = f"# bnm {name}\n\n{_first(text)}\n\n{_block(text)}"
    return made


def _help(command: Any, name: str) -> str:
    context = command.context_class(
        command, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    context.help_option_names = ["-h", "--help"]
    return command.get_help(context)


def _first(text: str) -> str:
    """Return the first sentence below the line of usage."""
    return re.sub(r"\s+", " ", re.split(r"\n\s*\n", text)[1]).strip()


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"
