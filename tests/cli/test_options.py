"""Helps read alike: options in sections, those that all commands have last."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from panic_tda.main import main


def sections(command: str) -> dict[str, list[str]]:
    """Return the long names of the options in every section of a command's help."""
    shown = CliRunner().invoke(main, [command, "--help"], terminal_width=100)
    assert shown.exit_code == 0
    titles = re.split(r"^(\S.*):\n", shown.stdout, flags=re.MULTILINE)[1:]
    found = zip(titles[::2], titles[1::2], strict=True)
    return {title: re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, flags=re.MULTILINE) for title, text in found}


@pytest.mark.parametrize("command", sorted(main.commands))
def test_what_all_commands_have_stands_last_in_every_help(command: str) -> None:
    found = sections(command)
    title, names = list(found.items())[-1]
    assert title == "Common options"
    assert [name for name in names if name != "--json"] == [
        *("--db", "--verbose", "--quiet", "--log-file", "--help")
    ]
    options = [one for one in main.commands[command].params if isinstance(one, click.Option)]
    assert sum(map(len, found.values())) == len(options) + 1


def test_the_longest_help_is_in_sections_and_fits_one_screen() -> None:
    assert list(sections("cluster-embeddings")) == [
        *("What to cluster", "Clustering", "Machine", "Common options")
    ]
    shown = CliRunner().invoke(main, ["cluster-embeddings", "--help"], terminal_width=100).stdout
    assert len(shown.splitlines()) <= 50
    assert max(map(len, shown.splitlines())) <= 100
