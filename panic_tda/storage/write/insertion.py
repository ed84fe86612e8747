"""Insert many rows at the speed of the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase

from panic_tda.errors import DatabaseError
from panic_tda.storage.cells import close_cursor

_VALUES_AT_ONCE = 800
"""Values of a statement that inserts many small rows; old versions of SQLite allow 999.

A statement per row costs as much as the two indexes and foreign keys of an assignment: 300,000 of them took
1.1 s of processor time, and 0.6 s by 200 rows. With more than 200 rows, nothing is gained.
"""


def insert_rows(
    connection: Connection,
    table: type[DeclarativeBase],
    rows: Iterable[tuple[Any, ...]],
    *,
    are_small: bool = False,
) -> None:
    """Insert many rows at the speed of the driver.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`.
    table : mapped class
        Table of the rows.
    rows : iterable of tuple
        Stored values of all columns, in the order of the table (ids as 32 characters).
    are_small : bool
        Whether some hundred rows may be in memory at once; SQLite then inserts them twice as fast.
    """
    columns = table.__table__.columns.keys()
    insert_into(connection, table.__tablename__, columns, rows, are_small=are_small)


def insert_into(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    *,
    are_small: bool = False,
) -> None:
    """Insert many rows with values for these columns at the speed of the driver; see `insert_rows`."""
    names = ", ".join(columns)
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.name == "postgresql":
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            at_once = _VALUES_AT_ONCE // len(columns) if are_small else 1
            for n_rows, values in _divide_into_statements(rows, at_once):
                marks = _make_marks(len(columns), n_rows)
                cursor.executemany(f"INSERT INTO {table} ({names}) VALUES {marks}", values)
    except connection.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"inserting into {table}: {error}") from error
    finally:
        close_cursor(connection, cursor)


def insert_new_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    *,
    key: str = "id",
) -> int:
    """Insert the rows whose key is not in the table yet; existing rows stay unchanged.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`.
    table : str
        A table.
    columns : sequence of str
        Columns of `rows`; other columns get their defaults.
    rows : sequence of tuple
        Values for the driver: ids as text of 32 characters, vectors as bytes.
    key : str
        The primary key of the table; several columns are separated by commas.

    Returns
    -------
    int
        Number of inserted rows.
    """
    # An SQL statement for the driver: SQLAlchemy's preparation of each row takes as long as inserting it.
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    sql = (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))}) "
        f"ON CONFLICT ({key}) DO NOTHING"
    )
    return connection.exec_driver_sql(sql, list(rows)).rowcount if rows else 0


def _divide_into_statements(
    rows: Iterable[tuple[Any, ...]], at_once: int
) -> Iterator[tuple[int, Iterable[tuple[Any, ...]]]]:
    """Yield the number of rows of a statement, and the values of all statements with so many rows.

    The values are used up before the next pair is asked for.
    """
    remaining, rest = iter(rows), []

    def join_rows() -> Iterator[tuple[Any, ...]]:
        while len(group := list(islice(remaining, at_once))) == at_once:
            yield tuple(chain.from_iterable(group))
        rest.extend(group)

    yield at_once, join_rows()
    yield 1, rest


def _make_marks(n_columns: int, n_rows: int) -> str:
    return ", ".join([f"({', '.join('?' * n_columns)})"] * n_rows)
