"""Insert many rows at the speed of the driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase

from panic_tda.errors import DatabaseError
from panic_tda.storage.cells import close_cursor


def insert_rows(
    connection: Connection, table: type[DeclarativeBase], rows: Iterable[tuple[Any, ...]]
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
    """
    insert_into(connection, table.__tablename__, table.__table__.columns.keys(), rows)


def insert_into(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert many rows with values for these columns at the speed of the driver."""
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
