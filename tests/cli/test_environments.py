"""Test that in a hostile environment every command works or ends with one clear sentence, in bounded time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.main import main
from tests.cli.processes import in_a_shell, run
from tests.conftest import MakeFile
from tests.field_files import FieldSpec
from tests.snapshots import opened

FULL = "No space left on device"
LOOP = "its symbolic links lead in a circle"
PIPE = "is a pipe, a socket or a device"


@pytest.fixture
def folder(upgraded: MakeFile) -> Path:
    """Return a folder with a database, circular links, and a pipe without a writer or reader."""
    path = upgraded(FieldSpec(runs=2, length=40, text_models=("Nomic",), layout=0)).path
    (path.parent / "circle").symlink_to("other")
    (path.parent / "other").symlink_to("circle")
    os.mkfifo(path.parent / "pipe")
    path.rename(path.parent / "d.sqlite")
    return path.parent


def require_clear(exit_code: int, stderr: str, words: str) -> None:
    assert exit_code in (1, 2), stderr
    assert words in stderr
    assert "unexpected" not in stderr
    assert "Traceback" not in stderr
    assert "Error" in stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("panic-tda list-clusterings --db d.sqlite --json > /dev/full", FULL),
        ("panic-tda list-clusterings --db d.sqlite > /dev/full", FULL),
        ("panic-tda list-clusterings --db no.sqlite --json > /dev/full", "no database at"),
        ("panic-tda --help > /dev/full", FULL),
        (
            "mkdir gone; cd gone; rmdir ../gone; panic-tda list-clusterings --db d",
            "working folder was deleted",
        ),
    ],
)
def test_an_unusable_environment_is_refused_in_one_sentence(folder: Path, line: str, words: str) -> None:
    process = in_a_shell(line, folder)
    require_clear(process.returncode, process.stderr, words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("list-clusterings --db circle", LOOP),
        ("list-clusterings --db circle/d.sqlite", LOOP),
        ("list-clusterings --db d.sqlite --log-file circle", "cannot write the log file"),
        ("import-embeddings circle --db new.sqlite", "Too many levels of symbolic links"),
        ("save-pending circle --db d.sqlite", "it is a symbolic link"),
        ("list-clusterings --db pipe", PIPE),
        ("list-clusterings --db /dev/zero", PIPE),
        ("doctor --db pipe", PIPE),
        ("import-embeddings pipe --db new.sqlite", PIPE),
        ("save-pending pipe --db d.sqlite", "it is not a regular file"),
        ("list-clusterings --db d.sqlite --log-file pipe", "is a pipe that nobody reads"),
        (f"list-clusterings --db {'long' * 100}", "File name too long"),
    ],
)
def test_an_unusable_file_is_refused_in_one_sentence(
    folder: Path, line: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, line.split())
    require_clear(result.exit_code, result.stderr, words)


@pytest.mark.parametrize("number", ["0", "999999"])
def test_a_number_of_threads_that_numba_refuses_is_named(folder: Path, number: str) -> None:
    words = ("cluster-embeddings", "--db", "d.sqlite", "--backend", "tiled")
    result = run(*words, cwd=folder, NUMBA_NUM_THREADS=number)
    if number == "999999":
        # Numba takes it, and nothing here uses so many.
        assert result.returncode == 0
    else:
        require_clear(result.returncode, result.stderr, "NUMBA_NUM_THREADS")


def test_a_log_file_on_a_full_disk_loses_only_the_log(folder: Path) -> None:
    database = str(folder / "no.sqlite")
    result = CliRunner().invoke(main, ["list-clusterings", "--db", database, "--log-file", "/dev/full"])
    require_clear(result.exit_code, result.stderr, "no database at")
    database = str(folder / "d.sqlite")
    words = ["plan-clustering", "--downsample", "40", "--db", database, "--log-file", "/dev/full"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    assert result.stderr.count("the log file /dev/full ends here: No space left on device") == 1
    assert "Traceback" not in result.stderr


def test_a_log_may_go_to_a_device_or_a_pipe_with_a_reader(folder: Path) -> None:
    result = in_a_shell("panic-tda list-clusterings --db d.sqlite --log-file /dev/stderr 2>&1 | cat", folder)
    assert result.returncode == 0
    assert "No clusterings are stored" in result.stdout


def test_a_terminal_without_unicode_works(folder: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    fit = ("cluster-embeddings", "--db", "d.sqlite", "--min-cluster-size", "2", "--backend", "tiled")
    for settings, words in (
        (locale, ("--help",)),
        (locale, (*fit, "--epsilon", "0")),
        (locale, ("show-clustering", "latest", "--db", "d.sqlite")),
        ({"PYTHONIOENCODING": "ascii"}, ("show-trajectories", "latest", "--db", "d.sqlite")),
    ):
        result = run(*words, cwd=folder, **settings)
        assert result.returncode == 0, (words, result.stderr)
        assert "Traceback" not in result.stderr


COMPLETION = """
from panic_tda.cli import completion
completion.SECONDS = 0.5
from panic_tda.__main__ import run
run()
"""


def test_a_completion_that_takes_too_long_is_stopped(folder: Path) -> None:
    with opened(folder / "endless.sqlite") as connection:
        connection.execute(
            "CREATE VIEW clusteringresult AS WITH RECURSIVE c(n) AS "
            "(SELECT 1 UNION ALL SELECT n + 1 FROM c) "
            "SELECT n AS id, n AS key, 'M' AS embedding_model, '2026' AS created_at FROM c WHERE n < 0"
        )
    settings = {"_PANIC_TDA_COMPLETE": "bash_complete", "COMP_CWORD": "4"}
    words = "panic-tda show-clustering --db endless.sqlite "
    result = run(cwd=folder, code=COMPLETION, COMP_WORDS=words, **settings)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
