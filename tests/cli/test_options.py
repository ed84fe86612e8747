"""Test help texts: options in sections, common options last."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from panic_tda.cli.rendering.clusterings import NO_CLUSTERINGS
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from tests.conftest import MakeFile
from tests.field_files import write_field_file


def sections(command: str) -> dict[str, list[str]]:
    """Return the long names of the options in every section of a command's help."""
    shown = CliRunner().invoke(main, [command, "--help"], terminal_width=100)
    assert shown.exit_code == 0
    titles = re.split(r"^(\S.*):\n", shown.stdout, flags=re.MULTILINE)[1:]
    pairs = zip(titles[::2], titles[1::2], strict=True)
    return {title: re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, flags=re.MULTILINE) for title, text in pairs}


@pytest.mark.parametrize("command", sorted(main.commands))
def test_common_options_are_last_in_every_help(command: str) -> None:
    shown_sections = sections(command)
    title, names = list(shown_sections.items())[-1]
    assert title == "Common options"
    assert [name for name in names if name != "--json"] == [
        *("--db", "--verbose", "--quiet", "--log-file", "--help")
    ]
    options = [option for option in main.commands[command].params if isinstance(option, click.Option)]
    assert sum(map(len, shown_sections.values())) == len(options) + 1


def test_the_longest_help_is_in_sections_and_fits_one_screen() -> None:
    assert list(sections("cluster-embeddings")) == [
        *("What to cluster", "Clustering", "Machine", "Common options")
    ]
    shown = CliRunner().invoke(main, ["cluster-embeddings", "--help"], terminal_width=100).stdout
    assert len(shown.splitlines()) <= 60
    assert max(map(len, shown.splitlines())) <= 100


def invoke(*words: object, **env: str) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], env=env, prog_name="panic-tda")


def empty_database(path: Path) -> Path:
    open_database(path, create=True)
    return path


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_option_shows_its_default(command: str) -> None:
    """Only flags need no default: they are off."""
    context = click.Context(main.commands[command])
    for parameter in main.commands[command].params:
        if not isinstance(parameter, click.Option) or (parameter.is_flag and not parameter.secondary_opts):
            continue
        record = parameter.get_help_record(context)
        assert record is not None, parameter.name
        assert "default: " in record[1] or record[1].endswith("[required]"), record


def test_computed_defaults_are_what_the_help_says() -> None:
    shown = " ".join(invoke("cluster-embeddings", "--help").stdout.split())
    assert "[default: 0.1%, at least 10; a tenth below 100 rows]" in shown
    assert "including the point itself. [default: 5]" in shown
    sizes = {50: 5, 99: 9, 100: 10, 10_000: 10, 20_000: 20, 100_000: 100}
    for n_rows, size in sizes.items():
        resolved = ClusteringParameters().resolve(n_rows)
        assert (resolved.min_cluster_size, resolved.min_samples) == (size, 5)


@pytest.mark.parametrize("command", ["cluster-embeddings", "plan-clustering"])
def test_models_are_named_by_argument_and_by_option(upgraded: MakeFile, command: str) -> None:
    file = upgraded()
    few = ["--downsample", "1"] if command == "plan-clustering" else []
    forms = (
        ["Nomic"],
        ["--model", "Nomic"],
        ["Nomic", "--model", "Nomic"],
        ["--model=Nomic", "--model=Nomic"],
    )
    for words in forms:
        result = invoke(command, *words, *few, "--json", "--db", file.path)
        assert result.exit_code == 0, result.output
        (models,) = (
            value for value in json.loads(result.stdout).values() if isinstance(value, list) and value
        )
        assert [model["embedding_model"] for model in models] == ["Nomic"], words
    both = invoke(command, "STSBMpnet", "--model", "Nomic", *few, "--json", "--db", file.path)
    (models,) = (value for value in json.loads(both.stdout).values() if isinstance(value, list) and value)
    assert sorted(model["embedding_model"] for model in models) == ["Nomic", "STSBMpnet"]
    for name in ("", " "):
        refused = invoke(command, "--model", "Nomic", "--model", name, "--db", file.path)
        assert refused.exit_code == 2
        assert f"such as Nomic; got {name!r}" in refused.stderr


MODELLESS = {"completion", "copy-database", "doctor", "help", "info", "save-pending", "upgrade"}
"""Commands that are not about a model."""


def test_commands_about_models_take_them_by_the_same_option() -> None:
    with_option = {
        name
        for name, command in main.commands.items()
        if any("--model" in parameter.opts for parameter in command.params)
    }
    assert set(main.commands) - with_option == MODELLESS


NOT_THERE = "no database at"


@pytest.mark.parametrize("form", ["--db {}", "--db={}", "--json --db {}", "-v --db {}"])
def test_the_database_may_be_named_before_the_command(tmp_path: Path, form: str) -> None:
    path = empty_database(tmp_path / "here.sqlite")
    result = invoke(*form.format(path).split(), "list-clusterings", PANIC_TDA_DB="nowhere.sqlite")
    assert result.exit_code == 0, result.output
    assert result.stdout == ("[]\n" if "--json" in form else f"{NO_CLUSTERINGS}\n")


def test_options_after_the_command_override_options_before_it(tmp_path: Path) -> None:
    here, nowhere = empty_database(tmp_path / "here.sqlite"), tmp_path / "nowhere.sqlite"
    assert invoke("--db", nowhere, "list-clusterings", "--db", here).exit_code == 0
    assert NOT_THERE in invoke("--db", here, "list-clusterings", "--db", nowhere).stderr
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    assert invoke("--log-file", first, "--db", here, "list-clusterings", "--log-file", second).exit_code == 0
    assert (first.exists(), second.exists()) == (False, True)
    # An empty name is a name that was said, and is refused.
    assert (
        "name of the database is empty"
        in invoke("--db", "", "list-clusterings", PANIC_TDA_DB=str(here)).stderr
    )


@pytest.mark.parametrize(
    ("before", "behind", "least"),
    [
        ("", "", logging.INFO),
        ("-v", "", logging.DEBUG),
        ("-q", "", logging.WARNING),
        ("-v", "-q", logging.WARNING),
        ("-q", "-v", logging.DEBUG),
        ("-q -v", "", logging.DEBUG),
        ("", "-v -q", logging.WARNING),
    ],
)
def test_the_last_of_verbose_and_quiet_counts(tmp_path: Path, before: str, behind: str, least: int) -> None:
    path = empty_database(tmp_path / "here.sqlite")
    result = invoke(*before.split(), "list-clusterings", "--db", path, *behind.split())
    assert result.exit_code == 0
    (handler,) = logging.getLogger("panic_tda").handlers
    assert handler.level == least


def test_a_log_file_before_the_command_gets_the_log(tmp_path: Path) -> None:
    path = tmp_path / "here.log"
    result = invoke(
        "--log-file", path, "--quiet", "upgrade", "--yes", "--db", write_field_file(tmp_path / "f").path
    )
    assert result.exit_code == 0, result.output
    assert "upgrade: done in" in path.read_text()


@pytest.mark.parametrize("words", [["--limit", "3"], ["--limit=3"], ["--yes"], ["--epsilon", "x"]])
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_an_option_before_its_command_is_an_error_that_says_where_it_belongs(
    words: list[str], json_too: list[str]
) -> None:
    result = invoke(*words, "list-clusterings", *json_too)
    name = words[0].partition("=")[0]
    text = f"{name} goes after the name of the command: panic-tda COMMAND {name} …"
    assert result.exit_code == 2
    assert text in result.stderr
    if json_too:
        assert json.loads(result.stdout) == {"error": {"type": "UsageError", "message": text}}
    other_result = invoke("--nonsense", "list-clusterings")
    assert (other_result.exit_code, "goes behind" in other_result.stderr) == (2, False)


def test_a_command_without_json_refuses_the_option_in_both_positions(tmp_path: Path) -> None:
    for words in (["--json", "upgrade"], ["upgrade", "--json"]):
        result = invoke(*words, "--db", tmp_path / "x")
        assert result.exit_code == 2
        assert "No such option" in json.loads(result.stdout)["error"]["message"]


def test_common_options_without_a_command_are_wrong_usage() -> None:
    result = invoke("--db", "x.sqlite")
    assert (result.exit_code, "Missing command" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["", "  "])
@pytest.mark.parametrize(
    "words", [["list-clusterings"], ["show-clustering"], ["delete-clusterings"], ["import-embeddings", "x"]]
)
def test_an_empty_model_name_is_wrong_usage(tmp_path: Path, words: list[str], name: str) -> None:
    target = tmp_path / "x.sqlite"
    result = CliRunner().invoke(main, [*words, "--model", name, "--db", str(target)])
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert f"such as Nomic; got {name!r}" in result.stderr
    assert not target.exists()
