"""Test opening databases by path and URL; none is created by accident, and no lock or row is lost."""

from __future__ import annotations

import shlex
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.errors import DatabaseError, MissingPath, NeedsUpgrade, WrongUsage
from panic_tda.storage import connections
from panic_tda.storage.bulk import stream_vectors
from panic_tda.storage.database import SCHEMA_VERSION, VERSION_TABLE, Database, open_database, schema_version
from panic_tda.storage.schema.tables import Embedding, ExperimentConfig
from panic_tda.storage.write.insertion import insert_new_rows
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import run_python, snapshot

ODD_NAMES = [
    "plain.sqlite",
    "what? really#1 100%.sqlite",
    "%41%20;&=+.sqlite",
    'it\'s "quoted".sqlite',
    "風船 🎈.sqlite",
    "?mode=memory",
    "#",
    ":memory:.sqlite",
]


@contextmanager
def other_connection(database: Database) -> Iterator[sqlite3.Connection]:
    """A connection of another program, which does not wait for locks."""
    assert database.path is not None
    connection = sqlite3.connect(database.path, isolation_level=None, timeout=0)
    try:
        yield connection
    finally:
        connection.close()


def add(connection: sa.Connection | sqlite3.Connection, number: int) -> None:
    connection.execute(  # type: ignore[call-overload]
        sa.text(INSERT) if isinstance(connection, sa.Connection) else INSERT, {"id": f"{number:032x}"}
    )


INSERT = (
    "INSERT INTO experimentconfig (id, networks, seeds, prompts, embedding_models, max_length) "
    "VALUES (:id, '[]', '[]', '[]', '[]', 1)"
)


def count(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(ExperimentConfig)).scalar_one())


# --------------------------------------------------------------------------- opening


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_path_can_be_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    database = open_database(str(path), create=True)
    with database.writing() as connection:
        add(connection, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert count(open_database(path)) == 1
    assert str(database) == str(path)


@pytest.mark.parametrize("name", ["plain.sqlite", "100% 風船.sqlite"])
def test_a_url_names_the_same_file(tmp_path: Path, name: str) -> None:
    open_database(tmp_path / name, create=True)
    database = open_database(f"sqlite:///{tmp_path / name}")
    assert database.path == tmp_path / name
    database.require_current()


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_database("here.sqlite", create=True)
    assert open_database("sqlite:///here.sqlite").path == tmp_path / "here.sqlite"


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_a_mistyped_path_creates_nothing(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "folder" / "mistyped.sqlite"
    with pytest.raises(MissingPath, match=r"no database at .*mistyped\.sqlite; name an existing file"):
        open_database(f"{prefix}{path}")
    assert list(tmp_path.iterdir()) == []


def test_create_makes_folders_and_keeps_existing_files(tmp_path: Path) -> None:
    path = tmp_path / "some" / "folder" / "new.sqlite"
    with open_database(path, create=True).writing() as connection:
        add(connection, 1)
    assert count(open_database(path, create=True)) == 1


def test_a_database_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match="no database can be created at"):
        open_database(tmp_path / "file" / "new.sqlite", create=True)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match="is a folder"):
        open_database(tmp_path)


@pytest.mark.parametrize("content", [b"not a database\n" * 200, b"SQLite format 3\0" + bytes(4080)])
@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_not_a_database_is_refused_and_kept(
    tmp_path: Path, content: bytes, create: bool
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match=r"notes\.txt: file is not a database"):
        open_database(path, create=create)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("target", ["mysql://host/name", "sqlite://", "sqlite:///:memory:", "://"])
def test_unsupported_urls_are_refused(target: str) -> None:
    with pytest.raises(WrongUsage, match=r"database|names no file"):
        open_database(target, create=True)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgres+psycopg"])
def test_every_spelling_of_a_postgresql_url_is_accepted(scheme: str) -> None:
    # Nobody listens on this port.
    with pytest.raises(DatabaseError, match=r"^postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/x: .*refused"):
        open_database(f"{scheme}://me:secret@127.0.0.1:1/x")


def test_a_password_is_not_shown() -> None:
    database = Database(sa.make_url("postgresql+psycopg://me:secret@host/name"))
    assert "secret" not in str(database)


# --------------------------------------------------------------------------- versions


def test_a_new_database_is_current(database: Database) -> None:
    database.require_current()
    with database.reading() as connection:
        assert schema_version(connection) == SCHEMA_VERSION


def test_an_empty_file_is_filled_on_request_only(tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    with pytest.raises(DatabaseError, match="not a database of the generation pipeline"):
        open_database(path).require_current()
    assert path.stat().st_size == 0
    open_database(path, create=True).require_current()


def test_a_field_file_needs_an_upgrade(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    with pytest.raises(NeedsUpgrade, match=r"it has none\); run: panic-tda upgrade --db .*field\.sqlite"):
        open_database(facts.path, create=True).require_current()


@pytest.mark.parametrize(
    ("version", "error"), [("0000", DatabaseError), ("0001", NeedsUpgrade), ("9999", DatabaseError)]
)
def test_other_versions_are_refused(database: Database, version: str, error: type[Exception]) -> None:
    with database.writing() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
    with pytest.raises(error, match=version):
        database.require_current()


def test_the_upgrade_command_in_the_message_can_be_pasted(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "it's a field.sqlite")
    with pytest.raises(NeedsUpgrade) as refused:
        open_database(facts.path).require_current()
    assert shlex.split(str(refused.value).split("run: ")[1])[-1] == str(facts.path)


# --------------------------------------------------------------------------- transactions


def test_an_exception_rolls_back_the_transaction(database: Database) -> None:
    def fail() -> None:
        with database.writing() as connection:
            add(connection, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(database) == 0


def test_a_reading_connection_cannot_write(database: Database) -> None:
    with pytest.raises(DatabaseError, match="readonly"), database.reading() as connection:
        add(connection, 1)
    assert count(database) == 0


def test_a_reading_connection_sees_one_state(database: Database) -> None:
    query = sa.select(sa.func.count()).select_from(ExperimentConfig)
    with database.reading() as reader:
        assert reader.execute(query).scalar_one() == 0
        with database.writing() as writer:
            add(writer, 1)
        assert reader.execute(query).scalar_one() == 0
    assert count(database) == 1


def test_connections_are_configured(database: Database) -> None:
    def pragma(connection: sa.Connection, name: str) -> object:
        return connection.execute(sa.text(f"PRAGMA {name}")).scalar()

    with database.writing() as connection:
        assert (pragma(connection, "foreign_keys"), pragma(connection, "journal_mode")) == (1, "wal")
        assert pragma(connection, "busy_timeout") == 60_000
    with database.writing(foreign_keys=False) as connection:
        assert pragma(connection, "foreign_keys") == 0


def test_reading_a_field_file_does_not_change_it(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(wal=False))
    before = facts.path.read_bytes()
    with open_database(facts.path).session() as session:
        assert session.query(Embedding).count() == len(facts.embeddings)
    assert facts.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [facts.path]


def test_a_read_only_file_can_be_read_but_not_written(database: Database) -> None:
    assert database.path is not None
    database.require_writable()
    database.path.chmod(0o444)
    assert count(database) == 0
    with pytest.raises(DatabaseError, match=r"is read-only; make it writable \(chmod u\+w\)"):
        database.require_writable()


def test_a_folder_without_write_access_is_an_error_that_names_the_need(database: Database) -> None:
    """A read-only folder does the same; a folder in the way stops even the superuser."""
    assert database.path is not None
    for name in ("-wal", "-shm"):
        database.path.with_name(f"{database.path.name}{name}").unlink(missing_ok=True)
    database.path.with_name(f"{database.path.name}-shm").mkdir()
    with pytest.raises(DatabaseError, match="the -wal and -shm in it writable"):
        database.require_writable()


def test_a_writer_that_keeps_its_lock_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.05)
    with other_connection(database) as second_connection:
        second_connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match=r"locked for 0\.05 s by another process; try again"):
            database.require_writable()
        assert count(database) == 0


def test_a_writer_that_releases_its_lock_is_waited_for(database: Database) -> None:
    assert database.path is not None
    # Another thread lets go, hence the check off.
    other_connection = sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)
    other_connection.execute("BEGIN IMMEDIATE")
    add(other_connection, 1)
    release = threading.Timer(0.3, lambda: other_connection.execute("COMMIT"))
    release.start()
    with database.writing() as connection:
        add(connection, 2)
    release.join()
    other_connection.close()
    assert count(database) == 2


def test_reading_while_writing_keeps_the_lock(database: Database) -> None:
    # POSIX drops all locks of a process on a file when any of its descriptors of that file is closed.
    attempt = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print(error)
"""
    with database.writing() as connection:
        add(connection, 1)
        for _ in range(3):
            assert count(database) == 0
        assert "locked" in run_python(attempt, database.path).stdout
        add(connection, 2)
    assert count(database) == 2
    assert run_python(attempt, database.path).stdout == ""


@pytest.mark.slow
def test_two_writing_processes_lose_no_row(database: Database) -> None:
    """Two processes write and read in turns; every committed row is there in the end."""
    work = """
import sys
import sqlalchemy as sa
from panic_tda.storage.database import open_database
database = open_database(sys.argv[1])
first = int(sys.argv[2])
for number in range(first, first + 60):
    with database.writing() as connection:
        connection.execute(sa.text(sys.argv[3]), {"id": f"{number:032x}"})
    with database.reading() as connection:
        found = connection.execute(sa.text("SELECT count(*) FROM experimentconfig")).scalar()
        assert found >= number - first + 1, found
"""
    results = []
    threads = [
        threading.Thread(
            target=lambda first=first: results.append(run_python(work, database.path, first, INSERT))
        )
        for first in (1000, 2000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(process.returncode, process.stderr) for process in results] == [(0, ""), (0, "")]
    assert count(database) == 120
    with other_connection(database) as second_connection:
        assert second_connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --------------------------------------------------------------------------- rows in bulk


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_vectors_stream_as_they_are_stored(tmp_path: Path, batch_rows: int) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    database = open_database(facts.path)
    query = (
        sa.select(Embedding.id, Embedding.__table__.c.vector)
        .where(Embedding.embedding_model == "Nomic")
        .order_by(Embedding.id)
    )
    with database.reading() as connection:
        batches = list(stream_vectors(connection, query, width=32, batch_rows=batch_rows, invalid_ids=[]))
    expected = facts.of("Nomic")
    assert max(batch.num_rows for batch in batches) == min(batch_rows, len(expected))
    ids = [embedding_id.decode() for batch in batches for embedding_id in batch.column("id").to_pylist()]
    assert ids == [embedding.id for embedding in expected]
    vectors = [np.frombuffer(v, "<f4") for batch in batches for v in batch.column("vector").to_pylist()]
    np.testing.assert_array_equal(vectors, [embedding.vector for embedding in expected])


@pytest.mark.parametrize("spoiled", [{"null_vectors": 1}, {"short_vectors": 1}])
def test_a_vector_of_another_length_stops_the_stream(tmp_path: Path, spoiled: dict[str, int]) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(**spoiled))  # type: ignore[arg-type]
    query = sa.select(Embedding.id, Embedding.__table__.c.vector)
    with (
        pytest.raises(DatabaseError, match="vectors of 32 bytes were expected"),
        open_database(facts.path).reading() as connection,
    ):
        list(stream_vectors(connection, query, width=32, batch_rows=10, invalid_ids=[]))


def test_existing_rows_are_not_changed(database: Database) -> None:
    columns = ("id", "networks", "seeds", "prompts", "embedding_models", "max_length")

    def row(number: int, length: int) -> tuple[object, ...]:
        return f"{number:032x}", "[]", "[]", "[]", "[]", length

    with database.writing() as connection:
        assert insert_new_rows(connection, "experimentconfig", columns, []) == 0
        assert insert_new_rows(connection, "experimentconfig", columns, [row(1, 5), row(2, 5)]) == 2
        later = [row(2, 6), row(3, 6), row(3, 7)]
        assert insert_new_rows(connection, "experimentconfig", columns, later) == 1
    assert database.path is not None
    stored = snapshot(database.path)["experimentconfig"][1]
    assert [values[10] for values in stored] == [5, 5, 6]
