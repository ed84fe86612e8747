"""Read vectors from columns of the PostgreSQL extension pgvector, as bytes like those of other databases.

Columns of other types than `bytea` and pgvector's `vector` are refused.

In the binary protocol a server sends a vector as its length (two bytes), two unused bytes, and big-endian
float32 values; in the text protocol as `[1,2.5]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from panic_tda.errors import DatabaseError

READ_TYPES = ("bytea", "vector")
"""PostgreSQL types of the column `embedding.vector` that can be read; `vector` is pgvector's."""
LENGTH_FUNCTION = "length(vector)"
_HEAD_BYTES = 4
# For a domain, the type on which it is based, which is the type that the server sends.
_COLUMN_TYPE = sa.text(
    "SELECT format_type(atttypid, atttypmod), format_type(coalesce(nullif(typbasetype, 0), atttypid), NULL) "
    "FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
    "WHERE attrelid = to_regclass('embedding') AND attname = 'vector' AND NOT attisdropped"
)


def read_as_bytes(engine: Engine) -> None:
    """Make every connection of an engine read columns of type `vector` as little-endian float32 bytes."""
    # Commands on SQLite do not import the dialect.
    from sqlalchemy.dialects.postgresql.base import ischema_names

    # Without it, SQLAlchemy warns of an unknown type when it inspects the columns of a table.
    ischema_names.setdefault("vector", sa.LargeBinary)
    event.listen(engine, "connect", _register_loaders)


def lacks_length_function(connection: Connection) -> bool:
    """Return whether the extension is installed and the function `length(vector)` is missing."""
    return connection.dialect.name == "postgresql" and bool(
        connection.scalar(
            sa.text(
                f"SELECT to_regtype('vector') IS NOT NULL AND to_regprocedure('{LENGTH_FUNCTION}') IS NULL"
            )
        )
    )


def create_length_function(connection: Connection) -> None:
    """Create the function `length(vector)`, the number of bytes of a vector, if the extension is installed.

    Queries that count vectors and an index of panic_tda call it.
    """
    if lacks_length_function(connection):
        connection.exec_driver_sql(
            f"CREATE FUNCTION {LENGTH_FUNCTION} RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE "
            "AS 'SELECT 4 * vector_dims($1)'"
        )


def require_readable(connection: Connection, database: object) -> None:
    """Check the type of the column `embedding.vector`, if it exists.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    database : object
        Name of the database in the message.

    Raises
    ------
    DatabaseError
        The type is not one of `READ_TYPES`.
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


def _register_loaders(connection: Any, _record: object) -> None:
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
