"""Test several processes at one database: no lock and no row is lost, and reads see one state."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from panic_tda.clustering_manager import list_clusterings
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.loading import load_embeddings
from panic_tda.storage.write import pending
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, UpgradedFile, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import REPOSITORY, opened

ROUNDS = 8

# Saves one clustering after another, and in between reads all vectors in the same process: were there a
# second SQLite library in it, closing the read connection would drop the lock of the write transaction.
SAVER = """
import sys
from dataclasses import replace
from pathlib import Path
from panic_tda.storage.write import pending, saving
from panic_tda.storage.database import open_database
from panic_tda.storage.read.loading import load_embeddings
from panic_tda.storage.read.census import take_census
from panic_tda.storage.schema.tables import uuid7
database, rounds = open_database(sys.argv[1]), int(sys.argv[3])
kept = pending.read_pending(Path(sys.argv[2]))
census = take_census(database)["Nomic"]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    one = replace(kept, id=uuid7())
    with database.writing() as connection:
        saving.save_clustering(connection, one)
        assert len(load_embeddings(database, census).ids) == census.n_total
    print(one.id.hex, flush=True)
"""
# The generation pipeline: plain sqlite3, one short transaction a row.
PIPELINE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    identity = f"{sys.argv[2]}{number:024x}"
    with connection:
        connection.execute(
            "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
            "VALUES (?, 'none', 'Other', x'00')",
            (identity,),
        )
    print(identity, flush=True)
"""


def start(code: str, *words: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> list[str]:
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return stdout.split()


@pytest.fixture
def file(upgraded: MakeFile) -> UpgradedFile:
    return upgraded(FieldSpec(runs=30, length=40, dimensions=64, text_models=("Nomic",)))


def rows(path: Path, query: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_saving_reading_and_generating_at_once_lose_nothing(file: UpgradedFile) -> None:
    ids = [embedding.id for embedding in file.facts.sample("Nomic")]
    pending_path = pending.write_pending(file.database, make_finished(ids))
    savers = [start(SAVER, file.path, pending_path, ROUNDS) for _ in range(2)]
    pipeline = start(PIPELINE, file.path, "0" * 8, 20 * ROUNDS)
    census = take_census(file.database)["Nomic"]
    expected = load_embeddings(file.database, census)
    go(savers[0], pipeline)
    states = 0
    while any(process.poll() is None for process in (*savers, pipeline)):
        matrix = load_embeddings(file.database, census)
        assert matrix.ids.tobytes() == expected.ids.tobytes()
        assert matrix.vectors.tobytes() == expected.vectors.tobytes()
        with file.database.session() as session:
            listed = {summary.id for summary in list_clusterings(session)}
            counted = session.connection().exec_driver_sql(
                "SELECT result_key, count(*) FROM embeddingcluster GROUP BY result_key"
            )
            # One transaction sees whole clusterings only.
            assert [count for _, count in counted] == [len(ids)] * len(listed)
        # One saver begins after the first look, so that there is one, however busy the machine is.
        if not states:
            go(savers[1])
        states += 1
    committed = {identity for saver in savers for identity in finish(saver)}
    inserted = finish(pipeline)

    assert states > 0
    assert len(committed) == 2 * ROUNDS
    assert len(inserted) == 20 * ROUNDS
    assert {row[0] for row in rows(file.path, "SELECT id FROM clusteringresult")} == committed
    assert {
        row[0] for row in rows(file.path, "SELECT id FROM embedding WHERE embedding_model = 'Other'")
    } == (set(inserted))
    assert rows(file.path, "SELECT count(*) FROM embeddingcluster") == [(2 * ROUNDS * len(ids),)]
    assert rows(file.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_never_drops_the_lock_of_a_writer_in_its_own_process(file: UpgradedFile) -> None:
    census = take_census(file.database)["Nomic"]
    ids = [embedding.id for embedding in file.facts.sample("Nomic")]
    with file.database.writing() as connection:
        save_clustering(connection, make_finished(ids))
        for _ in range(3):
            load_embeddings(file.database, census)
        # Another process must find the write lock taken; it would not, had a close dropped it.
        other_process = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sqlite3, sys\n"
                "connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
                "connection.execute('BEGIN IMMEDIATE')",
                str(file.path),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert "database is locked" in other_process.stderr
    assert rows(file.path, "SELECT count(*) FROM clusteringresult") == [(1,)]


def test_counting_and_reading_see_one_state(file: UpgradedFile) -> None:
    with file.database.reading() as connection:
        count = "SELECT count(*) FROM embedding"
        before = connection.exec_driver_sql(count).scalar()
        with opened(file.path) as other_connection:
            other_connection.execute("DELETE FROM embedding WHERE rowid % 2")
        assert connection.exec_driver_sql(count).scalar() == before
    assert rows(file.path, "SELECT count(*) FROM embedding") != [(before,)]
