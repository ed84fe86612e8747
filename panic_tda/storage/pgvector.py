"""Vectors in a column of the PostgreSQL extension pgvector, read as the bytes that all other columns have.

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

_HEAD_BYTES = 4
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
