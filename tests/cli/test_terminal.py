"""Test streams, signals and exit codes of real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import CLUSTERED
from tests.cli.processes import (
    SECONDS,
    SLOW,
    STARTED,
    count_results,
    environment,
    in_a_shell,
    on_a_terminal,
    read_until,
    run,
    started,
)
from tests.conftest import MakeFile
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened, snapshot

FIT = ("cluster-embeddings", "--backend", "tiled")
"""A process of its own takes two seconds to import scikit-learn, which `auto` takes for few rows."""


@pytest.mark.parametrize(
    ("number", "code", "word", "as_json"),
    [(signal.SIGINT, 130, "interrupted", False), (signal.SIGTERM, 143, "terminated", True)],
)
def test_a_signal_during_the_fit_leaves_the_database_as_it_was(
    upgraded: MakeFile, number: signal.Signals, code: int, word: str, as_json: bool
) -> None:
    file = upgraded()
    before = snapshot(file.path)
    with started(file, SLOW, *(["--json"] if as_json else [])) as process:
        read_until(process, STARTED)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == code, stderr
    assert f"{word}; nothing unfinished is in the database" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert snapshot(file.path) == before
    assert {path.name for path in file.path.parent.iterdir()} <= {
        "field.sqlite",
        "field.sqlite-wal",
        "field.sqlite-shm",
    }
    assert {outcome.status for outcome in cluster_all_data(file.database)} == {CLUSTERED}


SLOW_SAVE = """
import sys, time
from panic_tda.storage.schema.tables import EmbeddingCluster
from panic_tda.storage.write import saving
insert = saving.insert_rows

def slow(rows):
    for number, row in enumerate(rows):
        if number == 20:
            print("HERE NOW", file=sys.stderr, flush=True)
        time.sleep(0.5 if number >= 20 else 0)
        yield row

saving.insert_rows = lambda connection, table, rows, **options: insert(
    connection, table, slow(rows) if table is EmbeddingCluster else rows, **options
)
from panic_tda.main import main
main(prog_name="panic-tda")
"""


def test_a_signal_while_saving_leaves_the_database_as_it_was_and_keeps_the_result(upgraded: MakeFile) -> None:
    file = upgraded()
    before = snapshot(file.path)
    with started(file, SLOW_SAVE, *FIT[1:]) as process:
        read_until(process, STARTED)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, stderr
    assert snapshot(file.path) == before
    (path,) = pending.find_pending(file.database)
    assert str(path) in stderr
    assert "save-pending" in stderr
    assert re.search("terminated; nothing unfinished is in the database\n$", stderr)
    assert "Traceback" not in stderr
    assert [saved.n_vanished for saved in save_pending(file.database)] == [0]
    assert count_results(file.path) == 1


def test_a_signal_leaves_what_was_saved_before(upgraded: MakeFile) -> None:
    file = upgraded()
    cluster_all_data(file.database)
    before = snapshot(file.path)
    with started(file, SLOW) as process:
        read_until(process, STARTED)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert snapshot(file.path) == before


def test_the_traceback_is_in_the_log_file_and_with_v_on_stderr(upgraded: MakeFile) -> None:
    file = upgraded()
    log = file.path.with_name("run.log")
    words = ("cluster-embeddings", "Nonesuch", "--db", str(file.path))
    result = CliRunner().invoke(main, [*words, "--log-file", str(log)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback (most recent call last)" in log.read_text()
    assert "UnknownModel" in log.read_text()
    assert "Traceback" in CliRunner().invoke(main, [*words, "-v"]).stderr


def test_json_goes_alone_to_stdout(upgraded: MakeFile) -> None:
    file = upgraded()
    result = run(*FIT, "--json", "-v", "--db", file.path, cwd=file.path.parent)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["results"]) == 2
    assert "warn" not in result.stderr.lower()


def run_into_closed_pipe(*words: object, **env: str) -> str:
    """Run a command whose output nobody reads, which must succeed; return its stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "panic_tda", *map(str, words)]
    process = subprocess.run(
        command, env=environment(**env), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=SECONDS
    )
    os.close(writing)
    assert process.returncode == 0, process.stderr
    return process.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_exits_without_an_error(upgraded: MakeFile, unbuffered: str) -> None:
    file = upgraded(FieldSpec(runs=20, dimensions=64))
    small = ClusteringParameters(epsilon=0.0, min_cluster_size=2, min_samples=1)
    cluster_all_data(file.database, parameters=small)
    words = ["show-clustering", "--limit", "0", "--json"] if unbuffered else ["list-clusterings"]
    assert run_into_closed_pipe(*words, "--db", file.path, PYTHONUNBUFFERED=unbuffered) == ""


def test_a_closed_pipe_does_not_hide_a_failure(upgraded: MakeFile) -> None:
    """`| true` made every failure a success."""
    file = upgraded(FieldSpec(nan_vectors=1))
    result = in_a_shell(f"panic-tda {' '.join(FIT)} --json --db {file.path} | true", file.path.parent)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert count_results(file.path) == 1
    result = in_a_shell(f"panic-tda show-clustering Nonesuch --db {file.path} | true", file.path.parent)
    assert result.returncode == 2, result.stderr
    assert "begin with 'Nonesuch'" in result.stderr


def test_a_closed_pipe_does_not_stop_the_work(tmp_path: Path) -> None:
    """The upgrade ended after the first line that nobody read, and said that all was well."""
    facts = write_field_file(tmp_path / "field.sqlite")
    run_into_closed_pipe("upgrade", "--yes", "--db", facts.path)
    assert count_results(facts.path) == 0


@pytest.mark.parametrize(
    ("closed", "commands"),
    [
        (">&-", {f"{' '.join(FIT)} --json": 1, "show-clustering Nonesuch --json": 2}),
        ("2>&-", {"show-clustering Nonesuch": 2}),
        ("<&- >&- 2>&-", {"list-clusterings": 0, "show-clustering --nonsense": 2}),
    ],
)
def test_closed_streams_change_no_exit_code(
    upgraded: MakeFile, closed: str, commands: dict[str, int]
) -> None:
    """Streams that were closed are None in Python: an AttributeError was all that a command said."""
    file = upgraded(FieldSpec(nan_vectors=1))
    for words, code in commands.items():
        result = in_a_shell(f"panic-tda {words} --db {file.path} {closed}", file.path.parent)
        assert result.returncode == code, words + result.stderr
        assert "AttributeError" not in result.stdout + result.stderr
    assert count_results(file.path) == sum(words.startswith("cluster-embeddings") for words in commands)


def test_a_closed_stream_does_not_give_its_descriptor_to_another_file(upgraded: MakeFile) -> None:
    """The log file would get what libraries print on stdout, and a database could."""
    file = upgraded()
    code = (
        "import os\nfrom panic_tda.main import main\n"
        "try: main(['list-clusterings', '--log-file', 'run.log'])\n"
        "finally: os.write(1, b'printed'); os.write(2, b'printed')"
    )
    command = f"PANIC_TDA_DB={file.path} '{sys.executable}' -c \"$CODE\" >&- 2>&-"
    result = in_a_shell(command, file.path.parent, CODE=code)
    assert result.returncode == 0
    assert "printed" not in (file.path.parent / "run.log").read_text()


EVIL = "Evil\x1b]0;title\x07\x9b2J"


def test_names_print_no_control_characters(upgraded: MakeFile) -> None:
    """Names of models were printed and logged with their escape sequences."""
    file = upgraded(FieldSpec(text_models=("Nomic",)))
    with opened(file.path) as connection:
        connection.execute("UPDATE embedding SET embedding_model = ?", (EVIL,))
    log = file.path.with_name("run.log")

    def run_and_read_stderr(*words: str) -> str:
        return CliRunner().invoke(main, [*words, "--db", str(file.path)], prog_name="panic-tda").output

    for words in (
        ("cluster-embeddings", "-v", "--log-file", str(log)),
        ("cluster-embeddings", "Nonesuch"),
        ("cluster-embeddings", EVIL + "!"),
        ("list-clusterings",),
        ("list-clusterings", EVIL),
        ("show-clustering",),
        ("show-clustering", "--limit", EVIL),
        ("show-clustering", EVIL),
        ("delete-clusterings", "--model", EVIL, "--yes"),
    ):
        message = run_and_read_stderr(*words)
        assert "Evil" in message, words
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", message), words
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", log.read_text())
    as_json = run_and_read_stderr("cluster-embeddings", "--json", "--quiet")
    assert json.loads(as_json)["results"][0]["embedding_model"] == EVIL
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", as_json)


def test_arguments_that_are_not_utf8_are_errors_in_json(tmp_path: Path) -> None:
    result = in_a_shell("panic-tda list-clusterings --json --db $'nowhere\\xff'", tmp_path)
    assert result.returncode == 2
    assert f"no database at {tmp_path}/nowhere\udcff;" in json.loads(result.stdout)["error"]["message"]
    assert f"no database at {tmp_path}/nowhere\\udcff;" in result.stderr


def test_a_listing_fits_a_real_terminal(upgraded: MakeFile) -> None:
    file = upgraded()
    cluster_all_data(file.database)
    words = ("list-clusterings", "--db", str(file.path))
    terminal = on_a_terminal(*words, cwd=file.path.parent, columns=80, stdout=True)
    header, *lines = terminal.last
    assert header.split() == ["id", "model", "created", "(UTC)", "clusters", "outliers", "time"]
    assert [line.split()[1] for line in lines[:2]] == ["STSBMpnet", "Nomic"]
    assert all(re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d  ", line) for line in lines[:2])
    assert lines[2].startswith("the same in all: epsilon 0.4, min_cluster_size 4, ")
    assert "no room" not in CliRunner().invoke(main, words).stdout


def test_a_closed_stderr_does_not_lose_the_result(upgraded: MakeFile) -> None:
    file = upgraded()
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "panic_tda", *FIT, "--db", str(file.path)],
        cwd=file.path.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    os.close(writing)
    assert process.returncode == 0
    assert process.stdout.count("clustered") == 2
    assert count_results(file.path) == 2


def test_a_terminal_that_cannot_show_a_script_still_shows_the_rest(upgraded: MakeFile) -> None:
    """Texts with emoji, and our own ellipsis, ended a listing with a UnicodeEncodeError."""
    file = upgraded(FieldSpec(runs=1, text_models=("Nomic",)))
    with opened(file.path) as connection:
        connection.execute("UPDATE invocation SET output_text = '風船 🎈' WHERE type = 'TEXT'")
    cluster_all_data(file.database, parameters=ClusteringParameters(epsilon=2, min_samples=2))
    words = ("show-clustering", "--limit", "0", "--db", file.path)
    shown, plain = (
        run(*words, *more, cwd=file.path.parent, PYTHONIOENCODING="iso8859-5") for more in ((), ("--json",))
    )
    assert (shown.returncode, plain.returncode) == (0, 0), shown.stderr + plain.stderr
    assert "?? ?" in shown.stdout
    everywhere = CliRunner().invoke(main, [*map(str, words), "--json"]).stdout
    assert "風船 🎈" in everywhere
    assert plain.stdout.isascii()
    assert json.loads(plain.stdout) == json.loads(everywhere)


def test_an_upgrade_logs_its_progress(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    result = CliRunner().invoke(main, ["upgrade", "--yes", "--db", str(facts.path)])
    assert result.exit_code == 0
    assert "upgrade: done in" in result.stderr


LOADING = """
import signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "panic_tda.cli.options":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
from panic_tda.__main__ import run
run()
"""


def test_an_interruption_during_imports_exits_as_later_ones_do(tmp_path: Path) -> None:
    result = run("list-clusterings", cwd=tmp_path, code=LOADING)
    assert (result.returncode, result.stderr) == (130, "")


DROPPED = """
import signal, sys
from panic_tda.storage.read import results

def dropping(*_, **__):
    try:
        signal.raise_signal(signal.{name})
    except BaseException:
        pass
    raise AttributeError("partially initialized module")

results.list_all_clusterings = dropping
from panic_tda.__main__ import run
run()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_failure_after_a_dropped_signal_is_reported_as_the_signal(
    upgraded: MakeFile, name: str, code: int
) -> None:
    file = upgraded()
    result = run("list-clusterings", "--db", file.path, cwd=file.path.parent, code=DROPPED.format(name=name))
    assert (result.returncode, "partially initialized" in result.stderr) == (code, True)
