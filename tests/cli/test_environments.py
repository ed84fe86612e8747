"""Test that in a hostile environment every command works or ends with one clear sentence, in bounded time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

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


def require_clear(process: subprocess.CompletedProcess[str], words: str) -> None:
    assert process.returncode in (1, 2), process.stderr
    assert words in process.stderr
    assert "unexpected" not in process.stderr
    assert "Traceback" not in process.stderr
    assert "Error" in process.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("panic-tda list-clusterings --db d.sqlite --json > /dev/full", FULL),
        ("panic-tda list-clusterings --db d.sqlite > /dev/full", FULL),
        ("panic-tda list-clusterings --db no.sqlite --json > /dev/full", "no database at"),
        ("panic-tda --help > /dev/full", FULL),
        ("panic-tda list-clusterings --help > /dev/full", FULL),
        ("panic-tda list-clusterings --db circle", LOOP),
        ("panic-tda list-clusterings --db circle/d.sqlite", LOOP),
        ("panic-tda list-clusterings --db d.sqlite --log-file circle", "cannot write the log file"),
        ("panic-tda import-embeddings circle --db new.sqlite", "Too many levels of symbolic links"),
        ("panic-tda save-pending circle --db d.sqlite", "it is a symbolic link"),
        ("panic-tda list-clusterings --db pipe", PIPE),
        ("panic-tda list-clusterings --db /dev/zero", PIPE),
        ("panic-tda doctor --db pipe", PIPE),
        ("panic-tda import-embeddings pipe --db new.sqlite", PIPE),
        ("panic-tda save-pending pipe --db d.sqlite", "it is not a regular file"),
        ("panic-tda list-clusterings --db d.sqlite --log-file pipe", "is a pipe that nobody reads"),
        (f"panic-tda list-clusterings --db {'long' * 100}", "File name too long"),
        (
            "mkdir gone; cd gone; rmdir ../gone; panic-tda list-clusterings --db d",
            "working folder was deleted",
        ),
    ],
)
def test_an_unusable_environment_is_refused_in_one_sentence(folder: Path, line: str, words: str) -> None:
    require_clear(in_a_shell(line, folder), words)


@pytest.mark.parametrize("number", ["0", "999999"])
def test_a_number_of_threads_that_numba_refuses_is_named(folder: Path, number: str) -> None:
    words = ("cluster-embeddings", "--db", "d.sqlite", "--backend", "sklearn")
    result = run(*words, cwd=folder, NUMBA_NUM_THREADS=number)
    if number == "999999":
        # Numba takes it, and nothing here uses so many.
        assert result.returncode == 0
    else:
        require_clear(result, "NUMBA_NUM_THREADS")


def test_a_log_file_on_a_full_disk_loses_only_the_log(folder: Path) -> None:
    result = in_a_shell("panic-tda list-clusterings --db no.sqlite --log-file /dev/full", folder)
    require_clear(result, "no database at")
    line = "panic-tda plan-clustering --downsample 40 --db d.sqlite --log-file /dev/full"
    result = in_a_shell(line, folder)
    assert result.returncode == 0
    assert result.stderr.count("the log file /dev/full ends here: No space left on device") == 1
    assert "Traceback" not in result.stderr


def test_a_log_may_go_to_a_device_or_a_pipe_with_a_reader(folder: Path) -> None:
    result = in_a_shell("panic-tda list-clusterings --db d.sqlite --log-file /dev/stderr 2>&1 | cat", folder)
    assert result.returncode == 0
    assert "No clusterings are stored" in result.stdout


def test_a_terminal_without_unicode_works(folder: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    fit = ("cluster-embeddings", "--db", "d.sqlite", "--min-cluster-size", "2")
    for settings, words in (
        (locale, ("--help",)),
        (locale, (*fit, "--epsilon", "0")),
        (locale, ("show-clustering", "latest", "--db", "d.sqlite")),
        ({"PYTHONIOENCODING": "ascii"}, ("show-trajectories", "latest", "--db", "d.sqlite")),
    ):
        result = run(*words, cwd=folder, **settings)
        assert result.returncode == 0, (words, result.stderr)
        assert "Traceback" not in result.stderr


def test_a_completion_that_takes_too_long_is_stopped(folder: Path) -> None:
    with opened(folder / "endless.sqlite") as connection:
        connection.execute(
            "CREATE VIEW clusteringresult AS WITH RECURSIVE c(n) AS "
            "(SELECT 1 UNION ALL SELECT n + 1 FROM c) "
            "SELECT n AS id, n AS key, 'M' AS embedding_model, '2026' AS created_at FROM c WHERE n < 0"
        )
    settings = {"_PANIC_TDA_COMPLETE": "bash_complete", "COMP_CWORD": "4"}
    words = "panic-tda show-clustering --db endless.sqlite "
    result = run(cwd=folder, COMP_WORDS=words, **settings)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
