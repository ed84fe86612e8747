"""Test that an upgrade writes no page of the tables that stay, in every layout."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from panic_tda.errors import DatabaseError
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.upgrade import upgrade
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import opened, snapshot

STAY = (
    "experimentconfig",
    "run",
    "invocation",
    "embedding",
    "persistencediagram",
    "lab notes",
    "alembic_version",
)
LARGE = FieldSpec(runs=30, length=40, image_bytes=9000, dimensions=64, clusterings=5)
FILES = {
    **{f"layout {layout}": replace(LARGE, layout=layout) for layout in (0, 1, 2, 3)},
    "everything": replace(EVERYTHING, runs=30, image_bytes=9000, clusterings=5),
    "ids of digits": replace(LARGE, layout=2, digit_ids=True),
    "images first": replace(LARGE, migrated=True, layout=2, unique="constraint", times_required=True),
    "no log": replace(LARGE, layout=3, wal=False),
}
WAL_HEADER, FRAME_HEADER = 32, 24


def pages_that_stay(path: Path) -> dict[int, bytes]:
    """Return the pages of the tables that stay and of their indexes, by number."""
    marks = ", ".join("?" * len(STAY))
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        numbers = connection.execute(
            "SELECT pageno FROM dbstat WHERE name IN "
            f"(SELECT name FROM sqlite_master WHERE tbl_name IN ({marks}))",
            STAY,
        ).fetchall()
    content = path.read_bytes()
    return {number: content[(number - 1) * size : number * size] for (number,) in numbers}


def pages_in_the_log(path: Path) -> set[int]:
    """Return the numbers of the pages that were written (https://sqlite.org/fileformat2.html, 4)."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    (size,) = struct.unpack(">I", log[8:12])
    frames = range(WAL_HEADER, len(log), FRAME_HEADER + size)
    return {struct.unpack(">I", log[at : at + 4])[0] for at in frames}


@pytest.mark.parametrize("spec", FILES.values(), ids=FILES)
def test_no_page_of_kept_tables_is_written(tmp_path: Path, spec: FieldSpec) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", spec)
    with opened(facts.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    stay = pages_that_stay(facts.path)
    assert len(stay) > 100
    if not spec.wal:
        # Otherwise the upgrade makes it a file with a log first, for which nobody else may be reading.
        open_database(facts.path).require_writable()
    with closing(sqlite3.connect(facts.path)) as reader:
        # Who reads keeps the log from going into the file, and from being emptied.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM run").fetchone()
        upgrade(open_database(facts.path))
        written = pages_in_the_log(facts.path)
    assert len(written) > 5
    assert written & set(stay) == set()
    with opened(facts.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    after = pages_that_stay(facts.path)
    assert {number: after[number] for number in stay} == stay


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("invocation", ("started_at", "completed_at", "seed")),
        ("embedding", ("started_at", "completed_at")),
        ("experimentconfig", ("started_at", "completed_at")),
    ],
)
def test_columns_that_are_not_needed_may_be_missing(
    tmp_path: Path, table: str, columns: tuple[str, ...]
) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=1))
    with opened(facts.path) as connection:
        for column in columns:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    before = snapshot(facts.path)[table]
    database = open_database(facts.path)
    upgrade(database)
    assert snapshot(facts.path)[table] == before
    database.require_current()


@pytest.mark.parametrize(
    ("table", "column"), [("invocation", "sequence_number"), ("invocation", "type"), ("embedding", "vector")]
)
def test_a_column_that_is_needed_is_named_and_nothing_changes(
    tmp_path: Path, table: str, column: str
) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=2))
    with opened(facts.path) as connection:
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    before = snapshot(facts.path)
    with pytest.raises(DatabaseError, match=rf"table {table} has no column {column}"):
        upgrade(open_database(facts.path))
    assert snapshot(facts.path) == before
