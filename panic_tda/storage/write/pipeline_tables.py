"""Read the tables of the newer generation pipeline as Arrow batches, like those of its dumps.

The newer pipeline stores its experiments in SQLite files of another layout, with the tables `experiments`,
`runs`, `invocations` and `embeddings`. Ids are UUIDs, as text or as 16 bytes. Lists are JSON. Vectors are
little-endian float32 bytes. Images are not read, because dumps do not have them either.

A table is read in the order of its rows, in one transaction. Tables are read one after the other, so rows
that the pipeline adds meanwhile can be orphans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.database import NEWER_TABLES, Database, count_rows
from panic_tda.storage.read.census import FLOAT_BYTES
from panic_tda.storage.write.batches import refuse_row

_ID_BYTES = 16
_TEXT, _INTEGER, _VECTOR = pa.large_string(), pa.int64(), pa.large_list(pa.float32())
_IDS = ("id", "experiment_id", "run_id", "input_invocation_id", "invocation_id")
_TEXTS = (
    *("networks", "prompts", "embedding_models", "seeds", "network", "initial_prompt"),
    *("type", "model", "output_text", "embedding_model", "started_at", "completed_at"),
)
_INTEGERS = ("num_runs", "max_length", "run_number", "seed", "sequence_number")
_COLUMNS = {
    **dict.fromkeys(_IDS, _TEXT),
    **dict.fromkeys(_TEXTS, _TEXT),
    **dict.fromkeys(_INTEGERS, _INTEGER),
    "vector": _VECTOR,
}
"""The columns that are read, and their types in a dump."""


def read_layout(database: Database) -> dict[str, tuple[pa.Schema, int]]:
    """Return the columns and the number of rows of each table of the newer layout that a database has."""
    layout = {}
    with database.reading() as connection:
        present = sa.inspect(connection).get_table_names()
        for table in NEWER_TABLES:
            if table in present:
                # Not by SQLAlchemy's inspection, which warns of each unknown declared type.
                rows = connection.exec_driver_sql(f"SELECT name FROM pragma_table_info('{table}')")
                names = [name for (name,) in rows if name in _COLUMNS]
                schema = pa.schema([(name, _COLUMNS[name]) for name in names])
                layout[table] = schema, count_rows(connection, table)
    return layout


def stream_table(
    database: Database, table: str, columns: Sequence[str], batch_rows: int, *, label: Path
) -> Iterator[pa.RecordBatch]:
    """Read columns of a table of the newer layout in the order of its rows.

    Parameters
    ----------
    database : Database
        An SQLite file.
    table : str
        One of `NEWER_TABLES`.
    columns : sequence of str
        Columns from `read_layout`.
    batch_rows : int
        Largest number of rows of a batch.
    label : Path
        Name of the table in messages.

    Raises
    ------
    BadInput
        A value is of another type; the message names the row.
    DatabaseError
        The file is damaged.
    """
    selected: list[Any] = [
        # Ids as bytes, whether they are stored as text or as bytes.
        sa.cast(sa.column(name), sa.LargeBinary) if name in _IDS else sa.column(name)
        for name in columns
    ]
    first = 0
    with database.reading() as connection:
        query = sa.select(*selected).select_from(sa.table(table))
        for rows in stream_rows(connection, query, batch_rows=batch_rows):
            arrays = [
                _build_array(name, values, label, first)
                for name, values in zip(columns, zip(*rows, strict=True), strict=True)
            ]
            yield pa.record_batch(arrays, names=list(columns))
            first += len(rows)


def _build_array(name: str, values: Sequence[Any], label: Path, first: int) -> pa.Array:
    """Return the values of a column as an array of its type."""
    if name in _IDS:
        return pa.array(map(_convert_id, values), _TEXT)
    if name == "vector":
        _require_values(
            values,
            label,
            first,
            lambda value: isinstance(value, bytes) and not len(value) % FLOAT_BYTES,
            "vector must be float32 values as bytes",
        )
        lengths = [0, *(len(value or b"") // FLOAT_BYTES for value in values)]
        numbers = np.frombuffer(b"".join(value or b"" for value in values), dtype="<f4")
        mask = pa.array([value is None for value in values])
        return pa.LargeListArray.from_arrays(np.cumsum(lengths), pa.array(numbers), mask=mask)
    kind = int if name in _INTEGERS else str
    _require_values(
        values,
        label,
        first,
        lambda value: isinstance(value, kind),
        f"{name} must be {'an integer' if kind is int else 'text'}",
    )
    return pa.array(values, _COLUMNS[name])


def _require_values(
    values: Sequence[Any], label: Path, first: int, is_valid: Callable[[Any], bool], problem: str
) -> None:
    """Check that all values are missing or valid."""
    for row, value in enumerate(values):
        if value is not None and not is_valid(value):
            refuse_row(label, first + row, f"{problem}; got {type(value).__name__} {str(value)[:80]!r}")


def _convert_id(stored: bytes | None) -> str | None:
    if stored is None:
        return None
    # Some versions of the pipeline store the 16 bytes of an id as text.
    return stored.hex() if len(stored) == _ID_BYTES else stored.decode(errors="replace")
