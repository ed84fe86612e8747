"""What a command does with its terminal, tried on real processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage import pending
from panic_tda.storage.recovery import save_pending
from panic_tda.types import CLUSTERED
from tests.cli.processes import (
    SECONDS,
    SLOW,
    STARTED,
    count_results,
    environment,
    read_until,
    run,
    started,
)
from tests.conftest import MakeFile
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import snapshot


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
from panic_tda.storage import results
whole = results._assignments

def slow(key, finished):
    for number, row in enumerate(whole(key, finished)):
        if number == 20:
            print("HERE NOW", file=sys.stderr, flush=True)
        time.sleep(0.5 if number >= 20 else 0)
        yield row

results._assignments = slow
from panic_tda.main import main
main(prog_name="panic-tda")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_saving_leaves_the_database_as_it_was_and_keeps_the_result(
    upgraded: MakeFile, number: signal.Signals, code: int
) -> None:
    file = upgraded()
    before = snapshot(file.path)
    with started(file, SLOW_SAVE) as process:
        read_until(process, STARTED)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == code, stderr
    assert snapshot(file.path) == before
    (path,) = pending.find(file.database)
    assert str(path) in stderr
    assert "save-pending" in stderr
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


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["cluster-embeddings", "--db", "nowhere.sqlite"], 2),
        (["cluster-embeddings", "--db", "text.sqlite"], 1),
        (["cluster-embeddings", "--db", "field.sqlite", "Nonesuch"], 2),
        (["cluster-embeddings", "--db", "field.sqlite", "--epsilon", "-1"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_traceback_for_a_mistake_of_the_user(upgraded: MakeFile, words: list[str], code: int) -> None:
    folder = upgraded().path.parent
    (folder / "text.sqlite").write_text("no database " * 200)
    done = run(*words, cwd=folder)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "nowhere.sqlite").exists()


def test_the_traceback_is_in_the_log_file_and_with_v_on_stderr(upgraded: MakeFile) -> None:
    file = upgraded()
    words = ("cluster-embeddings", "Nonesuch", "--db", file.path)
    done = run(*words, "--log-file", "run.log", cwd=file.path.parent)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    log = (file.path.parent / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "UnknownModel" in log
    assert "Traceback" in run(*words, "-v", cwd=file.path.parent).stderr


def test_json_goes_alone_to_stdout(upgraded: MakeFile) -> None:
    file = upgraded()
    done = run("cluster-embeddings", "--json", "-v", "--db", file.path, cwd=file.path.parent)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["results"]) == 2
    assert "warn" not in done.stderr.lower()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_failure(upgraded: MakeFile, unbuffered: str) -> None:
    file = upgraded(FieldSpec(runs=20, dimensions=64))
    small = ClusteringParameters(epsilon=0.0, min_cluster_size=2, min_samples=1)
    cluster_all_data(file.database, parameters=small)
    words = ["show-clustering", "--limit", "0", "--json"] if unbuffered else ["list-clusterings"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "panic_tda", *words, "--db", str(file.path)],
        cwd=file.path.parent,
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_stderr_that_is_gone_costs_no_result(upgraded: MakeFile) -> None:
    file = upgraded()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "panic_tda", "cluster-embeddings", "--db", str(file.path)],
        cwd=file.path.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stdout.count("clustered") == 2
    assert count_results(file.path) == 2


def test_a_terminal_of_one_script_still_shows_everything_else(upgraded: MakeFile) -> None:
    """Texts with emoji, and our own ellipsis, ended a listing with a UnicodeEncodeError."""
    file = upgraded(FieldSpec(runs=1, text_models=("Nomic",)))
    with sqlite3.connect(file.path) as connection:
        connection.execute("UPDATE invocation SET output_text = '風船 🎈' WHERE type = 'TEXT'")
    cluster_all_data(file.database, parameters=ClusteringParameters(epsilon=2))
    words = ("show-clustering", "--limit", "0", "--db", file.path)
    shown, plain, everywhere = (
        run(*words, *more, cwd=file.path.parent, PYTHONIOENCODING=used)
        for more, used in (((), "iso8859-5"), (("--json",), "iso8859-5"), (("--json",), "utf-8"))
    )
    assert (shown.returncode, plain.returncode) == (0, 0), shown.stderr + plain.stderr
    assert "?? ?" in shown.stdout
    assert "風船 🎈" in everywhere.stdout
    assert plain.stdout.isascii()
    assert json.loads(plain.stdout) == json.loads(everywhere.stdout)


def test_an_upgrade_says_that_it_is_at_work(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    done = run("upgrade", "--yes", "--db", facts.path, cwd=tmp_path)
    assert done.returncode == 0
    assert "upgrade: done in" in done.stderr
