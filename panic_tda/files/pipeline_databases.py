"""SQLite databases of the generation pipeline's newer generation, read like its dumps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from panic_tda.errors import BadInput
from panic_tda.files.arrow_files import ArrowFile
from panic_tda.storage.database import NEWER_TABLES, Database, open_database
from panic_tda.storage.write.pipeline_tables import read_layout, stream_table


def open_pipeline_database(path: Path) -> dict[str, ArrowFile]:
    """Return the tables of a database as files with the columns of a dump.

    Raises
    ------
    BadInput
        The database does not have the tables of the pipeline.
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
        table: _wrap_table(database, path, table, schema, n_rows)
        for table, (schema, n_rows) in layout.items()
    }


def _wrap_table(database: Database, path: Path, table: str, schema: pa.Schema, n_rows: int) -> ArrowFile:
    # This path is shown only in messages.
    label = Path(f"{path}, table {table}")

    def read(_path: Path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        return stream_table(database, table, columns, batch_rows, label=label)

    return ArrowFile(label, schema, n_rows, read)
