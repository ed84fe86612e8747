"""Test that exports, pages and copies hold only a few texts of megabytes at a time."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.database import Database
from panic_tda.storage.schema.tables import Invocation
from tests.conftest import MakeFile
from tests.exported import clustered
from tests.field_files import FieldSpec
from tests.snapshots import opened, run_python

CHARACTERS = 1_000_000
N_TEXTS = 150
MOST_MIB = 400
"""What a command may take beyond what it takes of short texts: SQLite's cache (256 MiB), and some texts."""
MEASURED = """
import resource, sys
from panic_tda.main import main
main(sys.argv[1:], standalone_mode=False)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def lengthen(database: Database, n_characters: int) -> None:
    """Give every text output a different text of that length."""
    assert database.path is not None
    with opened(database.path) as connection:
        connection.execute(
            "UPDATE invocation SET output_text = printf('%010d', rowid) || "
            "substr(replace(hex(zeroblob(?)), '0', 'x'), 1, ?) WHERE type = 'TEXT'",
            (n_characters // 2, n_characters - 10),
        )


def peak(database: Database, *words: str) -> int:
    """Return the most memory that a command took, in MiB."""
    process = run_python(MEASURED, *words, "--db", str(database.path))
    assert process.returncode == 0, process.stderr
    return int(process.stderr.rsplit("peak ", 1)[1]) // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory in KiB")
@pytest.mark.parametrize(
    "words",
    [
        ("export-clustering", "latest", "rows.parquet", "--force"),
        ("export-clustering", "latest", "rows.ndjson", "--force"),
        ("copy-database", "{database}", "copy.sqlite"),
        ("report-clustering", "latest", "-o", "page.html", "--force"),
    ],
    ids=["parquet", "ndjson", "copy", "report"],
)
def test_memory_does_not_grow_with_the_texts(
    upgraded: MakeFile, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """200 texts of 2 MB took 2.1 to 3.4 GiB, so that half of that would be above the limit still."""
    database = upgraded(FieldSpec(text_models=("Nomic",), runs=10, length=2 * N_TEXTS // 10)).database
    clustered(database)
    named = [str(tmp_path / word) if "." in word else word.format(database=database.path) for word in words]
    lengthen(database, 20)
    short = peak(database, *named)
    (tmp_path / "copy.sqlite").unlink(missing_ok=True)
    lengthen(database, CHARACTERS)
    assert peak(database, *named) - short < MOST_MIB


def test_every_row_has_its_texts(upgraded: MakeFile, tmp_path: Path) -> None:
    database = upgraded(FieldSpec(runs=4, length=20)).database
    clustered(database)
    lengthen(database, CHARACTERS)
    run = run_python(
        MEASURED, "export-clustering", "latest", str(tmp_path / "r.parquet"), "--db", str(database.path)
    )
    assert run.returncode == 0, run.stderr
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    texts = {row["embedding_id"]: row["text"] for row in rows}
    assert len(set(texts.values())) == len(rows)
    assert {len(text) for text in texts.values()} == {CHARACTERS}
    medoids = {row["label"]: row["text"] for row in rows if row["is_medoid"]}
    assert len(medoids) > 1
    assert all(row["medoid_text"] == medoids.get(row["label"]) for row in rows)


def test_texts_of_medoids_that_begin_with_a_null_character_are_whole(
    upgraded: MakeFile, tmp_path: Path
) -> None:
    """SQLite counts the characters of a text up to the first of these."""
    database = upgraded(FieldSpec(runs=4, length=20)).database
    clustered(database)
    assert database.path is not None
    with opened(database.path) as connection:
        connection.execute("UPDATE invocation SET output_text = char(0) || rowid WHERE type = 'TEXT'")
    path = tmp_path / "rows.parquet"
    peak(database, "export-clustering", "latest", str(path))
    rows = pq.read_table(path).to_pylist()
    medoids = {row["label"]: row["text"] for row in rows if row["is_medoid"]}
    assert all(text.startswith("\0") and len(text) > 1 for text in medoids.values())
    assert all(row["medoid_text"] == medoids.get(row["label"]) for row in rows)


@pytest.mark.both_engines
def test_a_batch_is_bounded_by_bytes(upgraded: MakeFile) -> None:
    database = upgraded(FieldSpec()).database
    query = sa.select(Invocation.sequence_number, Invocation.output_text).where(
        Invocation.output_text.is_not(None)
    )
    with database.reading() as connection:
        (all_rows,) = stream_rows(connection, query, batch_rows=10_000)
        for n_rows, n_bytes in ((10_000, 100), (7, 10**9), (3, 1), (10_000, 10**9)):
            batches = list(stream_rows(connection, query, batch_rows=n_rows, batch_bytes=n_bytes))
            assert [row for batch in batches for row in batch] == all_rows
            for batch in batches:
                assert len(batch) <= n_rows
                assert sum(len(text) for _, text in batch[:-1]) < n_bytes
