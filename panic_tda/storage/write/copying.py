"""Copy all rows of a database, SQLite or PostgreSQL, into a new one, and compare the two.

A copy begins with empty tables and a table `panic_tda_copy` that stores the progress of each table. Each
batch of rows is one transaction together with its progress, so that a copy that was killed resumes where it
stopped and no row is copied twice. The source is read in one transaction: rows that others write meanwhile
are not in the copy.

At the end both databases are read again, and every table is compared by its number of rows and its
*checksum*. The hash of a row is the BLAKE2b hash (128 bits) of the UTF-8 bytes of a JSON array of its values,
in the order of the schema. A vector, a diagram or a tree is in the array as its number of bytes, and its
bytes follow the array; an image is in the array as its number of bytes only. The checksum is the sum of the
hashes modulo 2**128. A sum does not depend on the order of rows, so each database is read in its fastest
order.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DamagedValue, DatabaseError, NeedsUpgrade
from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import find_damaged, read_rows
from panic_tda.storage.database import (
    COPY_TABLE,
    Database,
    count_rows,
    lock_for_saving,
    open_database,
    schema_version,
)
from panic_tda.storage.write import copied_tables
from panic_tda.storage.write.copied_tables import CopiedTable
from panic_tda.storage.write.insertion import insert_into
from panic_tda.wording import format_bytes, pluralize

BATCH_BYTES = 64 << 20
"""Bytes of rows per transaction; rows are passed on one by one, so they are not in memory together."""
_FETCH_BYTES = 16 << 20
_DIGEST_BYTES = 16
_MODULUS = 1 << 8 * _DIGEST_BYTES
_SOURCE_CHANGED = (
    "if the source has lost or changed rows since the copy was begun, remove the copy, and begin again with "
    "panic-tda copy-database"
)

_log = logging.getLogger(__name__)
_copy = sa.Table(
    COPY_TABLE,
    sa.MetaData(),
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("position", sa.String, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
)


class _Difference(DatabaseError):
    """The copy differs from its source."""


@dataclass(frozen=True)
class TableSummary:
    """The number of rows of a copied table and their checksum (hexadecimal), equal in both databases."""

    table: str
    rows: int
    checksum: str


@dataclass(frozen=True)
class CopySummary:
    """The result of a copy.

    Attributes
    ----------
    source, destination : str
        Paths, or URLs without password.
    tables : tuple of TableSummary
        Rows and checksum of each table.
    left_out : tuple of str
        Tables and columns (as `table.column`) that are not copied: unknown ones, and old clustering tables.
    n_before : int
        Number of rows that an earlier, interrupted run had copied.
    """

    source: str
    destination: str
    tables: tuple[TableSummary, ...]
    left_out: tuple[str, ...]
    n_before: int


def copy_database(
    source: Database | str | Path, target: Database | str | Path, *, progress: Progress | None = None
) -> CopySummary:
    """Copy all rows of a database into a new one, or resume an interrupted copy, and compare the two.

    Parameters
    ----------
    source : Database, str or Path
        A database of the generation pipeline, upgraded or not.
    target : Database, str or Path
        A new SQLite file, a database without tables on a PostgreSQL server, or a copy of the same source. An
        unfinished copy is resumed, a complete copy is compared.
    progress : Progress, optional
        Receives the number of rows of each table.

    Raises
    ------
    DatabaseError
        The target has other tables, does not accept a value, or differs from the source in the end.
    WrongUsage
        The target is the source, or its path is reserved for a file of a database.
    """
    progress = progress or Silent()
    source = open_database(source)
    # A source without an upgrade is copied too: all its columns exist in the current schema.
    with contextlib.suppress(NeedsUpgrade):
        source.require_current()
    target = open_database(target, create=True, tables=False, source=source)
    with source.reading() as reader:
        tables, left_out = copied_tables.find_tables(
            reader, clusterings=schema_version(reader) is not None, exact=bool(source.path and target.path)
        )
        if left_out:
            _log.warning("not copied: %s", ", ".join(left_out))
        if (complete := _compare_complete(reader, target, tables, progress)) is not None:
            _log.info("%s was copied before: nothing is left to do", target)
            n_rows = sum(table.rows for table in complete)
            return CopySummary(str(source), str(target), complete, tuple(left_out), n_rows)
        try:
            states = _read_states(source, target)
        except DatabaseError:
            # A snapshot of PostgreSQL lists tables that another process has removed, and cannot read them.
            _require_unfinished(target)
            raise
        states = states or _begin_copy(source, target, reader, tables)
        n_before = sum(n_rows for _, n_rows in states.values())
        try:
            if set(states) != {table.name for table in tables}:
                raise _Difference(f"{source} has other tables than when the copy was begun")
            for table in tables:
                _TableCopier(target, table, progress).run(reader, *states[table.name])
            with target.reading() as copied:
                compared = tuple(_compare(reader, copied, table, progress) for table in tables)
        except DatabaseError as error:
            _require_unfinished(target)
            # A copy that was begun in this run does not need the hint.
            hint = n_before and isinstance(error, _Difference)
            raise DatabaseError(f"{error}; {_SOURCE_CHANGED}" if hint else str(error)) from error
    progress.phase("")
    _finish_copy(target)
    return CopySummary(str(source), str(target), compared, tuple(left_out), n_before)


def _compare_complete(
    reader: Connection, target: Database, tables: list[CopiedTable], progress: Progress
) -> tuple[TableSummary, ...] | None:
    """Compare a complete copy with its source; return None if the copy is missing or unfinished.

    A copy that was killed after its last step is complete.
    """
    with target.reading() as copied:
        present = set(sa.inspect(copied).get_table_names())
        if not present or COPY_TABLE in present:
            return None
        if all(
            table.name in present and count_rows(copied, table.name) == count_rows(reader, table.name)
            for table in tables
        ):
            with contextlib.suppress(DatabaseError):
                return tuple(_compare(reader, copied, table, progress) for table in tables)
        raise DatabaseError(
            f"{target} has other tables already ({min(present)} and others); a copy goes into a "
            "database without tables, or goes on in an unfinished copy"
        )


def _read_states(source: Database, target: Database) -> dict[str, tuple[list[Any], int]]:
    """Return the last position and the number of rows by table of an unfinished copy; {} for a new copy."""
    with target.reading() as connection:
        present = sa.inspect(connection).get_table_names()
        if not present:
            return {}
        if COPY_TABLE not in present:
            raise DatabaseError(_describe_completed(target))
        position = sa.type_coerce(_copy.c.position, sa.JSON)
        query = sa.select(_copy.c.table_name, _copy.c.source, position, _copy.c.n_rows)
        try:
            rows = read_rows(connection, query)
        except DamagedValue as error:
            raise DatabaseError(_describe_damaged_progress(target, str(error.place))) from error
    if not rows or not all(isinstance(position, list) for _, _, position, _ in rows):
        raise DatabaseError(_describe_damaged_progress(target, f"table {COPY_TABLE}"))
    if origins := sorted({origin for _, origin, _, _ in rows} - {str(source)}):
        raise DatabaseError(f"{target} is an unfinished copy of {origins[0]}, not of {source}")
    return {name: (position, n_rows) for name, _, position, n_rows in rows}


def _describe_damaged_progress(target: Database, place: str) -> str:
    return (
        f"{target} is an unfinished copy, and its stored progress cannot be read ({place}); remove "
        "it, and begin again with panic-tda copy-database"
    )


def _begin_copy(
    source: Database, target: Database, reader: Connection, tables: list[CopiedTable]
) -> dict[str, tuple[list[Any], int]]:
    with target.writing(foreign_keys=False) as connection:
        lock_for_saving(connection)
        if sa.inspect(connection).get_table_names():
            raise DatabaseError(f"another process copies into {target}; wait for it, then run this again")
        copied_tables.create_tables(connection, like=reader, tables=tables)
        _copy.create(connection)
        first = {"source": str(source), "position": "[]", "n_rows": 0}
        connection.execute(sa.insert(_copy), [first | {"table_name": table.name} for table in tables])
    return {table.name: ([], 0) for table in tables}


class _TableCopier:
    """The copying of one table, batch by batch."""

    def __init__(self, target: Database, table: CopiedTable, progress: Progress) -> None:
        self._target, self._table, self._progress = target, table, progress
        self._position: list[Any] = []
        self._n_rows = self._n_bytes = 0
        self._n_keys = 0

    def run(self, reader: Connection, position: list[Any], n_rows: int) -> None:
        """Copy the rows after a position; `n_rows` rows were copied before."""
        self._position, self._n_rows, self._reader = position, n_rows, reader
        table, began = self._table, time.monotonic()
        self._progress.phase(f"copy {table.name}", total=count_rows(reader, table.name))
        self._progress.advance(n_rows)
        self._n_keys = len(table.order_columns(reader))
        n_bytes = 0
        batches = stream_rows(
            reader,
            table.select_after(reader, position),
            batch_rows=table.fetch_rows,
            batch_bytes=_FETCH_BYTES,
        )
        with contextlib.closing(batches):
            rows = self._iterate_rows(batches)
            for first in rows:
                self._n_bytes = 0
                self._copy_batch(chain([first], rows))
                n_bytes += self._n_bytes
        seconds, n_new = max(1e-9, time.monotonic() - began), self._n_rows - n_rows
        _log.info(
            "%s: %d rows, %s in %.1f s (%.0f rows/s, %s/s)",
            *(table.name, n_new, format_bytes(n_bytes), seconds, n_new / seconds),
            format_bytes(int(n_bytes / seconds)),
        )

    def _copy_batch(self, rows: Iterator[tuple[Any, ...]]) -> None:
        """Write the next rows and the new position in one transaction."""
        table, before = self._table, self._n_rows
        position = self._position
        try:
            self._write(rows, before)
        except DatabaseError as error:
            # PostgreSQL refuses some values of SQLite, and names the line of its input, not the row.
            if error.__cause__ is None or self._target.path:
                raise
            damaged = find_damaged(self._reader, table.select_after(self._reader, position))
            raise damaged or error from error

    def _write(self, rows: Iterator[tuple[Any, ...]], before: int) -> None:
        table = self._table
        of_table = _copy.c.table_name == table.name
        with self._target.writing(foreign_keys=False) as connection:
            n_stored = connection.execute(
                sa.select(_copy.c.n_rows).where(of_table).with_for_update()
            ).scalar()
            if n_stored != before:
                raise DatabaseError(
                    f"another process copies into {self._target}; wait for it, then run this again"
                )
            insert_into(connection, table.name, table.columns, self._take_batch(rows))
            progress = {"position": json.dumps(self._position), "n_rows": self._n_rows}
            connection.execute(sa.update(_copy).where(of_table).values(progress))

    def _take_batch(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        n_keys, check = self._n_keys, self._table.make_check(strict=self._target.path is None)
        for row in rows:
            values = row[n_keys:]
            check(values)
            self._n_bytes += sum(len(value) if isinstance(value, (bytes, str)) else 8 for value in values)
            self._position = list(row[:n_keys])
            if not all(isinstance(key, (int, str)) for key in self._position):
                raise DatabaseError(
                    f"{self._table.name} has a row whose key is neither a number nor a text: "
                    f"{self._position!r:.80}; delete the row and run it again"
                )
            self._n_rows += 1
            yield values
            if self._n_bytes >= BATCH_BYTES:
                return

    def _iterate_rows(self, batches: Iterable[list[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            yield from batch
            self._progress.advance(len(batch))


def _compare(reader: Connection, copy: Connection, table: CopiedTable, progress: Progress) -> TableSummary:
    original, copied = (checksum(connection, table, progress) for connection in (reader, copy))
    if original != copied:
        raise _Difference(
            f"the copy differs from its source in table {table.name}: {copied.rows} "
            f"{pluralize(copied.rows, 'row')} with checksum "
            f"{copied.checksum}, not {original.rows} with {original.checksum}"
        )
    return original


def checksum(connection: Connection, table: CopiedTable, progress: Progress | None = None) -> TableSummary:
    """Count the rows of a table and sum their hashes, as the docstring of this module defines."""
    progress = progress or Silent()
    progress.phase(f"check {table.name}", total=count_rows(connection, table.name))
    encode = json.JSONEncoder(separators=(",", ":"), default=_encode_bytes).encode
    n_rows = total = 0
    batches = stream_rows(
        connection,
        table.select_for_checksum(connection),
        batch_rows=table.fetch_rows,
        batch_bytes=_FETCH_BYTES,
    )
    with contextlib.closing(batches):
        for batch in batches:
            total += sum(_hash_rows(batch, table.n_blobs, encode))
            n_rows += len(batch)
            progress.advance(len(batch))
    return TableSummary(table.name, n_rows, f"{total % _MODULUS:0{2 * _DIGEST_BYTES}x}")


def _hash_rows(
    rows: list[tuple[Any, ...]], n_blobs: int, encode: Callable[[list[Any]], str]
) -> Iterator[int]:
    for row in rows:
        values = list(row)
        blobs = values[len(values) - n_blobs :]
        # SQLite can have values of other types in columns of bytes.
        values[len(values) - n_blobs :] = [len(blob) if isinstance(blob, bytes) else blob for blob in blobs]
        digest = blake2b(encode(values).encode(), digest_size=_DIGEST_BYTES)
        for blob in blobs:
            digest.update(blob if isinstance(blob, bytes) else b"")
        yield int.from_bytes(digest.digest(), "big")


def _encode_bytes(value: Any) -> Any:
    """Return the JSON form of bytes, which SQLite can store in columns of any type."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is not stored by a database")
    return {"bytes": value.hex()}


def _require_unfinished(target: Database) -> None:
    """Check that no other process has completed the copy meanwhile."""
    with target.reading() as connection:
        if sa.inspect(connection).has_table(COPY_TABLE):
            return
    raise DatabaseError(_describe_completed(target))


def _describe_completed(target: Database) -> str:
    return f"another process has completed the copy {target}; run this again to compare it"


def _finish_copy(target: Database) -> None:
    with target.writing(foreign_keys=False) as connection:
        lock_for_saving(connection)
        if not sa.inspect(connection).has_table(COPY_TABLE):
            return  # Another process has finished the copy.
        copied_tables.add_foreign_keys(connection)
        _copy.drop(connection)
