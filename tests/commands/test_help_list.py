"""Test that `panic-tda --help` lists all commands by chapter, each with its full summary on one line."""

from __future__ import annotations

import re

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from panic_tda.main import main
from tests.documents import PAGES, README

MOST_CHARACTERS = 55
CHAPTERS = ["Get started", "Cluster", "Look", "Compare and tune", "Take along", "Maintain"]


def read_chapters(columns: int) -> dict[str, dict[str, str]]:
    """Return what the help shows: the summary of each command, by chapter."""
    shown = CliRunner().invoke(main, ["--help"], terminal_width=columns).stdout
    titles = re.split(r"^(\S.*):\n", shown, flags=re.MULTILINE)[1:]
    sections = dict(zip(titles[::2], titles[1::2], strict=True))
    return {
        title: dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", sections[title], re.MULTILINE)) for title in CHAPTERS
    }


def test_the_help_lists_every_command_in_one_chapter() -> None:
    listed = [name for commands in read_chapters(80).values() for name in commands]
    assert sorted(listed) == sorted(main.commands)
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).stdout
    positions = [shown.index(f"\n{title}:\n") for title in [*CHAPTERS, "Options", "Common options"]]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_a_summary_is_short_and_not_cut_at_80_columns(name: str) -> None:
    first = (main.commands[name].help or "").splitlines()[0]
    assert first.endswith(".")
    assert len(first.removesuffix(".")) <= MOST_CHARACTERS
    (shown,) = [commands[name] for commands in read_chapters(80).values() if name in commands]
    assert shown == first.removesuffix(".")
    completion = ShellComplete(main, {}, "panic-tda", "_PANIC_TDA_COMPLETE")
    (item,) = [item for item in completion.get_completions([], name) if item.value == name]
    assert item.help == shown


def test_the_readme_has_the_same_chapters() -> None:
    table = PAGES[README].partition("## Commands\n")[2].partition("\n## ")[0]
    chapters: dict[str, set[str]] = {}
    for title, commands in re.findall(r"^\| ([^|]*)\| (`[^|]*) \|", table, re.MULTILINE):
        key = title.strip() or list(chapters)[-1]
        chapters.setdefault(key, set()).update(re.findall(r"`([a-z-]+)`", commands))
    assert chapters == {title: set(commands) for title, commands in read_chapters(80).items()}
