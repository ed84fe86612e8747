#!/usr/bin/env python3
"""Writes the README's command reference from the commands' own --help.

`command_reference.py` rewrites the part of README.md between the two markers; `--check` only compares, and
exits 1 where they differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from panic_tda.main import main as group

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- commands: begin -->\n", "<!-- commands: end -->\n"
WIDTH = 100


def reference() -> str:
    """Return the help of the group and of every command as Markdown."""
    parts = [_block("panic-tda", group)]
    parts += [_block(f"panic-tda {name}", group.commands[name]) for name in sorted(group.commands)]
    return "\n".join(parts)


def _block(name: str, command: click.Command) -> str:
    # The width is given: the help must not depend on the terminal that this runs in.
    context = click.Context(
        command,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=group.context_settings["help_option_names"],
    )
    return f"### {name}\n\n```text\n{command.get_help(context)}\n```\n"


def replaced(text: str) -> str:
    """Return the README's text with the reference as it should be."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(replaced(text) != text)
    README.write_text(replaced(text), encoding="utf-8")
