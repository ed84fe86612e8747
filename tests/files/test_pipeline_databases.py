"""Test that the pipeline's own SQLite database is imported like its dump, and refused by other commands."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from panic_tda.errors import BadInput, DatabaseError, WrongUsage
from panic_tda.files.importing import import_embeddings, require_files, sample_files
from panic_tda.storage.database import Database, open_database
from tests.command_line import invoke, succeed
from tests.dump_files import DumpSpec, Tables, contents, count, dump_tables, import_tables, place
from tests.field_files import write_field_file
from tests.snapshots import rows

SPEC = DumpSpec(prompts=False)
# Columns stand in this order there: what lies behind an image is behind all of its bytes.
LAYOUT = {
    "experiments": "updated_at TEXT, inserted_at TEXT, completed_at TEXT, started_at TEXT, "
    "max_length INTEGER, embedding_models JSON_LIST, prompts TEXT, id UUID_TEXT PRIMARY KEY, "
    "num_runs INTEGER, networks TEXT",
    "runs": "experiment_id TEXT REFERENCES experiments (id), inserted_at TEXT, initial_prompt TEXT, "
    "max_length INTEGER, network TEXT, id TEXT PRIMARY KEY, run_number INTEGER",
    "invocations": "input_invocation_id TEXT, run_id TEXT REFERENCES runs (id), inserted_at TEXT, "
    "completed_at TEXT, started_at TEXT, output_image BLOB, output_text TEXT, sequence_number INTEGER, "
    "type TEXT, model TEXT, id TEXT PRIMARY KEY",
    "embeddings": "invocation_id TEXT REFERENCES invocations (id), completed_at TEXT, started_at TEXT, "
    "vector BLOB, embedding_model TEXT, id TEXT PRIMARY KEY",
    "schema_migrations": "version INTEGER PRIMARY KEY, inserted_at TEXT",
    "lyapunov_results": "id TEXT PRIMARY KEY, lyapunov_data BLOB",
}
IDS = ("id", "experiment_id", "run_id", "invocation_id", "input_invocation_id")


def as_blob(identity: str) -> Any:
    return UUID(identity).bytes


def write_pipeline_database(path: Path, tables: Tables, make_id: Callable[[str], Any] = str) -> Path:
    """Write the tables of a dump as the pipeline has them."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
        for name, columns in LAYOUT.items():
            raw.execute(f"CREATE TABLE {name} ({columns})")
            table = dict(tables.get(name, {}))
            for column in set(IDS) & set(table):
                table[column] = [value if value is None else make_id(value) for value in table[column]]
            if "vector" in table:
                table["vector"] = [
                    None if vector is None else np.array(vector, "<f4").tobytes()
                    for vector in table["vector"]
                ]
            marks = ", ".join("?" * len(table))
            values = list(zip(*table.values(), strict=True))
            if values:
                raw.executemany(f"INSERT INTO {name} ({', '.join(table)}) VALUES ({marks})", values)
        # Whoever reads an image gets an error: this is no text.
        raw.execute("UPDATE invocations SET output_image = CAST(x'ff00ff' AS TEXT) WHERE type = 'image'")
        raw.commit()
    return path


@pytest.mark.parametrize("make_id", [str, str.upper, as_blob], ids=["text", "upper case", "bytes"])
@pytest.mark.parametrize("batch_rows", [7, 8192])
def test_a_pipeline_database_is_imported_like_its_dump(
    tmp_path: Path,
    database: Database,
    make_id: Callable[[str], Any],
    batch_rows: int,
) -> None:
    tables = dump_tables(SPEC)
    path = write_pipeline_database(tmp_path / "panic_tda_dev.db", tables, make_id)
    summary = import_embeddings([path], database, batch_rows=batch_rows)
    assert (summary.n_files, summary.n_rows, summary.n_new_embeddings, summary.n_new_runs) == (1, 90, 90, 3)
    assert summary.models == ("Nomic", "NomicVision", "Qwen3Embed")
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_tables(tmp_path / "dump", tables, other_database, batch_rows=batch_rows)
    assert contents(database) == contents(other_database)
    before = contents(other_database)
    again = import_embeddings([path], other_database, batch_rows=batch_rows)
    assert (again.n_present, again.n_new_embeddings, again.n_differing) == (90, 0, 0)
    assert contents(other_database) == before
    assert rows(database, "SELECT DISTINCT seed FROM run ORDER BY seed") == [(0,), (1,), (2,)]


def test_ids_whose_bytes_are_stored_as_text_are_read(tmp_path: Path, database: Database) -> None:
    tables = dump_tables(SPEC)
    path = write_pipeline_database(tmp_path / "raw.db", tables, as_blob)
    with closing(sqlite3.connect(path)) as raw:
        for table in ("experiments", "runs", "invocations", "embeddings"):
            for name in set(IDS) & {row[1] for row in raw.execute(f"PRAGMA table_info({table})")}:
                raw.execute(f"UPDATE {table} SET {name} = CAST({name} AS TEXT)")
        raw.commit()
    import_embeddings([path], database)
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_tables(tmp_path / "dump", tables, other_database)
    assert contents(database) == contents(other_database)


def test_new_rows_are_added_later_even_while_the_pipeline_writes(tmp_path: Path, database: Database) -> None:
    path = write_pipeline_database(tmp_path / "live.db", dump_tables(DumpSpec(runs=2, prompts=False)))
    import_embeddings([path], database)
    path.unlink()
    write_pipeline_database(path, dump_tables(SPEC))
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM embeddings")
        summary = import_embeddings([path], database)
    assert (summary.n_new_runs, summary.n_new_invocations, summary.n_new_embeddings) == (1, 20, 30)
    assert count(database) == (1, 3, 60, 90)


def test_rows_without_a_vector_and_orphans_are_left_out(tmp_path: Path, database: Database) -> None:
    tables = dump_tables(SPEC)
    tables["embeddings"]["vector"][4] = None
    tables["embeddings"]["invocation_id"][7] = str(UUID(int=7))
    summary = import_embeddings([write_pipeline_database(tmp_path / "some.db", tables)], database)
    left_out = summary.left_out
    assert (left_out.embeddings_without_vector, left_out.orphaned_embeddings) == (1, 1)
    assert summary.n_new_embeddings == 88


@pytest.mark.parametrize(
    ("table", "column", "value", "problem"),
    [
        ("embeddings", "vector", b"12345", "vector must be float32 values as bytes; got bytes"),
        ("embeddings", "vector", "[1, 2]", "vector must be float32 values as bytes; got str"),
        ("embeddings", "vector", np.zeros(8, "<f4").tobytes(), "the vector is zero"),
        ("embeddings", "id", "12", "id must be 32 hexadecimal digits"),
        ("invocations", "run_id", b"\xff" * 9, "run_id must be 32 hexadecimal digits"),
        ("invocations", "sequence_number", "two", "sequence_number must be an integer; got str 'two'"),
        ("invocations", "type", "sound", "type must be text or image; got 'sound'"),
        ("runs", "network", b"\xb1", "network must be text; got bytes"),
        ("runs", "network", "{}", "network must be a list of names"),
    ],
)
def test_an_impossible_value_is_refused_by_table_and_row(
    tmp_path: Path, database: Database, table: str, column: str, value: Any, problem: str
) -> None:
    path = write_pipeline_database(tmp_path / "bad.db", dump_tables(SPEC))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 2", [value])
        raw.commit()
    before = contents(database)
    with pytest.raises(BadInput) as refused:
        import_embeddings([path], database)
    assert f"bad.db, table {table}, row 1 (counted from 0): {problem}" in str(refused.value)
    assert contents(database) == before


@pytest.mark.parametrize(
    "words",
    [
        ("upgrade", "--yes"),
        ("cluster-embeddings",),
        ("doctor",),
        ("doctor", "--fix", "--yes"),
        ("list-clusterings",),
        ("show-clustering",),
        ("plan-clustering",),
        ("import-embeddings", str(sample_files()[0])),
        ("copy-database",),
    ],
    ids=" ".join,
)
def test_every_other_command_names_the_layout_and_the_remedy(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = write_pipeline_database(tmp_path / "a b.db", dump_tables(SPEC))
    before = path.read_bytes()
    target = [str(path), str(tmp_path / "c")] if words == ("copy-database",) else ["--db", str(path)]
    result = invoke("-q", *words, *target)
    assert result.exit_code == 1
    text = " ".join(result.stderr.split())
    assert "is a database of the pipeline's newer generation" in text
    assert f"panic-tda import-embeddings '{path}' --db NEW.sqlite" in text
    assert path.read_bytes() == before


def test_the_suggested_command_works(tmp_path: Path) -> None:
    path = write_pipeline_database(tmp_path / "panic_tda_dev.db", dump_tables(SPEC))
    new = str(tmp_path / "NEW.sqlite")
    result = succeed("-q", "import-embeddings", path, db=new)
    assert "Read 90 rows from 1 file: added 90 embeddings" in result.stdout
    open_database(new).require_current()


def test_other_sqlite_files_and_contradicting_models_are_refused(tmp_path: Path) -> None:
    field = write_field_file(tmp_path / "field.sqlite").path
    with pytest.raises(BadInput, match=r"field\.sqlite is an SQLite database without .*--db .*field\.sqlite"):
        require_files([field])
    path = write_pipeline_database(tmp_path / "panic.db", dump_tables(SPEC))
    with pytest.raises(WrongUsage, match=r"is a database that names its models, but model A was requested"):
        require_files([path], model="A")
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("ALTER TABLE embeddings DROP COLUMN vector")
    with pytest.raises(BadInput, match=r"panic\.db, table embeddings has no column vector"):
        require_files([path])
    damaged = tmp_path / "damaged.db"
    shutil.copy(field, damaged)
    with damaged.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 4000)
    with pytest.raises(DatabaseError, match="damaged"):
        require_files([damaged])


def test_a_step_is_found_under_its_own_id(tmp_path: Path, database: Database) -> None:
    tables = dump_tables(SPEC)
    import_embeddings([write_pipeline_database(tmp_path / "panic.db", tables, as_blob)], database)
    steps = tables["invocations"]
    row = place(steps, run_id=tables["runs"]["id"][1], sequence_number=3)
    plain = steps["id"][row].replace("-", "")
    assert rows(database, f"SELECT type, output_text, started_at FROM invocation WHERE id = '{plain}'") == [
        ("TEXT", steps["output_text"][row], "2026-02-12 03:04:05.123456")
    ]
