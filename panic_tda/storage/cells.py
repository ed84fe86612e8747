"""Read stored values, each checked against its column; a value that cannot be read is named.

SQLite stores any value in any column, and texts that are not UTF-8. All queries for single values go through
`read_rows`, and those for many rows through `bulk.stream_rows` and the array constructors here. Where a value
is not what its column holds, `find_damaged` reads the rows once more, value by value, to say which it is: the
table, the column and the id of the row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from panic_tda.errors import DamagedValue, DatabaseError
from panic_tda.storage.columns import (
    FAULTS,
    ROUNDING,
    AnySelect,
    Undecoded,
    damaged_value,
    decode,
    decode_or_bytes,
    describe_columns,
)

if TYPE_CHECKING:
    from panic_tda.types import FloatArray, IntArray

_ROWS = 2048


def read_rows(connection: Connection, query: AnySelect) -> list[tuple[Any, ...]]:
    """Return the rows of a query with the values that its columns' types stand for.

    Ids are UUID, times `datetime`, JSON parsed, as of SQLAlchemy; `sa.type_coerce` gives another type.

    Raises
    ------
    DamagedValue
        A value is not what its column holds, or is NULL where the schema has no NULL.
    """
    columns = describe_columns(query)
    with naming_damage(connection, query):
        cursor: Any = connection.connection.cursor()
        try:
            cursor.execute(compile_query(connection, query), ())
            return [
                tuple(column.read(value) for column, value in zip(columns, row, strict=True))
                for row in cursor.fetchall()
            ]
        finally:
            cursor.close()


@contextmanager
def naming_damage(connection: Connection, query: AnySelect) -> Iterator[None]:
    """Turn an error of reading or converting the rows of `query` into a `DamagedValue` that names the value.

    Errors that no stored value explains are raised as they are.
    """
    try:
        yield
    except (*FAULTS, connection.dialect.loaded_dbapi.Error, DBAPIError) as error:
        damaged = None if isinstance(error, DamagedValue) else find_damaged(connection, query)
        if damaged is not None:
            raise damaged from error
        if isinstance(error, connection.dialect.loaded_dbapi.Error):
            raise DatabaseError(f"reading: {error}") from error
        raise


def read_each(
    connection: Connection, query: AnySelect
) -> Iterator[tuple[tuple[Any, ...] | None, DamagedValue | None, dict[str, Any]]]:
    """Yield every row of a query of one table, whatever its values are.

    Yields
    ------
    values : tuple or None
        As of `read_rows`; None where one of them cannot be read.
    damaged : DamagedValue or None
        The first value that cannot be read.
    stored : dict
        Every value by its column's name, as it is stored; a text that is not UTF-8 as bytes.
    """
    columns = describe_columns(query)
    keys = [number for number, column in enumerate(columns) if column.is_key]
    for row in _undecoded_rows(connection, compile_query(connection, query)):
        stored = {column.name: decode_or_bytes(value) for column, value in zip(columns, row, strict=True)}
        faults = ((column, column.fault(value)) for column, value in zip(columns, row, strict=True))
        bad = next(((column, reason) for column, reason in faults if reason is not None), None)
        if bad is not None:
            key = [row[number] for number in keys]
            yield None, damaged_value(bad[0].table, bad[0].name, key, bad[1]), stored
        else:
            yield (
                tuple(column.read(decode(value)) for column, value in zip(columns, row, strict=True)),
                None,
                stored,
            )


def stored_values(connection: Connection, query: AnySelect) -> Iterator[Any]:
    """Yield the first column of a query's rows as it is stored; a text that is not UTF-8 as `Undecoded`."""
    for row in _undecoded_rows(connection, compile_query(connection, query)):
        try:
            yield decode(row[0])
        except ValueError:
            yield row[0]


def as_literal(value: Any) -> sa.ColumnElement[Any]:
    """Return a stored value, of whatever type, for a condition; of `stored_values` or the driver."""
    if isinstance(value, Undecoded):
        return sa.literal_column(f"CAST(x'{value.hex()}' AS TEXT)")
    if isinstance(value, bytes):
        return sa.literal_column(f"x'{value.hex()}'")
    if isinstance(value, float):
        # SQLite reads a number beyond its range as infinity.
        return sa.literal_column(
            repr(value) if math.isfinite(value) else f"{math.copysign(9, value):.0f}e999"
        )
    return sa.literal(value)


def find_damaged(connection: Connection, query: AnySelect) -> DamagedValue | None:
    """Return the first value that a query's columns cannot hold, or None; None where the file fails."""
    try:
        return next(damaged_values(connection, query), None)
    except DatabaseError:
        return None


def damaged_values(connection: Connection, query: AnySelect) -> Iterator[DamagedValue]:
    """Yield all values of a query's rows that its columns cannot hold; the rows are read once more."""
    columns = describe_columns(query)
    sql = compile_query(connection, query)
    keys: list[sa.Column[Any]] = []
    # Not of a query that counts groups; inside of parentheses others may.
    if not re.search(r"\bGROUP BY [^)]*$|^SELECT DISTINCT\b", sql):
        keys = list(dict.fromkeys(key for column in columns for key in column.keys))
        sql = compile_query(connection, query.add_columns(*keys))
    for row in _undecoded_rows(connection, sql):
        key_values = dict(zip(keys, row[len(columns) :], strict=True))
        for column, value in zip(columns, row, strict=False):
            if (reason := column.fault(value)) is not None:
                key = [key_values[name] for name in column.keys if name in key_values]
                yield damaged_value(column.table, column.name, key, reason)


def integers(values: Sequence[Any], *, least: int = -(2**63), below: int = 2**63) -> IntArray:
    """Return stored integers as int64; raises ValueError where one is something else or out of range."""
    numbers = np.array(values, dtype=None if values else np.int64)
    if numbers.dtype.kind != "i":
        raise ValueError("a value is not an integer")
    if len(numbers) and not (least <= numbers.min() and numbers.max() < below):
        raise ValueError(f"integers from {least} to {below - 1} are allowed")
    return numbers.astype(np.int64, copy=False)


def shares(values: Sequence[Any]) -> FloatArray:
    """Return stored numbers from 0 to 1 as float64; raises ValueError where one is something else."""
    numbers = np.array(values, dtype=None if values else np.float64)
    if numbers.dtype.kind not in "fi" or not np.all((numbers >= -ROUNDING) & (numbers <= 1 + ROUNDING)):
        raise ValueError("a value is not a number from 0 to 1")
    return numbers.astype(np.float64, copy=False)


def compile_query(connection: Connection, query: AnySelect) -> str:
    """Return a query as SQL text with its values, for the driver's own cursor."""
    return str(query.compile(connection, compile_kwargs={"literal_binds": True}))


def _undecoded_rows(connection: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a statement, with texts undecoded on SQLite."""
    cursor: Any = connection.connection.cursor()
    driver: Any = connection.connection.driver_connection
    is_sqlite = connection.dialect.name == "sqlite"
    try:
        while True:
            # The connection's other readers want texts.
            before = getattr(driver, "text_factory", None)
            try:
                if is_sqlite:
                    driver.text_factory = Undecoded
                if cursor.description is None:
                    cursor.execute(sql, ())
                rows = cursor.fetchmany(_ROWS)
            finally:
                if is_sqlite:
                    driver.text_factory = before
            if not rows:
                return
            yield from rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"reading: {error}") from error
    finally:
        cursor.close()
