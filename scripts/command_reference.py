#!/usr/bin/env python3
"""Writes the README's command reference from the commands' own --help, and its table of the doctor's kinds.

`command_reference.py` rewrites the parts of README.md between the markers; `--check` only compares, and exits
1 where they differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from panic_tda.main import main as group
from panic_tda.storage.doctor import KINDS

README = Path(__file__).parent.parent / "README.md"
MARKERS = "<!-- {}: begin -->\n", "<!-- {}: end -->\n"
WIDTH = 100


def reference() -> str:
    """Return the help of the group and of every command as Markdown."""
    parts = [_block("panic-tda", group)]
    parts += [_block(f"panic-tda {name}", group.commands[name]) for name in sorted(group.commands)]
    return "\n".join(parts)


def kinds() -> str:
    """Return the kinds of findings as a table in Markdown."""
    rows = [
        f"| `{kind.name}`{' (mended by `--fix`)' * (kind.plan is not None)} | {kind.what} | {kind.remedy} |"
        for kind in KINDS.values()
    ]
    return "\n".join(["| kind | what it is | what to do |", "|---|---|---|", *rows, ""])


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
    """Return the README's text with the reference and the table as they should be."""
    for name, part in (("commands", reference()), ("kinds", kinds())):
        begin, end = (marker.format(name) for marker in MARKERS)
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = f"{before}{begin}\n{part}\n{end}{after}"
    return text


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(replaced(text) != text)
    README.write_text(replaced(text), encoding="utf-8")
