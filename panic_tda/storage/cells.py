"""Read stored values, check each against its column, and report values that cannot be read.

SQLite can store any value in any column, and texts that are not UTF-8. All queries for few rows use
`read_rows`; queries for many rows use `bulk.stream_rows` and the array constructors here. If a value does not
match its column, `find_damaged` reads the rows again, value by value, to report its table, column and row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

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
    build_damage_error,
    decode,
    decode_or_bytes,
    describe_columns,
)
from panic_tda.types import FloatArray, IntArray

_ROWS = 2048


def read_rows(connection: Connection, query: AnySelect) -> list[tuple[Any, ...]]:
    """Return the rows of a query, with values converted to the types of its columns.

    Ids are UUID, times are `datetime`, JSON is parsed, as in SQLAlchemy; `sa.type_coerce` changes the type.

    Raises
    ------
    DamagedValue
        A value has another type than its column, or is NULL in a column that does not allow it.
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
            close_cursor(connection, cursor)


@contextmanager
def naming_damage(connection: Connection, query: AnySelect) -> Iterator[None]:
    """Turn an error of reading or converting the rows of `query` into a `DamagedValue` that names the value.

    Other errors are raised unchanged.
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
    """Yield every row of a query of one table, with valid or invalid values.

    Yields
    ------
    values : tuple or None
        Converted values, as in `read_rows`; None if one of them cannot be read.
    damaged : DamagedValue or None
        The first value that cannot be read, if any.
    stored : dict
        Every stored value by column name; a text that is not UTF-8 as bytes.
    """
    columns = describe_columns(query)
    keys = [number for number, column in enumerate(columns) if column.is_key]
    for row in _read_undecoded_rows(connection, compile_query(connection, query)):
        stored = {column.name: decode_or_bytes(value) for column, value in zip(columns, row, strict=True)}
        faults = ((column, column.fault(value)) for column, value in zip(columns, row, strict=True))
        first_fault = next(((column, reason) for column, reason in faults if reason is not None), None)
        if first_fault is not None:
            key = [row[number] for number in keys]
            yield (
                None,
                build_damage_error(first_fault[0].table, first_fault[0].name, key, first_fault[1]),
                stored,
            )
        else:
            yield (
                tuple(column.read(decode(value)) for column, value in zip(columns, row, strict=True)),
                None,
                stored,
            )


def read_stored_values(connection: Connection, query: AnySelect) -> Iterator[Any]:
    """Yield the stored values of a query's first column; a text that is not UTF-8 as `Undecoded`."""
    for row in _read_undecoded_rows(connection, compile_query(connection, query)):
        try:
            yield decode(row[0])
        except ValueError:
            yield row[0]


def read_distinct_values(
    connection: Connection, column: Any, *conditions: sa.ColumnElement[bool]
) -> Iterator[Any]:
    """Yield the distinct stored values of an index's first column, ascending, by one lookup for each."""
    smallest = sa.select(sa.func.min(column)).where(*conditions)
    value = next(read_stored_values(connection, smallest))
    while value is not None:
        yield value
        value = next(read_stored_values(connection, smallest.where(column > as_literal(value))))


def row_locator(connection: Connection, table: Any) -> sa.ColumnElement[Any]:
    """Return the column that locates rows fastest: the row number in SQLite, the id in PostgreSQL.

    Every index of SQLite contains the row number, and rows are stored in its order.
    """
    if connection.dialect.name == "sqlite":
        return sa.literal_column(f"{table.name}.rowid", sa.Integer)
    return sa.type_coerce(table.c.id, sa.String)


def select_bytes(connection: Connection, column: Any) -> sa.ColumnElement[Any]:
    """Return a column of bytes for a query that no stored value can end: in SQLite, 0 stands for a text.

    Other drivers have bytes only. Values need not be of the column's type, so they are not converted.
    """
    stored = sa.type_coerce(column, sa.LargeBinary)
    if connection.dialect.name != "sqlite":
        return stored
    # The driver decodes texts, and fails at one that is not UTF-8.
    return sa.case((sa.func.typeof(column) == "text", sa.literal_column("0")), else_=stored)


def as_literal(value: Any) -> sa.ColumnElement[Any]:
    """Return a stored value of any type as an SQL literal for a condition."""
    if isinstance(value, Undecoded):
        return sa.literal_column(f"CAST(x'{value.hex()}' AS TEXT)")
    if isinstance(value, bytes):
        return sa.literal_column(f"x'{value.hex()}'")
    if isinstance(value, float):
        # SQLite reads a number that is too large as infinity.
        return sa.literal_column(
            repr(value) if math.isfinite(value) else f"{math.copysign(9, value):.0f}e999"
        )
    return sa.literal(value)


def find_damaged(connection: Connection, query: AnySelect) -> DamagedValue | None:
    """Return the first value of a query that does not match its column; None if there is none."""
    try:
        return next(find_damaged_values(connection, query), None)
    except DatabaseError:
        return None


def find_damaged_values(connection: Connection, query: AnySelect) -> Iterator[DamagedValue]:
    """Read the rows of a query again, and yield all values that do not match their columns."""
    columns = describe_columns(query)
    sql = compile_query(connection, query)
    keys: list[sa.Column[Any]] = []
    # Keys cannot be added to a query with GROUP BY or DISTINCT; those in a subquery do not matter.
    if not re.search(r"\bGROUP BY [^)]*$|^SELECT DISTINCT\b", sql):
        keys = list(dict.fromkeys(key for column in columns for key in column.keys))
        sql = compile_query(connection, query.add_columns(*keys))
    for row in _read_undecoded_rows(connection, sql):
        key_values = dict(zip(keys, row[len(columns) :], strict=True))
        for column, value in zip(columns, row, strict=False):
            if (reason := column.fault(value)) is not None:
                key = [key_values[name] for name in column.keys if name in key_values]
                yield build_damage_error(column.table, column.name, key, reason)


def convert_integers(values: Sequence[Any], *, least: int = -(2**63), below: int = 2**63) -> IntArray:
    """Convert stored integers to int64; raise ValueError for a value of another type or out of range."""
    numbers = np.array(values, dtype=None if values else np.int64)
    if numbers.dtype.kind != "i":
        raise ValueError("a value is not an integer")
    if len(numbers) and not (least <= numbers.min() and numbers.max() < below):
        raise ValueError(f"integers from {least} to {below - 1} are allowed")
    return numbers.astype(np.int64, copy=False)


def convert_shares(values: Sequence[Any]) -> FloatArray:
    """Convert stored numbers from 0 to 1 to float64; raise ValueError for any other value."""
    numbers = np.array(values, dtype=None if values else np.float64)
    if numbers.dtype.kind not in "fi" or not np.all((numbers >= -ROUNDING) & (numbers <= 1 + ROUNDING)):
        raise ValueError("a value is not a number from 0 to 1")
    return numbers.astype(np.float64, copy=False)


def compile_query(connection: Connection, query: AnySelect) -> str:
    """Return a query as SQL text that includes its values, for the cursor of the driver."""
    return str(query.compile(connection, compile_kwargs={"literal_binds": True}))


@contextmanager
def undecoded_texts(connection: Connection) -> Iterator[None]:
    """Make SQLite return texts as `Undecoded` bytes inside the block; other drivers are not changed."""
    driver: Any = connection.connection.driver_connection
    # Restored at the end, because other readers of the connection need decoded texts.
    before = getattr(driver, "text_factory", None)
    if connection.dialect.name == "sqlite":
        driver.text_factory = Undecoded
    try:
        yield
    finally:
        if connection.dialect.name == "sqlite":
            driver.text_factory = before


def _read_undecoded_rows(connection: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of an SQL statement, with undecoded texts on SQLite."""
    cursor: Any = connection.connection.cursor()
    try:
        while True:
            with undecoded_texts(connection):
                if cursor.description is None:
                    cursor.execute(sql, ())
                rows = cursor.fetchmany(_ROWS)
            if not rows:
                return
            yield from rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"reading: {error}") from error
    finally:
        close_cursor(connection, cursor)


def close_cursor(connection: Connection, cursor: Any) -> None:
    """Close a cursor of the driver; ignore the error if its connection was closed before."""
    with suppress(connection.dialect.loaded_dbapi.Error):
        cursor.close()
