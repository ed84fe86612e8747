"""Vectors in a column of the PostgreSQL extension pgvector, read as the bytes that all other columns have.

Columns of any other type but `bytea` are refused.

A server sends such a vector as its length (two bytes), two that mean nothing, and float32 values, most
significant byte first; a cursor that asks for text, `[1,2.5]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.engine import Connection, Engine

from panic_tda.errors import DatabaseError

READ_TYPES = ("bytea", "vector")
"""PostgreSQL types of the column `embedding.vector` that are read; `vector` is pgvector's."""
_HEAD_BYTES = 4
# Of a domain the type that it is made of, which is what the server sends.
_COLUMN_TYPE = sa.text(
    "SELECT format_type(atttypid, atttypmod), format_type(coalesce(nullif(typbasetype, 0), atttypid), NULL) "
    "FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
    "WHERE attrelid = to_regclass('embedding') AND attname = 'vector' AND NOT attisdropped"
)
# Or whoever asks which columns a table has is warned of a type that nobody knows.
ischema_names.setdefault("vector", sa.LargeBinary)


def read_as_bytes(engine: Engine) -> None:
    """Have every connection of an engine read columns of type `vector` as little-endian float32 bytes."""
    event.listen(engine, "connect", _teach)


def measure_as_bytes(connection: Connection) -> None:
    """Let `length(vector)` give the bytes of a vector where the extension is, as it does of bytes.

    Counting, and an index of ours, ask for it.
    """
    if connection.dialect.name == "postgresql" and connection.scalar(
        sa.text("SELECT to_regtype('vector') IS NOT NULL AND to_regprocedure('length(vector)') IS NULL")
    ):
        connection.exec_driver_sql(
            "CREATE FUNCTION length(vector) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE "
            "AS 'SELECT 4 * vector_dims($1)'"
        )


def require_readable(connection: Connection, database: object) -> None:
    """Check the type of the column of vectors, where there is one.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    database : object
        What the message calls the database.

    Raises
    ------
    DatabaseError
        The type is none of `READ_TYPES`.
    """
    if connection.dialect.name != "postgresql":
        return
    column = connection.execute(_COLUMN_TYPE).one_or_none()
    if column is not None and column[1] not in READ_TYPES:
        raise DatabaseError(
            f"{database}: the column embedding.vector is of type {column[0]}, and {' or '.join(READ_TYPES)} "
            "(of pgvector) is read; convert it: ALTER TABLE embedding ALTER vector TYPE vector "
            "USING vector::vector"
        )


def _teach(connection: Any, _record: object) -> None:
    from psycopg.adapt import Loader
    from psycopg.pq import Format

    class Binary(Loader):
        format = Format.BINARY

        def load(self, data: Any) -> bytes:
            return np.frombuffer(data, dtype=">f4", offset=_HEAD_BYTES).astype("<f4").tobytes()

    class Text(Loader):
        format = Format.TEXT

        def load(self, data: Any) -> bytes:
            return np.array(bytes(data)[1:-1].split(b","), dtype="<f4").tobytes()

    row = connection.execute("SELECT to_regtype('vector')::oid").fetchone()
    connection.rollback()
    if row[0] is not None:
        for loader in (Binary, Text):
            connection.adapters.register_loader(row[0], loader)
