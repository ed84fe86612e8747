"""Many rows at the driver's own speed: vectors out as Arrow batches, rows in."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql import Select

from panic_tda.errors import DatabaseError
from panic_tda.storage.cells import compile_query, find_damaged, naming_damage

ID_LENGTH = 32
_KEYS = 8192
"""So many keys of two columns a statement takes; SQLite takes 32,766 values."""
_FETCH_LARGE_ROWS = 32
"""Rows that a server is asked for at once where they can be large: their sizes show when they are here."""
_HEXADECIMAL = b"0123456789abcdef"


def stream_vectors(
    connection: Connection, query: Select[Any], *, width: int, batch_rows: int, no_ids: list[Any]
) -> Iterator[pa.RecordBatch]:
    """Stream `(id, vector)` rows as Arrow record batches.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    query : Select
        Two result columns: an id and a vector of exactly `width` bytes.
    width : int
        Bytes of one vector.
    batch_rows : int
        Most rows of a batch.
    no_ids : list
        Takes what stands where ids of 32 lower-case hexadecimal digits are due; those rows are not in the
        batches.

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
    # The driver's own cursor: turning each of millions of rows into a result object would double the time.
    cursor = _streaming_cursor(connection)
    try:
        # The empty parameters make every driver read the doubled percent signs of the compiled query alike.
        cursor.execute(sql, ())
        while rows := cursor.fetchmany(batch_rows):
            ids, vectors = zip(*rows, strict=True)
            digits = _digits(ids)
            if digits is None:
                no_ids += [found for found in ids if _digits((found,)) is None]
                pairs = [pair for pair in rows if _digits(pair[:1]) is not None]
                ids, vectors = zip(*pairs, strict=True) if pairs else ((), ())
                digits = _digits(ids) or b""
            batch = pa.record_batch(
                {
                    "id": _fixed_width(digits, ID_LENGTH),
                    "vector": _fixed_width(_joined(vectors, width), width),
                }
            )
            # Freed before the next rows come, their memory is still in the cache when it is used again.
            del rows, ids, vectors, digits
            yield batch
    except connection.dialect.loaded_dbapi.Error as error:
        raise find_damaged(connection, query) or DatabaseError(f"reading vectors: {error}") from error
    finally:
        cursor.close()


def stream_rows(
    connection: Connection, query: Select[Any], *, batch_rows: int, batch_bytes: int | None = None
) -> Generator[list[tuple[Any, ...]], None, None]:
    """Stream rows of any columns, as the driver gives them: ids as text, vectors as bytes.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    query : Select
        What is read.
    batch_rows : int
        Most rows of a batch; no more are in memory at once.
    batch_bytes : int, optional
        A batch ends with the row whose texts and bytes bring it to so many; for rows that can be large.

    Raises
    ------
    DatabaseError
        The file is damaged.
    """
    sql = compile_query(connection, query)
    cursor = _streaming_cursor(connection)
    try:
        cursor.execute(sql, ())
        if batch_bytes is not None:
            # SQLite's cursor makes one row after the other; a server sends some at once.
            rows_of = iter(cursor) if connection.dialect.name == "sqlite" else _fetch_few(cursor)
            yield from _bounded_batches(rows_of, batch_rows, batch_bytes)
        while rows := cursor.fetchmany(batch_rows):
            yield rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise find_damaged(connection, query) or DatabaseError(f"reading: {error}") from error
    finally:
        cursor.close()


def _bounded_batches(
    fetched: Iterator[tuple[Any, ...]], batch_rows: int, batch_bytes: int
) -> Generator[list[tuple[Any, ...]], None, None]:
    rows: list[tuple[Any, ...]] = []
    n_bytes = 0
    for row in fetched:
        rows.append(row)
        n_bytes += sum([len(value) for value in row if isinstance(value, (str, bytes))])
        if len(rows) >= batch_rows or n_bytes >= batch_bytes:
            yield rows
            rows, n_bytes = [], 0
    if rows:
        yield rows


def _fetch_few(cursor: Any) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(_FETCH_LARGE_ROWS):
        yield from rows


def stream_columns(
    connection: Connection, query: Select[Any], *, batch_rows: int, convert: Sequence[Callable[[Any], Any]]
) -> Generator[tuple[Any, ...], None, None]:
    """Stream the columns of a query, batch by batch, each converted by a function of its values.

    Parameters
    ----------
    connection, query, batch_rows
        As of `stream_rows`.
    convert : sequence of callable
        Takes the tuple of a column's values; raises one of `columns.FAULTS` where one is not what it takes.

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


def insert_rows(
    connection: Connection, table: type[DeclarativeBase], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert many rows at the driver's own speed.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`.
    table : mapped class
        Where the rows go.
    rows : iterable of tuple
        Values of all columns in the table's order, as they are stored (ids as 32 characters).
    """
    insert_into(connection, table.__tablename__, table.__table__.columns.keys(), rows)


def insert_into(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Do what `insert_rows` does, for the columns that are named."""
    names = ", ".join(columns)
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.name == "postgresql":
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            marks = ", ".join("?" * len(columns))
            cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
    except connection.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"inserting into {table}: {error}") from error
    finally:
        cursor.close()


def insert_new_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> int:
    """Insert the rows whose id is not in the table yet, and leave those that are there as they are.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`.
    table : str
        A table with the primary key `id`.
    columns : sequence of str
        The columns that are given; the others take their defaults.
    rows : sequence of tuple
        Values as the driver takes them: ids as text of 32 characters, vectors as bytes.

    Returns
    -------
    int
        How many rows were inserted.
    """
    # The driver's own statement: SQLAlchemy's preparation of each row costs as much as inserting it.
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    sql = (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))}) "
        "ON CONFLICT (id) DO NOTHING"
    )
    return connection.exec_driver_sql(sql, list(rows)).rowcount if rows else 0


def select_by_keys(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    keys: Mapping[str, Sequence[Any]],
    *,
    also: str = "1 = 1",
) -> Iterator[tuple[Any, ...]]:
    """Look up rows of a table by a key of one column or two, some thousand at a time.

    Parameters
    ----------
    connection : Connection
        From `Database.reading` or `Database.writing`.
    table : str
        Where they are.
    columns : sequence of str
        What of them is asked for.
    keys : mapping of str to sequence
        By column of the key: its value in each of the keys that are looked up. An index begins with these
        columns.
    also : str
        A condition that holds for the rows, in SQL.

    Yields
    ------
    tuple
        Values as the driver gives them, in no order: ids as text, vectors as bytes.
    """
    # The driver's own statement: SQLAlchemy's lists of values take twice as long as the look-up, and leave
    # their memory to the garbage collector, which does not see how much it is. And a join in this order: of
    # keys of two columns in a list, SQLite would go through the table.
    chosen = ", ".join(f"{table}.{column}" for column in columns)
    equal = " AND ".join(f"{table}.{name} = wanted.{name}" for name in keys)
    rows = list(zip(*keys.values(), strict=True))
    cursor: Any = connection.connection.cursor()
    try:
        for start in range(0, len(rows), _KEYS):
            wanted, values = _wanted(connection, tuple(keys), rows[start : start + _KEYS])
            cursor.execute(
                f"{wanted} SELECT {chosen} FROM wanted CROSS JOIN {table} WHERE {equal} AND {also}", values
            )
            yield from cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"reading: {error}") from error
    finally:
        cursor.close()


def _wanted(
    connection: Connection, names: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> tuple[str, list[Any]]:
    """Return the beginning of a statement that names some keys as a table `wanted`, and its values."""
    table = f"WITH wanted ({', '.join(names)}) AS"
    if connection.dialect.name == "sqlite":
        one = f"({', '.join('?' * len(names))})"
        return f"{table} (VALUES {', '.join([one] * len(rows))})", list(chain.from_iterable(rows))
    # What is compared to ids as text would be compared to all of them.
    arrays = ", ".join("%s::bpchar[]" if isinstance(value, str) else "%s" for value in rows[0])
    return f"{table} (SELECT * FROM unnest({arrays}))", [list(column) for column in zip(*rows, strict=True)]


def are_ids(values: tuple[Any, ...]) -> bool:
    """Tell whether all of some stored values are ids: text of 32 lower-case hexadecimal digits."""
    return _digits(values) is not None


def _digits(ids: tuple[Any, ...]) -> bytes | None:
    """Return ids one after the other, or None where one is no id of 32 lower-case hexadecimal digits."""
    # Where each ends must show: one of 31 characters and one of 33 have the length of two together. A mark
    # behind each costs a quarter of asking each for its length.
    ends = b"\n" * len(ids)
    try:
        marked = "\n".join((*ids, "")).encode("ascii")
    except (TypeError, UnicodeEncodeError):
        return None  # missing, a number (as a column declared UUID stores some), or of another alphabet
    if marked[ID_LENGTH :: ID_LENGTH + 1] != ends or marked.translate(None, _HEXADECIMAL) != ends:
        return None
    return "".join(ids).encode("ascii")


def _joined(vectors: tuple[Any, ...], width: int) -> bytes:
    try:
        lengths = set(map(len, vectors))
        if lengths <= {width}:
            return b"".join(vectors)
    except TypeError:
        pass  # a missing one, which has no length
    lengths = {len(vector) if isinstance(vector, bytes) else -1 for vector in vectors}
    raise DatabaseError(
        f"vectors of {width} bytes were expected, got lengths {sorted(lengths)} (-1: missing, or no bytes)"
    )


def _fixed_width(data: bytes, width: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(data) // width, [None, pa.py_buffer(data)]
    )


def _streaming_cursor(connection: Connection) -> Any:
    # psycopg's plain cursor holds the whole result in memory; a named one lives on the server.
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection
        return driver.cursor(name="panic_tda_stream", binary=True)
    return connection.connection.cursor()
