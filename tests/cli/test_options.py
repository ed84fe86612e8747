"""Helps read alike: options in sections, those that all commands have last."""

from __future__ import annotations

import json
import re
from pathlib import Path

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


@pytest.mark.parametrize("words", [["--db", "x.sqlite"], ["--db=x.sqlite"], ["-v"], ["--log-file", "x"]])
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_options_before_the_command_are_told_where_they_go(words: list[str], json_too: list[str]) -> None:
    result = CliRunner().invoke(main, [*words, "list-clusterings", *json_too], prog_name="panic-tda")
    name = words[0].partition("=")[0]
    said = f"{name} goes behind the name of the command: panic-tda COMMAND {name} …"
    assert result.exit_code == 2
    assert said in result.stderr
    if json_too:
        assert json.loads(result.stdout) == {"error": {"type": "UsageError", "message": said}}
    other = CliRunner().invoke(main, ["--nonsense", "list-clusterings"])
    assert (other.exit_code, "goes behind" in other.stderr) == (2, False)


@pytest.mark.parametrize("name", ["", "  "])
@pytest.mark.parametrize(
    "words", [["list-clusterings"], ["show-clustering"], ["delete-clusterings"], ["import-embeddings", "x"]]
)
def test_a_model_has_a_name(tmp_path: Path, words: list[str], name: str) -> None:
    target = tmp_path / "x.sqlite"
    result = CliRunner().invoke(main, [*words, "--model", name, "--db", str(target)])
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert f"such as Nomic; got {name!r}" in result.stderr
    assert not target.exists()
