"""SQLite files: those of the generation pipeline's newer generation are read like its dumps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from panic_tda.errors import BadInput
from panic_tda.files.arrow_files import ArrowFile, readable
from panic_tda.storage.database import NEWER_TABLES, Database, open_database
from panic_tda.storage.write.pipeline_tables import read_layout, stream_table

_MAGIC = b"SQLite format 3\0"


def is_sqlite_file(path: Path) -> bool:
    """Tell whether a file begins as SQLite files do; False where there is none."""
    if not path.is_file():
        return False
    with readable(path), path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def open_pipeline_database(path: Path) -> dict[str, ArrowFile]:
    """Return the tables of a database as files with the columns that a dump has.

    Raises
    ------
    BadInput
        The database has other tables.
    DatabaseError
        It cannot be read.
    """
    database = open_database(path)
    layout = read_layout(database)
    if len(layout) < len(NEWER_TABLES):
        quoted = shlex.quote(str(path))
        raise BadInput(
            f"{path} is an SQLite database without the tables {', '.join(NEWER_TABLES)}, and only databases "
            f"of the generation pipeline are imported; if it has embeddings, work on it with --db {quoted}"
        )
    return {
        table: _table_file(database, path, table, schema, n_rows)
        for table, (schema, n_rows) in layout.items()
    }


def _table_file(database: Database, path: Path, table: str, schema: pa.Schema, n_rows: int) -> ArrowFile:
    # Only messages show it.
    label = Path(f"{path}, table {table}")

    def read(_path: Path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        return stream_table(database, table, columns, batch_rows, label=label)

    return ArrowFile(label, schema, n_rows, read)
