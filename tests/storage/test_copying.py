"""Test that a copy holds every row once, between both kinds of database, or names what is missing."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from panic_tda.errors import DatabaseError
from panic_tda.main import main
from panic_tda.storage.database import open_database
from panic_tda.storage.write import copying
from panic_tda.storage.write.copying import TableSummary, copy_database
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import opened, run_python, snapshot

pytestmark = [pytest.mark.both_engines, pytest.mark.xdist_group("postgres")]
PIPELINE = ("experimentconfig", "run", "invocation", "embedding", "persistencediagram", "alembic_version")
OURS = ("clusteringresult", "cluster", "embeddingcluster", "clusteringtree")


@pytest.fixture
def target(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Target of a copy, a database of the other kind."""
    return str(tmp_path / "copy.sqlite") if engine == "postgresql" else str(request.getfixturevalue("url"))


@pytest.fixture(params=["the other kind", "the same kind"])
def any_target(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    to_a_server = (engine == "postgresql") == (request.param == "the same kind")
    return str(request.getfixturevalue("url") if to_a_server else tmp_path / "copy.sqlite")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH_BYTES", 2000)


def values(target: str | Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of the copied tables by column, with times as text."""
    values_by_table, present = {}, snapshot(target)
    with opened(target) as connection:
        for table in (table for table in (*PIPELINE, *OURS) if table in present):
            cursor = connection.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in cursor.description]
            rows = [sorted(zip(names, map(_plain, row), strict=True)) for row in cursor]
            values_by_table[table] = sorted(map(tuple, rows), key=repr)
    return values_by_table


def _plain(value: Any) -> Any:
    text = str(value)
    if text[4:5] == text[7:8] == "-" and text[13:14] == ":":
        return f"{text}.000000"[:26]
    return value


def filled(upgraded: MakeFile) -> UpgradedFile:
    """Return a database with every kind of field data, and clusterings."""
    file = upgraded(EVERYTHING)
    for seed in (1, 2):
        with file.database.writing() as connection:
            save_clustering(connection, make_finished(ids_of(file), seed=seed))
    return file


def test_a_copy_holds_what_its_source_holds(upgraded: MakeFile, any_target: str, small_batches: None) -> None:
    file = filled(upgraded)
    before = file.snapshot()
    summary = copy_database(file.database, any_target)
    assert file.snapshot() == before
    assert values(any_target) == values(file.target)
    assert [(table.table, table.rows) for table in summary.tables] == [
        (table, len(rows)) for table, rows in values(file.target).items()
    ]
    copy = open_database(any_target)
    copy.require_current()
    with copy.writing() as connection:
        save_clustering(connection, make_finished(ids_of(file), seed=3))


def test_a_checksum_matches_its_description(upgraded: MakeFile, target: str) -> None:
    file = upgraded(FieldSpec(null_vectors=1))
    summary = copy_database(file.database, target)
    columns = "id, started_at, completed_at, invocation_id, embedding_model, vector"
    total = 0
    with opened(file.target) as connection:
        for *texts, vector in connection.execute(f"SELECT {columns} FROM embedding"):
            size = None if vector is None else len(vector)
            encoded = json.dumps([*map(str, texts), size], separators=(",", ":")).encode()
            total += int(hashlib.blake2b(encoded + (vector or b""), digest_size=16).hexdigest(), 16)
    (copied_table,) = (table for table in summary.tables if table.table == "embedding")
    assert copied_table == TableSummary("embedding", file.facts.count("Nomic") * 2, f"{total % 2**128:032x}")


@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_a_file_that_was_never_upgraded_is_copied_without_old_clusterings(
    tmp_path: Path, target: str, layout: Any
) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", replace(EVERYTHING, layout=layout))
    before = snapshot(facts.path)
    summary = copy_database(facts.path, target)
    assert summary.left_out == (*sorted(facts.old_rows), "lab notes")
    assert snapshot(facts.path) == before
    copied = values(target)
    assert {table: len(copied[table]) for table in OURS} == dict.fromkeys(OURS, 0)
    with opened(target) as connection:
        stored = dict(connection.execute("SELECT id, vector FROM embedding").fetchall())
    assert {
        embedding.id: None if embedding.vector is None else embedding.vector.tobytes()
        for embedding in facts.embeddings
    } == stored


def test_repeated_rows_are_copied_as_often(tmp_path: Path, target: str) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=0))
    with opened(facts.path) as raw:
        raw.execute("INSERT INTO embedding SELECT replace(id, '067', '0ab'), started_at, completed_at, "
                    "invocation_id, embedding_model, vector FROM embedding")  # fmt: skip
    summary = copy_database(facts.path, target)
    assert {table.table: table.rows for table in summary.tables}["embedding"] == 2 * len(facts.embeddings)


def test_seeds_of_64_bits_are_kept(tmp_path: Path, target: str) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=0))
    with opened(facts.path) as raw:
        raw.execute("UPDATE run SET seed = ?", (2**62,))
        raw.execute("UPDATE invocation SET seed = ?", (-(2**63),))
    copy_database(facts.path, target)
    with opened(target) as raw:
        assert raw.execute("SELECT DISTINCT seed FROM run").fetchall() == [(2**62,)]
        assert raw.execute("SELECT DISTINCT seed FROM invocation").fetchall() == [(-(2**63),)]


KILLED = """
import os, signal, sys
from panic_tda.storage.write import copying
copying.BATCH_BYTES = 2000
insert, left = copying.insert_into, int(sys.argv[3])

def dying(connection, table, columns, rows):
    global left
    left -= 1
    insert(connection, table, columns, some(rows) if left == 0 else rows)

def some(rows):
    yield next(iter(rows))
    os.kill(os.getpid(), signal.SIGKILL)

copying.insert_into = dying
copying.copy_database(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("batches", [1, 25])
def test_a_killed_copy_continues(upgraded: MakeFile, target: str, batches: int) -> None:
    file = filled(upgraded)
    assert run_python(KILLED, file.target, target, batches).returncode == -signal.SIGKILL
    with pytest.raises(DatabaseError, match="unfinished copy; complete it with: panic-tda copy-database"):
        open_database(target).require_current()
    with file.opened() as raw:
        # What came meanwhile comes too.
        raw.execute("INSERT INTO run (id, network, seed, max_length, initial_prompt) "
                    "VALUES ('f0000000000000000000000000000000', '[]', 1, 1, 'late')")  # fmt: skip
    summary = copy_database(file.database, target)
    assert (summary.n_before > 0) == (batches > 1)
    assert values(target) == values(file.target)
    open_database(target).require_current()
    again = copy_database(file.database, target)
    assert (again.tables, again.n_before) == (summary.tables, sum(table.rows for table in summary.tables))
    with file.opened() as raw:
        raw.execute("UPDATE run SET initial_prompt = 'later' WHERE initial_prompt = 'late'")
    with pytest.raises(DatabaseError, match="has other tables already"):
        copy_database(file.database, target)


def test_a_changed_source_is_detected(upgraded: MakeFile, target: str) -> None:
    file = filled(upgraded)
    assert run_python(KILLED, file.target, target, 25).returncode == -signal.SIGKILL
    with file.opened() as raw:
        raw.execute("UPDATE run SET initial_prompt = 'other'")
    with pytest.raises(
        DatabaseError, match=r"differs from its source in table run: 8 rows .* lost or changed rows"
    ):
        copy_database(file.database, target)
    other_file = filled(lambda spec: upgraded(spec, "other.sqlite"))
    with pytest.raises(DatabaseError, match="is an unfinished copy of"):
        copy_database(other_file.database, target)


def test_a_flipped_bit_in_a_copy_is_detected(
    upgraded: MakeFile, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    insert = copying.insert_into

    def flawed(connection: Any, table: str, columns: Any, rows: Iterator[tuple[Any, ...]]) -> None:
        flipped = ((*row[:-1], bytes([row[-1][0] ^ 1]) + row[-1][1:]) for row in rows)
        insert(connection, table, columns, flipped if table == "embedding" else rows)

    monkeypatch.setattr(copying, "insert_into", flawed)
    with pytest.raises(DatabaseError, match="the copy differs from its source in table embedding"):
        copy_database(file.database, target)


def test_an_invalid_id_is_not_sent_to_a_server(tmp_path: Path, url: str) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=0))
    with opened(facts.path) as raw:
        raw.execute("UPDATE run SET id = 'short' WHERE id = ?", (facts.runs[0],))
    with pytest.raises(DatabaseError, match=r"run has a row whose id is not 32 .* digits.*'short'"):
        copy_database(facts.path, url)


def test_a_snapshot_is_copied_while_others_write(
    upgraded: MakeFile, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded(FieldSpec(wal=True))
    before = values(file.target)
    insert = copying.insert_into

    def meanwhile(connection: Any, table: str, *rest: Any) -> None:
        with file.opened() as raw:
            raw.execute("UPDATE embedding SET vector = x'00'")
            raw.execute("DELETE FROM run")
        insert(connection, table, *rest)

    monkeypatch.setattr(copying, "insert_into", meanwhile)
    copy_database(file.database, target)
    copied = values(target)
    assert (copied["run"], copied["embedding"]) == (before["run"], before["embedding"])


def test_the_command_prints_what_it_copied(upgraded: MakeFile, target: str) -> None:
    file = upgraded(EVERYTHING)
    result = CliRunner().invoke(main, ["copy-database", file.target, target, "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert {table["table"]: table["rows"] for table in answer["tables"]} == {
        table: len(rows) for table, rows in values(target).items()
    }
    again = CliRunner().invoke(main, ["copy-database", file.target, target])
    assert (again.exit_code, "copied before" in again.stderr) == (0, True)
