#!/usr/bin/env python3
"""Write the generated parts of the handbook: the command reference and the table of the doctor's kinds.

`command_reference.py` writes panic_tda/handbook/cli-reference.md, and the part of troubleshooting.md between
its markers. `--check` only compares, and exits 1 if they differ.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from panic_tda.main import main as group
from panic_tda.storage.doctor import KINDS

HANDBOOK = Path(__file__).parent.parent / "panic_tda" / "handbook"
REFERENCE, TROUBLESHOOTING = HANDBOOK / "cli-reference.md", HANDBOOK / "troubleshooting.md"
BEGIN, END = "<!-- kinds: begin -->\n", "<!-- kinds: end -->\n"
_KEEP_LINES = "\b\n"
_COMMON = "Common options"
_INTRODUCTION = """\
# Command reference

Every command with its options.

<!-- Generated from --help by scripts/command_reference.py: do not edit. -->

## Common options

Every command has these options. They may stand before the name of the command or after it.
"""


def generate_pages() -> dict[Path, str]:
    """Return the up-to-date text of every handbook page with generated parts."""
    before, rest = TROUBLESHOOTING.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    return {
        REFERENCE: generate_reference(),
        TROUBLESHOOTING: f"{before}{BEGIN}\n{generate_kinds()}\n{END}{after}",
    }


def generate_reference() -> str:
    """Return the page of commands as Markdown."""
    common = [*_list_options(group, common=True)]
    parts = ["\n".join([_INTRODUCTION, *common])]
    parts += [_describe(name, group.commands[name]) for name in sorted(group.commands)]
    return "\n\n".join(parts) + "\n"


def generate_kinds() -> str:
    """Return the kinds of findings as a table in Markdown."""
    rows = [
        f"| `{kind.name}`{' (repaired by `--fix`)' * (kind.plan is not None)} | {kind.what} | {kind.remedy} |"
        for kind in KINDS.values()
    ]
    return "\n".join(["| kind | what it is | what to do |", "|---|---|---|", *rows, ""])


def _describe(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"panic-tda {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    texts = [
        # Click keeps the lines of a paragraph that begins with \b.
        f"```text\n{paragraph.removeprefix(_KEEP_LINES)}\n```"
        if paragraph.startswith(_KEEP_LINES)
        else paragraph
        for paragraph in inspect.cleandoc(command.help or "").split("\n\n")
    ]
    example = getattr(command, "example", "")
    options = "\n".join(_list_options(command, common=False))
    blocks = [
        f"## {name}",
        *texts,
        f"Usage: `panic-tda {name} {usage}`. Example: `panic-tda {example}`",
        *([options] if options else []),
    ]
    return "\n\n".join(blocks)


def _list_options(command: click.Command, *, common: bool) -> Iterator[str]:
    context = click.Context(command)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if not isinstance(parameter, click.Option) or record is None:
            continue
        if (getattr(parameter, "section", _COMMON) == _COMMON or parameter.name == "version") is common:
            yield f"- `{record[0]}`: {record[1]}"


if __name__ == "__main__":
    pages = generate_pages()
    if "--check" in sys.argv:
        sys.exit(any(path.read_text(encoding="utf-8") != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
