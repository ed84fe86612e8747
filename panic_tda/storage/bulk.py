"""Read many rows at the speed of the driver; vectors are read as Arrow batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.arrays.rows import slices
from panic_tda.errors import DatabaseError
from panic_tda.storage.cells import close_cursor, compile_query, find_damaged, naming_damage, undecoded_texts
from panic_tda.storage.columns import build_damage_error, describe_columns
from panic_tda.storage.connections import streaming_cache

ID_LENGTH = 32
KEYS_AT_ONCE = 8192
"""Keys per statement; with two columns they stay below the 32,766 values that SQLite allows."""
_FETCH_LARGE_ROWS = 32
"""Rows per fetch from a server if rows can be large; their sizes are known only after the fetch."""
_HEXADECIMAL = b"0123456789abcdef"


def stream_vectors(
    connection: Connection, query: Select[Any], *, width: int, batch_rows: int, invalid_ids: list[Any]
) -> Iterator[pa.RecordBatch]:
    """Stream `(id, vector)` rows as Arrow record batches.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    query : Select
        A query with two result columns: an id, and a vector of exactly `width` bytes.
    width : int
        Number of bytes of one vector.
    batch_rows : int
        Largest number of rows of a batch.
    invalid_ids : list
        List to which stored values that are not ids of 32 lower-case hexadecimal digits are added; their
        rows are not in the batches.

    Yields
    ------
    pyarrow.RecordBatch
        Columns `id` (fixed_size_binary(32)) and `vector` (fixed_size_binary(width)).

    Raises
    ------
    DatabaseError
        A vector is missing or of another length, or the file is damaged.
    """
    sql = compile_query(connection, query)
    schema = pa.schema({"id": pa.binary(ID_LENGTH), "vector": pa.binary(width)})
    # The cursor of the driver: SQLAlchemy's result objects for millions of rows would double the time.
    cursor = _open_streaming_cursor(connection)
    try:
        # With empty parameters, every driver treats the doubled percent signs of the compiled query alike.
        cursor.execute(sql, ())
        # By now, subqueries that look up rows in many places have their results.
        with streaming_cache(connection):
            while rows := cursor.fetchmany(batch_rows):
                ids, vectors = zip(*rows, strict=True)
                digits = _encode_ids(ids)
                if digits is None:
                    invalid_ids += [stored for stored in ids if _encode_ids((stored,)) is None]
                    pairs = [pair for pair in rows if _encode_ids(pair[:1]) is not None]
                    ids, vectors = zip(*pairs, strict=True) if pairs else ((), ())
                    digits = _encode_ids(ids) or b""
                columns = [
                    _build_fixed_width(digits, ID_LENGTH),
                    _build_fixed_width(_concatenate_vectors(vectors, width), width),
                ]
                batch = pa.RecordBatch.from_arrays(columns, schema=schema)
                # Freed before the next fetch, so that their memory is reused while it is in the cache.
                del rows, ids, vectors, digits, columns
                yield batch
    except connection.dialect.loaded_dbapi.Error as error:
        raise find_damaged(connection, query) or DatabaseError(f"reading vectors: {error}") from error
    finally:
        close_cursor(connection, cursor)


def stream_rows(
    connection: Connection,
    query: Select[Any],
    *,
    batch_rows: int,
    batch_bytes: int | None = None,
    count_more: Callable[[tuple[Any, ...]], int] = lambda row: 0,
) -> Generator[list[tuple[Any, ...]], None, None]:
    """Stream rows of any columns, with the values of the driver: ids as text, vectors as bytes.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    query : Select
        The query to read.
    batch_rows : int
        Largest number of rows of a batch; no more rows are in memory at once.
    batch_bytes : int, optional
        A batch ends when its texts and bytes reach this size; for rows that can be large.
    count_more : callable, optional
        Returns the number of bytes that the caller adds to a row, which count too.

    Raises
    ------
    DatabaseError
        The file is damaged.
    """
    sql = compile_query(connection, query)
    cursor = _open_streaming_cursor(connection)
    try:
        cursor.execute(sql, ())
        if batch_bytes is not None:
            # SQLite's cursor reads row by row; from a server, some rows are fetched at once.
            row_iterator = (
                iter(cursor) if connection.dialect.name == "sqlite" else _fetch_small_batches(cursor)
            )
            yield from _split_batches(row_iterator, batch_rows, batch_bytes, count_more)
        while rows := cursor.fetchmany(batch_rows):
            yield rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise find_damaged(connection, query) or DatabaseError(f"reading: {error}") from error
    finally:
        close_cursor(connection, cursor)


def _split_batches(
    fetched: Iterator[tuple[Any, ...]],
    batch_rows: int,
    batch_bytes: int,
    count_more: Callable[[tuple[Any, ...]], int],
) -> Generator[list[tuple[Any, ...]], None, None]:
    rows: list[tuple[Any, ...]] = []
    n_bytes = 0
    for row in fetched:
        rows.append(row)
        n_bytes += count_more(row) + sum([len(value) for value in row if isinstance(value, (str, bytes))])
        if len(rows) >= batch_rows or n_bytes >= batch_bytes:
            yield rows
            rows, n_bytes = [], 0
    if rows:
        yield rows


def _fetch_small_batches(cursor: Any) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(_FETCH_LARGE_ROWS):
        yield from rows


def stream_columns(
    connection: Connection, query: Select[Any], *, batch_rows: int, convert: Sequence[Callable[[Any], Any]]
) -> Generator[tuple[Any, ...], None, None]:
    """Stream the columns of a query, batch by batch, each converted by a function of its values.

    Parameters
    ----------
    connection, query, batch_rows
        See `stream_rows`.
    convert : sequence of callable
        A function for each column that converts the tuple of its values, and raises one of `columns.FAULTS`
        for an invalid value.

    Raises
    ------
    DatabaseError
        The file is damaged.
    DamagedValue
        A value could not be converted.
    """
    with naming_damage(connection, query):
        for rows in stream_rows(connection, query, batch_rows=batch_rows):
            columns = zip(*rows, strict=True)
            yield tuple(function(values) for function, values in zip(convert, columns, strict=True))


def select_by_keys(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    keys: Mapping[str, Sequence[Any]],
    *,
    also: str = "1 = 1",
    keys_at_once: int = KEYS_AT_ONCE,
) -> Iterator[tuple[Any, ...]]:
    """Look up rows of a table by a key of one column or two, some thousand at a time.

    Parameters
    ----------
    connection : Connection
        From `Database.reading` or `Database.writing`.
    table : str
        Name of the table.
    columns : sequence of str
        Columns to read.
    keys : mapping of str to sequence
        Values of the keys by column; an index must begin with these columns.
    also : str
        A further SQL condition on the rows.
    keys_at_once : int
        Number of keys per statement.

    Yields
    ------
    tuple
        Rows in no order, with the values of the driver: ids as text, vectors as bytes.
    """
    # An SQL statement for the driver: SQLAlchemy's lists of values take twice as long as the lookup, and
    # their memory is freed late. A join with `wanted` first: for a list of keys of two columns, SQLite would
    # scan the table.
    chosen = ", ".join(f"{table}.{column}" for column in columns)
    equal = " AND ".join(f"{table}.{name} = wanted.{name}" for name in keys)
    rows = list(zip(*keys.values(), strict=True))
    cursor: Any = connection.connection.cursor()
    try:
        for chunk in slices(len(rows), keys_at_once):
            wanted, values = _build_wanted(connection, tuple(keys), rows[chunk])
            cursor.execute(
                f"{wanted} SELECT {chosen} FROM wanted CROSS JOIN {table} WHERE {equal} AND {also}", values
            )
            yield from cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"reading: {error}") from error
    finally:
        close_cursor(connection, cursor)


def read_by_keys(
    connection: Connection,
    table: Any,
    columns: Sequence[str],
    keys: Mapping[str, Sequence[Any]],
    *,
    also: str = "1 = 1",
) -> Iterator[tuple[Any, ...]]:
    """Look up rows as `select_by_keys` does, and check that every value is of its column's type.

    Parameters
    ----------
    connection, keys, also
        See `select_by_keys`.
    table : sqlalchemy.Table
        Table of the rows.
    columns : sequence of str
        Columns to read; the primary key must be among them, so that an error can name the row.

    Raises
    ------
    DamagedValue
        A value is of another type, or a text is not UTF-8.
    """
    query = sa.select(*(table.c[name] for name in columns))
    described = describe_columns(query)
    types = [_find_stored_type(column.type) for column in query.selected_columns]

    def check_rows(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        for row in rows:
            for column, stored_type, value in zip(described, types, row, strict=True):
                # Converting all values would cost as much as looking them up.
                if type(value) is not stored_type and (fault := column.fault(value)) is not None:
                    key = [value for part, value in zip(described, row, strict=True) if part.is_key]
                    raise build_damage_error(column.table, column.name, key, fault)
            yield row

    try:
        yield from check_rows(select_by_keys(connection, table.name, columns, keys, also=also))
    except DatabaseError as error:
        # Only SQLite stores texts that are not UTF-8; PostgreSQL answers no query in a failed transaction.
        if error.__cause__ is None or connection.dialect.name != "sqlite":
            raise
        with undecoded_texts(connection):
            rows = list(select_by_keys(connection, table.name, columns, keys, also=also))
        list(check_rows(rows))
        raise


def _find_stored_type(kind: sa.types.TypeEngine[Any]) -> type:
    """Return the Python type of the driver's values for a column type."""
    plain = kind.impl_instance if isinstance(kind, sa.types.TypeDecorator) else kind
    if isinstance(plain, sa.LargeBinary):
        return bytes
    return int if isinstance(plain, sa.Integer) else str


def _build_wanted(
    connection: Connection, names: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> tuple[str, list[Any]]:
    """Return the WITH clause that defines the keys as a table `wanted`, and its values."""
    table = f"WITH wanted ({', '.join(names)}) AS"
    if connection.dialect.name == "sqlite":
        marks = f"({', '.join('?' * len(names))})"
        return f"{table} (VALUES {', '.join([marks] * len(rows))})", list(chain.from_iterable(rows))
    # As bpchar, the type of ids: with text, the index on ids would not be used.
    arrays = ", ".join("%s::bpchar[]" if isinstance(value, str) else "%s" for value in rows[0])
    return f"{table} (SELECT * FROM unnest({arrays}))", [list(column) for column in zip(*rows, strict=True)]


def _encode_ids(ids: tuple[Any, ...]) -> bytes | None:
    """Return the concatenated ids, or None if a value is not an id of 32 lower-case hexadecimal digits."""
    # A newline after each id shows its length: otherwise a value of 31 characters and one of 33 would pass as
    # two ids. This takes a quarter of the time of checking each length.
    ends = b"\n" * len(ids)
    try:
        marked = "\n".join((*ids, "")).encode("ascii")
    except (TypeError, UnicodeEncodeError):
        return None  # missing, a number (from a column declared UUID), or not ASCII
    if marked[ID_LENGTH :: ID_LENGTH + 1] != ends or marked.translate(None, _HEXADECIMAL) != ends:
        return None
    return "".join(ids).encode("ascii")


def _concatenate_vectors(vectors: tuple[Any, ...], width: int) -> bytes:
    try:
        lengths = set(map(len, vectors))
        if lengths <= {width}:
            return b"".join(vectors)
    except TypeError:
        pass  # a missing vector has no length
    lengths = {len(vector) if isinstance(vector, bytes) else -1 for vector in vectors}
    raise DatabaseError(
        f"vectors of {width} bytes were expected, got lengths {sorted(lengths)} (-1: missing, or no bytes)"
    )


def _build_fixed_width(data: bytes, width: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(data) // width, [None, pa.py_buffer(data)]
    )


def _open_streaming_cursor(connection: Connection) -> Any:
    # psycopg's default cursor loads the whole result into memory; a named cursor is on the server.
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection
        return driver.cursor(name="panic_tda_stream", binary=True)
    return connection.connection.cursor()
